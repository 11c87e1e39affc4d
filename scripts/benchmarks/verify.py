"""Measures what `sscd_jax.duplicates.verify` says about copies and about images that are none.

    python scripts/benchmarks/verify.py IMAGES [--images 8] [--unrelated 2000] [--seed 0] [--evidence FILE]

IMAGES are any images, of which some are drawn. Each is verified with copies of it, one by each edit of `sscd-jax
benchmark make` in each strength; and with these images that are no copies:

    unrelated           another image
    apart               of one image, the left and the right 45 %
    caption             two images under the same caption, as the edit of that name makes it
    screenshot          two images in the same frame of an app
    logo                two images over which the same third image is put, on 3 to 6 % of the area
    stickers            two images with the same stickers

It prints the share of each verdict for each kind and strength. `--evidence` writes the numbers of each pair that the
thresholds are about.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sscd_jax.cli.output import table
from sscd_jax.data.images import open_image
from sscd_jax.data.sources import open_source
from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits import BENCHMARK_KINDS, KINDS
from sscd_jax.duplicates.local_features import SIDE, Features, features, opencv
from sscd_jax.duplicates.verify import evidence, judge

HELD_BACK = 20  # images that are pasted into others, and are not copied
STRENGTHS: tuple[Strength, ...] = ("weak", "medium", "strong")
VERDICTS = ("copy", "different", "cannot say")
NO_COPIES = ("caption", "screenshot", "logo", "stickers")
COPY = "copy, "
Row = dict[str, Any]  # of a pair: its kind, the strength, the verdict and what it is made of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IMAGES", help="a folder, or another source that `sscd-jax embed` takes")
    parser.add_argument("--images", type=int, default=8, help="images that are copied (default: %(default)s)")
    parser.add_argument("--unrelated", type=int, default=2000, help="unrelated pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--evidence", type=Path, help="a CSV file for the numbers of each pair")
    given = parser.parse_args()
    opencv().setNumThreads(1)
    images = read(given.source, given.images + HELD_BACK, given.seed)
    others, images = images[:HELD_BACK], images[HELD_BACK:]
    rows = with_edits(images, others, given.seed) + unrelated(given.source, given.unrelated, given.seed)
    if given.evidence:
        with given.evidence.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for name, is_copy in (("copies", True), ("no copies", False)):
        some = [row for row in rows if row["kind"].startswith(COPY) == is_copy]
        print(f"\n{table(lines(some, name))}")
    edited = [row for row in rows if row["strength"]]
    found, compared = (1000 * np.median([row[part] for row in edited]) for part in ("features_s", "verify_s"))
    apart = 1000 * np.median([row["verify_s"] for row in rows if row["kind"].startswith("unrelated")])
    print(
        f"\nmedian CPU time: {found:.0f} ms for the features of an image, {compared:.0f} ms to compare those of two, "
        f"{apart:.0f} ms where they are unrelated"
    )


def read(source: str, most: int, seed: int) -> list[Image.Image]:
    """Reads up to `most` images in random order, as long as they are searched for features."""
    opened = open_source(source)
    images = []
    for index in np.random.default_rng(seed).permutation(len(opened)).tolist()[:most]:
        images.append(open_image(opened.load(index)))
        images[-1].thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    return images


def with_edits(images: Sequence[Image.Image], others: Sequence[Image.Image], seed: int) -> list[Row]:
    """Returns the rows of all pairs that edits make."""
    rows = []
    for number, image in enumerate(tqdm(images, "images", unit="image", dynamic_ncols=True)):
        original = features(image)
        some = [others[number % len(others)]]  # one, so that both of two images get the same
        for strength in STRENGTHS:
            for kind in BENCHMARK_KINDS:
                copy = KINDS[kind](image, np.random.default_rng([seed, number]), strength, others)
                rows.append(judged(COPY + kind, strength, original, copy))
            for kind in NO_COPIES:
                edit = KINDS["overlay" if kind == "logo" else kind]
                a, b = (
                    edit(one, np.random.default_rng([seed, number]), "weak" if kind == "logo" else strength, some)
                    for one in (image, images[number - 1])
                )
                rows.append(judged(f"same {kind}", strength, features(a), b))
        width, height = image.size
        part = max(1, round(0.45 * width))
        left, right = image.crop((0, 0, part, height)), image.crop((width - part, 0, width, height))
        rows.append(judged("apart", "", features(left), right))
    return rows


def unrelated(source: str, count: int, seed: int) -> list[Row]:
    """Returns the rows of pairs of different images."""
    rng = np.random.default_rng([seed, 1])
    images = read(source, 100, seed)
    found = [features(image) for image in tqdm(images, "features", unit="image", dynamic_ncols=True)]
    rows = []
    for _ in tqdm(range(count), "unrelated", unit="pair", dynamic_ncols=True):
        one, other = rng.choice(len(found), 2, replace=False).tolist()
        rows.append(judged(f"unrelated {one} {other}", "", found[one], found[other]))
    return rows


def judged(kind: str, strength: str, a: Features, b: Features | Image.Image) -> Row:
    """Returns the row of a pair."""
    begun = time.process_time()
    other = features(b) if isinstance(b, Image.Image) else b
    middle = time.process_time()
    seen = evidence(a, other)
    said = judge(seen, a, other)
    row: Row = {"kind": kind, "strength": strength, "verdict": said.verdict, "reason": said.reason}
    row |= {"features_s": middle - begun, "verify_s": time.process_time() - middle}
    row |= {"features_a": len(a), "features_b": len(other), "inliers": said.inliers, "mirrored": said.mirrored}
    row["spread"] = seen.spread(a, other) if seen else 0.0
    row["share"] = seen.agreement.share if seen else 0.0
    return row | {"area": max(seen.agreement.area_a, seen.agreement.area_b) if seen else 0.0}


def lines(rows: Sequence[Row], name: str) -> list[dict[str, str]]:
    """Returns a line of the table for each kind of pair, and one for all."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault("unrelated" if row["kind"].startswith("unrelated") else row["kind"], []).append(row)
    found = []
    for kind, some in [*kinds.items(), (f"all {name}", list(rows))]:
        line = {"pair": kind, "pairs": str(len(some))}
        line |= {verdict: share(some, verdict) for verdict in VERDICTS}
        for strength in STRENGTHS:
            line[f"copy, {strength}"] = share([row for row in some if row["strength"] == strength], "copy")
        found.append(line)
    return found


def share(rows: Sequence[Row], verdict: str) -> str:
    """Returns which part of some pairs got a verdict, in percent."""
    return f"{100 * sum(row['verdict'] == verdict for row in rows) / len(rows):.1f} %" if rows else ""


if __name__ == "__main__":
    main()
