"""Pictures to descriptors, against Pillow and the network applied to one picture."""

import jax
import numpy as np
import pytest
from PIL import Image

from sscd_jax import embed as module
from sscd_jax.data.decode import skew
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embed import embed, write_descriptors
from sscd_jax.mesh import create_mesh
from sscd_jax.models import build_model, normalize

MODEL = build_model("resnet18", 16, width=8)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))


def test_a_descriptor_is_that_of_the_picture_alone(pictures, variables):
    source = open_source(str(pictures))
    batches = list(embed(MODEL, variables, source, skew(64), batch_size=16, mesh=create_mesh()))
    index = np.concatenate([index for index, _, _ in batches])
    np.testing.assert_array_equal(index, np.arange(40))
    vectors = np.concatenate([vectors for _, vectors, _ in batches])
    assert (vectors.shape, vectors.dtype) == ((40, 16), np.float32)
    for i in (0, 17, 39):
        picture = Image.open(source.paths[i]).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        alone = MODEL.apply(variables, normalize(np.asarray(picture)[None]))[0]
        assert float(vectors[i] @ alone) > 0.9999


def test_one_program_whatever_the_last_batch(pictures, variables):
    before = module._descriptors._cache_size()
    for _ in embed(MODEL, variables, open_source(str(pictures)), skew(48), batch_size=24, mesh=create_mesh()):
        pass
    assert module._descriptors._cache_size() == before + 1


def test_manifest_says_what_made_them(pictures, variables, tmp_path):
    source = open_source(str(pictures))
    summary = write_descriptors(MODEL, variables, source, skew(48), tmp_path / "out", batch_size=24)
    assert (summary["embedded"], summary["unreadable"]) == (40, [])
    one = Descriptors.read(tmp_path / "out")
    assert list(one.ids) == list(source.ids)
    assert one.provenance.details["preset"]["mean"] == [0.485, 0.456, 0.406]
    assert {"sscd_jax", "jax", "flax", "tensorflow"} <= set(one.provenance.details["versions"])
    assert not (tmp_path / "out" / "errors.jsonl").exists()

    changed = jax.tree.map(lambda leaf: leaf + 1e-6, variables)
    write_descriptors(MODEL, changed, source, skew(48), tmp_path / "changed", batch_size=24)
    assert Descriptors.read(tmp_path / "changed").provenance != one.provenance


def test_a_batch_that_does_not_divide_and_a_folder_without_a_readable_picture(pictures, variables, tmp_path):
    with pytest.raises(ValueError, match=r"--batch-size 12 does not divide over 8 devices: take a multiple of 8, as 8"):
        write_descriptors(MODEL, variables, open_source(str(pictures)), skew(48), tmp_path / "out", batch_size=12)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.jpg").write_bytes(b"text")
    source = open_source(str(tmp_path / "broken"))
    with pytest.raises(ValueError, match="could no picture be read"):
        write_descriptors(MODEL, variables, source, skew(48), tmp_path / "out", batch_size=24)
    assert not (tmp_path / "out").exists()
