"""Compares augmentations at the demo's small scale in one table; each run takes some minutes on 2 cores.

    pip install -r requirements.txt -e '.[augly]'
    python scripts/compare_augmentations.py --out runs/augmentations

For each seed, the demo's network is trained on the demo's images with each augmentation for the same number of steps,
and then finds the demo's strongly edited queries. Rerun the same command to resume after an
interruption; complete runs are not repeated.
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax import distributed
from sscd_jax.cli.output import table
from sscd_jax.datasets import demo_set
from sscd_jax.demo import demo_config
from sscd_jax.files import write_text
from sscd_jax.training.train import train

# Name, augmentation, mixup.
SETTINGS = [
    ("SIMCLR", "SIMCLR", False),
    ("STRONG_BLUR", "STRONG_BLUR", False),
    ("ADVANCED", "ADVANCED", False),
    ("ADVANCED + mixup", "ADVANCED", True),
]
METRICS = ("uAP", "accuracy_at_1", "recall_at_p90")


def run(out: Path, *, seed: int, steps: int, augmentation: Any, mixup: bool) -> dict[str, float]:
    """Trains a network and returns the metrics at the end of the run."""
    images = out / str(seed) / "images"
    if not images.is_dir():
        images.parent.mkdir(parents=True, exist_ok=True)
        demo_set.make(images, seed=seed)
    config = demo_config(out / str(seed), seed=seed, steps=steps)
    data = dataclasses.replace(config.data, augmentation=augmentation, mixup=mixup)
    validation = dataclasses.replace(config.validation, every_epochs=10**6)
    config = dataclasses.replace(config, data=data, validation=validation)
    found = train(config, out / str(seed) / f"{augmentation}{'_mixup' if mixup else ''}_{steps}")
    return {name: found[f"val_{name}"] for name in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for images, runs and results.json")
    parser.add_argument("--steps", type=int, default=300, help="the length of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the random seeds (%(default)s)")
    arguments = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    distributed.start()
    results: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in SETTINGS}
    for seed in arguments.seeds:
        for name, augmentation, mixup in SETTINGS:
            options = {"seed": seed, "steps": arguments.steps}
            results[name].append(run(arguments.out, augmentation=augmentation, mixup=mixup, **options))
            write_text(arguments.out / "results.json", json.dumps(results, indent=2))
    rows = []
    for name, runs in results.items():
        row: dict[str, float | str] = {"augmentation": name}
        for metric in METRICS:
            values = [one[metric] for one in runs]
            row[metric] = f"{np.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"
        rows.append(row)
    print(table(rows))


if __name__ == "__main__":
    main()
