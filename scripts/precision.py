"""Whether training in bfloat16 ends where training in float32 does: the demo's recipe, several seeds of each.

    python scripts/precision.py [--steps 200] [--seeds 0 1 2] [--out runs/precision]

Prints the loss over the last tenth of the steps and the uAP of each run, and for each of the two the difference of the
means beside its standard error over the seeds: a difference of less than twice that is called noise. The images are
the demo's, the same for all; a run that was interrupted goes on.
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
    parser.add_argument("--steps", type=int, default=200, help="of each run (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more (default 0 1 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/precision"), help="folder (default %(default)s)")
    given = parser.parse_args()
    if len(given.seeds) < 2:
        parser.error("one seed says nothing of noise: give two or more --seeds")
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
