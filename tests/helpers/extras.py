"""Marks of tests that need an extra of the package. They look for its packages and import none of them."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pytest


def _needs(extra: str, *packages: str) -> pytest.MarkDecorator:
    absent = " and ".join(name for name in packages if find_spec(name) is None)
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {absent}: pip install 'sscd_jax[{extra}]'")


needs_augly = _needs("augly", "augly", "fontTools")
needs_heif = _needs("heif", "pillow_heif")
needs_onnx = _needs("onnx", "onnx", "onnxruntime")


def marked(formats: Iterable[str]) -> list[Any]:
    """The formats of weights as parameters of a test."""
    return [pytest.param(name, marks=needs_onnx) if name == "onnx" else name for name in formats]
