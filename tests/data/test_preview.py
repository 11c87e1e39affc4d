"""The contact sheet, and what it says was applied."""

import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.extras import needs_augly
from PIL import Image

from sscd_jax.cli.main import main
from sscd_jax.config import Config, Data
from sscd_jax.data.augment import heavy
from sscd_jax.data.augment.views import draw_views
from sscd_jax.data.preview import describe, write_preview
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches

PAGE = (Path(__file__).parents[2] / "docs" / "augmentations.md").read_text()


def config(source, **changes) -> Config:
    return Config(data=Data(**({"source": str(source), "image_size": 64, "augmentation": "SIMCLR"} | changes)))


def test_the_command_writes_a_sheet_and_what_was_applied(tmp_path, capsys):
    main(["preview", "debug", "--out", str(tmp_path / "sheet.png"), "--rows", "3", "--pairs", "1"])
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width > 3 * 224
    assert sheet.height > 3 * 224
    captions = json.loads((tmp_path / "sheet.captions.json").read_text())
    assert [len(row) for row in captions] == [2, 2, 2]
    assert all(any("crop of" in text for text in view) for row in captions for view in row)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["SIMCLR", pytest.param("HEAVY", marks=needs_augly)])
def test_the_views_are_those_of_training(augmentation, images, tmp_path):
    captions = write_preview(config(images, augmentation=augmentation), tmp_path / "sheet.png", rows=20, pairs=1)
    assert augmentation == "SIMCLR" or "another" in str(captions)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tops = [6]
    for row in captions:
        lines = [textwrap.wrap(", ".join(text), 36) for text in row]
        tops.append(tops[-1] + 224 + 13 * max(map(len, lines)) + 12)
    source = open_source(str(images))
    options = {"batch_size": 40, "image_size": 64, "augmentation": augmentation, "seed": 0}
    batch = next(train_batches(source, **options).as_numpy_iterator())
    for number, top in enumerate(tops[:-1]):
        row = int(np.flatnonzero(batch["used"] == 2 * number)[0])
        for view in range(2):
            shown = np.asarray(Image.fromarray(batch["images"][row + 40 * view]).resize((224, 224)))
            left = 6 + (view + 1) * 230
            np.testing.assert_array_equal(sheet[top : top + 224, left : left + 224], shown)


@pytest.mark.slow
@needs_augly
def test_everything_is_named():
    image, other = tf.zeros([90, 120, 3], tf.uint8), tf.zeros([4, 4, 3], tf.uint8)

    def drawn(number: tf.Tensor) -> list:
        return draw_views(image, tf.stack([number, 0]), size=32, augmentation="HEAVY", others=[other, other])

    views = [view for pair in tf.data.Dataset.range(300).map(drawn).as_numpy_iterator() for view in pair]
    said = " | ".join(text for view in views for text in describe(view, (90, 120)))
    words = ["mirrored", "turned by", "under another", "over another", "text in", "emoji", "frame", "perspective"]
    words += ["rotated by", "crop of", "brightness", "contrast", "saturation", "hue", "gray", "blur of"]
    words += ["channels swapped", "channel dropped", "pixelated", "noise", "erased", "JPEG quality"]
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(("under", "caption", "middle"), [(True, "over another", 255), (False, "under another", 0)])
def test_captions_say_what_is_pasted_where(under, caption, middle):
    image, other = tf.fill([90, 90, 3], tf.constant(255, tf.uint8)), tf.zeros([90, 90, 3], tf.uint8)
    paste = {"applied": True, "under": under, "size": 0.5, "opacity": 1.0, "fx": 0.5, "fy": 0.5}
    pixels = heavy.paste(image, {name: tf.constant(value) for name, value in paste.items()}, other).numpy()
    assert pixels[45, 45, 0] == middle
    assert pixels[0, 0, 0] == 255 - middle
    view = {"flip": False, "box": [0, 0, 9, 9], "jitter": False, "gray": False, "blur": False, "paste": paste}
    assert describe(view, (90, 90))[0].startswith(caption)


@pytest.mark.slow
def test_mixing_is_named_with_its_partner(images, tmp_path):
    mixing = config(images, image_size=32, mixup=True, batch_size=128)
    captions = write_preview(mixing, tmp_path / "sheet.jpg", rows=40, pairs=2)
    partners = [
        (row + 1, view, int(text.split()[-1]))
        for row, views in enumerate(captions)
        for view, texts in enumerate(views)
        for text in texts
        if text.startswith(("mixup with row", "cutmix with row"))
    ]
    assert len(partners) > 1
    assert all(partner == 41 - row for row, _, partner in partners), "the view opposite it in the group"


@pytest.mark.slow
def test_a_broken_image_is_left_out_and_named(images, tmp_path, capsys):
    for path in sorted(images.iterdir())[:3]:
        shutil.copy(path, tmp_path)
    (tmp_path / "000.jpg").write_bytes(b"text")
    assert len(write_preview(config(tmp_path), tmp_path / "sheet.png", rows=2, pairs=1)) == 2
    assert "000.jpg is left out" in capsys.readouterr().err


def test_bad_arguments_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match=r"\.png or \.jpg"):
        write_preview(config(images), tmp_path / "sheet.pdf")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        write_preview(config(images), tmp_path / "folder.png")
    with pytest.raises(ValueError, match="--rows is 0"):
        write_preview(config(images), tmp_path / "sheet.png", rows=0)
    with pytest.raises(ValueError, match="--pairs is 0"):
        write_preview(config(images), tmp_path / "sheet.png", pairs=0)
    with pytest.raises(ValueError, match="none does not exist"):
        write_preview(config(images), tmp_path / "none" / "sheet.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match="no image"):
        write_preview(config(tmp_path / "broken"), tmp_path / "sheet.png")


def test_captions_are_in_the_order_of_the_jitter():
    view = {
        "flip": False,
        "box": np.array([0, 0, 10, 20]),
        "jitter": True,
        "order": np.array([3, 0, 2, 1]),
        "factors": np.array([0.5, 1.2, 1.8]),
        "hue": 0.1,
        "gray": True,
        "blur": True,
        "radius": 2.0,
    }
    assert describe(view, (20, 20, 3)) == [
        "crop of 50%",
        "hue +0.10",
        "brightness 0.5",
        "saturation 1.8",
        "contrast 1.2",
        "gray",
        "blur of 2.0 px",
    ]


@pytest.mark.slow
def test_the_commands_of_the_page_make_its_sheets(tmp_path, monkeypatch):
    commands = [shlex.split(line) for line in re.findall(r"^sscd-jax .*", PAGE, re.MULTILINE)]
    assert [command[-1] for command in commands] == [f"docs/{name}" for name in re.findall(r"\]\((.+?\.jpg)\)", PAGE)]
    (tmp_path / "configs").symlink_to(Path("configs").absolute())
    (tmp_path / "docs" / "augmentations").mkdir(parents=True)
    pages = Path("docs").absolute()
    monkeypatch.chdir(tmp_path)
    for command in commands[2:4]:  # with text, with mixup
        main(command[1:])
        made, kept = (np.asarray(Image.open(folder / command[-1])) for folder in (tmp_path, pages.parent))
        assert made.shape == kept.shape
        assert np.abs(made.astype(int) - kept).mean() < 1, f"{command[-1]} is not what the command makes: run it"
