"""Pictures to batches, by TensorFlow alone."""
