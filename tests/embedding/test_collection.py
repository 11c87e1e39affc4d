"""A collection becomes a folder of descriptors, of which errors, limits and additions are part."""

import io
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.networks import seeded
from helpers.small_collection import MODEL, OPTIONS, PRESET, files, write
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.collection import write_descriptors


def test_what_is_written(folder, variables, tmp_path):
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["embedded"], summary["unreadable"], summary["total_embedded"]) == (38, 2, 38)
    read = Descriptors.read(tmp_path / "out")
    assert list(read.ids) == [f"b/{i:03d}" for i in range(40) if i not in (13, 29)]
    assert read.provenance.preset == "short_48"
    assert read.provenance.details["preset"]["mean"] == [0.485, 0.456, 0.406]
    assert {"sscd_jax", "jax", "flax", "pillow"} <= set(read.provenance.details["versions"])
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [Path(error["path"]).name for error in errors] == ["013.jpg", "029.jpg"]
    assert "not an image" in errors[0]["reason"]
    assert "truncated" in errors[1]["reason"].lower()
    assert sorted(p.name[:13] for p in (tmp_path / "out").glob("vectors-*")) == [f"vectors-{i:05d}" for i in range(4)]

    before = files(tmp_path / "out")
    again = write(variables, folder, tmp_path / "out")
    assert (again["embedded"], again["unreadable"], again["total_embedded"]) == (0, 0, 38), "nothing is left to do"
    assert files(tmp_path / "out") == before


def test_only_new_images_are_embedded(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    before = Descriptors.read(tmp_path / "out")
    image = (folder / "b" / "000.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(image)
    (folder / "b" / "005.jpg").unlink()
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["embedded"], summary["total_embedded"]) == (1, 39)
    after = Descriptors.read(tmp_path / "out")
    assert list(after.ids) == [*before.ids, "a"]
    np.testing.assert_array_equal(after.vectors[:-1], before.vectors)
    np.testing.assert_allclose(after.vectors[-1], before.vectors[0], atol=2e-6)


def test_images_that_went_away_before_their_turn(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out", shard=(1, 2))
    (folder / "b" / "000.jpg").unlink()
    summary = write(variables, folder, tmp_path / "out")
    assert summary["total_embedded"] == 37
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert errors[0] == {"id": "b/000", "path": "b/000", "reason": f"it is no longer in {folder}", "kind": "gone"}


def test_strict(folder, variables, tmp_path):
    with pytest.raises(ValueError, match=r"013\.jpg: not an image of a known format"):
        write(variables, folder, tmp_path / "out", strict=True)
    assert not (tmp_path / "out" / "manifest.json").exists()
    (folder / "b" / "013.jpg").unlink()
    (folder / "b" / "029.jpg").unlink()
    write(variables, folder, tmp_path / "other", strict=True)
    assert len(Descriptors.read(tmp_path / "other").ids) == 38


def test_strict_over_what_was_not(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"013\.jpg: not an image of a known format"):
        write(variables, folder, tmp_path / "out", strict=True)
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["unreadable"], summary["total_unreadable"]) == (0, 2)


def test_strict_about_what_went_away(folder, variables, tmp_path):
    for name in ("013", "029"):
        (folder / "b" / f"{name}.jpg").unlink()
    write(variables, folder, tmp_path / "out", shard=(1, 2))
    for path in sorted((folder / "b").iterdir())[:12]:
        path.unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="b/000: it is no longer in"):
            write(variables, folder, tmp_path / "out", strict=True)


@pytest.mark.slow
def test_a_network_without_projection(folder, tmp_path):
    model, variables = seeded("resnet18", 0)
    write_descriptors(model, variables, open_source(str(folder)), PRESET, tmp_path / "out", **OPTIONS)
    assert Descriptors.read(tmp_path / "out").vectors.shape == (38, 64)


def test_weights_that_are_not_finite(folder, variables, tmp_path):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(ValueError, match=r"jpg a descriptor that is not finite: are its weights finite\?"):
        write(broken, folder, tmp_path / "out")


def test_limits(folder, variables, tmp_path):
    Image.new("RGB", (200, 200)).save(folder / "large.png")
    summary = write(variables, folder, tmp_path / "out", max_pixels=10_000)
    assert (summary["embedded"], summary["unreadable"]) == (38, 3)
    with pytest.raises(ValueError, match="--max-pixels is 0; it must be positive"):
        write(variables, folder, tmp_path / "other", max_pixels=0)
    assert "200 x 200 are too many pixels: over 10000" in (tmp_path / "out" / "errors.jsonl").read_text()


def test_names_that_cannot_be_a_line_are_escaped(folder, variables, tmp_path):
    image = (folder / "b" / "000.jpg").read_bytes()
    (folder / "two\nlines.jpg").write_bytes(image)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(image)
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["total_embedded"], summary["unreadable"]) == (40, 2)
    found = Descriptors.read(tmp_path / "out")
    vectors = dict(zip(found.ids, found.vectors, strict=True))
    for one in (r"two\x0alines", r"\udcff"):
        np.testing.assert_allclose(vectors[one], vectors["b/000"], atol=2e-6)


def test_what_cannot_work_is_refused(folder, variables, tmp_path):
    with pytest.raises(ValueError, match=r"12 does not divide over 8 devices: take a multiple of 8, such as 8"):
        write(variables, folder, tmp_path / "out", batch_size=12)
    (tmp_path / "twice.txt").write_text(f"{folder}/b/000.jpg\n{folder}/b/000.jpg\n")
    with pytest.raises(ValueError, match=r"b/000\.jpg is given twice: remove one of the two"):
        write(variables, tmp_path / "twice.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write(variables, folder, tmp_path / "out")
    changed = jax.tree.map(lambda leaf: leaf + 1e-6, variables)
    message = r"holds descriptors of .*photos by weights .* \(the networks are alike; their weights differ\)"
    with pytest.raises(ValueError, match=message):
        write(changed, folder, tmp_path / "out")
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds descriptors of .*photos by weights.*, not of .*other by weights"):
        write(variables, tmp_path / "other", tmp_path / "out")


def test_float16(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    write(variables, folder, tmp_path / "half", dtype="float16")
    full, half = (Descriptors.read(tmp_path / name) for name in ("out", "half"))
    np.testing.assert_array_equal(half.vectors, full.vectors.astype(np.float16).astype(np.float32))


def test_memory_source(variables, tmp_path):
    """A source need not be files."""
    file = io.BytesIO()
    Image.new("RGB", (64, 50), "red").save(file, "PNG")
    source = Source("memory", ["one"], ["one"], lambda _: file.getvalue())
    write_descriptors(MODEL, variables, source, PRESET, tmp_path / "out", **OPTIONS)
    assert list(Descriptors.read(tmp_path / "out").ids) == ["one"]
