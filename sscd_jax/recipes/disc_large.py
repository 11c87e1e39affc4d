"""The paper's largest network: ResNeXt-101 32x4d, 1024 numbers, ADVANCED and mixup, 100 epochs on DISC2021.

    pip install -e '.[augly]'
    sscd-jax train configs/disc_large.py --workdir runs/disc_large --data.source DISC2021/training

Its weights are published as sscd_disc_large (ours are not trained). See configs/disc_blur.py for what it needs; a
view takes more than twice a ResNet-50's memory.
"""

from sscd_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(
        data=Data(augmentation="ADVANCED", mixup=True),
        model=Model(backbone="resnext101_32x4d", dims=1024),
    )
