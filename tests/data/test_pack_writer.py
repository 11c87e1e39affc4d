"""The command that packs images, and `--retry`, which reads images again that could not be read before."""

import errno
import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.cli.main import main
from sscd_jax.data import failed_reads, storage
from sscd_jax.data.pack_reader import INDEX
from sscd_jax.data.sources import open_source


def command(images: Path, out: Path, *options: str) -> None:
    main(["pack", str(images), "--out", str(out), "--shard-mib", "0.02", *options])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unreliable(monkeypatch) -> set[str]:
    """Names of the images that a disk or a store does not give now."""
    failing: set[str] = set()
    read = storage.read_bytes
    monkeypatch.setattr(failed_reads, "LONGEST_WAIT", 0.0)

    def read_bytes(path: str) -> bytes:
        if Path(path).name in failing:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    return failing


def test_more_failed_reads_than_allowed_are_an_error(images, tmp_path, capsys):
    """A pack does not make bad images of them, either: whoever reads it is told that they were not delivered."""
    listed, out = tmp_path / "list.txt", tmp_path / "pack"
    some = [*sorted(images.iterdir())[:2], *(tmp_path / f"gone{number}.jpg" for number in range(3))]
    listed.write_text("".join(f"{path}\n" for path in some))
    for arguments in ([], ["--retry"]):
        with pytest.raises(SystemExit):
            command(listed, out, "--max-errors", "2", *arguments)
        assert re.search(
            r"3 images could not be read from the disk or the network, .*gone2\.jpg: No such file.*--retry",
            capsys.readouterr().err,
        )
        assert not (out / "index.npz").exists()
    command(listed, out, "--max-errors", "3")
    said = capsys.readouterr()
    assert "3 images could not be read before, see errors.jsonl; --retry tries again" in said.err
    summary = json.loads(said.out)
    assert (summary["unreadable"], summary["not_read"]) == (3, 3)
    assert {json.loads(line)["kind"] for line in (out / "errors.jsonl").read_text().splitlines()} == {"read"}
    with pytest.raises(FileNotFoundError, match="could not be read when it was packed"):
        open_source(str(out)).load(2)


def test_what_could_not_be_read_is_tried_again(images, tmp_path, unreliable, capsys):
    out = tmp_path / "pack"
    unreliable |= {"003.jpg", "017.jpg"}
    command(images, out)
    assert json.loads(capsys.readouterr().out)["unreadable"] == 2
    before = files(out)
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert [Path(error["path"]).name for error in errors] == ["003.jpg", "017.jpg"]

    unreliable -= {"017.jpg"}
    command(images, out)
    captured = capsys.readouterr()
    assert f"{out}: 2 images could not be read before, see errors.jsonl; --retry tries again" in captured.err
    assert files(out) == before

    command(images, out, "--retry")
    assert json.loads(capsys.readouterr().out)["unreadable"] == 1
    assert [Path(json.loads(line)["path"]).name for line in (out / "errors.jsonl").read_text().splitlines()] == [
        "003.jpg"
    ]
    unreliable.clear()
    command(images, out, "--retry")
    assert json.loads(capsys.readouterr().out)["unreadable"] == 0
    command(images, tmp_path / "once")
    assert files(out) == files(tmp_path / "once"), "as if all had been read at once"
    pack = open_source(str(out))
    assert [pack.load(k) for k in range(len(pack))] == [path.read_bytes() for path in sorted(images.iterdir())]


def test_an_interrupted_retry_leaves_no_inconsistent_pack(images, tmp_path, unreliable, monkeypatch):
    """Not the old index over new shards: the pack does not open until the same command has ended."""
    out = tmp_path / "pack"
    unreliable |= {"003.jpg"}
    command(images, out)
    unreliable.clear()
    write, written = storage.atomic_writer, []

    @contextmanager
    def atomic_writer(path):
        with write(path) as file:
            yield file
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "atomic_writer", atomic_writer)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command(images, out, "--retry")
    monkeypatch.setattr(storage, "atomic_writer", write)
    with pytest.raises(ValueError, match="is an incomplete pack: run the same"):
        open_source(str(out))
    command(images, out)
    command(images, tmp_path / "once")
    assert files(out) == files(tmp_path / "once")
    pack = open_source(str(out))
    sizes = [len(pack.load(k)) for k in range(len(pack))]
    assert np.array_equal(sizes, [path.stat().st_size for path in sorted(images.iterdir())])


def test_absent_files_are_tried_again(images, tmp_path, capsys):
    """As on a disk that was not mounted; only then: images that have changed or gone are those of another pack."""
    photos, out = tmp_path / "photos", tmp_path / "pack"
    photos.mkdir()
    for number, path in enumerate(sorted(images.iterdir())):
        (photos / path.name).symlink_to(tmp_path / "later" / path.name if number % 7 == 3 else path)
    command(photos, out)
    lost = json.loads(capsys.readouterr().out)["unreadable"]
    assert lost > 3
    shutil.copytree(images, tmp_path / "later")
    command(photos, out)
    assert f"{lost} images could not be read before" in capsys.readouterr().err
    command(photos, out, "--retry")
    command(photos, tmp_path / "once")
    assert files(out) == files(tmp_path / "once")
    (tmp_path / "later" / "003.jpg").unlink()
    with pytest.raises(SystemExit):
        command(photos, out, "--retry")
    assert "is a pack of other images" in capsys.readouterr().err


def test_command(images, tmp_path, capsys):
    main(["pack", str(images), "--out", str(tmp_path / "pack"), "--shard-mib", "0.03125"])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["unreadable"]) == (40, 0)
    assert summary["bytes"] == sum(path.stat().st_size for path in (tmp_path / "pack").glob("*.tar"))
    with pytest.raises(SystemExit):
        main(["pack", str(images), "--out", str(tmp_path / "pack")])
    assert "pass --shard-mib 0.03125" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["pack", str(images), "--out", str(tmp_path / "pack"), "--split", "train"])
    assert "--split and --data-dir are for tfds:NAME" in capsys.readouterr().err
    assert INDEX in files(tmp_path / "pack")
