"""ADVANCED and mixup on ImageNet, by TensorFlow Datasets: ResNet-50, batch 4096, 100 epochs.

    pip install -e '.[augly]'
    tfds build imagenet2012 --file_format array_record
    sscd-jax train configs/imagenet_mixup.py --workdir runs/imagenet_mixup

`tfds build` says where it wants ImageNet's archives. The official code's weights are published as sscd_imagenet_mixup
(ours are not trained). See configs/disc_blur.py for what it needs.
"""

from sscd_jax.config import Config, Data


def get_config() -> Config:
    return Config(data=Data(source="tfds:imagenet2012", augmentation="ADVANCED", mixup=True))
