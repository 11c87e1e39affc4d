"""The folder of shards: planned once, each shard complete or not there, other folders refused."""

import contextlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.saved_rows import IMAGE
from sscd_jax.embedding.shards import Shards
from sscd_jax.provenance import Provenance
from sscd_jax.string_list import Lookup

MADE_BY = Provenance("f" * 64, "skew_320", {"source": "photos"})
OTHER = {"computation": "bfloat16 by jax on cpu"}
ERROR = {"path": "a", "reason": "b", "kind": "image"}
IDS = [f"ä/{i}" for i in range(10)]


def opened(folder, **changes) -> Shards:
    options = {"weights": MADE_BY.weights, "preset": MADE_BY.preset, "dtype": "float32", "source": "/photos"} | changes
    computation = options.pop("computation", "float32 by jax on cpu")
    provenance = Provenance(options["weights"], options["preset"], computation=computation)
    return Shards(folder, provenance, options["dtype"], options["source"])


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)


def images(count: int) -> np.ndarray:
    return np.array([(1000 + i, 5, bytes([i % 256]) * 16) for i in range(count)], IMAGE)


def only(folder, pattern: str):
    """The one file of a pattern."""
    (found,) = folder.glob(pattern)
    return found


def test_the_plan_stays(tmp_path):
    shards = opened(tmp_path / "d")
    assert shards.plan.add(Lookup(IDS), 4) == 10
    assert shards.plan.numbers() == [0, 1, 2]
    assert [shards.plan.ids(n) for n in range(3)] == [IDS[:4], IDS[4:8], IDS[8:]]
    other = opened(tmp_path / "d")
    assert other.plan.add(Lookup([*reversed(IDS), "new"]), 3) == 1
    assert [other.plan.ids(n) for n in range(4)] == [IDS[:4], IDS[4:8], IDS[8:], ["new"]]


def test_two_that_plan_at_once(tmp_path, monkeypatch):
    one, other = opened(tmp_path / "d"), opened(tmp_path / "d")
    late = other.plan.numbers()
    assert one.plan.add(Lookup(IDS), 4) == 10
    monkeypatch.setattr(other.plan, "numbers", lambda: late)  # as if it had listed them before
    assert other.plan.add(Lookup(IDS), 4) == 10, "the same plan"
    with pytest.raises(ValueError, match=r"00000\.txt was written by another process for other images"):
        other.plan.add(Lookup(["x", *IDS]), 4)
    assert [one.plan.ids(n) for n in one.plan.numbers()] == [IDS[:4], IDS[4:8], IDS[8:]]


@pytest.mark.slow
def test_many_that_plan_at_once(tmp_path):
    """Processes that start while others are in the middle of planning."""
    code = (
        "import sys; from sscd_jax.embedding.shards import Shards; from sscd_jax.provenance import Provenance;"
        "from sscd_jax.string_list import Lookup;"
        "made_by = Provenance('f' * 64, 'skew_320', computation='float32 by jax on cpu');"
        "Shards(sys.argv[1], made_by, 'float32', '/photos').plan.add("
        "Lookup([str(i) for i in range(20_000)]), 50)"
    )
    running = []
    for _ in range(4):
        running.append(subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")]))
        time.sleep(0.1)
    assert [process.wait() for process in running] == [0] * 4
    shards = opened(tmp_path / "d")
    assert [i for number in shards.plan.numbers() for i in shards.plan.ids(number)] == [str(i) for i in range(20_000)]


def test_a_shard_that_is_complete_stays_as_it_is(tmp_path):
    """Another process that has the same shard comes late, and could not read an image."""
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(IDS[:3]), 4)
    shards.write(0, IDS[:2], vectors(2), images(2), [ERROR])
    opened(tmp_path / "d").write(0, IDS[:1], vectors(1), images(1), [])
    assert (shards.ids(0), shards.errors(0)) == (IDS[:2], [ERROR])
    assert len(np.load(only(tmp_path / "d", "vectors-00000-*"))) == 2


def test_what_killed_processes_left_is_removed(tmp_path):
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(IDS), 10)
    for name in (
        ".vectors-00000-0123456789abcdef.npy.0123456789ab.tmp",
        "vectors-00000-0123456789abcdef.npy",
        "plan/.00000.txt.0123456789ab.tmp",
        ".saved-00000-x-0.npz.0123456789ab.tmp",
    ):
        (tmp_path / "d" / name).write_bytes(b"half")
    shards.write(0, IDS, vectors(10), images(10), [])
    at_work = tmp_path / "d" / ".vectors-00001-0123456789abcdef.npy.0123456789ab.tmp"
    at_work.write_bytes(b"of a shard that another process has planned since")
    shards.finish(4)
    assert not (tmp_path / "d" / "vectors-00000-0123456789abcdef.npy").exists()
    assert list(tmp_path.rglob("*.tmp")) == [at_work]


def test_saved_rows_stay_until_their_shard_is_complete(tmp_path):
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(IDS), 5)
    shards.saved.save(0, [2, 0], vectors(5)[[2, 0]], images(5)[[2, 0]])
    opened(tmp_path / "d").saved.save(0, [3, 2], vectors(5)[[3, 2]], images(5)[[3, 2]])
    shards.saved.save(1, [4], vectors(1), images(1))
    damaged = tmp_path / "d" / "saved-00000-x-0.npz"
    for data in (b"", b"text", next((tmp_path / "d").glob("saved-00000-*")).read_bytes()[:-9]):
        damaged.write_bytes(data)
        saved = opened(tmp_path / "d").saved.read(0)
        assert sorted(saved) == [0, 2, 3]
        for row, (vector, image) in saved.items():
            np.testing.assert_array_equal(vector, vectors(5)[row], strict=True)
            assert image == images(5)[row]
    assert shards.saved.numbers() == {0, 1}
    shards.write(0, IDS[:5], vectors(5), images(5), [])
    assert (shards.saved.numbers(), shards.saved.read(0)) == ({1}, {})
    shards.write(1, IDS[5:], vectors(5), images(5), [])
    opened(tmp_path / "d").saved.save(1, [0], vectors(1), images(1))  # of a process that was late, and then killed
    shards.finish(4)
    assert not list((tmp_path / "d").glob("*saved*"))


def test_a_full_disk_is_said_with_the_file(tmp_path, monkeypatch):
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(IDS), 10)
    full = contextlib.nullcontext(epath.Path("/dev/full"))
    monkeypatch.setattr("sscd_jax.data.storage.atomic_file", lambda _: full)
    for some in (vectors(10), vectors(100_000)):
        with pytest.raises(
            OSError, match=r"d/vectors-00000-\w+\.npy cannot be written: No space left on device; rerun"
        ):
            shards.write(0, IDS, some, images(len(some)), [])
    assert not shards.is_complete(0)


def test_the_manifest_comes_last(tmp_path):
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(IDS), 4)
    shards.write(2, IDS[8:], vectors(2), images(2), [])
    shards.write(0, [IDS[0], IDS[2]], vectors(2), images(2), [ERROR, ERROR | {"path": "ä"}])
    assert [shards.is_complete(n) for n in range(3)] == [True, False, True]
    assert shards.finish(4) is None
    with pytest.raises(ValueError, match="not a complete set"):
        Descriptors.read(tmp_path / "d")
    shards.write(1, IDS[4:8], vectors(4), images(4), [])
    made = shards.finish(4, [ERROR | {"path": "c"}])
    assert (made["count"], made["errors"], [s["count"] for s in made["shards"]]) == (8, 3, [2, 4, 2])
    read = Descriptors.read(tmp_path / "d")
    assert list(read.ids) == [IDS[0], IDS[2], *IDS[4:]]
    np.testing.assert_array_equal(read.vectors, np.concatenate([vectors(2), vectors(4), vectors(2)]))
    lines = (tmp_path / "d" / "errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["c", "a", "ä"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_errors_that_are_gone_are_not_in_the_end(tmp_path):
    """As the docs say how to try again what could not be read."""
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(IDS), 10)
    shards.write(0, IDS[1:], vectors(9), images(9), [ERROR])
    assert shards.finish(4)["errors"] == 1
    again = opened(tmp_path / "d")
    again.undo(0)
    again.write(0, IDS, vectors(10), images(10), [])
    assert again.finish(4)["errors"] == 0
    assert not list((tmp_path / "d").glob("errors*"))


def test_float16(tmp_path):
    shards = opened(tmp_path / "d", dtype="float16")
    shards.plan.add(Lookup(IDS), 10)
    shards.write(0, IDS, vectors(10), images(10), [])
    shards.finish(4)
    assert np.load(only(tmp_path / "d", "vectors-00000-*")).dtype == np.float16
    read = Descriptors.read(tmp_path / "d")
    assert read.vectors.dtype == np.float32
    np.testing.assert_allclose(read.vectors, vectors(10), rtol=1e-3)


def test_another_kind_or_another_folder_is_refused(tmp_path):
    opened(tmp_path / "d")
    opened(tmp_path / "d")
    for change in ({"weights": "e" * 64}, {"preset": "small_288"}, {"dtype": "float16"}, {"source": "/other"}, OTHER):
        kind = r"by weights f{12} with preset skew_320 in float32, computed in float32 by jax on cpu"
        message = rf"holds descriptors of /photos {kind}, not of"
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / "d", **change)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is not a folder of sscd_jax descriptors: it holds a\.jpg"):
        opened(tmp_path / "photos")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_nothing_readable(tmp_path):
    shards = opened(tmp_path / "d")
    shards.plan.add(Lookup(["a"]), 4)
    shards.write(0, [], vectors(0), images(0), [ERROR])
    with pytest.raises(ValueError, match=r"no image could be read: .*errors\.jsonl says why"):
        shards.finish(4)


def test_more_shards_than_five_digits_count(tmp_path):
    """A pipeline makes one for each archive."""
    shards = opened(tmp_path / "d")
    for number in (7, 123_456):
        shards.plan.add_shard(number, [f"{number}"])
        shards.saved.save(number, [0], vectors(1), images(1))
        shards.write(number, [f"{number}"], vectors(1), images(1), [])
    assert opened(tmp_path / "d").complete() == {7, 123_456}
    assert opened(tmp_path / "d").finish(4)["count"] == 2
    assert list(Descriptors.read(tmp_path / "d").ids) == ["7", "123456"]
