"""Batches start at any step, do not depend on hosts and threads, and are complete in spite of broken files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sscd_jax.data.augment.views import RECIPES
from sscd_jax.data.sample import photograph_paths
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches, why_unreadable

OPTIONS = {"batch_size": 16, "image_size": 32, "augmentation": "STRONG_BLUR", "seed": 3}


def take(source, count, **options):
    return list(train_batches(source, **(OPTIONS | options)).take(count).as_numpy_iterator())


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def source(images):
    return open_source(str(images))


def test_shapes_and_epochs(source):
    batches = take(source, 4)
    assert all(b["images"].shape == (32, 32, 32, 3) and b["images"].dtype == np.uint8 for b in batches)
    assert all(b["instance_ids"].dtype == np.int32 for b in batches)
    for batch in batches:
        np.testing.assert_array_equal(batch["instance_ids"][:16], batch["instance_ids"][16:])
        np.testing.assert_array_equal(batch["requested"], batch["used"])
    epochs = [np.concatenate([b["used"] for b in batches[i : i + 2]]) for i in (0, 2)]
    for epoch in epochs:
        assert len(set(epoch)) == 32, "no example twice in an epoch"
    assert epochs[0].tolist() != epochs[1].tolist()


def test_tensorflows_tuning_is_off(source):
    """Its thread is waited for at the end of a pipeline, up to a minute where it misses that."""
    assert train_batches(source, **OPTIONS).options().autotune.enabled is False


@pytest.mark.slow
def test_the_two_views_and_two_epochs_differ(source):
    batch = take(source, 1)[0]["images"].astype(int)
    assert (np.abs(batch[:16] - batch[16:]).mean((1, 2, 3)) > 0.5).all()
    first, later = (
        {i: v for b in take(source, 2, start_step=s) for i, v in zip(b["used"], b["images"], strict=False)}
        for s in (0, 2)
    )
    assert all((first[i] != later[i]).any() for i in first.keys() & later.keys())


@pytest.mark.slow
def test_any_step_can_be_reached_at_once(source):
    unbroken = take(source, 6)
    assert_same(take(source, 3, start_step=3), unbroken[3:])


@pytest.mark.slow
def test_threads_do_not_matter(source):
    assert_same(take(source, 3, workers=1), take(source, 3, workers=7))


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_do_not_matter(source, hosts):
    one = take(source, 3)
    parts = [take(source, 3, host_index=h, host_count=hosts) for h in range(hosts)]
    for step, whole in enumerate(one):
        used = np.concatenate([part[step]["used"] for part in parts])
        np.testing.assert_array_equal(used, whole["used"])
        for view in range(2):
            rows = 16 // hosts
            images = np.concatenate([part[step]["images"][view * rows : (view + 1) * rows] for part in parts])
            np.testing.assert_array_equal(images, whole["images"][view * 16 : (view + 1) * 16])


@pytest.mark.slow
def test_seeds_matter(source):
    assert (take(source, 1)[0]["used"] != take(source, 1, seed=4)[0]["used"]).any()


def test_impossible_batches_are_refused(source):
    with pytest.raises(ValueError, match="3 hosts"):
        take(source, 1, host_count=3)
    with pytest.raises(ValueError, match="fewer than a batch of 64: give more images, or --data"):
        take(source, 1, batch_size=64)


@pytest.fixture
def broken(tmp_path, images):
    """Ten images, of which the fourth and the fifth cannot be read."""
    for number, path in enumerate(sorted(images.iterdir())[:10]):
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes({3: b"text", 4: data[:200]}.get(number, data))
    return open_source(str(tmp_path))


@pytest.mark.slow
def test_a_broken_image_is_replaced_and_named(broken):
    (batch,) = take(broken, 1, batch_size=10)
    replaced = {int(r): int(u) for r, u in zip(batch["requested"], batch["used"], strict=True) if r != u}
    assert replaced == {3: 5, 4: 5}
    assert sorted(batch["requested"]) == list(range(10))
    np.testing.assert_array_equal(batch["instance_ids"], np.tile(batch["used"], 2))
    assert (batch["images"].std((1, 2, 3)) > 0).all()
    assert len(np.unique(batch["images"], axis=0)) == 20, "an image and one that it replaces give other views"
    assert why_unreadable(broken, 3)
    assert why_unreadable(broken, 4) != why_unreadable(broken, 3)


@pytest.mark.slow
def test_nothing_readable_is_an_error(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"text")
    with pytest.raises(Exception, match="cannot be read"):
        take(open_source(str(tmp_path)), 1, batch_size=4)


def write_images_of_every_kind(folder: Path) -> None:
    """Writes one image of every kind that people have, and one that is truncated."""
    photograph = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((120, 90))
    images = {
        "1x1.png": photograph.resize((1, 1)),
        "1x5000.png": photograph.resize((1, 5000)),
        "5000x1.jpg": photograph.resize((5000, 1)),
        "large.jpg": photograph.resize((1500, 1100)),
        "gray.jpg": photograph.convert("L"),
        "palette.png": photograph.convert("P", palette=Image.Palette.ADAPTIVE),
        "bits.png": photograph.convert("1"),
        "cmyk.jpg": photograph.convert("CMYK"),
        "alpha.png": Image.merge("RGBA", (*photograph.split(), photograph.convert("L"))),
        "alpha.webp": Image.merge("RGBA", (*photograph.split(), photograph.convert("L"))),
        "gray-alpha.png": photograph.convert("LA"),
        "16-bit.png": Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257),
        "plain.bmp": photograph,
    }
    for name, image in images.items():
        image.save(folder / name)
    photograph.save(folder / "animated.gif", save_all=True, append_images=[photograph.rotate(90)])
    photograph.save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", RECIPES)
def test_images_of_every_kind_make_views(tmp_path, augmentation):
    write_images_of_every_kind(tmp_path)
    source = open_source(str(tmp_path))
    assert len(source) == 16
    batches = take(source, 3, batch_size=16, augmentation=augmentation, mixup_group=16)
    for batch in batches:
        assert batch["images"].shape == (32, 32, 32, 3)
        replaced = batch["requested"] != batch["used"]
        assert [source.ids[i] for i in batch["requested"][replaced]] == ["truncated"]
