"""Measures color jitter, grayscale, blur and mixing on the host and on the devices.

    pip install -r requirements.txt -e '.[augly]'
    python scripts/benchmarks/device_augment.py [--batch-size 32] [--backbone resnet50]

It prints the host's rate in source images per second and the time of a training step. The host's rate is that of the
training pipeline on the photographs of the sample at 500 pixels, with all cores and nothing else running. The step
runs on the devices that JAX finds, with a batch that they hold already. The variants run in turn, and the best round of
each counts.
"""

import argparse
import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from sscd_jax import distributed, sharding
from sscd_jax.config import Loss, Model
from sscd_jax.data.sample import photograph_paths
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import numpy_batches, train_batches
from sscd_jax.models import build_model
from sscd_jax.optimizer import lars
from sscd_jax.training import state as train_state
from sscd_jax.training.train import train_step

ROUNDS, BATCHES = 4, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--batch-size", type=int, default=32, help="images of a step, a multiple of 16 (default: %(default)s)"
    )
    parser.add_argument("--backbone", default="resnet50", help="backbone of the network (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="side of a view in pixels (default: %(default)s)")
    parser.add_argument("--augmentation", default="STRONG_BLUR", help="set of augmentations (default: %(default)s)")
    arguments: Any = parser.parse_args()
    distributed.start()
    devices = sharding.create_mesh()
    group = arguments.batch_size // 2
    model, optimizer = build_model(**dataclasses.asdict(Model(backbone=arguments.backbone))), lars(0.1)
    state = train_state.create(model, optimizer, 0, sharding.replicated(devices))
    step = jax.jit(partial(train_step, model=model, optimizer=optimizer, loss=Loss(), mixup_group=group))

    folder = tempfile.TemporaryDirectory()
    for name, path in photograph_paths().items():
        image = Image.open(path).convert("RGB")
        image.thumbnail((500, 500))
        image.save(Path(folder.name) / f"{name}.jpg", quality=90)
    source = open_source(folder.name)
    batches, inputs = {}, {}
    for where in ("host", "device"):
        dataset = train_batches(
            source,
            batch_size=16,
            image_size=arguments.image_size,
            augmentation=arguments.augmentation,
            seed=0,
            mixup_group=8,
            color_ops=where,
        )
        batches[where] = numpy_batches(dataset)
        made = [next(batches[where]) for _ in range(arguments.batch_size // 16)]
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *made)
        views = {name: joined[name] for name in ("images", "instance_ids", "color_ops", "mixing") if name in joined}
        inputs[where] = sharding.to_devices(views, devices)
        jax.block_until_ready(step(state, **inputs[where]))

    host = dict.fromkeys(batches, 0.0)
    seconds = dict.fromkeys(batches, float("inf"))
    for _ in range(ROUNDS):
        for where in batches:
            start = time.perf_counter()
            for _ in range(BATCHES):
                next(batches[where])
            host[where] = max(host[where], BATCHES * 16 / (time.perf_counter() - start))
    for _ in range(ROUNDS):
        for where in batches:
            start = time.perf_counter()
            jax.block_until_ready(step(state, **inputs[where]))
            seconds[where] = min(seconds[where], time.perf_counter() - start)
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {arguments.augmentation}, {arguments.backbone}")
    print("colors, blur, mixing on   host, images/s   step, seconds")
    for where in batches:
        print(f"{where:<26} {host[where]:>14.1f} {seconds[where]:>15.3f}")
    print(
        f"{'device to host':<26} {host['device'] / host['host']:>13.2f}x {seconds['device'] / seconds['host']:>14.2f}x"
    )


if __name__ == "__main__":
    main()
