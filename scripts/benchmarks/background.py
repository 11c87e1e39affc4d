"""Compares forms of the background of a score, by the copies that each finds among images with 1 to 50 copies of some.

    python scripts/benchmarks/background.py IMAGES [--weights sscd_disc_mixup] [--images 600] [--seed 0]

IMAGES are any images. Those that look alike (similarity at or above 0.6) are reduced to one, since nobody knows whether
they are copies. Every fifth gets one strongly edited copy, and every thirtieth 49 copies, edited weakly to strongly, by
the edits of `sscd-jax benchmark make`. From these, collections are drawn in which the images have no copies but some
have 1, 2, 4, 9, 21 or 49. For each collection and form, it prints the recall at precision 0.9 and the average precision
over all pairs with an edited image. The forms, s being the similarity and b the background of an image:

    plain               s
    i to j              s - (b1 + b2) / 2, b being the mean similarity to the i-th to j-th nearest images
    kept A, K           the same, b being the mean over the K nearest of the images that a first pass at similarity A
                        keeps, without those at or above A; the package uses A = 0.5 and K = 10
"""

import argparse
from collections.abc import Iterator

import numpy as np
from PIL import Image

import sscd_jax
from sscd_jax.cli.output import table
from sscd_jax.data.images import open_image
from sscd_jax.data.sources import open_source
from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits import BENCHMARK_KINDS, edit
from sscd_jax.duplicates import background
from sscd_jax.duplicates.groups import leaders
from sscd_jax.duplicates.scores import Scores

SIDE = 512  # pixels, of the long side of what is edited and embedded
ALIKE = 0.6
HELD_BACK = 30  # images that are pasted into others, and are not in the collections
MOST = 49
STRENGTHS: tuple[Strength, ...] = ("weak", "medium", "strong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images, or another source that `sscd-jax embed` takes")
    parser.add_argument("--weights", default="sscd_disc_mixup", help="file or name of weights (default: %(default)s)")
    parser.add_argument("--images", dest="most", type=int, default=600, help="most images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    given = parser.parse_args()
    originals = list(read(given.images, given.most + HELD_BACK, given.seed))
    model = sscd_jax.load(given.weights)
    held_back, originals = originals[:HELD_BACK], originals[HELD_BACK:]
    vectors = np.asarray(model.embed([np.asarray(image) for image in originals], progress=True).vectors)
    distinct = np.flatnonzero(leaders(Scores.plain(vectors), ALIKE, np.arange(len(vectors))).is_kept)
    copies = [one for i in distinct.tolist() for one in copies_of(i, originals[i], held_back, given.seed)]
    edited = model.embed([np.asarray(image) for _, image in copies], progress=True).vectors
    vectors = np.concatenate([vectors[distinct], np.asarray(edited)])
    origin = np.concatenate([distinct, [i for i, _ in copies]])
    rank = np.concatenate([np.full(len(distinct), -1), [r for i in distinct.tolist() for r in range(number(i))]])
    single = origin % 5 == 0
    print(f"{len(distinct)} images that do not look alike, {len(copies)} copies, {given.weights}, {model.preset.name}")
    rows = []
    collections = {"1 strong copy of some": (rank < 0) | single}
    collections |= {f"{n} of some": (rank < 0) | (~single & (rank < n)) for n in (1, 2, 4, 9, 21, MOST)}
    collections["all together"] = np.ones(len(origin), bool)
    for name, chosen in collections.items():
        some, of = vectors[chosen], origin[chosen]
        one, other = np.triu_indices(len(some), 1)
        counted = (rank[chosen][one] >= 0) | (rank[chosen][other] >= 0)
        one, other = one[counted], other[counted]
        similarity, is_copy = np.einsum("pd,pd->p", some[one], some[other]), of[one] == of[other]
        for form, b in forms(some):
            rows.append({"copies": name, "images": len(some), "pairs": int(is_copy.sum()), "form": form})
            rows[-1] |= measure(similarity - (b[one] + b[other]) / 2, is_copy)
    print(table(rows))


def read(images: str, most: int, seed: int) -> Iterator[Image.Image]:
    """Yields up to `most` images in random order, at most SIDE pixels long."""
    source = open_source(images)
    for index in np.random.default_rng(seed).permutation(len(source)).tolist()[:most]:
        image = open_image(source.load(index))
        image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        yield image


def number(index: int) -> int:
    """Returns how many copies an image gets."""
    return 1 if index % 5 == 0 else MOST if index % 30 == 1 else 0


def copies_of(
    index: int, image: Image.Image, others: list[Image.Image], seed: int
) -> Iterator[tuple[int, Image.Image]]:
    """Yields the copies of an image."""
    for copy in range(number(index)):
        rng = np.random.default_rng([seed, index, copy])
        strength: Strength = "strong" if number(index) == 1 else STRENGTHS[rng.integers(3)]
        changed, _ = edit(image, rng, others, int(rng.integers(1, 4)), kinds=BENCHMARK_KINDS, strength=strength)
        changed.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        yield index, changed


def forms(vectors: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name of each form, and the background of each image, float [N]."""
    yield "plain", np.zeros(len(vectors))
    ordered = -np.sort(-(vectors @ vectors.T), 1)
    for first, last in ((1, 3), (1, 10), (10, 20), (60, 80)):  # 0 is the image itself
        if last < len(vectors):
            yield f"{first} to {last}", ordered[:, first : last + 1].mean(1)
    rows = np.arange(len(vectors))
    for alike in (0.4, 0.5, 0.6, 0.75):
        kept = np.flatnonzero(background.first_pass(vectors, rows, alike=alike).is_kept)
        for neighbors in (3, 10, 20):
            form = f"kept {alike}, {neighbors}"
            yield form, background.of_others(vectors, vectors, kept, alike=alike, neighbors=neighbors)


def measure(score: np.ndarray, is_copy: np.ndarray) -> dict[str, float]:
    """Returns the recall at precision 0.9, the average precision, and the threshold of the former."""
    order = np.argsort(-score, kind="stable")
    correct = np.cumsum(is_copy[order])
    precision = correct / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(precision >= 0.9)
    recall = correct[enough[-1]] / is_copy.sum() if len(enough) else 0.0
    average = float((precision * is_copy[order]).sum() / is_copy.sum())
    threshold = float(score[order][enough[-1]]) if len(enough) else float("inf")
    return {"recall at precision 0.9": float(recall), "average precision": average, "threshold": threshold}


if __name__ == "__main__":
    main()
