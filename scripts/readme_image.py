"""The image of the README: queries of a finished demo above what each descriptor takes for their original.

python scripts/readme_image.py sscd-demo scripts/readme_image.jpg
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sscd_jax import Descriptors

COLUMNS, SIDE, GAP, LABEL = 10, 116, 8, 190
ROWS = {
    "trained": "network, trained\nfor minutes",
    "untrained": "network before\ntraining",
    "pdq": "PDQ, a\nperceptual hash",
}
RIGHT, WRONG, INK = (26, 127, 55), (207, 34, 46), (40, 40, 40)


def best_matches(folder: Path) -> dict[str, tuple[str, float]]:
    """Query id -> (id of the most similar reference, similarity)."""
    queries, references = (Descriptors.read(folder / name) for name in ("queries", "references"))
    similarity = queries.vectors @ references.vectors.T
    best = similarity.argmax(1)
    return {
        q: (references.ids[r], float(similarity[i, r])) for i, (q, r) in enumerate(zip(queries.ids, best, strict=True))
    }


def main(demo: Path, out: Path) -> None:
    with (demo / "images" / "ground_truth.csv").open(newline="") as file:
        truth = {row["query_id"]: row["reference_id"] for row in csv.DictReader(file)}
    found = {name: best_matches(demo / "descriptors" / name) for name in ROWS}
    # Copies in an order that is not ours to choose.
    chosen = np.random.default_rng(0).permutation(sorted(truth))[:COLUMNS]

    width = LABEL + COLUMNS * (SIDE + GAP)
    sheet = Image.new("RGB", (width, (len(ROWS) + 1) * (SIDE + GAP + 14) + GAP), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(12)
    for row, (name, label) in enumerate([("", "an edited copy"), *ROWS.items()]):
        top = GAP + row * (SIDE + GAP + 14)
        draw.text((GAP, top + SIDE / 2 - 20), label, INK, font)
        for column, query in enumerate(chosen):
            left = LABEL + column * (SIDE + GAP)
            if not name:
                image = Image.open(demo / "images" / "queries" / f"{query}.jpg")
                sheet.paste(ImageOps.pad(image, (SIDE, SIDE), color="white"), (left, top))
                continue
            reference, similarity = found[name][query]
            right = reference == truth[query]
            image = Image.open(demo / "images" / "references" / f"{reference}.jpg")
            sheet.paste(ImageOps.pad(image, (SIDE, SIDE), color="white"), (left, top))
            draw.rectangle(
                (left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), outline=RIGHT if right else WRONG, width=3
            )
            draw.text(
                (left, top + SIDE + 2),
                f"{similarity:.2f} {'right' if right else 'wrong'}",
                RIGHT if right else WRONG,
                small,
            )
    sheet.save(out, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
