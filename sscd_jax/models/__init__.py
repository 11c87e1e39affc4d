"""The network."""

from sscd_jax.models.sscd import SSCD, build_from, build_model, describe, normalize

__all__ = ["SSCD", "build_from", "build_model", "describe", "normalize"]
