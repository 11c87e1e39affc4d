"""The paper's advanced augmentations: ResNet-50, ADVANCED, batch 4096, 100 epochs on the DISC2021 training set.

    pip install -e '.[augly]'
    sscd-jax train configs/disc_advanced.py --workdir runs/disc_advanced --data.source DISC2021/training

The official code calls this `train.py --augmentations ADVANCED`; its weights are published as sscd_disc_advanced (ours
are not trained). See configs/disc_blur.py for what it needs.
"""

from sscd_jax.config import Config, Data


def get_config() -> Config:
    return Config(data=Data(augmentation="ADVANCED"))
