"""Images to descriptors, against Pillow and the network applied to one image."""

import io

import jax
import numpy as np
import pytest
from helpers.networks import seeded
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.data.sources import open_source
from sscd_jax.embedding import embed as module
from sscd_jax.embedding.embed import embed
from sscd_jax.models import build_model, normalize
from sscd_jax.presets import Preset
from sscd_jax.sharding import create_mesh

MODEL = build_model("resnet18", 16, width=8)
APPLY = jax.jit(MODEL.apply)
ASPECTS = [(1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16), (20, 1), (1, 20), (5, 2), (7, 30)]


@pytest.fixture(scope="module")
def variables():
    return seeded("resnet18", 16)[1]


def cuts(images, count: int) -> Source:
    """Cuts of photographs of all aspects, in memory; every ninth is cut off."""
    rng = np.random.default_rng(0)
    photographs = [Image.open(path).resize((480, 400)) for path in sorted(images.iterdir())]
    records = []
    for number in range(count):
        width, height = (20 * side for side in ASPECTS[number % len(ASPECTS)])
        scale = float(rng.uniform(0.5, 1)) * min(480 / width, 400 / height)
        width, height = max(round(scale * width), 20), max(round(scale * height), 20)
        file = io.BytesIO()
        photographs[number % len(photographs)].crop((0, 0, width, height)).save(file, "JPEG")
        records.append(file.getvalue()[:-100] if number % 9 == 8 else file.getvalue())
    ids = [str(number) for number in range(count)]
    return Source("cuts", ids, ids, records.__getitem__)


def gathered(results) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    vectors, errors = {}, {}
    for item in results:
        if isinstance(item, Unreadable):
            assert item.index not in errors
            errors[item.index] = item.reason
        else:
            assert item[1].dtype == np.float32
            assert not set(item[0].tolist()) & set(vectors)
            vectors.update(zip(item[0].tolist(), item[1], strict=True))
    return vectors, errors


@pytest.mark.parametrize("preset", [Preset("skew", 64), Preset("crop", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
def test_a_descriptor_is_that_of_the_image_alone(images, variables, preset):
    source = open_source(str(images))
    vectors, errors = gathered(embed(MODEL, variables, source, preset, batch_size=16, mesh=create_mesh()))
    assert list(vectors) == list(range(40)), "one shape: the order of the source"
    assert not errors
    for i in (0, 17, 39):
        image = Image.open(source.paths[i]).convert("RGB")
        if preset.mode == "crop":
            scale = 73 / min(image.size)
            image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
            left, top = (round((side - 64) / 2) for side in image.size)
            image = image.crop((left, top, left + 64, top + 64))
        else:
            image = image.resize((64, 64), Image.Resampling.BILINEAR)
        alone = APPLY(variables, normalize(np.asarray(image)[None], preset.mean, preset.std))[0]
        np.testing.assert_allclose(vectors[i], alone, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [Preset("short", 48), Preset("long", 128)])
def test_images_of_all_aspects_in_few_programs(images, variables, preset):
    source = cuts(images, 100)
    before = module._descriptors._cache_size()
    vectors, errors = gathered(embed(MODEL, variables, source, preset, batch_size=16, mesh=create_mesh()))
    assert module._descriptors._cache_size() - before <= len(preset.canvases())
    assert sorted(vectors) == [i for i in range(100) if i % 9 != 8]
    assert sorted(errors) == [i for i in range(100) if i % 9 == 8]
    assert all("truncated" in reason for reason in errors.values())
    for i in range(0, 100, 7):
        if i % 9 == 8:
            continue
        image = Image.open(io.BytesIO(source.load(i)))
        image = image.resize(preset.resized(*image.size), Image.Resampling.BILINEAR)
        alone = APPLY(variables, normalize(np.asarray(image)[None]))[0]
        np.testing.assert_allclose(vectors[i], alone, atol=2e-6)


@pytest.mark.slow
def test_what_a_descriptor_is_depends_on_its_group_alone(images, variables):
    source = cuts(images, 60)
    options = {"batch_size": 16, "mesh": create_mesh()}
    groups = [range(20), range(20, 40), range(40, 60)]
    vectors, _ = gathered(embed(MODEL, variables, source, Preset("short", 48), groups=groups, **options))
    order = [next(number for number, group in enumerate(groups) if i in group) for i in vectors]
    assert order == sorted(order), "all of a group before any of the next"
    alone, _ = gathered(embed(MODEL, variables, source, Preset("short", 48), groups=groups[1:2], **options))
    for i, vector in alone.items():
        np.testing.assert_array_equal(vector, vectors[i])


def test_one_program_whatever_the_last_batch(images, variables):
    before = module._descriptors._cache_size()
    for _ in embed(MODEL, variables, open_source(str(images)), Preset("skew", 48), batch_size=24, mesh=create_mesh()):
        pass
    assert module._descriptors._cache_size() == before + 1
