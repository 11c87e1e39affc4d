"""TFDS data sets as sources."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches


def contents(source) -> list[bytes]:
    return [source.read(tf.constant(i, tf.int64)).numpy() for i in range(len(source))]


def files(images):
    return sorted(images.iterdir())


@pytest.fixture
def image_folder(tmp_path, images):
    for number, path in enumerate(files(images)):
        folder = tmp_path / "tree" / "train" / f"label{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path / "tree"


class OurImages(tfds.core.GeneratorBasedBuilder):
    """A user's own data set; named our_images."""

    VERSION = tfds.core.Version("1.0.0")
    PATHS: tuple = ()

    def _info(self):
        features = {"number": tfds.features.Scalar(tf.int64), "photo": tfds.features.Image(encoding_format="jpeg")}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, path in enumerate(self.PATHS):
            yield number, {"number": number, "photo": str(path)}


def batches(source, start, count):
    options = {"batch_size": 8, "image_size": 32, "augmentation": "SIMCLR", "seed": 0}
    return list(train_batches(source, start_step=start, **options).take(count).as_numpy_iterator())


def assert_resumes_exactly(make):
    unbroken, resumed = batches(make(), 0, 12), batches(make(), 7, 5)
    for one, other in zip(unbroken[7:], resumed, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_tfds_data_set(tmp_path, images, monkeypatch, file_format, capsys):
    monkeypatch.setattr(OurImages, "PATHS", tuple(files(images)))
    builder = OurImages(data_dir=str(tmp_path), file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=3) if hasattr(tfds.download.DownloadConfig, "num_shards") else None
    builder.download_and_prepare(download_config=config)

    def make():
        return open_source("tfds:our_images", data_dir=str(tmp_path))

    source = make()
    assert len(source) == 40
    assert source.ids[3] == "train/00000003"
    assert sorted(contents(source)) == sorted(path.read_bytes() for path in files(images))
    copied = "copying" in capsys.readouterr().err
    assert copied == (file_format == "tfrecord")
    assert_resumes_exactly(make)
    assert "copying" not in capsys.readouterr().err, "only the first use copies"


@pytest.mark.slow
def test_tfds_image_folder(image_folder):
    def make():
        return open_source("tfds:ImageFolder", data_dir=str(image_folder))

    assert sorted(contents(make())) == sorted(path.read_bytes() for path in image_folder.rglob("*.jpg"))
    assert_resumes_exactly(make)
    before = make()
    shutil.copy(next(image_folder.rglob("*.jpg")), next(image_folder.rglob("*.jpg")).with_name("new.jpg"))
    assert make().name != before.name, "numbers are of other images now"


def test_tfds_errors(tmp_path, image_folder):
    with pytest.raises(ValueError, match="did you mean mnist"):
        open_source("tfds:mnits", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="tfds build mnist --file_format array_record"):
        open_source("tfds:mnist", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="has no split test; it has train"):
        open_source("tfds:ImageFolder", split="test", data_dir=str(image_folder))
    with pytest.raises(ValueError, match=r"needs --data-dir \(train: --data\.data-dir\)"):
        open_source("tfds:ImageFolder")
