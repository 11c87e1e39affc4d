"""Training that starts from weights of any format: its first loss is the official network's."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.networks import assert_same, needs_torch, seeded

from sscd_jax.config import Config, Data, Loss, Model, Optimizer
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches
from sscd_jax.models import build_model
from sscd_jax.optimizer import lars
from sscd_jax.sharding import create_mesh, replicated
from sscd_jax.training import state as train_state
from sscd_jax.training.init_from import start_from
from sscd_jax.training.train import train
from sscd_jax.weights import runs
from sscd_jax.weights.native import write_safetensors


def config(images: Path, path: Path, **changes) -> Config:
    settings = {
        "steps": 2,
        "init_from": str(path),
        "data": Data(source=str(images), batch_size=8, image_size=64),
        "model": Model(backbone="resnet18", dims=16, width=8),  # as helpers.runs.small_config
        "loss": Loss(entropy_weight=5.0),
        "optimizer": Optimizer(warmup_steps=1),
    }
    return Config(**settings | changes)


def first_batch(run: Config) -> dict[str, np.ndarray]:
    settings = {"batch_size": run.data.batch_size, "image_size": run.data.image_size, "seed": run.seed}
    batches = train_batches(open_source(run.data.source), augmentation=run.data.augmentation, **settings)
    return next(batches.as_numpy_iterator())


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_first_loss_is_that_of_the_official_network(images, official_loss, tmp_path):
    needs_torch()
    model, variables = seeded("resnet18", 24, width=64)
    path = tmp_path / "start.safetensors"
    write_safetensors(path, model, variables, {})
    run = config(images, path, model=Model(backbone="resnet18", dims=24))
    recipe = tmp_path / "recipe.py"  # in a process of its own, on one device, for which XLA compiles sooner
    recipe.write_text(f"from sscd_jax.config import *\ndef get_config():\n    return {run!r}\n")
    main = [sys.executable, "-c", "from sscd_jax.cli.main import main; main()"]
    subprocess.run([*main, "train", str(recipe), "--workdir", str(tmp_path / "run")], check=True)
    expected = official_loss(run, first_batch(run), model, variables)
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_run_starts_from_another_run(images, tmp_path):
    model, variables = seeded("resnet18", 16)
    write_safetensors(tmp_path / "start.safetensors", model, variables, {})
    frozen = Optimizer(warmup_steps=1, absolute_learning_rate=1e-30)
    train(config(images, tmp_path / "start.safetensors", optimizer=frozen), tmp_path / "one")
    train(config(images, tmp_path / "one", optimizer=frozen), tmp_path / "two")
    _, found = runs.load_run(tmp_path / "two")
    assert_same(found["params"], variables["params"])
    before, after = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["loss"] for line in before] == [line["loss"] for line in after]
    # It resumes from its own checkpoint, whatever it started from.
    (tmp_path / "start.safetensors").unlink()
    train(config(images, tmp_path / "start.safetensors", optimizer=frozen), tmp_path / "one")


def test_the_projection_is_taken_or_initialized(tmp_path, capsys):
    state = train_state.create(
        build_model("resnet18", 16, width=8), lars(lambda step: 0.1), 0, replicated(create_mesh())
    )
    for name, dims, taken in (("with", 16, True), ("without", 16, False), ("other", 10, False), ("none", 0, True)):
        path = tmp_path / f"{name}.safetensors"
        loaded, variables = seeded("resnet18", dims)
        write_safetensors(path, loaded, variables, {})
        model = build_model("resnet18", 16, width=8)
        started = start_from(str(path), state, model, None, projection=taken)
        assert_same(started.params["backbone"], variables["params"]["backbone"])
        assert_same(started.batch_stats, variables["batch_stats"])
        projection = (variables["params"] if name == "with" else state.params)["embeddings"]
        assert_same(started.params["embeddings"], projection)
        for one, other in zip(jax.tree.leaves(started), jax.tree.leaves(state), strict=True):
            assert one.sharding == other.sharding, "on the devices where the run's state lives"
    assert "none.safetensors has no projection: it is initialized randomly" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused_with_the_options_that_do(images, tmp_path):
    path = tmp_path / "start.safetensors"
    write_safetensors(path, *seeded("resnet50", 10), {})
    with pytest.raises(ValueError, match=r"--model\.backbone resnet50 --model\.dims 10"):
        train(config(images, path), tmp_path / "run")
    write_safetensors(path, *seeded("resnet18", 10), {})
    with pytest.raises(ValueError, match=r"--model\.dims 10, or --no-init-projection"):
        train(config(images, path), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="absent"):
        train(config(images, tmp_path / "absent"), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing was started"
