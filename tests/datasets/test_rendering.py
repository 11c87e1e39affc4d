"""An image that is rendered depends on the seed and its name alone, and keeps nothing of the original file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sscd_jax.datasets.edits import WITH_OTHERS
from sscd_jax.datasets.rendering import FOLDERS, Job, Renderer


@pytest.fixture
def renderer(images, tmp_path) -> Renderer:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    held_back = [str(path) for path in sorted(images.iterdir())[5:10]]
    return Renderer(tmp_path, held_back, seed=3, edits=(2, 2), kinds=(*WITH_OTHERS,), max_side=64, max_pixels=10**6)


def content(renderer: Renderer) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in renderer.folder.glob("*/*.jpg")}


def test_neither_order_nor_other_jobs_matter(images, renderer):
    first, second = (str(path) for path in sorted(images.iterdir())[:2])
    jobs = [
        Job(first, "R00001", ((1, "weak"), (4, "strong"))),
        Job(second, "T00001"),
        Job(second, "", ((2, "medium"),)),
    ]
    edits = {name: kinds for job in jobs for name, kinds in renderer.render(job).items()}
    assert {name: len(kinds) for name, kinds in edits.items()} == {
        **{"R00001": 0, "T00001": 0, "Q00001": 2, "Q00002": 2, "Q00004": 2}
    }
    before = content(renderer)
    assert set(before) == set(edits)
    for job in reversed(jobs):
        renderer.render(job)
    assert content(renderer) == before
    replace(renderer, seed=4).render(jobs[0])
    assert content(renderer)["Q00001"] != before["Q00001"]


def test_images_are_upright_and_reduced_and_lose_their_metadata(renderer, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    gradient = np.repeat(np.linspace(0, 255, 200).astype(np.uint8)[None], 100, 0)
    Image.fromarray(gradient).save(tmp_path / "a.jpg", exif=exif, comment=b"taken by me", quality=95)
    renderer.render(Job(str(tmp_path / "a.jpg"), "R00001"))
    path = tmp_path / "references" / "R00001.jpg"
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("RGB", (32, 64))
        assert not image.getexif()
        column = np.asarray(image)[:, 16, 0].astype(int)
    assert column[0] < 10 < 245 < column[-1]
    assert b"taken by me" not in path.read_bytes()


def test_no_image_is_pasted_onto_itself(renderer):
    own = Path(renderer.held_back[0])
    for number in range(50):
        others = renderer._others(str(own), np.random.default_rng(number))
        assert len(others) == 3
        assert str(own) not in others.paths


def test_an_image_that_has_changed_is_an_error(renderer, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(OSError, match=r"a\.jpg could be read before and now cannot: not an image"):
        renderer.render(Job(str(tmp_path / "a.jpg"), "R00001"))
