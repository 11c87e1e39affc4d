"""Augmentations of training views, as TensorFlow graphs that XLA compiles."""
