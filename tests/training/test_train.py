"""Training: one program for any number of devices, what a run writes, and interruption."""

import dataclasses
import json
import re
import signal
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.processes import Started, ended, lines_in, recipe, start_one, wait_for_lines
from helpers.runs import small_config
from jax.sharding import Mesh

from sscd_jax import config as configs
from sscd_jax.config import Data, Loss, Model, Optimizer
from sscd_jax.data.augment import glyph_atlas
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches
from sscd_jax.losses import sscd_loss
from sscd_jax.models import build_model, normalize
from sscd_jax.optimizer import lars, warmup_cosine
from sscd_jax.sharding import create_mesh, replicated, to_devices
from sscd_jax.training import state as train_state
from sscd_jax.training.log import read_metrics
from sscd_jax.training.train import train, train_step
from sscd_jax.weights import runs

MODEL = build_model("resnet18", 16, width=8)
OPTIMIZER = lars(warmup_cosine(0.05, warmup_steps=2, total_steps=10))


def compiled_step(mesh: Mesh):
    return jax.jit(
        partial(train_step, model=MODEL, optimizer=OPTIMIZER, loss=Loss(entropy_weight=5.0)),
        out_shardings=replicated(mesh),
    )


def ten_losses(images: Path, devices: int) -> list[float]:
    mesh = create_mesh(jax.devices()[:devices])
    state = train_state.create(MODEL, OPTIMIZER, 0, replicated(mesh))
    step = compiled_step(mesh)
    source = open_source(str(images))
    batches = train_batches(source, batch_size=16, image_size=64, augmentation="STRONG_BLUR", seed=0)
    losses = []
    for batch in batches.take(10).as_numpy_iterator():
        views = {name: batch[name] for name in ("images", "instance_ids")}
        state, metrics = step(state, **to_devices(views, mesh))
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.slow
def test_one_two_and_eight_devices_give_the_same_losses(images):
    one, two, eight = (ten_losses(images, devices) for devices in (1, 2, 8))
    for other in (two, eight):
        np.testing.assert_allclose(other[0], one[0], rtol=1e-5)
        np.testing.assert_allclose(other, one, rtol=1e-3)
    assert len({round(loss, 3) for loss in one}) == 10, "the network did not change"


@pytest.mark.slow
def test_the_similarity_matrix_is_never_whole_on_one_device():
    views, mesh = 112, create_mesh(jax.devices()[:8])
    state = train_state.create(MODEL, OPTIMIZER, 0, replicated(mesh))
    batch = {"images": np.zeros((views, 64, 64, 3), np.uint8), "instance_ids": np.arange(views, dtype=np.int32)}
    hlo = compiled_step(mesh).lower(state, **to_devices(batch, mesh)).compile().as_text()
    shapes = set(re.findall(r"\[(\d+(?:,\d+)*)\]", hlo))
    assert "14,112" in shapes, "the rows of a device"
    assert not {shape for shape in shapes if shape.split(",").count("112") > 1}


@pytest.mark.slow
def test_the_entropy_weight_grows_and_the_gradients_norm_is_a_metric():
    mesh = create_mesh(jax.devices()[:1])
    state = train_state.create(MODEL, OPTIMIZER, 0, replicated(mesh))
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    batch = to_devices({"images": images, "instance_ids": np.arange(16, dtype=np.int32) // 2}, mesh)

    def step(**loss):
        return jax.jit(partial(train_step, model=MODEL, optimizer=OPTIMIZER, loss=Loss(entropy_weight=6.0, **loss)))

    warming = step(entropy_warmup_steps=4)
    _, metrics = step()(state, **batch)
    plain = float(metrics["entropy"])
    weights = [
        float(warming(dataclasses.replace(state, step=state.step + done), **batch)[1]["entropy"]) / plain
        for done in range(6)
    ]
    np.testing.assert_allclose(weights, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-4)

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        embeddings, _ = MODEL.apply(variables, normalize(images), train=True, mutable=["batch_stats"])
        return sscd_loss(embeddings, batch["instance_ids"], entropy_weight=6.0)[0]

    squares = [np.square(one).sum() for one in jax.tree.leaves(jax.jit(jax.grad(loss_of))(state.params))]
    assert metrics["gradient_norm"] == pytest.approx(np.sqrt(sum(squares)), rel=1e-3)


def test_a_run_leaves_what_it_says(trained):
    workdir = trained.workdir
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]  # the others are of validations
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    names = {"loss", "InfoNCE", "entropy", "positive_sim", "negative_sim", "nearest_negative_sim", "center_l2_norm"}
    names |= {"learning_rate", "images_per_second", "data_wait_seconds"}
    assert all(names <= set(line) for line in lines)
    assert lines[0]["learning_rate"] == 0.0
    assert trained.result["loss"] == lines[-1]["loss"]
    assert configs.from_dict(json.loads((workdir / "config.json").read_text())) == trained.config
    assert list(workdir.glob("events.out.tfevents.*"))
    saved, variables = runs.load_run(workdir)
    assert saved == trained.config
    assert variables["params"]["embeddings"]["kernel"].shape == (64, 16)


def test_what_takes_long_is_said(trained):
    """Compiling is shown on the bar and then how long it took; the bars of a validation have names."""
    assert "compiling the training step" in trained.errors
    assert len(re.findall(r"^compiled the training step in \d+\.\d s$", trained.errors, re.MULTILINE)) == 1
    for name in ("train", "embed queries", "embed references"):
        assert f"{name}:" in trained.errors


@pytest.mark.slow
def test_a_corrupt_image_is_reported_and_the_run_continues(images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    jpeg = bytearray(next(images.iterdir()).read_bytes())
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xea\x60\xea\x60"  # declares 60,000 x 60,000 pixels
    (folder / "bomb.jpg").write_bytes(jpeg)
    (folder / "broken.jpg").write_bytes(b"not an image")
    train(small_config(folder), tmp_path / "run")
    errors = map(json.loads, (tmp_path / "run" / "errors.jsonl").read_text().splitlines())
    reasons = {error["path"]: error["reason"] for error in errors}
    assert "pixels" in reasons.pop(str(folder / "bomb.jpg"))
    assert reasons.pop(str(folder / "broken.jpg")) == "not an image of a known format"
    assert not reasons


def test_what_cannot_work_is_refused_before_anything_is_written(images, tmp_path, monkeypatch):
    monkeypatch.setattr(glyph_atlas, "find_spec", lambda _: None)
    glyph_atlas.load_atlas.cache_clear()
    data = {"source": str(images), "image_size": 32}
    with pytest.raises(ImportError, match="augly"):
        train(small_config(images, data=Data(**data, batch_size=8, augmentation="ADVANCED")), tmp_path / "run")
    with pytest.raises(ValueError, match="fewer than a batch"):
        train(small_config(images, data=Data(**data, batch_size=64)), tmp_path / "run")
    with pytest.raises(ValueError, match="gs:/bucket/run: a run's folder must be on a disk"):
        train(small_config(images), Path("gs://bucket/run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(images, tmp_path):
    config = small_config(
        images,
        steps=12,
        optimizer=Optimizer(warmup_steps=4, absolute_learning_rate=1e30),
        checkpoint=configs.Checkpoint(every_steps=1),
    )
    with pytest.raises(FloatingPointError, match=r"loss of step (\d+) is .*checkpoint is of step (\d+)") as error:
        train(config, tmp_path)
    bad, good = map(int, re.findall(r"of step (\d+)", str(error.value)))
    assert good == bad - 2, "the loss of a step is computed from what the step before left"
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == good
    with pytest.raises(FloatingPointError, match=f"loss of step {bad} "):
        train(config, tmp_path)  # continues from the good one, and to the same end


def test_another_network_is_refused_in_an_existing_run(trained, tmp_path):
    other = dataclasses.replace(trained.config, model=Model(backbone="resnet18", dims=16, width=8, pool_param=2.0))
    with pytest.raises(ValueError, match="name another --workdir"):
        train(other, trained.copied(tmp_path / "run"))


def finish(process: Started, workdir: Path) -> None:
    ((status, output),) = ended(workdir, [process], timeout=300)
    assert status == 0, output


@pytest.mark.slow
def test_killed_runs_end_as_one_that_was_not(images, tmp_path):
    """Real processes, SIGKILL at moments that differ in what is under way."""
    config = recipe(tmp_path / "config.py", images, 24, every=3)
    finish(start_one(config, tmp_path / "whole"), tmp_path / "whole")
    killed = 0
    for after_lines in (5, 12, 19):
        process = start_one(config, tmp_path / "killed")
        wait_for_lines(tmp_path / "killed", after_lines, [process])
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed == 3
    finish(start_one(config, tmp_path / "killed"), tmp_path / "killed")

    (_, whole), (_, resumed) = (runs.load_run(tmp_path / name) for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    histories = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert [line["step"] for line in histories[1]] == list(range(1, 25))
    assert [line["loss"] for line in histories[0]] == [line["loss"] for line in histories[1]]


@pytest.mark.slow
def test_other_settings_and_weights_that_are_ignored_are_said(trained, tmp_path, capsys):
    workdir = trained.copied(tmp_path / "run")
    train(dataclasses.replace(trained.config, steps=8), workdir)
    assert f"{workdir} resumes after step 6 with other settings: steps 6 -> 8\n" in capsys.readouterr().err
    written = (workdir / "config.json").read_text()
    train(dataclasses.replace(trained.config, steps=7, init_from="absent"), workdir)
    said = capsys.readouterr().err
    assert f"{workdir} has its 7 steps already\n" in said
    assert f"{workdir} has checkpoints of its own: --init-from absent is ignored\n" in said
    assert (workdir / "config.json").read_text() == written, "no step was made by it"


@pytest.mark.slow
def test_sigterm_saves_and_has_a_status_of_its_own(images, tmp_path):
    """With checkpoints far apart: what is there after it is of the step that it ended at."""
    config = recipe(tmp_path / "config.py", images, 100_000)
    process = start_one(config, tmp_path / "run")
    wait_for_lines(tmp_path / "run", 2, [process])
    process.send_signal(signal.SIGTERM)
    ((status, output),) = ended(tmp_path / "run", [process], timeout=60)
    assert status == 75
    assert "Traceback" not in output
    (step,) = re.findall(
        r"sscd-jax train: ended by SIGTERM, saved after step (\d+) of 100000; rerun the same command", output
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()] == [step]
    assert lines_in(tmp_path / "run") == int(step)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_resumes(images, tmp_path):
    """With checkpoints far apart: no step is lost."""
    config = recipe(tmp_path / "config.py", images, 100_000)
    steps = []
    for _ in range(2):
        done = lines_in(tmp_path / "run")
        process = start_one(config, tmp_path / "run")
        wait_for_lines(tmp_path / "run", done + 2, [process])
        process.send_signal(signal.SIGINT)
        ((status, output),) = ended(tmp_path / "run", [process], timeout=60)
        assert status == 130
        assert "Interrupted: saving after this step" in output
        said = r"sscd-jax train: interrupted, saved after step (\d+) of 100000; rerun the same command to resume\n"
        steps += map(int, re.findall(said, output))
        assert "Traceback" not in output
        assert runs.saved_on_disk(tmp_path / "run") == steps
        assert lines_in(tmp_path / "run") == steps[-1]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, steps[-1] + 1))
