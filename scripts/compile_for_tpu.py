"""Compiles a training step by the TPU's own compiler, without a TPU, and prints its memory, bytes and collectives.

    pip install -e '.[tpu]'
    python scripts/compile_for_tpu.py disc_blur --topology v5e:4x8 --dtype bfloat16

The compiler is that of the workers of the slice, from the package libtpu, and the devices are only described. It takes
minutes, and rejects a step that does not fit into the memory of a chip. Bytes are XLA's count of what operations read
and write, in HBM or on the chip. `scripts/roofline.py` prints lower bounds of these numbers.
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from importlib.metadata import version

from roofline import table
from roofline_program import collectives_of, compiled

from sscd_jax import recipes, sharding


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe: a name such as disc_blur, or a path such as mine/recipe.py")
    parser.add_argument("--topology", default="v5e:4x8", help="kind and shape of the slice (default %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images of a step (default: the recipe's)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of activations (default: the recipe's)")
    parser.add_argument("--remat", action="store_true", help="as --model.remat")
    given = parser.parse_args(arguments)
    config = recipes.load(given.recipe)
    images, dtype = given.batch_size or config.data.batch_size, given.dtype or config.model.dtype
    model = dataclasses.replace(config.model, dtype=dtype, remat=given.remat or config.model.remat)
    config = dataclasses.replace(config, model=model)
    # libtpu would ask Google's metadata service where it is and lock chips, and JAX would look for them.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(given.topology, platform="tpu").devices
    sharding.check_divisible(images, "--batch-size", len(devices))
    program = compiled(config, devices, 2 * images // len(devices))
    memory, costs = program.memory_analysis(), program.cost_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    versions = ", ".join(version(package) for package in ("jax", "libtpu"))
    print(f"{given.recipe}, {dtype}, {images} images a step, on {given.topology}, jax and libtpu {versions}")
    print(f"{held / 2**30:.2f} GiB of a chip, of it {memory.argument_size_in_bytes / 2**30:.2f} state and views")
    print(f"{costs['flops']:.3e} operations and {costs['bytes accessed']:.3e} bytes of a chip")
    found = collectives_of(program.as_text(), 2 * images)
    rows = [[c.kind, c.purpose, str(c.count), f"{c.bytes / 1e6:.3f}"] for c in found]
    print(table([["collectives", "for", "count", "MB"], *rows]))


if __name__ == "__main__":
    main()
