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
    assert same_pixels(Groups(kept[:0], similarity[:0], similarity[:0]), np.arange(0), load).tolist() == []
