"""Presets against torchvision's and the official rules, and canvases that hold every image."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.networks import needs_torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sscd_jax.data.images import apply_preset, open_image
from sscd_jax.data.sample import photograph_paths
from sscd_jax.presets import CUSTOM, PRESETS, Preset, choose

RAGGED = [PRESETS["small_288"], PRESETS["long_800"], Preset("short", 75), Preset("long", 333)]
SIDES = st.tuples(st.integers(1, 6000), st.integers(1, 6000)).filter(lambda s: max(s) <= 32 * min(s))

# The official code's transforms (classy_vision's are torchvision's; ResizeLongEdge is of the official transforms.py).
TORCHVISION = """
import json, sys
import numpy as np
from PIL import Image
from torchvision import transforms

def long_edge(image, size=800):
    scale = size / max(image.size)
    width, height = (size if side == max(image.size) else int(scale * side + 0.5) for side in image.size)
    return transforms.Resize((height, width))(image)

steps = {
    "small_288": transforms.Resize(288),
    "skew_320": transforms.Resize([320, 320]),
    "long_800": long_edge,
    "dcr_224": transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)]),
}
for name, path, out in json.loads(sys.argv[1]):
    np.save(out, np.asarray(steps[name](Image.open(path).convert("RGB"))))
"""


def test_names():
    assert list(PRESETS) == ["small_288", "skew_320", "long_800", "dcr_224"]
    assert [preset.name for preset in PRESETS.values()] == list(PRESETS)
    assert Preset("short", 288, exif=True).name == "small_288_exif"
    assert Preset("skew", 64).name == "skew_64"
    assert Preset("crop", 224).name == "crop_224"
    assert Preset("skew", 64, mean=(0, 0, 0)).name == Preset("skew", 64, mean=[0.0, 0.0, 0.0]).name
    assert Preset("long", 640, (0.0, 0.5, 1.0), exif=True).name == (
        "long_640_mean_0.0_0.5_1.0_std_0.229_0.224_0.225_exif"
    )
    assert PRESETS["dcr_224"].parameters() == {
        "name": "dcr_224",
        "mode": "crop",
        "size": 224,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "exif": False,
    }


def test_choose():
    assert choose("long_800") == PRESETS["long_800"]
    assert choose("custom", Preset("skew", 64)) == Preset("skew", 64)
    assert choose("custom") == CUSTOM
    with pytest.raises(ValueError, match=r"--custom\.\* requires --preset custom, and the preset is small_288"):
        choose("small_288", Preset("skew", 64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "wide"}, "choose one of short, long, skew, crop"),
        ({"size": 16}, "32 to 4096"),
        ({"std": (0.5, 0.0, 0.5)}, "is not finite, or a std is not positive"),
        ({"mean": (float("nan"), 0.0, 0.5)}, "is not finite, or a std is not positive"),
    ],
)
def test_nonsense_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Preset(**values)


@pytest.mark.parametrize("preset", RAGGED, ids=lambda preset: preset.name)
def test_few_canvases(preset):
    canvases = preset.canvases()
    assert len(canvases) <= 10
    assert canvases == sorted(canvases), "each holds what the one before it holds"
    assert all(height <= width for height, width in canvases)
    assert PRESETS["skew_320"].canvases() == [(320, 320)]


@pytest.mark.parametrize("sides", [(4000, 3000), (640, 480), (6000, 4000), (1024, 683), (1920, 1080), (1280, 720)])
def test_usual_photographs_fill_their_canvas(sides):
    for preset in (PRESETS["small_288"], PRESETS["long_800"]):
        width, height = preset.resized(*sides)
        canvas = next(c for c in preset.canvases() if c[0] >= height and c[1] >= width)
        assert width * height > 0.98 * canvas[0] * canvas[1]


@given(SIDES, st.sampled_from(RAGGED))
def test_every_image_has_a_canvas(sides, preset):
    width, height = preset.resized(*sides)
    assert preset.resized(*sides[::-1]) == (height, width)
    assert {"short": min, "long": max}[preset.mode](width, height) == preset.size
    assert min(width, height) >= 1
    assert any(min(width, height) <= h and max(width, height) <= w for h, w in preset.canvases())


def test_too_long_an_image_is_refused():
    assert PRESETS["skew_320"].resized(1, 1000) == (320, 320)
    assert PRESETS["small_288"].resized(10, 320) == (288, 9216)
    with pytest.raises(ValueError, match="10 x 321 pixels: presets that keep the aspect take up to 1:32"):
        PRESETS["small_288"].resized(10, 321)


@pytest.mark.slow
def test_pixels_are_those_of_torchvision(tmp_path):
    needs_torch()
    rng = np.random.default_rng(0)
    jobs = []
    for number, path in enumerate(photograph_paths().values()):
        photograph = Image.open(path).convert("RGB")
        width, height = (int(rng.integers(side // 4, side + 1)) for side in photograph.size)
        cut = tmp_path / f"{number}.png"
        photograph.crop((0, 0, width, height)).save(cut)
        jobs += [(name, str(cut), str(tmp_path / f"{number}-{name}.npy")) for name in PRESETS]
    subprocess.run([sys.executable, "-c", TORCHVISION, json.dumps(jobs)], check=True)
    for name, cut, out in jobs:
        with open(cut, "rb") as file:
            image = open_image(file.read())
        np.testing.assert_array_equal(np.asarray(apply_preset(image, PRESETS[name])), np.load(out), err_msg=name)
