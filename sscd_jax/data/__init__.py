"""From encoded images to batches of arrays, for training and for inference. Nothing here imports JAX."""
