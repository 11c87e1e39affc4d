"""Files and folders are written completely or not at all, and what was there survives every error."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from sscd_jax import files

KIND = files.FolderKind("set of letters", 1, r"letters\.json|[a-z]\.txt|more/[a-z]\.txt", ("letters.json",))


def allowed(folder: Path) -> None:
    """For tests whose folders are all ours."""


def write_set(folder: Path, *names: str) -> None:
    with files.atomic_folder(folder, KIND.check) as temporary:
        (temporary / "letters.json").write_text('{"format": "set of letters", "version": 1}')
        for name in names:
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(name)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "one\n")
    files.write_text(path, "två\n")
    assert path.read_bytes() == "två\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "above" / "set"
    for name in ("one", "two"):
        with files.atomic_folder(folder, allowed) as temporary:
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

    for write, name in ((files.atomic_file, "file"), (partial(files.atomic_folder, check=allowed), "folder")):
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
        files.atomic_folder(tmp_path / "set", allowed) as new,
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
    with files.atomic_folder(tmp_path / "set", allowed) as temporary:
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
    with pytest.raises(PermissionError, match=r"set'$"), files.atomic_folder(tmp_path / "set", allowed) as temporary:
        (temporary / "new").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["set", "set/old"]


def test_what_is_copied_may_be_read_only(tmp_path):
    (tmp_path / "source").write_text("")
    (tmp_path / "source").chmod(0o444)
    with files.atomic_file(tmp_path / "copy") as temporary:
        shutil.copy(tmp_path / "source", temporary)
    with files.atomic_folder(tmp_path / "folder", allowed) as temporary:
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


def test_only_our_folders_are_replaced(tmp_path):
    write_set(tmp_path / "new", "a.txt", "more/b.txt")
    (tmp_path / "new" / ".DS_Store").write_bytes(b"of a file manager")
    write_set(tmp_path / "new", "c.txt")
    assert sorted(p.name for p in (tmp_path / "new").rglob("*")) == [".DS_Store", "c.txt", "letters.json"]
    (tmp_path / "empty").mkdir()
    write_set(tmp_path / "empty", "a.txt")


@pytest.mark.parametrize("name", ["thesis.doc", "more/thesis.doc", "deep/er/a.txt", "a.txt/b.txt", "link", "empty/"])
def test_what_others_put_into_our_folder_is_named_and_stays(tmp_path, name):
    write_set(tmp_path / "set", "b.txt")
    foreign = tmp_path / "set" / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        foreign.symlink_to(tmp_path)
    elif name.endswith("/"):
        foreign.mkdir()
    else:
        foreign.write_text("mine")
    with pytest.raises(ValueError, match=rf"set/{name.strip('/')} is in the way: this package did not write it"):
        write_set(tmp_path / "set", "c.txt")
    assert foreign.exists()
    assert (tmp_path / "set" / "b.txt").read_text() == "b.txt"


def test_folders_of_others_are_refused(tmp_path):
    for number, text in enumerate(["{", "[]", '{"version": 1}', '{"format": "another", "version": 1}']):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "letters.json").write_text(text)
        with pytest.raises(ValueError, match=r"is not a folder of set of letters|holds another, not set of letters"):
            write_set(folder, "a.txt")
        assert (folder / "letters.json").read_text() == text


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    """After the check, where the new folder takes the place of the old one."""
    write_set(tmp_path / "set", "a.txt")
    checks = []

    def check(folder: Path) -> None:
        KIND.check(folder)
        checks.append(folder)

    def late(path: Path, target: Path, rename=Path.rename) -> Path:
        if path.name == "set":
            (path / "deep").mkdir()
            (path / "deep" / "thesis.doc").write_text("mine")
        return rename(path, target)

    with (
        pytest.MonkeyPatch.context() as patch,
        files.atomic_folder(tmp_path / "set", check) as temporary,
    ):
        patch.setattr(Path, "rename", late)
        (temporary / "b.txt").write_text("new")
    assert len(checks) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert {p.name for p in (tmp_path / "set").rglob("*")} == {"b.txt", "deep", "thesis.doc"}
    assert (tmp_path / "set" / "deep" / "thesis.doc").read_text() == "mine"


def test_a_place_where_nothing_can_be_written_is_said_before_the_work():
    with pytest.raises(OSError, match=r"/proc/sscd\.faiss"), files.atomic_file("/proc/sscd.faiss"):
        pytest.fail("the work began")
