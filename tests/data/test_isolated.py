"""A decoder that crashes or hangs costs one image, in this run and none in the next."""

import io
import json
import time

import numpy as np
import pytest
from helpers import crashing_decoder
from PIL import Image

from sscd_jax.data import isolated
from sscd_jax.data.image_source import Source
from sscd_jax.data.inference_pipeline import Batch, Unreadable, inference_batches
from sscd_jax.data.isolated import Quarantine
from sscd_jax.presets import Preset

PRESET = Preset("short", 32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def source(*special: bytes, count: int = 12) -> Source:
    """Images of several sizes, after those that are given."""
    made = [*special]
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (40 + 7 * number, 60), (number, 255, 7)).save(file, "PNG")
        made.append(file.getvalue())
    names = [f"photos/{k}" for k in range(len(made))]
    return Source("made", names, names, made.__getitem__)


def batches(one: Source, **options) -> tuple[list[Batch], dict[int, str]]:
    items = list(inference_batches(one, [range(len(one))], PRESET, **{"batch_size": 4, "workers": 2} | options))
    errors = {item.index: item.reason for item in items if isinstance(item, Unreadable)}
    return [item for item in items if isinstance(item, Batch)], errors


def test_processes_give_the_same_batches(monkeypatch):
    pytest.importorskip("pebble")
    one = source(b"no image", b"")
    here, errors = batches(one)
    there, same_errors = batches(one, isolate=True)
    assert errors == same_errors == {0: "not an image of a known format", 1: "the file is empty"}
    for a, b in zip(here, there, strict=True):
        assert a.transposed == b.transposed
        for name in ("index", "images", "sizes"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_decoder_that_crashes_or_hangs_costs_one_image_once(monkeypatch):
    pytest.importorskip("pebble")
    monkeypatch.setattr(isolated, "_decode_unless_large", crashing_decoder.decode)
    monkeypatch.setattr(isolated, "SECONDS", 3.0)
    one = source(b"crash", b"hang", b"crash too", b"killed")
    made, errors = batches(one, isolate=True)
    assert sorted(k for batch in made for k in batch.index.tolist()) == [*range(4, 16)]
    crashed, hung = "the decoder crashed (SIGSEGV)", "the decoder did not end within 3 seconds"
    killed = "the system killed the decoder, perhaps for lack of memory"
    assert errors == {0: crashed, 1: hung, 2: crashed, 3: killed}

    begun = time.monotonic()
    made, errors = batches(one)  # in this process, which would end here
    assert time.monotonic() - begun < 3
    file = Quarantine().file
    more = f" in an earlier run; remove its line from {file} to try again"
    assert errors == {0: crashed + more, 1: hung + more, 2: crashed + more, 3: "not an image of a known format"}
    assert [json.loads(line)["reason"] for line in file.read_text().splitlines()].count(crashed) == 2
    _, errors = batches(source(b"another image", b"", b""))
    assert errors[0] == "not an image of a known format", "it has another size, and is tried"


def test_an_interruption_ends_the_processes(monkeypatch):
    pytest.importorskip("pebble")
    monkeypatch.setattr(isolated, "_decode_unless_large", crashing_decoder.decode)
    begun = time.monotonic()
    items = inference_batches(source(b"", b"hang"), [range(14)], PRESET, batch_size=1, workers=2, isolate=True)
    assert isinstance(next(items), Unreadable)
    items.close()
    assert time.monotonic() - begun < 30


def test_what_the_processes_need_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pebble", None)
    with pytest.raises(ImportError, match=r"--isolate needs the extra isolate: pip install 'sscd_jax\[isolate\]'"):
        batches(source(), isolate=True)


def test_a_damaged_quarantine_is_read_as_far_as_it_goes(tmp_path):
    one = Quarantine()
    assert one.reason("a.jpg", 3) is None
    one.add("a.jpg", 3, "the decoder crashed")
    with one.file.open("a") as file:
        file.write('{"path": "/b')
    again = Quarantine()
    assert str(again.reason("a.jpg", 3)).startswith("the decoder crashed in an earlier run")
    assert again.reason("a.jpg", 4) is None
