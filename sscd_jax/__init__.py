"""SSCD, the self-supervised descriptor for image copy detection, in JAX.

>>> import sscd_jax
>>> model = sscd_jax.load("sscd_disc_mixup")
>>> found = model.embed(["a.jpg", "photos/"])

Importing the package imports no other library and changes no global state. The modules behind a name are imported when
the name is first used, and `load` makes the settings that JAX and TensorFlow read when they start.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sscd_jax.api import Model, find_copies, find_duplicates, load
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.duplicates.matching import Matches
    from sscd_jax.duplicates.result import Duplicates
    from sscd_jax.duplicates.verify import Verification, verify_copy
    from sscd_jax.provenance import Provenance

    __version__: str

__all__ = [
    "Descriptors",
    "Duplicates",
    "Matches",
    "Model",
    "Provenance",
    "Verification",
    "__version__",
    "find_copies",
    "find_duplicates",
    "load",
    "verify_copy",
]

_MODULES = {
    "Descriptors": "descriptors",
    "Duplicates": "duplicates.result",
    "Matches": "duplicates.matching",
    "Model": "api",
    "Provenance": "provenance",
    "Verification": "duplicates.verify",
    "find_copies": "api",
    "find_duplicates": "api",
    "load": "api",
    "verify_copy": "duplicates.verify",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("sscd_jax")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sscd_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
