"""A collection that changes, moves, or cannot be read: what is embedded again, and what is said."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from helpers.small_collection import MODEL, PRESET, files, write

from sscd_jax.data import failed_reads, image_source
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.collection import write_descriptors


def touch_and_replace(folder, name: str, by: str) -> None:
    """Puts another image in the place of one, which gets another size and time."""
    path = folder / "b" / name
    shutil.copy(folder / "b" / by, path)
    os.utime(path, ns=(1, 10**18))


def by_id(out) -> dict[str, np.ndarray]:
    read = Descriptors.read(out)
    return dict(zip(read.ids, read.vectors, strict=True))


def test_what_has_changed_is_said_and_embedded_again_on_request(folder, variables, tmp_path, capsys):
    write(variables, folder, tmp_path / "out")
    before = by_id(tmp_path / "out")
    for name in ("003.jpg", "020.jpg"):
        touch_and_replace(folder, name, "007.jpg")
    (folder / "b" / "001.jpg").unlink()
    capsys.readouterr()
    assert write(variables, folder, tmp_path / "out")["embedded"] == 0
    said = capsys.readouterr().err
    assert "2 images have changed since the last embedding; --update embeds what has changed" in said
    assert "1 image is no longer in the source; --prune removes the descriptors of such images" in said
    np.testing.assert_array_equal(by_id(tmp_path / "out")["b/003"], before["b/003"])

    summary = write(variables, folder, tmp_path / "out", update=True)
    assert (summary["embedded"], summary["total_embedded"]) == (2, 38)
    now = by_id(tmp_path / "out")
    for one in ("b/003", "b/020"):
        np.testing.assert_allclose(now[one], before["b/007"], atol=1e-5)
    assert all(np.array_equal(now[one], before[one]) for one in before if one not in ("b/003", "b/020"))

    summary = write(variables, folder, tmp_path / "out", prune=True)
    assert (summary["embedded"], summary["total_embedded"]) == (0, 37)
    assert by_id(tmp_path / "out").keys() == before.keys() - {"b/001"}
    shutil.copy(folder / "b" / "000.jpg", folder / "b" / "001.jpg")
    assert write(variables, folder, tmp_path / "out")["embedded"] == 1, "it is new again"
    np.testing.assert_allclose(by_id(tmp_path / "out")["b/001"], before["b/000"], atol=1e-5)
    capsys.readouterr()
    write(variables, folder, tmp_path / "out", update=True, prune=True)
    assert "has changed" not in (said := capsys.readouterr().err)
    assert "no longer" not in said
    assert len(list((tmp_path / "out").glob("vectors-00000-*"))) == 1, "what was replaced is removed"


def test_a_damaged_image_that_was_mended_is_updated(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    shutil.copy(folder / "b" / "000.jpg", folder / "b" / "013.jpg")
    summary = write(variables, folder, tmp_path / "out", update=True)
    assert (summary["embedded"], summary["total_unreadable"]) == (1, 1)


def test_a_source_that_was_moved(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    before = files(tmp_path / "out")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="or give --moved if these are the same images in another place"):
        write(variables, tmp_path / "elsewhere", tmp_path / "out")
    (tmp_path / "strangers").mkdir()
    shutil.copy(next(tmp_path.glob("elsewhere/b/*.jpg")), tmp_path / "strangers" / "stranger.jpg")
    with pytest.raises(ValueError, match=r"out has none of the images of .*strangers: --moved is for the same images"):
        write(variables, tmp_path / "strangers", tmp_path / "out", moved=True)
    assert files(tmp_path / "out") == before
    assert write(variables, tmp_path / "elsewhere", tmp_path / "out", moved=True)["embedded"] == 0
    assert write(variables, tmp_path / "elsewhere", tmp_path / "out")["embedded"] == 0
    shutil.copytree(tmp_path / "elsewhere", folder)
    with pytest.raises(ValueError, match=r"holds descriptors of .*elsewhere by .* not of .*photos"):
        write(variables, folder, tmp_path / "out")


def failing(monkeypatch, fails, error=errno.EIO) -> list[str]:
    """Makes reading of some files fail, as a disk or a network does, and returns the list of the attempts."""
    attempts: list[str] = []
    read = image_source.read_file

    def reading_fails(path: str, *args) -> bytes:
        attempts.append(os.path.basename(path))
        if fails(os.path.basename(path), attempts.count(os.path.basename(path))):
            raise OSError(error, os.strerror(error), path)
        return read(path, *args)

    monkeypatch.setattr(image_source, "read_file", reading_fails)
    monkeypatch.setattr(failed_reads, "LONGEST_WAIT", 0.0)
    return attempts


def test_an_error_that_passes_is_not_seen(folder, variables, tmp_path, monkeypatch):
    write(variables, folder, tmp_path / "undisturbed")
    attempts = failing(monkeypatch, lambda name, attempt: attempt < 3)
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["not_read"], summary["total_unreadable"]) == (0, 2)
    assert attempts.count("000.jpg") == 3
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_a_failed_disk_ends_the_run(folder, variables, tmp_path, monkeypatch):
    """One readable image and 39 that a network does not deliver."""
    failing(monkeypatch, lambda name, _: name != "000.jpg", errno.ENOENT)
    with pytest.raises(OSError, match=r"6 images could not be read from the disk or the network, the last one .*jpg: "):
        write(variables, folder, tmp_path / "out", max_errors=5)
    assert not (tmp_path / "out" / "manifest.json").exists()
    summary = write(variables, folder, tmp_path / "out", max_errors=39)
    assert (summary["total_embedded"], summary["total_not_read"], summary["total_unreadable"]) == (1, 39, 0)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert kinds == ["read"] * 39
    with pytest.raises(OSError, match=r"39 images could not be read .*errors\.jsonl lists them"):
        write(variables, folder, tmp_path / "out", max_errors=38)
    monkeypatch.undo()
    write(variables, folder, tmp_path / "undisturbed")
    summary = write(variables, folder, tmp_path / "out", retry=True)
    assert (summary["embedded"], summary["total_not_read"], summary["total_unreadable"]) == (37, 0, 2)
    expected, found = by_id(tmp_path / "undisturbed"), by_id(tmp_path / "out")
    assert all(np.allclose(found[one], expected[one], atol=1e-5) for one in expected)


def test_missing_files_have_not_changed(folder, variables, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{folder}/b/{name}\n" for name in ("003.jpg", "020.jpg", "absent.jpg")))
    source = {"preset": PRESET, "out": tmp_path / "out", "batch_size": 8}
    write_descriptors(MODEL, variables, open_source(str(listed)), **source)
    capsys.readouterr()
    write_descriptors(MODEL, variables, open_source(str(listed)), **source)
    assert "changed" not in capsys.readouterr().err
    shutil.copy(folder / "b" / "007.jpg", folder / "b" / "absent.jpg")
    write_descriptors(MODEL, variables, open_source(str(listed)), **source)
    said = capsys.readouterr().err
    assert "1 image that could not be read has changed since; --retry tries again" in said
    assert "--update" not in said, "one remedy is enough"
    write_descriptors(MODEL, variables, open_source(str(listed)), **source, retry=True)
    assert "changed" not in capsys.readouterr().err, "it is embedded now"
    assert len(by_id(tmp_path / "out")) == 3


def test_a_damaged_file_says_how_to_compute_it_again(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    before = by_id(tmp_path / "out")
    path = next((tmp_path / "out").glob("vectors-00000-*"))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"SHA-256 .*; remove \S+/shard-00000\.json and rerun `sscd-jax embed`"):
        Descriptors.read(tmp_path / "out")
    (tmp_path / "out" / "shard-00000.json").unlink()
    write(variables, folder, tmp_path / "out")
    after = by_id(tmp_path / "out")
    assert all(np.array_equal(after[one], before[one]) for one in before)


def test_files_that_do_not_exist_are_not_tried_again_and_again(folder, variables, tmp_path, monkeypatch):
    attempts = failing(monkeypatch, lambda name, _: name == "000.jpg", errno.ENOENT)
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["not_read"], summary["unreadable"]) == (1, 2)
    assert attempts.count("000.jpg") == 1


@pytest.mark.slow
def test_another_function_or_computation_is_refused_in_a_folder(folder, variables, tmp_path):
    """Also where the arrays are the same, as those of GeM pooling with p = 3 and p = 1 are."""
    write(variables, folder, tmp_path / "out")
    source, out = open_source(str(folder)), tmp_path / "out"
    with pytest.raises(
        ValueError,
        match=r"holds descriptors of .* not of .*"
        r" \(the networks have pool_param 3\.0 and 1\.0\): name another folder for the descriptors$",
    ):
        write_descriptors(MODEL.clone(pool_param=1.0), variables, source, PRESET, out, batch_size=8)
    half = MODEL.clone(backbone=MODEL.backbone.clone(dtype=np.dtype("bfloat16")))
    with pytest.raises(ValueError, match=r"computed in float32 by jax on cpu, not of .*in bfloat16 by jax on cpu"):
        write_descriptors(half, variables, source, PRESET, out, batch_size=8)
    write_descriptors(half, variables, source, PRESET, tmp_path / "half", batch_size=8)
    one, other = Descriptors.read(out), Descriptors.read(tmp_path / "half")
    cosine = (np.array(one.provenance.details["probe"]) * np.array(other.provenance.details["probe"])).sum(1)
    assert (cosine > 0.99).all()
    assert (cosine < 0.999999).all()
