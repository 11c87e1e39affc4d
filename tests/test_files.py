"""Files and folders are there whole or not at all, and what was there survives every error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sscd_jax import files


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "one\n")
    files.write_text(path, "två\n")
    assert path.read_bytes() == "två\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "above" / "set"
    for name in ("one", "two"):
        with files.atomic_folder(folder) as temporary:
            assert list(temporary.iterdir()) == []
            (temporary / name).write_text(name)
    assert [one.name for one in folder.iterdir()] == ["two"]
    assert list(folder.parent.iterdir()) == [folder]


class _StopError(BaseException):
    pass


@pytest.mark.parametrize("error", [_StopError(), OSError("no"), KeyboardInterrupt()])
def test_after_an_error_all_is_as_before(error, tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()

    def fail(write, name):
        with write(tmp_path / name) as temporary:
            temporary.joinpath("new").touch() if temporary.is_dir() else temporary.write_text("new")
            raise error

    for write, name in ((files.atomic_file, "file"), (files.atomic_folder, "folder")):
        with pytest.raises(type(error)):
            fail(write, name)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["file", "folder", "old"]
    assert (tmp_path / "file").read_text() == "old"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "absent" / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"absent/a\.txt'") as caught:
        files.write_text(path, "")
    assert caught.value.filename == str(path)


def test_a_killed_process_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = f"""
import os, signal
from sscd_jax import files
with files.atomic_file({str(path)!r}) as temporary:
    temporary.write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_text() == "old"


def test_writers_of_one_file_do_not_disturb_one_another(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic_file(path) as one, files.atomic_file(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the last that is done
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_is_where_the_system_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder("weights") == tmp_path / "sscd_jax" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder("weights") == Path(tmp_path, ".cache", "sscd_jax", "weights")


def test_modes_are_those_of_files_that_are_written_plainly(tmp_path):
    files.write_text(tmp_path / "a.txt", "")
    (tmp_path / "b.txt").write_text("")
    assert os.stat(tmp_path / "a.txt").st_mode == os.stat(tmp_path / "b.txt").st_mode
