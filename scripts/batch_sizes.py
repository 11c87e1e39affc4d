"""Trains the demo's recipe with other batch sizes, learning rates and entropy weights, for docs/training.md.

    python scripts/batch_sizes.py 128,7.5,1,0 32,1.875,1,0 32,3.75,1,0 [--seeds 0 1 2] [--out runs/batch_sizes]

A setting is BATCH,RATE,ENTROPY_WEIGHT,ENTROPY_WARMUP_STEPS, and is trained with each seed. All runs see the same number
of images, so that a smaller batch takes more steps. Prints for each setting the mean uAP and its standard error over
the seeds, and the similarities at the end of training. The images are those of the demo. Rerun the same command to
resume after an interruption; complete runs are not repeated.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from statistics import mean, stdev

from sscd_jax import distributed
from sscd_jax.cli.output import table
from sscd_jax.config import Config
from sscd_jax.datasets import demo_set
from sscd_jax.demo import demo_config
from sscd_jax.training.log import read_metrics
from sscd_jax.training.train import train

SIMILARITIES = ("positive_sim", "nearest_negative_sim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", help="BATCH,RATE,ENTROPY_WEIGHT,ENTROPY_WARMUP_STEPS")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds, two or more (default 0 1 2)"
    )
    parser.add_argument("--images", type=int, default=19200, help="images that each run sees (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/batch_sizes"), help="folder of the images and runs (default %(default)s)"
    )
    given = parser.parse_args()
    if len(given.seeds) < 2:
        parser.error("the standard error needs two or more --seeds")
    distributed.start()
    if not (given.out / "images").is_dir():
        given.out.mkdir(parents=True, exist_ok=True)
        demo_set.make(given.out / "images", seed=0)
    rows = []
    for setting in given.settings:
        batch, rate, weight, warmup = setting.split(",")
        runs = [given.out / f"{setting},{seed}" for seed in given.seeds]
        found = []
        for seed, run in zip(given.seeds, runs, strict=True):
            config = demo_config(given.out, seed=seed, steps=given.images // int(batch))
            found.append(train(changed(config, int(batch), float(rate), float(weight), int(warmup)), run)["val_uAP"])
        row = {"batch": batch, "rate": rate, "entropy weight": weight, "its warm-up": warmup}
        row |= {"steps": str(given.images // int(batch)), "uAP": f"{mean(found):.3f}"}
        row["standard error"] = f"{stdev(found) / math.sqrt(len(found)):.3f}"
        rows.append(row | {name: f"{mean(at_the_end(run, name) for run in runs):.2f}" for name in SIMILARITIES})
    print(table(rows))


def changed(config: Config, batch: int, rate: float, weight: float, warmup: int) -> Config:
    """Returns the config with these settings, validated and saved at the end only."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=batch),
        loss=dataclasses.replace(config.loss, entropy_weight=weight, entropy_warmup_steps=warmup),
        optimizer=dataclasses.replace(config.optimizer, absolute_learning_rate=rate),
        validation=dataclasses.replace(config.validation, every_epochs=10**6),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=10**6),
    )


def at_the_end(run: Path, name: str) -> float:
    """Returns the mean of a metric over the last tenth of the steps."""
    values = [line[name] for line in read_metrics(run) if name in line]
    return mean(values[-max(len(values) // 10, 1) :])


if __name__ == "__main__":
    main()
