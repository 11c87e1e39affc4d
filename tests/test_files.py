"""Files and folders are written completely or not at all, and what was there survives every error."""

import errno
import os
import shutil
import stat
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
    assert [path.name for path in folder.iterdir()] == ["two"]
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
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "old"]
    assert (tmp_path / "file").read_text() == "old"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, kind in (
        ("absent/a.txt", FileNotFoundError),
        ("file/a.txt", NotADirectoryError),
        ("folder", IsADirectoryError),
    ):
        with pytest.raises(kind, match=f"{tmp_path}/{name}'$") as caught:
            files.write_text(tmp_path / name, "")
        assert caught.value.filename == str(tmp_path / name)
    with (
        pytest.raises(FileNotFoundError, match=f"{tmp_path}/set/absent/b'$"),
        files.atomic_folder(tmp_path / "set") as new,
    ):
        (new / "absent" / "b").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent'$"), files.atomic_file(tmp_path / "a"):
        (tmp_path / "absent").read_bytes()


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'$"):
        files.write_text("/dev/full", "a")
    with pytest.raises(OSError, match=r"a'$"), files.atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "a.txt"
    link.symlink_to(target)
    target.parent.mkdir()
    for text in ("one", "two"):  # the target does not exist at first
        files.write_text(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    (tmp_path / "set").symlink_to(target.parent)
    with files.atomic_folder(tmp_path / "set") as temporary:
        (temporary / "b.txt").touch()
    assert (tmp_path / "set").is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["b.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "elsewhere", "set"]


def test_a_device_or_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        files.write_text(pipe, "through")
        assert reader.stdout.read() == b"through"
    assert pipe.is_fifo()
    files.write_text("/dev/null", "")
    assert not Path("/dev/null").is_file()


def test_a_folder_that_cannot_be_moved_back_in_is_restored(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if (path / "new").exists():
            raise PermissionError(errno.EACCES, "Permission denied", str(path), None, str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError, match=r"set'$"), files.atomic_folder(tmp_path / "set") as temporary:
        (temporary / "new").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["set", "set/old"]


def test_what_is_copied_may_be_read_only(tmp_path):
    (tmp_path / "source").write_text("")
    (tmp_path / "source").chmod(0o444)
    with files.atomic_file(tmp_path / "copy") as temporary:
        shutil.copy(tmp_path / "source", temporary)
    with files.atomic_folder(tmp_path / "folder") as temporary:
        shutil.copy(tmp_path / "source", temporary)
        (temporary / "link").symlink_to("nowhere")
    assert len(list((tmp_path / "folder").iterdir())) == 2


def test_the_longest_name_can_be_written(tmp_path):
    for name in (255 * "a", 63 * "\N{GRINNING FACE}"):
        files.write_text(tmp_path / name, "")
        assert (tmp_path / name).is_file()


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
    assert [files.is_temporary(path.name) for path in sorted(tmp_path.iterdir())] == [True, False]


def test_writers_of_one_file_do_not_disturb_one_another(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic_file(path) as first, files.atomic_file(path) as second:
        first.write_text("one")
        second.write_text("two")
    assert path.read_text() == "one"  # the one that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_is_where_the_system_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder("weights") == tmp_path / "sscd_jax" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder("weights") == Path(tmp_path, ".cache", "sscd_jax", "weights")


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    files.write_text(tmp_path / "a.txt", "")
    (tmp_path / "b.txt").write_text("")
    assert os.stat(tmp_path / "a.txt").st_mode == os.stat(tmp_path / "b.txt").st_mode


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    files.write_text(tmp_path / "secret", "one")
    (tmp_path / "secret").chmod(0o600)
    files.write_text(tmp_path / "secret", "two")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
