"""Batches of images: the shapes of the preset's canvases, everything in them once, groups in order."""

import errno
import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.inference_pipeline import Batch, Unreadable, inference_batches
from sscd_jax.presets import Preset

PRESET = Preset("short", 32)


def source(sizes: list[tuple[int, int] | None]) -> Source:
    """Images of these (width, height) whose pixels are their number; None for one that cannot be read."""

    def record(index: int) -> bytes:
        size = sizes[index]
        if size is None:
            raise FileNotFoundError(f"no image {index}")
        file = io.BytesIO()
        Image.new("RGB", size, (index % 256, 255, 7)).save(file, "PNG")
        return file.getvalue()

    ids = [str(i) for i in range(len(sizes))]
    return Source("made", ids, ids, record)


def batches(sizes, groups=None, preset=PRESET, **options) -> list[Batch | Unreadable]:
    options = {"batch_size": 4, "workers": 2} | options
    return list(inference_batches(source(sizes), groups or [range(len(sizes))], preset, **options))


@given(
    st.lists(
        st.one_of(st.none(), st.tuples(st.integers(8, 200), st.integers(8, 200))),
        max_size=60,
    ),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 30),
)
@settings(max_examples=60)
def test_everything_once_and_groups_in_order(sizes, multiple, group_size):
    groups = [range(i, min(i + group_size, len(sizes))) for i in range(0, len(sizes), group_size)]
    found: list[int] = []
    for item in batches(sizes, groups, multiple=multiple):
        if isinstance(item, Unreadable):
            assert sizes[item.index] is None
            assert item.reason == f"no image {item.index}"
            found.append(item.index)
            continue
        rows, height, width = item.images.shape[:3]
        assert (height, width) in PRESET.canvases()
        assert rows % multiple == 0
        assert rows == multiple or rows * height * width <= 4 * 32 * 32, "memory stays the same"
        for row, i in enumerate(item.index.tolist()):
            w, h = PRESET.resized(*sizes[i])
            assert item.transposed == (h > w)
            h, w = sorted((h, w))
            assert item.sizes[row].tolist() == [h, w]
            assert (item.images[row, :h, :w] == [i, 255, 7]).all()
            assert not item.images[row, h:].any()
            assert not item.images[row, :, w:].any()
        assert not item.images[len(item.index) :].any()
        assert (item.sizes[len(item.index) :] == 1).all()
        found += item.index.tolist()
    assert sorted(found) == list(range(len(sizes)))
    group_of = [i // group_size for i in found]
    assert group_of == sorted(group_of)


def test_left_over_images_share_a_larger_canvas():
    # 32 x 32, 42 x 32 and 48 x 32 pixels: canvases 32 x 32, 32 x 48 and 32 x 48.
    made = batches([(32, 32), (42, 32), (48, 32)], batch_size=8)
    assert [b.images.shape for b in made] == [(5, 32, 48, 3)]
    assert sorted(made[0].index.tolist()) == [0, 1, 2]
    assert len(batches([(32, 32), (32, 48)], batch_size=8)) == 2, "one lies on its side, the other does not"


def test_presets_of_one_size_keep_the_order():
    sizes = [(40, 60), (60, 40), (10, 200), (33, 33), (50, 50)]
    made = batches(sizes, preset=Preset("skew", 32))
    assert [b.index.tolist() for b in made] == [[0, 1, 2, 3], [4]]
    assert all(b.images.shape == (4, 32, 32, 3) and not b.transposed for b in made)


def test_limits_are_reasons():
    (one,) = batches([(100, 100)], max_pixels=9999)
    assert one == Unreadable(0, "100 x 100 are too many pixels: over 9999")
    (one,) = batches([(400, 10)])
    assert one == Unreadable(0, "400 x 10 pixels: presets that keep the aspect take up to 1:32")


def test_no_file_handles_are_no_reason():
    def record(_: int) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    one = Source("made", ["a"], ["a"], record)
    with pytest.raises(OSError, match="Too many open files"):
        list(inference_batches(one, [[0]], PRESET, batch_size=1))


def test_as_many_threads_as_asked_for():
    barrier = threading.Barrier(6, timeout=20)
    made = source([(32, 32)] * 6)

    def record(index: int) -> bytes:
        barrier.wait()
        return made.load(index)

    waiting = Source("made", made.ids, made.paths, record)
    assert len(list(inference_batches(waiting, [range(6)], PRESET, batch_size=1, workers=6))) == 6
    with pytest.raises(ValueError, match="--workers is 0; it must be positive"):
        list(inference_batches(waiting, [range(6)], PRESET, batch_size=1, workers=0))


def test_an_error_of_ours_is_not_a_reason(monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("sscd_jax.data.isolated.apply_preset", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        batches([(32, 32)] * 9)


def test_upright_by_exif():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(64 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 96, 3)).save(
        file, "PNG", exif=exif
    )
    one = Source("made", ["a"], ["a"], lambda _: file.getvalue())
    (as_stored,) = inference_batches(one, [[0]], Preset("short", 64), batch_size=1)
    (upright,) = inference_batches(one, [[0]], Preset("short", 64, exif=True), batch_size=1)
    assert (as_stored.transposed, upright.transposed) == (False, True)
    np.testing.assert_array_equal(upright.images[0, :, :96], as_stored.images[0, ::-1, :96])
