"""Images to batches, by TensorFlow alone."""
