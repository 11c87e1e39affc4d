"""The demo's recipe: a narrow ResNet-18 learns to find copies from a few hundred small images, in minutes on 2 cores.

    sscd-jax demo
    sscd-jax train demo --workdir runs/demo --data.source DIR

DIR must contain at least 128 images. Every difference from the paper's recipe follows from the small size.
"""

from sscd_jax.config import Checkpoint, Config, Data, Loss, Model, Optimizer, Validation
from sscd_jax.presets import Preset


def get_config() -> Config:
    return Config(
        steps=300,
        data=Data(batch_size=128, image_size=64, augmentation="SIMCLR", min_crop_area=0.7, workers=2),
        model=Model(backbone="resnet18", dims=128, width=16),
        loss=Loss(entropy_weight=1.0),
        optimizer=Optimizer(base_learning_rate=15.0, warmup_steps=0),
        validation=Validation(custom=Preset("skew", 64), batch_size=64, every_epochs=25),
        checkpoint=Checkpoint(every_steps=100),
    )
