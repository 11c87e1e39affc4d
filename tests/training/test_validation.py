"""Validation during training."""

import dataclasses
import json

import pytest

from sscd_jax import config as configs
from sscd_jax.config import Checkpoint, Config, Data, Loss, Model, Optimizer, Validation
from sscd_jax.presets import Preset
from sscd_jax.training.train import train


@pytest.fixture
def config(images, tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("query_id,reference_id\n" + "".join(f"{p.stem},{p.stem}\n" for p in images.iterdir()))
    return Config(
        epochs=3,
        data=Data(source=str(images), batch_size=16, image_size=32),
        model=Model(backbone="resnet18", dims=16, width=8),
        loss=Loss(entropy_weight=5.0),
        optimizer=Optimizer(warmup_epochs=1),
        validation=Validation(
            queries=str(images),
            references=str(images),
            ground_truth=str(truth),
            custom=Preset("skew", 32),
            batch_size=16,
        ),
        checkpoint=Checkpoint(keep=2),
    )


def test_validation_every_epoch_and_the_best_is_kept(config, tmp_path):
    result = train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["val_uAP"] for line in lines if "val_uAP" in line}
    assert list(validated) == [2, 4, 6], "40 images in batches of 16 are two steps an epoch"
    assert result["val_uAP"] == validated[6] == 1.0, "every image is its own copy"
    assert train(config, tmp_path / "run") == result, "the run is complete: there is nothing left to do"
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()}
    assert 6 in kept
    assert len(kept) <= 3


def test_ground_truth_without_its_images_is_refused_before_training(config, tmp_path):
    truth = tmp_path / "other.csv"
    truth.write_text("query_id,reference_id\nabsent,000\n")
    changed = dataclasses.replace(config.validation, ground_truth=str(truth))
    with pytest.raises(ValueError, match="1 pairs without their images"):
        train(dataclasses.replace(config, validation=changed), tmp_path / "run")
    odd = dataclasses.replace(config.validation, batch_size=12)
    with pytest.raises(ValueError, match=r"--validation\.batch-size 12 does not divide"):
        train(dataclasses.replace(config, validation=odd), tmp_path / "run")


def test_the_config_of_a_run_is_read_back(config, tmp_path):
    train(dataclasses.replace(config, steps=2, epochs=1, optimizer=Optimizer(warmup_steps=1)), tmp_path / "run")
    saved = configs.from_dict(json.loads((tmp_path / "run" / "config.json").read_text()))
    assert saved.validation == config.validation
