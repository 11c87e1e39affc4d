"""Draws the image of the README: edited copies, and the images that each descriptor takes for their originals.

    sscd-jax demo
    python scripts/readme_image.py sscd-demo scripts/readme_image.jpg [--weights WEIGHTS]

With --weights, given as for `sscd-jax embed`, the last row is of that network.
"""

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sscd_jax import Descriptors, weights
from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import open_source
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.presets import choose

COLUMNS, SIDE, GAP, LABEL = 10, 116, 8, 190
ROWS = {
    "pdq": "PDQ, a\nperceptual hash",
    "untrained": "network before\ntraining",
    "trained": "network, trained\nfor minutes",
}
PUBLISHED = "published SSCD\nweights"
CORRECT, INCORRECT, INK = (26, 127, 55), (207, 34, 46), (40, 40, 40)


def best_matches(queries: Descriptors, references: Descriptors) -> dict[str, tuple[str, float]]:
    """Returns for each query id the id of the most similar reference, and the similarity."""
    similarity = queries.vectors @ references.vectors.T
    best = similarity.argmax(1)
    return {
        q: (references.ids[r], float(similarity[i, r])) for i, (q, r) in enumerate(zip(queries.ids, best, strict=True))
    }


def embed(images: Path, queries: Sequence[str], given: str) -> list[Descriptors]:
    """Returns the descriptors of some of the demo's queries and of all its references by other weights."""
    network = weights.load(given)
    found = []
    for part in ("queries", "references"):
        source = open_source(str(images / part))
        if part == "queries":
            paths = [str(images / part / f"{query}.jpg") for query in queries]
            source = Source(source.name, queries, paths, files=paths)
        with tempfile.TemporaryDirectory() as out:
            write_descriptors(*network, source, choose("small_288"), Path(out))
            read = Descriptors.read(out)
            found.append(Descriptors(read.ids, np.array(read.vectors), read.provenance))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("out", type=Path, help="the image to write")
    parser.add_argument("--weights", help="weights for one more row")
    given = parser.parse_args()

    images = given.demo / "images"
    with (images / "ground_truth.csv").open(newline="") as file:
        truth = {row["query_id"]: row["reference_id"] for row in csv.DictReader(file)}
    found = {}
    for name, label in ROWS.items():
        folder = given.demo / "descriptors" / name
        if folder.is_dir():  # without pdqhash there is no row for PDQ
            found[label] = best_matches(*(Descriptors.read(folder / part) for part in ("queries", "references")))
    # The copies are drawn with a fixed seed, and not chosen by hand.
    chosen = np.random.default_rng(0).permutation(sorted(truth))[:COLUMNS].tolist()
    if given.weights:
        found[PUBLISHED] = best_matches(*embed(images, chosen, given.weights))
    for label, matches in found.items():
        copies = [query for query in matches if query in truth]
        correct = sum(matches[query][0] == truth[query] for query in copies)
        print(f"{' '.join(label.split())}: {correct} of {len(copies)} copies have their original first")

    width = LABEL + COLUMNS * (SIDE + GAP)
    sheet = Image.new("RGB", (width, (len(found) + 1) * (SIDE + GAP + 14) + GAP), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(12)
    for row, label in enumerate(["an edited copy", *found]):
        top = GAP + row * (SIDE + GAP + 14)
        draw.text((GAP, top + SIDE / 2 - 20), label, INK, font)
        for column, query in enumerate(chosen):
            left = LABEL + column * (SIDE + GAP)
            if label not in found:
                image = Image.open(images / "queries" / f"{query}.jpg")
                sheet.paste(ImageOps.pad(image, (SIDE, SIDE), color="white"), (left, top))
                continue
            reference, similarity = found[label][query]
            is_correct = reference == truth[query]
            color = CORRECT if is_correct else INCORRECT
            image = Image.open(images / "references" / f"{reference}.jpg")
            sheet.paste(ImageOps.pad(image, (SIDE, SIDE), color="white"), (left, top))
            draw.rectangle((left - 2, top - 2, left + SIDE + 1, top + SIDE + 1), outline=color, width=3)
            verdict = "correct" if is_correct else "incorrect"
            draw.text((left, top + SIDE + 2), f"{similarity:.2f} {verdict}", color, small)
    sheet.save(given.out, quality=88)


if __name__ == "__main__":
    main()
