"""Duplicates are moved or linked and brought back, whatever happens in between, and no content is ever lost."""

import csv
import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from filelock import FileLock

from sscd_jax import files
from sscd_jax.duplicates import file_operations, journal, moves
from sscd_jax.duplicates.move_plan import plan_moves
from sscd_jax.duplicates.moves import Result, apply, undo

COLUMNS = [
    "group",
    "id",
    "keep",
    *("similarity_to_kept", "lowest_similarity_in_group", "width", "height", "bytes"),
    "path",
]
HOUR = 3600 * 10**9
SYSTEM_CALLS = ("rename", "replace", "link", "unlink", "mkdir", "fsync", "utime", "chmod")


class Killed(BaseException):
    """As if the process were gone: nothing that it still tries to do has an effect."""


@dataclass
class Scene:
    """A folder of images, and the folder that says which of them are duplicates."""

    root: Path
    names: list[list[str]]  # of each group; the first is kept

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    def moves(self, link: bool = False) -> Result:
        return apply(plan_moves(self.out, None if link else self.trash))

    def photo(self, name: str) -> Path:
        return self.photos / name

    def compare(self, **paths: str) -> None:
        """Writes groups.csv and files.jsonl; `paths` replaces the paths of ids."""
        self.out.mkdir(exist_ok=True)
        lines = []
        with (self.out / "groups.csv").open("w", newline="", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for number, group in enumerate(self.names):
                for name in group:
                    path = paths.get(name, str(self.photo(name)))
                    keep = str(name == group[0]).lower()
                    writer.writerow({"group": number, "id": name, "keep": keep, "path": path})
                    if path:
                        found, data = os.stat(path), Path(path).read_bytes()
                        facts = {"bytes": found.st_size, "time": found.st_mtime_ns}
                        sha256 = hashlib.sha256(data).hexdigest()
                        lines.append(json.dumps({"id": name, "path": path, "sha256": sha256} | facts) + "\n")
        (self.out / "files.jsonl").write_text("".join(lines))


Facts = dict[str, tuple[bytes, int, int]]


def snapshot(folder: Path) -> Facts:
    """Returns the content, time and permissions of all files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            found[str(path.relative_to(folder))] = (path.read_bytes(), facts.st_mtime_ns, stat.S_IMODE(facts.st_mode))
    return found


def inodes(folder: Path) -> int:
    return len({path.stat().st_ino for path in folder.rglob("*") if path.is_file()})


def make(root: Path, link: bool = False) -> Scene:
    """Makes two groups; the duplicates of the first are in two folders, with equal names."""
    scene = Scene(root, [["a/1.jpg", "a/2.jpg", "b/c/2.jpg"], ["b/3.jpg", "4.jpg"]])
    for k, group in enumerate(scene.names):
        for m, name in enumerate(group):
            path = scene.photo(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"image {k}".encode() * 50 + (b"" if link else f"edit {m}".encode()))
            os.chmod(path, 0o600 + 4 * m)
            os.utime(path, ns=(HOUR, (10 * k + m) * HOUR + 123456789))
    scene.photo("other.jpg").write_bytes(b"no duplicate")
    scene.compare()
    return scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make(tmp_path)


@pytest.fixture
def copies(tmp_path: Path) -> Scene:
    """The duplicates are equal byte for byte."""
    return make(tmp_path, link=True)


@pytest.fixture
def two_disks(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> Scene:
    """FOLDER is on another file system than the images."""
    separate(monkeypatch, scene)
    return scene


def separate(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    for name in ("rename", "replace", "link"):
        real = getattr(os, name)

        def checked(source: str, target: str, *, real: Callable[..., None] = real, **options: bool) -> None:
            if (scene.trash in Path(source).parents) != (scene.trash in Path(target).parents):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)
            real(source, target, **options)

        monkeypatch.setattr(os, name, checked)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the file system be one without hard links."""

    def refuse(source: str, target: str, **options: bool) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    monkeypatch.setattr(os, "link", refuse)


def test_a_plan_says_what_would_be_moved_and_changes_nothing(scene):
    before = snapshot(scene.root)
    plan = plan_moves(scene.out, scene.trash)
    assert [(one.path, one.to) for one in plan.moves] == [
        (str(scene.photo(name)), str(scene.trash / name)) for name in ("a/2.jpg", "b/c/2.jpg", "4.jpg")
    ]
    assert plan.bytes == sum(scene.photo(name).stat().st_size for name in ("a/2.jpg", "b/c/2.jpg", "4.jpg"))
    assert plan.skipped == []
    assert snapshot(scene.root) == before
    assert sorted(path.name for path in scene.out.iterdir()) == ["files.jsonl", "groups.csv"]


@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("links", [True, False])
def test_files_are_moved_and_brought_back_with_their_time_and_permissions(disks, links, scene, monkeypatch):
    if not links:
        without_links(monkeypatch)
    if disks == 2:
        separate(monkeypatch, scene)
    before = snapshot(scene.photos)
    result = scene.moves()
    assert (result.done, result.skipped) == (3, [])
    assert result.bytes == sum(len(data) for data, _, _ in snapshot(scene.trash).values())
    gone = {"a/2.jpg", "b/c/2.jpg", "4.jpg"}
    assert snapshot(scene.trash) == {name: facts for name, facts in before.items() if name in gone}
    assert snapshot(scene.photos) == {name: facts for name, facts in before.items() if name not in gone}
    assert scene.photo("b/c").is_dir()
    again = scene.moves()
    assert (again.done, again.before, again.skipped) == (0, 3, [])
    back = undo(scene.out)
    assert (back.done, back.bytes, back.skipped) == (3, result.bytes, [])
    assert snapshot(scene.photos) == before
    assert snapshot(scene.trash) == {}
    assert undo(scene.out) == Result(done=0, bytes=0, skipped=[])
    assert scene.moves().done == 3
    assert undo(scene.out).done == 3
    assert snapshot(scene.photos) == before


def test_files_are_moved_to_a_real_other_file_system(scene):
    trash = Path("/dev/shm") / f"test_moves_{os.getpid()}"
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == scene.root.stat().st_dev:
        pytest.skip("this machine has no second file system that every user can write to")
    before = snapshot(scene.photos)
    try:
        assert apply(plan_moves(scene.out, trash)).done == 3
        moved = snapshot(trash)
        assert moved == {name: before[name] for name in moved}
        assert undo(scene.out).done == 3
        assert snapshot(trash) == {}
    finally:
        shutil.rmtree(trash, ignore_errors=True)
    assert snapshot(scene.photos) == before


def test_copies_become_links_and_files_of_their_own_again(copies):
    copies.photo("4.jpg").write_bytes(copies.photo("4.jpg").read_bytes()[::-1])
    copies.compare()
    before = snapshot(copies.photos)
    plan = plan_moves(copies.out, None)
    assert (len(plan.moves), plan.different, plan.same) == (2, 1, 0)
    result = copies.moves(link=True)
    assert (result.done, result.bytes, result.different, result.skipped) == (2, plan.bytes, 1, [])
    assert inodes(copies.photos) == len(before) - 2
    assert copies.photo("a/1.jpg").samefile(copies.photo("b/c/2.jpg"))
    assert {name: facts[0] for name, facts in snapshot(copies.photos).items()} == {n: f[0] for n, f in before.items()}
    again = copies.moves(link=True)
    assert (again.done, again.same, again.different, again.skipped) == (0, 2, 1, [])
    assert undo(copies.out).done == 2
    assert snapshot(copies.photos) == before
    assert inodes(copies.photos) == len(before)


def test_links_that_were_there_before_stay(copies):
    copies.photo("a/2.jpg").unlink()
    os.link(copies.photo("a/1.jpg"), copies.photo("a/2.jpg"))
    copies.compare()
    result = copies.moves(link=True)
    assert (result.done, result.same) == (2, 1)
    undo(copies.out)
    assert copies.photo("a/1.jpg").samefile(copies.photo("a/2.jpg"))


def test_links_can_be_moved_and_all_comes_back(copies):
    before = snapshot(copies.photos)
    assert copies.moves(link=True).done == 3
    assert copies.moves().done == 3
    assert copies.moves(link=True).before == 3
    assert undo(copies.out).done == 6
    assert snapshot(copies.photos) == before
    assert inodes(copies.photos) == len(before)


def test_files_with_other_bytes_than_their_hash_says_are_not_linked(copies):
    path = copies.photo("a/2.jpg")
    found = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    result = copies.moves(link=True)
    assert result.skipped == [(str(path), "its content is no longer that of the file that its group keeps")]
    assert result.done == 2


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 5))


def _grow(path: Path) -> None:
    found = path.stat()
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _to_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("change", [_touch, _grow, _to_link, _to_folder, Path.unlink])
def test_a_file_that_has_changed_stays(change, link, copies):
    change(copies.photo("a/2.jpg"))
    before = snapshot(copies.photos)
    result = copies.moves(link)
    assert result.done == 2
    [(path, reason)] = result.skipped
    assert path == str(copies.photo("a/2.jpg"))
    assert ("No such file" if change is Path.unlink else "changed") in reason
    undo(copies.out)
    assert snapshot(copies.photos) == before


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("change", [_touch, _grow, _to_link, _to_folder, Path.unlink])
def test_a_group_whose_kept_file_has_changed_stays(change, link, copies):
    change(copies.photo("a/1.jpg"))
    result = copies.moves(link)
    assert result.done == 1
    assert [path for path, _ in result.skipped] == [str(copies.photo(name)) for name in ("a/2.jpg", "b/c/2.jpg")]
    for _, reason in result.skipped:
        assert "the file that its group keeps" in reason
        assert str(copies.photo("a/1.jpg")) in reason


def test_a_file_that_changes_after_the_plan_stays(scene, monkeypatch):
    real = moves.plan_moves

    def plan_and_change(*arguments, **options):
        plan = real(*arguments, **options)
        _touch(scene.photo("a/2.jpg"))
        scene.photo("b/3.jpg").unlink()
        return plan

    plan = plan_moves(scene.out, scene.trash)
    monkeypatch.setattr(moves, "plan_moves", plan_and_change)
    result = apply(plan)
    assert result.done == 1
    assert [path for path, _ in result.skipped] == [str(scene.photo(name)) for name in ("a/2.jpg", "4.jpg")]


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_changes_after_it_was_announced_stays(link, copies, monkeypatch):
    real = journal.Journal.write

    def write(self: journal.Journal, steps: list[journal.Step], state: journal.State) -> None:
        real(self, steps, state)
        if state == "begun":
            _touch(copies.photo("a/2.jpg"))
            copies.photo("b/3.jpg").unlink()

    monkeypatch.setattr(journal.Journal, "write", write)
    result = copies.moves(link)
    assert result.done == 1
    assert [path for path, _ in result.skipped] == [str(copies.photo(name)) for name in ("a/2.jpg", "4.jpg")]
    monkeypatch.undo()
    assert undo(copies.out).done == 1


def test_images_without_a_file_are_counted_and_their_groups_are_safe(scene):
    scene.compare(**{"a/1.jpg": "", "4.jpg": ""})
    result = scene.moves()
    assert (result.done, result.not_files) == (0, 1)
    assert {reason for _, reason in result.skipped} == {
        "the image that its group keeps is not a file of its own, and cannot be checked"
    }


def test_the_kept_file_by_another_path_is_not_moved(scene):
    (scene.root / "alias").symlink_to(scene.photo("a"))
    scene.names = [["a/1.jpg", "a/2.jpg"]]
    scene.compare(**{"a/2.jpg": str(scene.root / "alias" / "1.jpg")})
    for name in ("alone", "linked"):
        if name == "linked":
            os.link(scene.photo("a/1.jpg"), scene.root / "third.jpg")
        result = apply(plan_moves(scene.out, scene.trash, roots=[scene.photos]))
        assert result.done == 0
        assert "by another path" in result.skipped[0][1]
    assert scene.photo("a/1.jpg").exists()


def test_a_target_that_exists_is_not_overwritten(scene):
    (scene.trash / "a").mkdir(parents=True)
    (scene.trash / "a" / "2.jpg").write_bytes(b"mine")
    (scene.trash / "b").write_bytes(b"a file where a folder is needed")
    result = scene.moves()
    assert result.done == 1
    assert result.skipped[0] == (str(scene.photo("a/2.jpg")), f"File exists: {scene.trash}/a/2.jpg")
    assert result.skipped[1][0] == str(scene.photo("b/c/2.jpg"))
    undo(scene.out)
    assert (scene.trash / "a" / "2.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("links", [True, False])
def test_a_target_that_appears_at_the_last_moment_is_not_overwritten(disks, links, scene, monkeypatch):
    if not links:
        without_links(monkeypatch)
    if disks == 2:
        separate(monkeypatch, scene)
    real = file_operations._make_folder

    def appear(folder: str) -> None:
        real(folder)
        Path(folder, "4.jpg").write_bytes(b"mine")

    monkeypatch.setattr(file_operations, "_make_folder", appear)
    before = scene.photo("4.jpg").read_bytes()
    result = scene.moves()
    assert result.skipped == [(str(scene.photo("4.jpg")), f"File exists: {scene.trash}/4.jpg")]
    assert (scene.trash / "4.jpg").read_bytes() == b"mine"
    assert scene.photo("4.jpg").read_bytes() == before


def test_undo_does_not_overwrite_and_tries_again_later(scene):
    before = snapshot(scene.photos)
    scene.moves()
    scene.photo("a/2.jpg").write_bytes(b"new")
    for _ in range(2):
        result = undo(scene.out)
        assert result.skipped == [
            (str(scene.photo("a/2.jpg")), f"another file is at its place now: it stays at {scene.trash}/a/2.jpg")
        ]
        assert scene.photo("a/2.jpg").read_bytes() == b"new"
    assert list(snapshot(scene.trash)) == ["a/2.jpg"]
    scene.photo("a/2.jpg").unlink()
    assert undo(scene.out).done == 1
    assert snapshot(scene.photos) == before


def test_undo_leaves_what_has_changed_or_is_gone(copies):
    copies.moves()
    (copies.trash / "a/2.jpg").write_bytes(b"edited")
    (copies.trash / "4.jpg").unlink()
    result = undo(copies.out)
    assert result.done == 1
    reasons = {Path(path).name: reason for path, reason in result.skipped}
    assert reasons["2.jpg"] == f"{copies.trash}/a/2.jpg has changed since"
    assert reasons["4.jpg"] == f"No such file or directory: {copies.trash}/4.jpg"


def test_undo_knows_a_file_that_was_touched_and_one_that_was_moved_back_by_hand(scene):
    before = snapshot(scene.photos)
    scene.moves()
    _touch(scene.trash / "a/2.jpg")
    shutil.move(scene.trash / "4.jpg", scene.photo("4.jpg"))
    shutil.rmtree(scene.photo("b/c"))
    result = undo(scene.out)
    assert (result.done, result.skipped) == (2, [])
    assert {name: facts[0] for name, facts in snapshot(scene.photos).items()} == {n: f[0] for n, f in before.items()}


def test_undo_leaves_a_link_whose_content_has_changed(copies):
    copies.moves(link=True)
    copies.photo("a/1.jpg").write_bytes(b"edited")
    result = undo(copies.out)
    assert result.done == 1
    assert len(result.skipped) == 2
    assert copies.photo("a/2.jpg").samefile(copies.photo("a/1.jpg"))


# Killed at any point


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lets the process be killed at a call: each has a number if it is killed before it, and one if it is in it."""
    calls = iter(range(10**9))

    def counted(real: Callable[..., Any], partly: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count = next(calls)
            if count < number // 2:
                return real(*arguments, **options)
            if count == number // 2 and number % 2:
                (partly or real)(*arguments, **options)
            raise Killed

        return call

    def copy_half(source: str, target: str, **options: bool) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:9])

    class Torn(FileIO):
        write = counted(FileIO.write, lambda self, data: FileIO.write(self, data[: len(data) // 2]))

    for name in SYSTEM_CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(shutil, "copyfile", counted(shutil.copyfile, copy_half))
    monkeypatch.setattr(journal, "FileIO", Torn)


def killed(scene: Scene, number: int, disks: int, links: bool, work: Callable[[], object]) -> bool:
    """Calls a function that is killed at a point, and returns whether it came so far."""
    with pytest.MonkeyPatch.context() as patch:
        if not links:
            without_links(patch)
        if disks == 2:
            separate(patch, scene)
        die_at(patch, number)
        try:
            work()
        except Killed:
            return True
        return False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes nothing, which takes long and only matters when the computer is switched off."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def contents(scene: Scene) -> set[bytes]:
    """Returns the contents of all files but the temporary ones."""
    found = snapshot(scene.photos) | {f"trash/{name}": facts for name, facts in snapshot(scene.trash).items()}
    return {facts[0] for name, facts in found.items() if not files.is_temporary(Path(name).name)}


def check_undone(scene: Scene, before: Facts) -> None:
    result = undo(scene.out)
    assert result.skipped == []
    assert snapshot(scene.photos) == before
    assert inodes(scene.photos) == len(before)
    assert snapshot(scene.trash) == {}  # and no temporary file
    assert undo(scene.out).done == 0


KINDS = [
    (1, True, False),
    *(pytest.param(*kind, marks=pytest.mark.slow) for kind in ((1, False, False), (2, True, False), (2, False, False))),
    (1, True, True),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("disks", "links", "link"), KINDS)
def test_apply_survives_every_kill(disks, links, link, tmp_path):
    scene = make(tmp_path, link)
    before = snapshot(scene.photos)
    everything = contents(scene)

    for number in itertools.count():
        shutil.rmtree(scene.trash, ignore_errors=True)
        (scene.out / "moves.jsonl").unlink(missing_ok=True)
        if not killed(scene, number, disks, links, lambda: scene.moves(link)):
            break
        assert contents(scene) == everything
        if number % 3:  # otherwise it is undone at once
            plan = plan_moves(scene.out, None if link else scene.trash)
            assert plan.skipped == []  # a plan says nothing wrong of what was interrupted
            result = scene.moves(link)
            assert result.skipped == []
            assert result.done + result.before + result.same == 3
            assert (inodes(scene.photos) if link else len(snapshot(scene.trash))) == 3
        check_undone(scene, before)
    assert number > 20
    assert scene.moves(link).done == 0  # all was done when it was not killed
    check_undone(scene, before)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("disks", "links", "link"), KINDS)
def test_undo_survives_every_kill(disks, links, link, tmp_path):
    scene = make(tmp_path, link)
    before = snapshot(scene.photos)
    everything = contents(scene)
    scene.moves(link)
    for number in itertools.count():
        if not killed(scene, number, disks, links, lambda: undo(scene.out)):
            break
        assert contents(scene) == everything
        if number % 3:  # otherwise it is applied again at once
            check_undone(scene, before)
            (scene.out / "moves.jsonl").unlink()
        result = scene.moves(link)
        assert result.skipped == []
        assert (inodes(scene.photos) if link else len(snapshot(scene.trash))) == 3
        assert contents(scene) == everything
    assert number > 20
    check_undone(scene, before)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_everything_comes_back_after_many_kills_in_a_row(seed, tmp_path):
    scene = make(tmp_path, link=seed % 2 == 0)
    before = snapshot(scene.photos)
    everything = contents(scene)
    random = Random(seed)
    works = (scene.moves, lambda: scene.moves(link=True), lambda: undo(scene.out))
    for _ in range(60):
        killed(scene, random.randrange(60), random.choice([1, 2]), random.random() < 0.5, random.choice(works))
        assert contents(scene) == everything
    check_undone(scene, before)


def test_a_process_that_is_killed_leaves_its_lock_behind_and_all_comes_back(scene):
    before = snapshot(scene.photos)
    script = (
        "import os, signal, sys; from pathlib import Path; from sscd_jax.duplicates import moves\n"
        "real = os.unlink; calls = []\n"
        "def unlink(*a, **k):\n"
        "    calls.append(a)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*a, **k)\n"
        "os.unlink = unlink\n"
        "moves.apply(moves.plan_moves(Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, scene.out, scene.trash], check=False)
    assert ended.returncode == -9
    assert len(snapshot(scene.trash)) == 2
    check_undone(scene, before)


def test_every_file_is_announced_on_the_disk_before_it_is_touched(scene, monkeypatch):
    flushed: set[str] = set()
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        written = scene.out / "moves.jsonl"
        if os.fstat(descriptor).st_ino == written.stat().st_ino:
            flushed.update(json.loads(line).get("path", "") for line in written.read_text().splitlines())

    def link(source: str, target: str, **options: bool) -> None:
        assert source in flushed
        real_link(source, target, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    assert scene.moves().done == 3


# The journal


@pytest.mark.parametrize("torn", [b'{"step": 99, "sta', b"\0\0\0", '{"step": 3, "path": "ü'.encode()[:-1]])
def test_a_torn_last_line_is_cut_off(torn, scene):
    before = snapshot(scene.photos)
    scene.names.pop()
    scene.compare()
    assert scene.moves().done == 2
    with (scene.out / "moves.jsonl").open("ab") as file:
        file.write(torn)
    scene.names.append(["b/3.jpg", "4.jpg"])
    scene.photo("a/2.jpg").parent.mkdir(exist_ok=True)
    for name in ("a/2.jpg", "b/c/2.jpg"):
        os.link(scene.trash / name, scene.photo(name))
    scene.compare()
    for name in ("a/2.jpg", "b/c/2.jpg"):
        scene.photo(name).unlink()
    result = scene.moves()
    assert (result.done, result.before) == (1, 2)
    assert [json.loads(line)["state"] for line in (scene.out / "moves.jsonl").read_text().splitlines()][-1] == "done"
    check_undone(scene, before)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        '{"step": 0, "state": "lost"}',
        '{"step": 99, "state": "done"}',
        '{"step": 5, "state": "begun"}',
    ],
)
def test_a_broken_line_is_an_error_that_names_it(line, scene):
    scene.moves()
    with (scene.out / "moves.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"moves\.jsonl: line 7 is broken"):
        undo(scene.out)


def test_only_one_process_works_on_a_folder(scene):
    scene.moves()
    with FileLock(scene.out / ".lock"):
        for work in (scene.moves, lambda: undo(scene.out)):
            with pytest.raises(BlockingIOError, match="another process is at work in"):
                work()


def test_names_that_are_not_unicode_are_moved(scene):
    name = os.fsdecode(b"a/\xff\n2.jpg")
    os.rename(scene.photo("a/2.jpg"), scene.photo(name))
    scene.names[0][1] = name
    scene.compare()
    before = snapshot(scene.photos)
    assert scene.moves().done == 3
    assert (scene.trash / name).exists()
    check_undone(scene, before)


# Errors of single files, and of the disk


def fail(monkeypatch: pytest.MonkeyPatch, name: str, number: int, part: str) -> None:
    """Lets a system call fail whose first path contains a part."""
    real = getattr(os, name)

    def call(path: str, *arguments: object, **options: object) -> object:
        if part in str(path):
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("name", ["link", "unlink"])
def test_an_error_of_one_file_is_reported_and_leaves_it(name, disks, scene, monkeypatch):
    before = snapshot(scene.photos)
    if disks == 2:
        separate(monkeypatch, scene)
    with monkeypatch.context() as patch:
        fail(patch, name, errno.EACCES, "photos/a/2.jpg")
        result = scene.moves()
        assert result.done == 2
        assert result.skipped == [(str(scene.photo("a/2.jpg")), "Permission denied")]
    assert sorted(snapshot(scene.trash)) == ["4.jpg", "b/c/2.jpg"]
    assert scene.photo("a/2.jpg").stat().st_nlink == 1
    assert scene.moves().done == 1
    with monkeypatch.context() as patch:
        fail(patch, name, errno.EACCES, "trash/a/2.jpg")
        assert [path for path, _ in undo(scene.out).skipped] == [str(scene.photo("a/2.jpg"))]
    check_undone(scene, before)


def test_a_file_that_vanishes_as_it_is_moved_is_not_lost(scene, monkeypatch):
    before = snapshot(scene.photos)
    real = os.unlink

    def twice(path: str) -> None:  # as of a network file system that asks again because the answer was lost
        real(path)
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", twice)
        assert scene.moves().done == 3
    check_undone(scene, before)


def test_a_full_disk_ends_it_with_one_error(two_disks, monkeypatch):
    before = snapshot(two_disks.photos)
    real = shutil.copyfile

    def full(source: str, target: str, **options: bool) -> None:
        if source.endswith("4.jpg"):
            Path(target).write_bytes(b"a part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)
        real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left") as caught:
            two_disks.moves()
    assert caught.value.filename == str(two_disks.trash / "4.jpg")
    assert sorted(snapshot(two_disks.trash)) == ["a/2.jpg", "b/c/2.jpg"]
    assert two_disks.moves().done == 1
    check_undone(two_disks, before)


def test_a_copy_with_other_bytes_is_not_trusted(two_disks, monkeypatch):
    before = snapshot(two_disks.photos)
    real = shutil.copyfile

    def damage(source: str, target: str, **options: bool) -> None:
        real(source, target, **options)
        Path(target).write_bytes(Path(target).read_bytes()[::-1])

    monkeypatch.setattr(shutil, "copyfile", damage)
    result = two_disks.moves()
    assert result.done == 0
    assert all("has other bytes" in reason for _, reason in result.skipped)
    assert snapshot(two_disks.photos) == before
    assert snapshot(two_disks.trash) == {}


def test_a_file_system_that_cannot_flush_folders_is_good_enough(two_disks, monkeypatch):
    before = snapshot(two_disks.photos)
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert two_disks.moves().done == 3
    check_undone(two_disks, before)


def test_hard_links_do_not_reach_another_file_system(copies, monkeypatch):
    before = snapshot(copies.photos)

    def refuse(source: str, target: str, **options: bool) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    result = copies.moves(link=True)
    assert {reason for _, reason in result.skipped} == {
        "it is on another file system than the file that its group keeps"
    }
    assert snapshot(copies.photos) == before


# What is refused


@pytest.mark.parametrize("name", ["photos", "photos/trash", "out", "out/trash", "alias/trash"])
def test_a_folder_that_would_be_searched_again_is_refused(name, scene):
    (scene.root / "alias").symlink_to(scene.photos)
    with pytest.raises(ValueError, match="name a folder outside of"):
        plan_moves(scene.out, scene.root / name)


def test_the_folders_that_were_searched_count(scene):
    with pytest.raises(ValueError, match=f"name a folder outside of {scene.root}$"):
        plan_moves(scene.out, scene.trash, roots=[scene.root])
    inside = scene.photos / "trash"
    assert len(plan_moves(scene.out, inside, roots=[scene.photo("a"), scene.photo("b")]).moves) == 3


def test_a_file_is_no_folder(scene):
    scene.trash.write_bytes(b"")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        plan_moves(scene.out, scene.trash)


def test_a_folder_that_dedup_did_not_write_is_refused(tmp_path):
    for work in (lambda: plan_moves(tmp_path, tmp_path / "trash"), lambda: undo(tmp_path / "none")):
        with pytest.raises(ValueError, match="`sscd-jax dedup` has written"):
            work()
    assert undo(tmp_path).done == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("keep", "kept", "has no column 'keep'"),
        ("true", "yes", "keep must be true or false, and is 'yes'"),
        ("true", "false", "group 0 keeps no image"),
        ("a/2.jpg\r", "a/../2.jpg\r", "is not an absolute path"),
    ],
)
def test_a_table_that_was_damaged_is_an_error(old, new, message, scene):
    path = scene.out / "groups.csv"
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    with pytest.raises(ValueError, match=message):
        plan_moves(scene.out, scene.trash)


def test_a_table_that_a_spreadsheet_has_written_is_read(scene):
    path = scene.out / "groups.csv"
    text = path.read_text().replace("true", "TRUE").replace("false", "FALSE")
    path.write_text(text, encoding="utf-8-sig")
    assert len(plan_moves(scene.out, scene.trash).moves) == 3


def test_files_that_were_not_listed_stay(scene):
    path = scene.out / "files.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "4.jpg" not in line))
    assert scene.moves().skipped == [
        (str(scene.photo("4.jpg")), f"files.jsonl says nothing about {scene.photo('4.jpg')}")
    ]
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"files\.jsonl, line 1"):
        scene.moves()


def test_many_files_are_moved_in_blocks(tmp_path):
    scene = Scene(tmp_path, [[f"{k:03}.jpg" for k in range(100)]])
    scene.photos.mkdir()
    for name in scene.names[0]:
        scene.photo(name).write_bytes(name.encode())
    scene.compare()
    before = snapshot(scene.photos)
    assert scene.moves().done == 99
    states = [json.loads(line)["state"] for line in (scene.out / "moves.jsonl").read_text().splitlines()]
    assert states[:65] == ["begun"] * 32 + ["done"] * 32 + ["begun"]
    check_undone(scene, before)
