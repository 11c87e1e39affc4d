"""SSCD, the self-supervised descriptor for image copy detection, in JAX."""

import os

# tf.io.gfile asks gs:// for this many bytes at least, by default for 64 MiB, though an image were all that is wanted.
# GFile reads 512 KiB at a time, and one byte before them when it seeks. TensorFlow looks when it is imported.
os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(512 * 1024 + 1))

from sscd_jax.descriptors import Descriptors, Provenance

__all__ = ["Descriptors", "Provenance"]
