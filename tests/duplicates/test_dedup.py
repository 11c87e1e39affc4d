"""From folders of real images to pairs, groups, lists and pages, by a narrow network."""

import json
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from helpers.narrow_job import OPTIONS, VARIABLES, Embedder, killed_runs, table
from helpers.small_collection import MODEL, PRESET, files, make_variables
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import open_source, open_sources
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import image_files
from sscd_jax.duplicates.dedup import SUMMARY, dedup, read_summary
from sscd_jax.duplicates.move_plan import plan_moves
from sscd_jax.duplicates.options import Options
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.presets import Preset


class Job:
    """Runs dedup, and notes how many images each call embedded."""

    def __init__(self) -> None:
        self.embed = Embedder()

    @property
    def embedded(self) -> list[int]:
        return self.embed.embedded

    def __call__(self, source: Path | Source, out: Path, options: Options = OPTIONS) -> dict[str, Any]:
        opened = source if isinstance(source, Source) else open_source(str(source))
        return dedup(opened, out, self.embed, options, weights="narrow")


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def photos(images, tmp_path) -> Path:
    """Nine photographs; equal bytes, equal pixels and a near copy of the first three; two broken files."""
    folder = tmp_path / "photos"
    (folder / "copies").mkdir(parents=True)
    for path in sorted(images.iterdir())[:9]:
        shutil.copy(path, folder)
    shutil.copy(folder / "000.jpg", folder / "copies" / "bytes.jpg")
    Image.open(folder / "001.jpg").save(folder / "copies" / "pixels.png")
    Image.open(folder / "002.jpg").save(folder / "copies" / "near.jpg", quality=85)
    for name in ("broken", "broken_too"):
        (folder / f"{name}.jpg").write_bytes((folder / "003.jpg").read_bytes()[:400])
    return folder


def kinds(out: Path) -> dict[tuple[str, str], str]:
    return {(row["id_a"], row["id_b"]): row["kind"] for row in table(out / "pairs.csv")}


def errors(out: Path) -> dict[str, str]:
    return {line["id"]: line["reason"] for line in map(json.loads, (out / "errors.jsonl").read_text().splitlines())}


FOUND = {
    ("000", "copies/bytes"): "bytes",
    ("001", "copies/pixels"): "pixels",
    ("002", "copies/near"): "near",
}


def test_what_is_found_and_written(photos, tmp_path, job):
    out = tmp_path / "out"
    summary = job(photos, out)
    assert kinds(out) == FOUND
    names = ("images", "unreadable", "groups", "duplicates", "pairs", "duplicates_by_kind")
    counts = {"bytes": 1, "pixels": 1, "near": 1}
    assert {name: summary[name] for name in names} == dict(zip(names, (14, 2, 3, 3, 3, counts), strict=True))
    assert json.loads((out / SUMMARY).read_text()) == summary

    groups = table(out / "groups.csv")
    first = [(row["id"], row["keep"]) for row in groups if row["group"] == "1"]
    assert first == [("002", "true"), ("copies/near", "false")]  # the most doubtful one
    for number in {row["group"] for row in groups}:
        assert [row["keep"] for row in groups if row["group"] == number].count("true") == 1
    for row in groups:
        path = Path(row["path"])
        assert path.is_absolute()
        assert int(row["bytes"]) == path.stat().st_size
        assert (int(row["width"]), int(row["height"])) == Image.open(path).size

    keep, remove = ((out / f"{name}.txt").read_text().splitlines() for name in ("keep", "remove"))
    everything = {str(path) for path in photos.rglob("*") if path.is_file()}
    assert set(errors(out)) == {"broken", "broken_too"}
    assert {*keep, *remove, *(str(photos / f"{name}.jpg") for name in ("broken", "broken_too"))} == everything
    assert not {*keep} & {*remove}
    assert summary["duplicate_bytes"] == sum(os.path.getsize(path) for path in remove)
    assert len(open_source(str(out / "keep.txt"))) == len(keep)  # it is a source

    parquet = pyarrow.parquet.read_table(out / "pairs.parquet").to_pylist()
    for row, written in zip(parquet, table(out / "pairs.csv"), strict=True):
        assert {name: row[name] for name in ("id_a", "id_b", "kind")}.items() <= written.items()
        for name in ("similarity", "score"):
            assert row[name] == (pytest.approx(float(written[name]), abs=1e-6) if written[name] else None)
    page = (out / "duplicates.html").read_text()
    assert "copies/near" in page
    assert page.count("data:image/jpeg") == 6
    assert "12</b>" in page  # were compared


@pytest.mark.slow
def test_a_pair_has_the_similarity_of_its_descriptors(photos, tmp_path, job):
    out = tmp_path / "out"
    job(photos, out)
    write_descriptors(MODEL, VARIABLES, open_source(str(photos)), PRESET, tmp_path / "plain", batch_size=8)
    plain = Descriptors.read(tmp_path / "plain")
    vectors = dict(zip(plain.ids, np.asarray(plain.vectors), strict=True))
    (row,) = (row for row in table(out / "pairs.csv") if row["kind"] == "near")
    product = float(vectors[row["id_a"]] @ vectors[row["id_b"]])
    assert float(row["similarity"]) == pytest.approx(product, abs=1e-5)


def test_only_new_bytes_are_embedded(photos, tmp_path, job):
    out = tmp_path / "out"
    job(photos, out)
    before = files(out)
    job(photos, out)
    after = files(out)
    assert job.embedded == [11, 0]  # 14 files, one of them twice, and one that is broken twice
    for some in (before, after):
        del some[SUMMARY]  # it has the seconds
    assert before == after

    (photos / "000.jpg").rename(photos / "renamed.jpg")
    shutil.copy(photos / "004.jpg", photos / "again.jpg")
    job(photos, out)
    assert job.embedded == [11, 0, 0]
    assert kinds(out) == {
        ("copies/bytes", "renamed"): "bytes", ("004", "again"): "bytes",
        **{pair: kind for pair, kind in FOUND.items() if pair[0] != "000"},
    }  # fmt: skip

    Image.open(photos / "005.jpg").rotate(90).save(photos / "005.jpg")  # changed
    (photos / "again.jpg").unlink()
    (photos / "006.jpg").unlink()
    summary = job(photos, out)
    assert job.embedded == [11, 0, 0, 1]
    assert ("004", "again") not in kinds(out)
    assert summary["images"] == 13
    assert len(Descriptors.read(out / "descriptors").ids) == 10  # what has gone is gone


@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_killed_run_is_resumed(photos, tmp_path, job, monkeypatch, call):
    expected, out = tmp_path / "expected", tmp_path / "out"
    job(photos, expected)
    wanted = {name: data for name, data in files(expected).items() if "/" not in name and name != SUMMARY}
    for _ in killed_runs(lambda: job(photos, out), monkeypatch, call):
        assert not (out / SUMMARY).exists()  # so nobody takes the folder for complete
    found = {name: data for name, data in files(out).items() if "/" not in name and name != SUMMARY}
    assert {*found} == {*wanted}
    for name, data in wanted.items():
        assert found[name].replace(str(out).encode(), str(expected).encode()) == data, name


def test_a_file_that_changes_meanwhile_is_not_taken_for_what_it_was(photos, tmp_path, job):
    out, embed = tmp_path / "out", job.embed

    def late(contents: Source, folder: Path) -> dict[str, Any]:
        shutil.copy(photos / "004.jpg", photos / "002.jpg")  # after it was hashed
        return embed(contents, folder)

    dedup(open_source(str(photos)), out, late, OPTIONS, weights="narrow")
    assert "changed since it was hashed" in errors(out)["002"]
    assert ("002", "copies/near") not in kinds(out)
    job(photos, out)
    assert kinds(out)["002", "004"] == "bytes"
    assert set(errors(out)) == {"broken", "broken_too"}


@pytest.mark.parametrize("copies", [1, 2, 50])
def test_images_that_are_all_equal(images, tmp_path, job, copies):
    folder = tmp_path / "equal"
    folder.mkdir()
    image = Image.open(next(images.iterdir()))
    for number in range(copies):  # the same pixels in files that differ
        image.save(folder / f"{number:02d}.png", dpi=(number + 1, 1))
    summary = job(folder, tmp_path / "out")
    assert (summary["groups"], summary["duplicates"], summary["pairs"]) == (copies > 1, copies - 1, copies - 1)
    assert set(kinds(tmp_path / "out").values()) <= {"pixels"}


def test_nothing_that_is_a_duplicate(images, tmp_path, job):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(images.iterdir())[:3]:
        shutil.copy(path, folder)
    summary = job(folder, tmp_path / "out")
    assert (summary["groups"], summary["duplicates"], summary["pairs"]) == (0, 0, 0)
    assert "No duplicate images" in (tmp_path / "out" / "duplicates.html").read_text()
    assert (tmp_path / "out" / "remove.txt").read_text() == ""
    assert not (tmp_path / "out" / "errors.jsonl").exists()


@pytest.mark.slow
def test_images_of_an_archive_and_of_two_folders(photos, tmp_path, job):
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        for name in ("000.jpg", "007.jpg"):
            archive.add(photos / name, name)
    out = tmp_path / "out"
    summary = job(open_sources([str(photos), str(tmp_path / "more.tar")]), out)
    assert summary["images"] == 16
    assert kinds(out)["more/007", "photos/007"] == "bytes"
    listed = (out / "keep.txt").read_text().splitlines() + (out / "remove.txt").read_text().splitlines()
    assert "more/007" in listed  # an id, as it is no file of its own
    assert str(photos / "006.jpg") in listed
    assert job.embedded == [11]


def test_odd_names(images, tmp_path, job):
    folder = tmp_path / "odd"
    folder.mkdir()
    source = next(images.iterdir()).read_bytes()
    for name in (b"line\nbreak.jpg", b"not \xff unicode.jpg", b'quote"comma,.jpg', b"plain.jpg"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(source)
    out = tmp_path / "out"
    summary = job(folder, out)
    assert summary["duplicates"] == 3
    rows = table(out / "groups.csv")
    assert {os.fsencode(row["path"]) for row in rows} == {
        os.path.join(os.fsencode(folder), n) for n in os.listdir(os.fsencode(folder))
    }
    assert all(os.path.exists(row["path"]) for row in rows)


def test_another_folder_is_refused_before_the_work(photos, tmp_path, job):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"out exists already and is not a folder of sscd_jax duplicates: it holds mine\.txt"
    ):
        job(photos, out)
    assert job.embedded == []
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_what_stays_is_chosen(photos, tmp_path, job):
    os.utime(photos / "copies" / "bytes.jpg", (1, 1))
    image = Image.open(photos / "004.jpg")
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(photos / "copies" / "large.png")

    def kept(keep: str) -> set[str]:
        out = tmp_path / keep.replace("/", "_")
        job(photos, out, Options(0.9995, "similarity", keep=keep))
        return {row["id"] for row in table(out / "groups.csv") if row["keep"] == "true"}

    assert "copies/pixels" in kept("largest")  # the PNG has more bytes
    assert "001" in kept("first")
    assert "copies/bytes" in kept("oldest")
    assert {"copies/bytes", "copies/pixels", "copies/near"} <= kept("copies/")
    assert "copies/near" in kept(str(photos / "copies"))
    with pytest.raises(ValueError, match="keep is 'nothing', and no id and no path begins like this"):
        kept("nothing")


@pytest.mark.slow
def test_files_that_are_not_there(photos, tmp_path, job):
    listed = tmp_path / "list.txt"
    listed.write_text("photos/000.jpg\nphotos/gone.jpg\nphotos/copies/bytes.jpg\n")
    out = tmp_path / "out"
    summary = job(listed, out)
    assert (summary["images"], summary["unreadable"], summary["duplicates"]) == (3, 1, 1)
    assert errors(out) == {"photos/gone": "No such file or directory"}
    assert str(photos / "gone.jpg") not in (out / "keep.txt").read_text() + (out / "remove.txt").read_text()
    shutil.copy(photos / "000.jpg", photos / "gone.jpg")
    assert job(listed, out)["duplicates"] == 2
    assert not (out / "errors.jsonl").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"threshold": -1.5, "score": "similarity"},
        {"max_group": 0},
        {"score": "cosine"},
        {"grouping": "chains"},
    ],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match=r"threshold is|max_group is|score is|grouping is"):
        Options(**options)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The ids of the images that are hashed."""
    read: list[str] = []
    look = image_files._look

    def counted(source, reader, index):
        read.append(source.ids[index])
        return look(source, reader, index)

    monkeypatch.setattr(image_files, "_look", counted)
    return read


@pytest.mark.slow
def test_files_are_hashed_once_unless_they_change_or_move(photos, tmp_path, job, reads):
    out = tmp_path / "out"
    job(photos, out)
    assert len(reads) == 14
    job(photos, out)
    assert len(reads) == 14
    os.utime(photos / "004.jpg", (5, 5))
    job(photos, out)
    assert reads[14:] == ["004"]
    moved = tmp_path / "elsewhere"
    shutil.copytree(photos, moved)  # the same ids, sizes and times at other paths
    job(moved, out)
    assert len(reads) == 15 + 14
    assert {Path(row["path"]).is_relative_to(moved) for row in table(out / "groups.csv")} == {True}


def test_what_is_hashed_after_half_a_line_is_known_after_another_kill(photos, tmp_path, reads, monkeypatch):
    source = open_source(str(photos))
    image_files.look_at(source, tmp_path)
    whole = (tmp_path / "files.jsonl").read_bytes()
    (tmp_path / "files.jsonl").write_bytes(whole[: len(whole) // 2])  # as a killed process leaves it

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            image_files.look_at(source, tmp_path)
    before = len(reads)
    assert 14 < before < 28
    image_files.look_at(source, tmp_path)
    assert len(reads) == before
    assert (tmp_path / "files.jsonl").read_bytes() == whole


def test_an_interrupted_run_leaves_nothing_to_apply(photos, tmp_path, job):
    """Else the groups of files as they were would be applied to files that have taken their places."""
    out = tmp_path / "out"
    job(photos, out)
    shutil.copy(photos / "004.jpg", photos / "copies" / "bytes.jpg")

    def interrupted(contents: Source, folder: Path) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dedup(open_source(str(photos)), out, interrupted, OPTIONS, weights="narrow")
    with pytest.raises(ValueError, match="has not finished there"):
        read_summary(out)
    job(photos, out)
    with pytest.raises(ValueError, match="keep is"):
        job(photos, out, Options(0.9995, "similarity", keep="typo"))
    assert job.embedded == [11, 0]  # said before anything was embedded
    with pytest.raises(ValueError, match="has not finished there"):
        read_summary(out)


def test_a_file_with_several_paths_counts_once(photos, tmp_path, job, capsys):
    (photos / "a_link.jpg").symlink_to(photos / "007.jpg")
    outside = tmp_path / "outside.jpg"
    shutil.copy(photos / "008.jpg", outside)
    (photos / "0-link_out.jpg").symlink_to(outside)
    out = tmp_path / "out"
    summary = job(open_sources([str(photos), str(photos / "copies")]), out)
    assert "4 images are left out: the same file has another path in the source" in capsys.readouterr().err
    assert summary["images"] == 15
    pairs = {tuple(one.removeprefix("photos/") for one in pair): kind for pair, kind in kinds(out).items()}
    assert pairs == FOUND | {("0-link_out", "008"): "bytes"}
    keep, remove = ((out / f"{name}.txt").read_text().splitlines() for name in ("keep", "remove"))
    assert not {os.path.realpath(path) for path in keep} & {os.path.realpath(path) for path in remove}
    assert str(photos / "007.jpg") in keep  # the file, and not the link to it
    assert str(photos / "0-link_out.jpg") in remove  # files are kept rather than links
    assert {row["path"] for row in table(out / "groups.csv") if row["id"].endswith("0-link_out")} == {""}


@pytest.mark.slow
def test_what_is_in_out_is_no_image(photos, tmp_path, job):
    out = photos / "duplicates"
    first = job(photos, out)
    second = job(photos, out)
    assert first["images"] == second["images"] == 14
    assert first["unreadable"] == second["unreadable"] == 2


def test_one_process_at_a_time(photos, tmp_path, job):
    out = tmp_path / "out"

    def late(contents: Source, folder: Path) -> dict[str, Any]:
        with pytest.raises(OSError, match="another process is at work in"):
            Job()(photos, out)
        return job.embed(contents, folder)

    dedup(open_source(str(photos)), out, late, OPTIONS, weights="narrow")
    assert kinds(out) == FOUND

    def fails(contents: Source, folder: Path) -> dict[str, Any]:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose") as kept:  # as an interactive session keeps the last error
        dedup(open_source(str(photos)), out, fails, OPTIONS, weights="narrow")
    job(photos, out)
    assert str(kept.value) == "on purpose"


def test_carriage_returns_in_names(images, tmp_path, job):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("cr\r.jpg", "b.jpg"):
        shutil.copy(next(images.iterdir()), folder / name)
    out = tmp_path / "out"
    job(folder, out)
    rows = table(out / "groups.csv")
    assert {row["path"] for row in rows} == {str(folder / "cr\r.jpg"), str(folder / "b.jpg")}
    (move,) = plan_moves(out, tmp_path / "gone").moves
    assert os.path.basename(move.path) in ("cr\r.jpg", "b.jpg")


def test_archives_beside_files_can_be_applied(photos, tmp_path, job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(photos / "more.tar", "w") as archive:
        archive.add(photos / "007.jpg", "007.jpg")
    job(Path("photos"), tmp_path / "out")
    plan = plan_moves(tmp_path / "out", tmp_path / "gone", roots=[photos])
    assert len(plan.moves) + plan.not_files + len(plan.skipped) == 4
    assert plan_moves(tmp_path / "out", tmp_path / "gone").moves == plan.moves


@pytest.mark.slow
def test_other_weights_say_what_to_do(photos, tmp_path, job):
    out = tmp_path / "out"
    job(photos, out)
    other = partial(write_descriptors, MODEL, make_variables(), preset=Preset("short", 40), batch_size=8)
    with pytest.raises(ValueError, match=r"name another --out, or remove .*out/descriptors"):
        dedup(open_source(str(photos)), out, lambda s, o: other(s, out=o), OPTIONS, weights="narrow")


def test_a_list_that_was_cut_off_is_read_as_far_as_it_goes(photos, tmp_path, job):
    out = tmp_path / "out"
    job(photos, out)
    whole = (out / "files.jsonl").read_bytes()
    (out / "files.jsonl").write_bytes(whole[: len(whole) // 2] + b'\xff{"id": 3, "path"')
    job(photos, out)
    assert (out / "files.jsonl").read_bytes() == whole
    assert job.embedded == [11, 0]
