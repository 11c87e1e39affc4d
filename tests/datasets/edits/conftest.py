"""Photographs for the tests of edits."""

import pytest
from PIL import Image

from sscd_jax.data.sample import photograph_paths


@pytest.fixture(scope="session")
def china() -> Image.Image:
    return _photograph("china")


@pytest.fixture(scope="session")
def coffee() -> Image.Image:
    return _photograph("coffee")


def _photograph(name: str) -> Image.Image:
    image = Image.open(photograph_paths()[name]).convert("RGB")
    return image.resize((200, 150), Image.Resampling.LANCZOS)
