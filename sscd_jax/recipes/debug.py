"""A smoke test that takes seconds on a CPU: six steps of a narrow ResNet-18 on the bundled photographs.

sscd-jax train debug --workdir runs/debug
"""

from sscd_jax.config import Checkpoint, Config, Data, Model, Optimizer


def get_config() -> Config:
    return Config(
        steps=6,
        data=Data(source="sample", batch_size=8, image_size=32),
        model=Model(backbone="resnet18", dims=16, width=8),
        optimizer=Optimizer(warmup_steps=2),
        checkpoint=Checkpoint(every_steps=3),
    )
