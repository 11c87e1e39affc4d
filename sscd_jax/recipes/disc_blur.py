"""The paper's recipe: ResNet-50, STRONG_BLUR, batch 4096, 100 epochs on the DISC2021 training set.

    sscd-jax train disc_blur --workdir runs/disc_blur --data.source DISC2021/training

It needs the million training images of DISC2021, and devices whose memory together holds 8192 views of 224 px. The
official code calls this `train.py --augmentations STRONG_BLUR`. Meta publishes its weights as sscd_disc_blur; this
project has not trained it.
"""

from sscd_jax.config import Config


def get_config() -> Config:
    return Config()
