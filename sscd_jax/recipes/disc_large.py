"""The paper's largest network: ResNeXt-101 32x4d, 1024 dimensions, ADVANCED and mixup, 100 epochs on DISC2021.

    pip install 'sscd_jax[augly]'
    sscd-jax train disc_large --workdir runs/disc_large --data.source DISC2021/training

Meta publishes its weights as sscd_disc_large; this project has not trained it. The recipe disc_blur says which images
and devices it needs; a view takes more than twice the memory that a ResNet-50 needs.
"""

from sscd_jax.config import Config, Data, Model


def get_config() -> Config:
    return Config(
        data=Data(augmentation="ADVANCED", mixup=True),
        model=Model(backbone="resnext101_32x4d", dims=1024),
    )
