"""Validation during training."""

import dataclasses
import itertools
import json

import pytest

from sscd_jax import config as configs
from sscd_jax import weights
from sscd_jax.training.train import train
from sscd_jax.training.validation import open_validation, validate


def test_validation_every_epoch_and_the_best_is_kept(trained, tmp_path):
    lines = [json.loads(line) for line in (trained.workdir / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["val_uAP"] for line in lines if "val_uAP" in line}
    assert list(validated) == [2, 4, 6], "40 images in batches of 16 are two steps an epoch"
    assert trained.result["val_uAP"] == validated[6] == 1.0, "every image is its own copy"
    again = train(trained.config, trained.copied(tmp_path / "run"))
    assert again == trained.result, "the run is complete: there is nothing left to do"
    kept = {int(path.name) for path in (trained.workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert 6 in kept
    assert len(kept) <= 3


def test_ground_truth_without_its_images_is_refused_before_training(trained, tmp_path):
    truth = tmp_path / "other.csv"
    truth.write_text("query_id,reference_id\nabsent,000\n")
    changed = dataclasses.replace(trained.config.validation, ground_truth=str(truth))
    with pytest.raises(ValueError, match="1 pairs without their images"):
        train(dataclasses.replace(trained.config, validation=changed), tmp_path / "run")
    odd = dataclasses.replace(trained.config.validation, batch_size=12)
    with pytest.raises(ValueError, match=r"--validation\.batch-size 12 does not divide"):
        train(dataclasses.replace(trained.config, validation=odd), tmp_path / "run")


def test_images_that_are_queries_and_references_do_not_find_themselves(trained, images, tmp_path, capsys):
    """One collection, of which each image but the last copies the next one by the ground truth."""
    names = sorted(path.stem for path in images.iterdir())
    truth = tmp_path / "truth.csv"
    truth.write_text("query_id,reference_id\n" + "".join(f"{a},{b}\n" for a, b in itertools.pairwise(names)))
    config = dataclasses.replace(trained.config.validation, ground_truth=str(truth))
    model, variables = weights.load(trained.workdir)
    validate(open_validation(config), model, variables)
    assert f"validation: {len(names)} pairs of a query and a reference are left out" in capsys.readouterr().err
    validate(open_validation(trained.config.validation), model, variables)
    assert "left out" not in capsys.readouterr().err, "the ground truth names them"
    assert "left out" not in trained.errors


def test_the_config_of_a_run_is_read_back(trained):
    saved = configs.from_dict(json.loads((trained.workdir / "config.json").read_text()))
    assert saved.validation == trained.config.validation
