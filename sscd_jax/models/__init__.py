"""The SSCD network as a Flax Linen module."""

from sscd_jax.models.sscd import SSCD, build_model, describe, normalize, transpose

__all__ = ["SSCD", "build_model", "describe", "normalize", "transpose"]
