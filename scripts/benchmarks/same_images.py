"""Measures how far descriptors of the same pixels, and of the nearest copies, are apart: the figures of same_images.py.

    python scripts/benchmarks/same_images.py [--weights sscd_disc_mixup]

The images are the bundled photographs. `search.same_images` calls two images the same if their descriptors are closer
than any copy and not closer than rounding.
"""

import argparse
import dataclasses
import io
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from PIL import Image

from sscd_jax.api import Model, load
from sscd_jax.cli.output import table
from sscd_jax.data.sample import photograph_paths
from sscd_jax.models import build_model, describe

RNG = np.random.default_rng(0)


def one_pixel(image: np.ndarray, levels: int) -> np.ndarray:
    """Changes the red of one pixel."""
    changed = image.copy()
    y, x = (int(RNG.integers(side)) for side in image.shape[:2])
    changed[y, x, 0] = int(image[y, x, 0]) + (levels if image[y, x, 0] < 128 else -levels)
    return changed


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one pixel by 1 of 255": lambda image: one_pixel(image, 1),
    "one pixel by 100 of 255": lambda image: one_pixel(image, 100),
    "JPEG of quality 100": lambda image: jpeg(image, 100),
    "JPEG of quality 95": lambda image: jpeg(image, 95),
    "one row cut off": lambda image: image[1:],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="sscd_disc_mixup", help="file or name of weights (default: %(default)s)")
    given = parser.parse_args()
    model = load(given.weights)
    bfloat16 = build_model(**describe(model.network), dtype=jnp.bfloat16)
    images = [np.asarray(Image.open(path).convert("RGB")) for path in photograph_paths().values()]

    def embed(images: list[np.ndarray], batch_size: int = 1, model: Model = model) -> np.ndarray:
        return np.asarray(model.embed(images, batch_size=batch_size, progress=False).vectors)

    plain = embed(images)
    changed = {f"batches of {size}": embed(images, size) for size in (4, 8)}
    changed["bfloat16"] = embed(images, 1, dataclasses.replace(model, network=bfloat16))
    changed["stored as float16"] = plain.astype(np.float16).astype(np.float32)
    changed |= {name: embed([copy(image) for image in images]) for name, copy in COPIES.items()}
    pairs = np.triu_indices(len(images), 1)
    changed_distances = {name: np.linalg.norm(vectors - plain, axis=1) for name, vectors in changed.items()}
    changed_distances["other photographs"] = np.linalg.norm(plain[pairs[0]] - plain[pairs[1]], axis=1)
    print(f"{len(images)} photographs, {given.weights}, {model.preset.name}")
    print(
        table(
            [
                {"distance": name, "least": f"{d.min():.1e}", "median": f"{np.median(d):.1e}", "most": f"{d.max():.1e}"}
                for name, d in changed_distances.items()
            ]
        )
    )


if __name__ == "__main__":
    main()
