"""SSCD, the self-supervised descriptor for image copy detection, in JAX."""

from sscd_jax.descriptors import Descriptors, Provenance

__all__ = ["Descriptors", "Provenance"]
