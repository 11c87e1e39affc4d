"""Estimates how many hours of a worker it takes to embed a collection, and what the bottleneck is.

python scripts/estimate_embedding.py --images 1e9 --peak 197e12 --cores 24 [--decoded 90]

XLA counts the operations of the network for one image at the preset's size. You give the peak of a chip, the share of
it that is reached, the number of cores, and the price of a worker. The number of images that a core decodes per second
is measured on this machine, unless you give it.
"""

import argparse
import runpy
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

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


def decoding(preset: str, *, count: int = 300, rounds: int = 5) -> list[float]:
    """Returns how many photographs this machine decodes and resizes per second of a core, in each of some rounds.

    The time is that of the CPU, so that waiting for other programs does not count. It still varies where a core is
    shared with another virtual machine. The photographs are those of benchmarks/embed.py.
    """
    from sscd_jax.data.inference_pipeline import inference_batches
    from sscd_jax.data.sources import open_source

    benchmark = runpy.run_path(str(Path(__file__).parent / "benchmarks" / "embed.py"))
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        benchmark["make_photographs"](Path(folder), count)
        source = open_source(folder)
        for number in range(rounds + 1):
            start = time.process_time()
            for _ in inference_batches(source, [range(count)], PRESETS[preset], batch_size=8):
                pass
            if number:  # the first round reads the files from the disk
                rates.append(count / (time.process_time() - start))
    return rates


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
    parser.add_argument(
        "--decoded", type=float, help="number of images that a core decodes per second (default: measured here)"
    )
    parser.add_argument("--price", type=float, default=1.0, help="price of a worker for an hour (default %(default)s)")
    given = parser.parse_args(arguments)
    distributed.start()
    decoded = given.decoded
    if decoded is None:
        rates = decoding(given.preset)
        decoded = statistics.median(rates)
        print(
            f"a core of this machine decodes {min(rates):.0f} to {max(rates):.0f} images/s, {decoded:.0f} in the median"
        )
    count = operations(given.preset, *given.sides)
    chips, cores = given.chips * given.peak * given.share / count, given.cores * decoded
    rate = min(chips, cores)
    hours = given.images / rate / 3600
    print(f"an image takes {count / 1e9:.1f} billion operations")
    print(f"the chips of a worker would do {chips:.0f} images/s, its cores decode {cores:.0f} images/s")
    print(f"{'the network' if chips < cores else 'decoding'} is the limit")
    print(f"{given.images:g} images: {hours:.0f} hours of a worker, at the price given {hours * given.price:.0f}")


if __name__ == "__main__":
    main()
