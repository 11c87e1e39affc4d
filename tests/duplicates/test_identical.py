"""Images with the same pixels in different files."""

import io

import numpy as np
from PIL import Image

from sscd_jax.data.sample import photograph_paths
from sscd_jax.duplicates.groups import Groups
from sscd_jax.duplicates.identical import numbered, same_pixels


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_numbers_of_keys():
    assert numbered(["b", "a", "b", 3, "a"]).tolist() == [0, 1, 0, 3, 1]
    assert numbered([]).tolist() == []


def test_only_candidates_are_decoded_and_only_equal_pixels_are_the_same():
    photograph = Image.open(next(iter(photograph_paths().values()))).convert("RGB").resize((80, 60))
    changed = photograph.copy()
    changed.putpixel((5, 5), (1, 2, 3))
    gray = photograph.convert("L")
    files = {
        0: encoded(photograph, "PNG"),
        1: encoded(photograph, "BMP"),
        2: encoded(changed, "PNG"),  # one pixel differs
        3: encoded(photograph.convert("RGBA"), "PNG"),  # opaque, so the same
        4: encoded(gray, "PNG"),
        5: encoded(gray.convert("RGB"), "PNG"),
        6: b"broken",
        7: b"broken",
        8: encoded(photograph, "PNG", compress_level=1),
    }
    similarity = np.array([0.9, 0.9 + 2e-6, 0.9 - 2e-6, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5])
    kept = np.full(9, 99)
    kept[4:6] = 98
    decoded: list[int] = []

    def load(index: int) -> bytes:
        decoded.append(index)
        return files[index]

    found = same_pixels(Groups(kept, similarity, similarity), np.arange(9), load)
    assert found[0] == found[1] == found[3]
    assert found[4] == found[5] != found[0]
    assert len({found[i] for i in (0, 2, 4, 6, 7, 8)}) == 6  # those that cannot be read are not the same
    assert sorted(decoded) == list(range(8))  # the last one has another descriptor

    rows = np.array([8, 3, 1])  # some of them, in another order
    assert same_pixels(Groups(kept, similarity, similarity), rows, lambda at: files[int(rows[at])]).tolist() == [
        0,
        1,
        1,
    ]


def test_the_pixels_are_those_that_people_see():
    """The network sees the first frame, on white, in 8 bits, and not turned."""
    photograph = Image.open(next(iter(photograph_paths().values()))).convert("RGB").resize((80, 60))
    white = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    shapes = [white.copy() for _ in range(2)]
    shapes[0].putpixel((3, 3), (255, 255, 255, 255))
    frames = [photograph.convert("P"), photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("P")]
    dark = np.zeros((40, 40), np.uint16)
    exif = Image.Exif()
    exif[0x112] = 6
    pairs = [
        [encoded(shape, "PNG") for shape in shapes],
        [encoded(frames[0], "GIF", save_all=True, append_images=more) for more in ([], frames[1:])],
        [encoded(Image.fromarray(one), "PNG") for one in (dark, dark + np.arange(40, dtype=np.uint16))],
        [encoded(photograph, "PNG"), encoded(photograph, "PNG", exif=exif)],
    ]
    files = [file for pair in pairs for file in pair]
    none = np.zeros(len(files), np.int64)
    found = same_pixels(Groups(none, none + 1.0, none + 1.0), np.arange(len(files)), files.__getitem__)
    assert len(set(found.tolist())) == len(files)


def test_no_images():
    kept, similarity = np.empty(0, np.int64), np.empty(0)

    def load(index: int) -> bytes:
        raise AssertionError

    assert same_pixels(Groups(kept[:0], similarity[:0], similarity[:0]), np.arange(0), load).tolist() == []
