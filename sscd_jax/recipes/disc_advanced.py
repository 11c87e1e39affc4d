"""The paper's advanced augmentations: ResNet-50, ADVANCED, batch 4096, 100 epochs on the DISC2021 training set.

    pip install 'sscd_jax[augly]'
    sscd-jax train disc_advanced --workdir runs/disc_advanced --data.source DISC2021/training

The official code calls this `train.py --augmentations ADVANCED`. Meta publishes its weights as sscd_disc_advanced; this
project has not trained it. The recipe disc_blur says which images and devices it needs.
"""

from sscd_jax.config import Config, Data


def get_config() -> Config:
    return Config(data=Data(augmentation="ADVANCED"))
