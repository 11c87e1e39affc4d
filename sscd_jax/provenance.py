"""What made a set of descriptors, and what is said where two sets were not made alike."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Provenance:
    """What made the descriptors. Only descriptors of equal provenance can be compared.

    Attributes:
        weights: the SHA-256 of the network with its weights (see `weights.hash_network`), or a name for methods
            without weights.
        preset: the name of the preset that resized and normalized the images.
        details: further facts, such as the network's and the preset's parameters and the versions of packages; they
            are not compared.
        computation: how the function was computed, such as "float32 by jax on cpu". It changes descriptors a little:
            it must be the same within a folder, and is said where two sets that differ in it are compared.
    """

    weights: str
    preset: str
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)
    computation: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"weights {self.weights[:12]} with preset {self.preset}"

    def differences(self, other: "Provenance") -> str:
        """Returns in what the networks of two provenances differ, as the end of an error; "" if that is not known."""
        mine, others = (one.details.get("network") for one in (self, other))
        if self.weights == other.weights or not (isinstance(mine, Mapping) and isinstance(others, Mapping)):
            return ""
        changed = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
        values = ", ".join(f"{name} {mine.get(name)} and {others.get(name)}" for name in changed)
        return f" (the networks have {values})" if changed else " (the networks are alike; their weights differ)"

    def as_json(self) -> dict[str, Any]:
        """Returns the fields for a JSON file; `Provenance(**fields)` is equal to this one."""
        return {
            "weights": self.weights,
            "preset": self.preset,
            "computation": self.computation,
            "details": dict(self.details),
        }


def warn_of_another_computation(one_name: str, one: Provenance, other_name: str, other: Provenance) -> None:
    """Says in a warning that two sets were computed in different ways, with the measured agreement if it is known."""
    if one.computation == other.computation or not (one.computation and other.computation):
        return
    probes = [np.asarray(provenance.details.get("probe", ()), np.float64) for provenance in (one, other)]
    agreement = "their agreement was not measured"
    if probes[0].ndim == 2 and probes[0].shape == probes[1].shape:
        cosine = (probes[0] * probes[1]).sum(1) / np.prod([np.linalg.norm(probe, axis=1) for probe in probes], axis=0)
        agreement = (
            f"on {len(cosine)} test patterns the descriptors of both have a cosine of at least {cosine.min():.5f}"
        )
    warnings.warn(
        f"{one_name} were computed in {one.computation}, {other_name} in {other.computation}; {agreement}", stacklevel=3
    )
