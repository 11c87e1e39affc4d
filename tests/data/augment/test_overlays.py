"""Text and emoji against Pillow, with AugLy's own files."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.extras import needs_augly
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

from sscd_jax.data.augment import glyph_atlas as atlases
from sscd_jax.data.augment import overlays
from sscd_jax.data.augment.glyph_atlas import load_atlas
from sscd_jax.data.augment.overlays import LONGEST_TEXT, composite, overlay_emoji, overlay_text
from sscd_jax.data.sample import photograph_paths
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches

PHOTOGRAPH = Image.open(photograph_paths()["chelsea"]).convert("RGB").resize((400, 300))
PIXELS = np.asarray(PHOTOGRAPH)
TEXT = {"font": 0.1, "length": 0.5, "size": 0.2, "opacity": 0.8, "color": [250.0, 20.0, 90.0], "fx": 0.4, "fy": 0.6}


def constants(values: dict) -> dict:
    return {name: tf.constant(value) for name, value in values.items()}


def text_on(image: np.ndarray, **changes) -> np.ndarray:
    return overlay_text(tf.constant(image), constants(TEXT | {"seed": [1, 2]} | changes)).numpy()


def emoji_on(image: np.ndarray, **changes) -> np.ndarray:
    emoji = {"which": 0.5, "size": 0.4, "opacity": 0.9, "fx": 0.301, "fy": 0.701} | changes
    return overlay_emoji(tf.constant(image), constants(emoji)).numpy()


def box(changed: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is true."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_composite_equals_pillow():
    rng = np.random.default_rng(0)
    layer = rng.integers(0, 256, [50, 70, 4], dtype=np.uint8)
    alpha = layer[..., 3:].astype(np.float32) / 255
    ours = composite(tf.constant(PIXELS), tf.constant(layer[..., :3] * alpha), tf.constant(alpha), 0.25, 0.5)
    pillow = PHOTOGRAPH.convert("RGBA")
    pillow.alpha_composite(Image.fromarray(layer), (int(0.25 * 330), int(0.5 * 250)))
    assert np.abs(ours.numpy().astype(int) - np.asarray(pillow.convert("RGB"))).max() <= 1


@pytest.mark.parametrize(
    "font", ["OpenSans-Regular", "NotoSansDevanagari-Regular", "NotoSansCherokee-Regular", "Impact"]
)
@needs_augly
def test_letters_equal_pillow(font):
    atlas = load_atlas()
    number = list(atlas.font_names).index(font)
    first, end = atlas.font_letters[number : number + 2]
    path = atlases._assets() / "fonts" / f"{font}.ttf"
    pillow_font = ImageFont.truetype(str(path), int(0.1601 * 300), layout_engine=ImageFont.Layout.BASIC)
    for seed in range(6):
        one = {"seed": [seed, 2], "length": 0.0, "opacity": 1.0, "size": 0.1601}
        ours = text_on(PIXELS, font=(number + 0.5) / len(atlas.font_names), **one)
        drawn = tf.random.stateless_uniform([LONGEST_TEXT], one["seed"])[0].numpy()
        letter = chr(atlas.characters[first + int(drawn * (end - first))])
        top, bottom, left, right = box((ours != PIXELS).any(2))
        mask = Image.new("L", (300, 300))
        ImageDraw.Draw(mask).text((150, 150), letter, fill=255, font=pillow_font, anchor="ms")
        mask = mask.crop(mask.getbbox())
        assert np.abs(np.array(mask.size) - (right - left, bottom - top)).max() <= 3, letter
        pillow = PHOTOGRAPH.copy()
        pillow.paste((250, 20, 90), (int(left), int(top)), mask)
        unlike, from_pillow = (
            np.abs(ours.astype(int) - other)[top:bottom, left:right].mean() for other in (PIXELS, np.asarray(pillow))
        )
        assert from_pillow < 0.15 * unlike, letter


@pytest.mark.slow
@needs_augly
def test_text_is_as_tall_as_its_font_and_inside():
    sizes = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        changes = {name: float(rng.uniform()) for name in ("font", "length", "fx", "fy")}
        changed = (text_on(PIXELS, seed=[seed, 1], opacity=1.0, **changes) != PIXELS).any(2)
        if changed.any():
            top, bottom, left, right = box(changed)
            sizes.append((bottom - top, right - left))
    tall, wide = np.array(sizes).T
    assert len(sizes) > 290
    assert np.median(tall) == pytest.approx(0.2 * 300, rel=0.3)
    assert tall.max() < 0.2 * 300 * 2
    assert wide.max() > 350
    assert np.median(wide) == pytest.approx(200, rel=0.3), "a uniform share of what fits"


@needs_augly
def test_every_view_has_its_own_letters():
    texts = [text_on(PIXELS, seed=[seed, 1]).tobytes() for seed in range(50)]
    assert len(set(texts)) == 50


@needs_augly
def test_a_letter_that_does_not_fit_is_left_out():
    narrow = PIXELS[:, :4]
    np.testing.assert_array_equal(text_on(np.repeat(narrow, 40, 0), size=30.0), np.repeat(narrow, 40, 0))


@pytest.mark.parametrize("which", [0.01, 0.37, 0.8])
@needs_augly
def test_emoji_equals_pillow(which):
    atlas = load_atlas()
    ours = emoji_on(PIXELS, which=which)
    emoji = Image.fromarray(atlas.emoji[int(which * len(atlas.emoji))])
    side = int(300 * 0.4)
    emoji = emoji.resize((side, side), Image.Resampling.BILINEAR)
    mask = Image.fromarray((np.asarray(emoji.getchannel("A")) * 0.9).astype(np.uint8))
    pillow = PHOTOGRAPH.copy()
    pillow.paste(emoji.convert("RGB"), (int(0.301 * (400 - side)), int(0.701 * (300 - side))), mask)
    assert np.abs(ours.astype(int) - np.asarray(pillow)).mean() < 0.2
    assert np.abs(ours.astype(int) - PIXELS).mean() > 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 7)])
@needs_augly
def test_any_shape_takes_overlays(shape):
    image = np.asarray(PHOTOGRAPH.resize(shape[::-1]))
    assert text_on(image).shape == emoji_on(image).shape == (*shape, 3)


@needs_augly
def test_the_atlas_has_letters_of_every_font():
    atlas, fonts = load_atlas(), atlases._assets() / "fonts"
    assert set(atlas.font_names) == {path.stem for path in fonts.glob("*.ttf")}
    assert len(atlas.emoji_names) == len(list((fonts.parent / "twemojis").glob("*/*.png")))
    assert np.diff(atlas.font_letters).min() >= 16
    assert len(set(atlas.characters >> 8)) > 60, "far more scripts than Latin"


@needs_augly
def test_no_letter_is_the_box_of_a_missing_one():
    atlas, fonts = load_atlas(), atlases._assets() / "fonts"

    def ink(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
        canvas = Image.new("L", (160, 160))
        ImageDraw.Draw(canvas).text((40, 110), letter, fill=255, font=font, anchor="ls")
        return canvas.tobytes()

    for number in range(0, len(atlas.font_names), 9):
        font = ImageFont.truetype(str(fonts / f"{atlas.font_names[number]}.ttf"), 40, layout_engine=0)
        letters = atlas.characters[slice(*atlas.font_letters[number : number + 2])]
        missing = ink(font, chr(0x10FFFD))
        assert all(ink(font, chr(letter)) != missing for letter in letters)


@pytest.mark.parametrize("count", [1, 7, 364])
def test_integers_are_drawn_evenly(count):
    numbers = tf.random.stateless_uniform([20000], [1, 2])
    counts = np.bincount(overlays._index(numbers, count).numpy(), minlength=count)
    assert len(counts) == count
    assert count == 1 or stats.chisquare(counts).pvalue > 1e-3
    assert overlays._index(tf.constant([0.0, np.nextafter(1, 0, dtype=np.float32)]), count).numpy().tolist() == [
        0,
        count - 1,
    ]


@needs_augly
def test_the_atlas_is_rendered_once_and_again_where_the_cache_is_broken(tmp_path, monkeypatch):
    rendered = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(atlases, "_render", lambda _: rendered.append(1) or small)
    small = atlases.Atlas(*[np.arange(3)] * 7)
    for expected in (1, 1):
        load_atlas.cache_clear()
        np.testing.assert_array_equal(load_atlas().ink, small.ink)
        assert len(rendered) == expected
    (path,) = (tmp_path / "sscd_jax" / "overlays").iterdir()
    whole = path.read_bytes()
    for number in range(0, 100, 3):
        path.write_bytes(whole[:number] + bytes([255 - whole[number]]) * 9 + whole[number + 9 :])
        load_atlas.cache_clear()
        np.testing.assert_array_equal(load_atlas().ink, small.ink)
    assert len(rendered) > 10
    path.write_bytes(whole[:100])
    load_atlas.cache_clear()
    np.testing.assert_array_equal(load_atlas().ink, small.ink)
    load_atlas.cache_clear()


@needs_augly
def test_an_atlas_that_cannot_be_cached_is_used(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(atlases, "_render", lambda _: atlases.Atlas(*[np.arange(3)] * 7))
    load_atlas.cache_clear()
    np.testing.assert_array_equal(load_atlas().ink, np.arange(3))
    assert "set XDG_CACHE_HOME" in capsys.readouterr().err
    load_atlas.cache_clear()


def test_without_augly_the_extra_is_named_before_anything_is_read(monkeypatch, images):
    monkeypatch.setattr(atlases, "find_spec", lambda _: None)
    load_atlas.cache_clear()
    options = {"batch_size": 8, "image_size": 32, "augmentation": "ADVANCED", "seed": 0}
    with pytest.raises(ImportError, match=r"sscd_jax\[augly\]"):
        train_batches(open_source(str(images)), **options)
