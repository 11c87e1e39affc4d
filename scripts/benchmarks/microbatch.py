"""Prints the memory of a training step as the batch grows, as one step and as microbatches of a constant size.

    python scripts/benchmarks/microbatch.py [--backbone resnet18] [--image-size 64] [--microbatch 256]
        [--batches 256 512 1024 2048 4096] [--dtype float32] [--run]

The figures are from the compiled program's own analysis: the memory that it needs on one device besides its arguments,
which are parameters, statistics, momentum and the uint8 views. Nothing is computed unless `--run` is given. It replaces
the figures of the single step by the time of a step in microbatches, the faster of two after a first one, and by the
peak memory that the device reports (GPUs and TPUs do).
"""

import argparse
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sscd_jax import config as configs
from sscd_jax import distributed, sharding
from sscd_jax.cli.output import table
from sscd_jax.models import SSCD, build_model
from sscd_jax.optimizer import lars
from sscd_jax.training import state as train_state
from sscd_jax.training.train import train_step

OPTIMIZER = lars(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="backbone of the network (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="side of a view in pixels (default %(default)s)")
    parser.add_argument(
        "--microbatch", type=int, default=256, help="number of images in a microbatch (default %(default)s)"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="batch sizes")
    parser.add_argument(
        "--dtype", default="float32", help="type of the activations, float32 or bfloat16 (default %(default)s)"
    )
    parser.add_argument("--run", action="store_true", help="also run and time the steps")
    given = parser.parse_args()
    distributed.start()
    model = build_model(given.backbone, dtype=jnp.dtype(given.dtype))
    rows = []
    for batch in given.batches:
        row: dict[str, object] = {"batch": batch}
        if not given.run:
            row["one piece"] = mebibytes(needed(compiled(model, batch, given.image_size, 1)))
        step = compiled(model, batch, given.image_size, batch // given.microbatch)
        row[f"pieces of {given.microbatch}"] = mebibytes(needed(step))
        row["views"] = mebibytes(2 * batch * given.image_size**2 * 3)
        if given.run:
            row |= measured(step, model, batch, given.image_size)
        rows.append(row)
    print(table(rows))


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def compiled(model: SSCD, batch: int, size: int, pieces: int) -> Any:
    """Returns the step as a compiled program for this batch."""
    state = jax.eval_shape(partial(new_state, model))
    step = partial(train_step, model=model, optimizer=OPTIMIZER, loss=configs.Loss(), pieces=pieces)
    images = jax.ShapeDtypeStruct((2 * batch, size, size, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((2 * batch,), jnp.int32)
    return jax.jit(step, donate_argnums=0).lower(state, images, ids).compile()


def new_state(model: SSCD) -> train_state.TrainState:
    return train_state.create(model, OPTIMIZER, 0, sharding.replicated(sharding.create_mesh()))


def needed(step: Any) -> int:
    """Returns the bytes that the compiled step needs besides its arguments and results."""
    return int(step.memory_analysis().temp_size_in_bytes)


def measured(step: Any, model: SSCD, batch: int, size: int) -> dict[str, object]:
    """Returns the time of the faster of two steps, and the peak memory of the device."""
    views = np.random.default_rng(0).integers(0, 256, (2 * batch, size, size, 3), np.uint8)
    images, ids = jax.device_put(views), jax.device_put(np.tile(np.arange(batch, dtype=np.int32), 2))
    state, seconds = new_state(model), []
    for _ in range(3):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, images, ids))
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:])
    found: dict[str, object] = {"seconds": f"{best:.3f}", "views/s": f"{2 * batch / best:.0f}"}
    if stats := jax.local_devices()[0].memory_stats():
        found["peak"] = mebibytes(stats["peak_bytes_in_use"])
    return found


if __name__ == "__main__":
    main()
