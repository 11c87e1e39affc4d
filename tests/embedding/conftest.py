"""The small collection of images and the narrow network that tests of collections share."""

from pathlib import Path
from typing import Any

import pytest
from helpers.small_collection import make_folder, make_variables


@pytest.fixture(scope="module")
def variables() -> Any:
    return make_variables()


@pytest.fixture
def folder(images, tmp_path) -> Path:
    return make_folder(images, tmp_path / "photos")
