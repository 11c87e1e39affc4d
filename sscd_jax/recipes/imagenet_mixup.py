"""ADVANCED and mixup on ImageNet, read by TensorFlow Datasets: ResNet-50, batch 4096, 100 epochs.

    pip install 'sscd_jax[augly]'
    tfds build imagenet2012 --file_format array_record
    sscd-jax train imagenet_mixup --workdir runs/imagenet_mixup

`tfds build` says where it expects the archives of ImageNet. Meta publishes the weights as sscd_imagenet_mixup; this
project has not trained it. The recipe disc_blur says which devices it needs.
"""

from sscd_jax.config import Config, Data


def get_config() -> Config:
    return Config(data=Data(source="tfds:imagenet2012", augmentation="ADVANCED", mixup=True))
