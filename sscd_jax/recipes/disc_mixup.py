"""The paper's best ResNet-50: ADVANCED and mixup, batch 4096, 100 epochs on the DISC2021 training set.

    pip install 'sscd_jax[augly]'
    sscd-jax train disc_mixup --workdir runs/disc_mixup --data.source DISC2021/training

The official code calls this `train.py --augmentations ADVANCED --mixup true`. Meta publishes its weights as
sscd_disc_mixup; this project has not trained it. The recipe disc_blur says which images and devices it needs.
"""

from sscd_jax.config import Config, Data


def get_config() -> Config:
    return Config(data=Data(augmentation="ADVANCED", mixup=True))
