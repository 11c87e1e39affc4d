"""Compares training in bfloat16 with training in float32: the demo's recipe, with several seeds each.

    python scripts/precision.py [--steps 200] [--seeds 0 1 2] [--out runs/precision]

Prints for each run its uAP and its loss over the last tenth of the steps. For both, it prints the difference of the
means between the types and its standard error over the seeds; a difference below twice that error is called noise. The
images are those of the demo, the same for all runs. Rerun the same command to resume after an interruption.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from statistics import mean, variance
from typing import Literal

from sscd_jax import distributed
from sscd_jax.cli.output import table
from sscd_jax.datasets import demo_set
from sscd_jax.demo import demo_config
from sscd_jax.training.log import read_metrics
from sscd_jax.training.train import train

DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="length of each run (default %(default)s)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds, two or more (default 0 1 2)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/precision"), help="folder of the images and runs (default %(default)s)"
    )
    given = parser.parse_args()
    if len(given.seeds) < 2:
        parser.error("the standard error needs two or more --seeds")
    distributed.start()
    if not (given.out / "images").is_dir():
        given.out.mkdir(parents=True, exist_ok=True)
        demo_set.make(given.out / "images", seed=0)
    results: dict[str, dict[str, list[float]]] = {dtype: {"loss": [], "uAP": []} for dtype in DTYPES}
    rows = []
    for seed in given.seeds:
        for dtype in DTYPES:
            config = demo_config(given.out, seed=seed, steps=given.steps)
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
            run = given.out / f"{dtype}-{seed}"
            found = train(config, run)
            losses = [line["loss"] for line in read_metrics(run) if "loss" in line]
            row = {"loss": mean(losses[-max(given.steps // 10, 1) :]), "uAP": found["val_uAP"]}
            for name, value in row.items():
                results[dtype][name].append(value)
            rows.append({"dtype": dtype, "seed": seed, **row})
    print(table(rows))
    for name in ("loss", "uAP"):
        plain, half = (results[dtype][name] for dtype in DTYPES)
        difference = mean(half) - mean(plain)
        error = math.sqrt((variance(plain) + variance(half)) / len(given.seeds))
        verdict = "noise" if abs(difference) < 2 * error else "more than noise"
        print(f"{name}: bfloat16 - float32 {difference:+.4f}, standard error {error:.4f}: {verdict}")


if __name__ == "__main__":
    main()
