"""How many hours of a worker embedding a collection takes, and what limits it: an estimate to plan by.

python scripts/estimate_embedding.py --images 1e9 --peak 197e12 --cores 24 --decoded 120

The network's operations are counted by XLA for one image at the preset's size; how much of its peak a chip reaches,
how many images a core decodes in a second (scripts/benchmarks/embed.py measures it) and the price of a worker are
yours to give.
"""

import argparse
from collections.abc import Sequence

from sscd_jax import distributed
from sscd_jax.models import build_model
from sscd_jax.presets import PRESETS


def operations(preset: str, width: int, height: int) -> float:
    """Floating-point operations of a ResNet-50 for one image of these sides before the preset."""
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
    parser.add_argument("--images", type=float, default=1e9, help="in the collection (default %(default)g)")
    parser.add_argument("--preset", choices=[*PRESETS], default="small_288", help="(default %(default)s)")
    parser.add_argument("--sides", type=int, nargs=2, default=(4, 3), help="of a usual image (default 4 3)")
    parser.add_argument("--chips", type=int, default=1, help="accelerators of a worker (default %(default)s)")
    parser.add_argument("--peak", type=float, required=True, help="of a chip, operations a second, as its maker says")
    parser.add_argument("--share", type=float, default=0.3, help="of the peak that is reached (default %(default)s)")
    parser.add_argument("--cores", type=int, required=True, help="of a worker")
    parser.add_argument("--decoded", type=float, required=True, help="images that a core decodes in a second")
    parser.add_argument("--price", type=float, default=1.0, help="of a worker's hour (default %(default)s)")
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
