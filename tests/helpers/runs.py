"""The one small network, image size and batch with which tests train, so that they share the compiled program."""

from pathlib import Path

from sscd_jax.config import Checkpoint, Config, Data, Loss, Model, Optimizer

STEPS = 6  # three epochs of the fixture `images`


def small_config(images: Path, **changes: object) -> Config:
    """The recipe of helpers.processes.recipe. The steps and the rate are constants of the compiled program."""
    settings = {
        "steps": STEPS,
        "data": Data(source=str(images), batch_size=16, image_size=32),
        "model": Model(backbone="resnet18", dims=16, width=8),
        "loss": Loss(entropy_weight=5.0),
        "optimizer": Optimizer(warmup_steps=2, absolute_learning_rate=0.05),
        "checkpoint": Checkpoint(keep=10),
    }
    return Config(**settings | changes)
