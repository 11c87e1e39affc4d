"""The paper's recipe: ResNet-50, STRONG_BLUR, batch 4096, 100 epochs on the DISC2021 training set.

    sscd-jax train configs/disc_blur.py --workdir runs/disc_blur --data.source DISC2021/training

Needs the million training images of DISC2021 and devices that together hold 8192 views of 224 px. The official code
calls this `train.py --augmentations STRONG_BLUR`; its weights are published as sscd_disc_blur (ours are not trained).
"""

from sscd_jax.config import Config


def get_config() -> Config:
    return Config()
