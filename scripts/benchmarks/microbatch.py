"""Memory of a training step as the batch grows, in one piece and in pieces of a constant size.

python scripts/benchmarks/microbatch.py [--backbone resnet18] [--image-size 64] [--microbatch 256]
    [--batches 256 512 1024 2048 4096]

From the compiled program's own analysis: what it needs besides its arguments (parameters, statistics, momentum and the
uint8 views), on one device. Nothing is computed.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp

from sscd_jax import config as configs
from sscd_jax import mesh, train_state
from sscd_jax.cli_results import table
from sscd_jax.models import SSCD, build_model
from sscd_jax.optimizer import lars
from sscd_jax.train import train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="(default %(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--microbatch", type=int, default=256, help="(default %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default %(default)s)")
    given = parser.parse_args()
    mesh.start()
    model = build_model(given.backbone, dtype=jnp.dtype(given.dtype))
    rows = []
    for batch in given.batches:
        row: dict[str, object] = {"batch": batch}
        for name, pieces in (("one piece", 1), (f"pieces of {given.microbatch}", batch // given.microbatch)):
            row[name] = f"{needed(model, batch, given.image_size, pieces) / 2**20:.0f} MiB"
        row["views"] = f"{2 * batch * given.image_size**2 * 3 / 2**20:.0f} MiB"
        rows.append(row)
    print(table(rows))


def needed(model: SSCD, batch: int, size: int, pieces: int) -> int:
    """Bytes of the compiled step besides its arguments and results."""
    optimizer = lars(0.1)
    sharding = mesh.replicated(mesh.create_mesh())
    state = jax.eval_shape(partial(train_state.create, model, optimizer, 0, sharding))
    step = partial(train_step, model=model, optimizer=optimizer, loss=configs.Loss(), pieces=pieces)
    images = jax.ShapeDtypeStruct((2 * batch, size, size, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((2 * batch,), jnp.int32)
    compiled = jax.jit(step, donate_argnums=0).lower(state, images, ids).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return int(analysis.temp_size_in_bytes)


if __name__ == "__main__":
    main()
