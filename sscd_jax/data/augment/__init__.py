"""Augmentation of training views in tf.data, compiled by XLA."""
