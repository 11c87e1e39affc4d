"""Lines, TensorBoard events and the end of a run whose loss is not finite."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sscd_jax.training.log import TrainLog, latest_metrics, read_metrics


def log(workdir, *saved):
    return TrainLog(workdir, saved=saved, total=9, batch_size=4, schedule=lambda step: step / 10)


def write(workdir, start, steps, loss=0.5):
    with log(workdir, *([start] if start else [])) as one:
        for step in range(start + 1, start + steps + 1):
            one.later(step, {"loss": np.float32(loss)}, 0.25)
            one.write()


def test_metrics_are_read_one_step_late(tmp_path):
    with log(tmp_path) as one:
        one.write()
        one.later(1, {"loss": np.float32(2.0)}, 0.25)
        assert read_metrics(tmp_path) == []
        one.write()
        one.write()
    (line,) = read_metrics(tmp_path)
    assert (line["loss"], line["learning_rate"], line["data_wait_seconds"]) == (2.0, 0.0, 0.25)
    assert line["images_per_second"] > 0


def test_tensorboard_reads_the_events_and_the_latest_values_are_known(tmp_path):
    with log(tmp_path) as one:
        for step in (1, 2):
            one.later(step, {"loss": np.float32(step)}, 0.0)
            one.write()
        one.write_validation(2, {"uAP": 0.75})
        one.later(3, {"loss": np.float32(3)}, 0.0)
        one.write()
    assert {"step": 3, "loss": 3.0, "val_uAP": 0.75}.items() <= latest_metrics(tmp_path).items()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert {"loss", "learning_rate", "images_per_second", "data_wait_seconds", "val_uAP"} <= set(
        events.Tags()["tensors"]
    )
    assert [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors("loss")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]


def test_a_continued_run_drops_the_lines_of_steps_that_are_done_again(tmp_path):
    write(tmp_path, 0, 4, loss=0.5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    write(tmp_path, 2, 2, loss=0.25)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.25),
        (4, 0.25),
    ]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_checkpoint(tmp_path, loss):
    with log(tmp_path) as one:
        one.later(1, {"loss": np.float32(loss)}, 0.0)
        with pytest.raises(
            FloatingPointError, match=r"loss of step 1 is (nan|inf); none was saved before.*--optimizer.abs"
        ):
            one.write()
        for step in (2, 3, 4):
            one.later(step, {"loss": np.float32(1)}, 0.0)
            one.write()
            one.saved(step)
        one.later(5, {"loss": np.float32(loss)}, 0.0)
        # The loss of step 5 is computed from what step 4 left.
        with pytest.raises(FloatingPointError, match=r"step 5 .*last good checkpoint is of step 3"):
            one.write()
    with log(tmp_path, 2, 4) as continued:
        assert continued.last_good == 2
        continued.later(5, {"loss": np.float32(1)}, 0.0)
        continued.write()
        assert continued.last_good == 4
