"""Estimates how many hours of a worker it takes to embed a collection, and what the bottleneck is.

python scripts/estimate_embedding.py --images 1e9 --peak 197e12 --cores 24 --decoded 120

XLA counts the operations of the network for one image at the preset's size. You give the share of its peak that a chip
reaches, the number of images that a core decodes per second (scripts/benchmarks/embed.py measures it), and the price of
a worker.
"""

import argparse
from collections.abc import Sequence

from sscd_jax import distributed
from sscd_jax.models import build_model
from sscd_jax.presets import PRESETS


def operations(preset: str, width: int, height: int) -> float:
    """Returns the floating-point operations of a ResNet-50 for one image of these sides before the preset."""
    import jax
    import jax.numpy as jnp

    model = build_model("resnet50")
    columns, rows = PRESETS[preset].resized(width, height)
    images = jax.ShapeDtypeStruct((1, rows, columns, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    counted = jax.jit(model.apply).lower(variables, images).cost_analysis()
    assert isinstance(counted, dict)
    return float(counted["flops"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=1e9, help="number of images (default %(default)g)")
    parser.add_argument(
        "--preset", choices=[*PRESETS], default="small_288", help="how images are resized (default %(default)s)"
    )
    parser.add_argument(
        "--sides", type=int, nargs=2, default=(4, 3), help="usual aspect ratio, width and height (default 4 3)"
    )
    parser.add_argument("--chips", type=int, default=1, help="number of accelerators of a worker (default %(default)s)")
    parser.add_argument("--peak", type=float, required=True, help="operations per second of a chip, as published")
    parser.add_argument(
        "--share", type=float, default=0.3, help="share of the peak that is reached (default %(default)s)"
    )
    parser.add_argument("--cores", type=int, required=True, help="number of cores of a worker")
    parser.add_argument("--decoded", type=float, required=True, help="number of images that a core decodes per second")
    parser.add_argument("--price", type=float, default=1.0, help="price of a worker for an hour (default %(default)s)")
    given = parser.parse_args(arguments)
    distributed.start()
    count = operations(given.preset, *given.sides)
    network, decoding = given.chips * given.peak * given.share / count, given.cores * given.decoded
    rate = min(network, decoding)
    hours = given.images / rate / 3600
    print(f"an image takes {count / 1e9:.1f} billion operations")
    print(f"the chips of a worker would do {network:.0f} images/s, its cores decode {decoding:.0f} images/s")
    print(f"{'the network' if network < decoding else 'decoding'} is the limit")
    print(f"{given.images:g} images: {hours:.0f} hours of a worker, at the price given {hours * given.price:.0f}")


if __name__ == "__main__":
    main()
