"""What a training run writes as it goes: JSON lines, TensorBoard events, the progress bar, unreadable images."""

import io
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from sscd_jax.data.image_source import Source
from sscd_jax.data.train_pipeline import why_unreadable
from sscd_jax.training.collapse_alarm import LOWER_RATE, CollapseAlarm


class TrainLog:
    """The log of a run in `workdir`, continued at the last of its checkpoints, of the steps `saved`.

    Metrics are handed over when their step is dispatched and read at the next `write`, a step later.

    Attributes:
        last_good: step of the last checkpoint from which a finite loss was computed, 0 where there is none.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        saved: Sequence[int],
        total: int,
        batch_size: int,
        schedule: Callable[[int], Any],
        warmup_steps: int = 0,
    ):
        start = max(saved, default=0)
        self._host = jax.process_index()  # only the first writes, but for what only it can know
        self._workdir, self._batch_size, self._schedule = workdir, batch_size, schedule
        self._pending: tuple[int, Mapping[str, Any], float] | None = None
        self._saved = sorted(saved)
        self.last_good = max((s for s in saved if s < start), default=0)
        self._reported: set[int] = set()
        self._alarm = CollapseAlarm(warmup_steps)
        self._time = time.perf_counter()
        if self._host == 0:
            _drop_lines_after(workdir / "metrics.jsonl", start)
        self._lines = (workdir / "metrics.jsonl").open("a") if self._host == 0 else io.StringIO()
        self._events = (
            tf.summary.create_file_writer(str(workdir)) if self._host == 0 else tf.summary.create_noop_writer()
        )
        self._bar = tqdm(
            initial=start, total=total, desc="train", unit="step", dynamic_ncols=True, disable=self._host > 0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
        for file in (self._lines, self._events):
            try:
                file.close()
            except Exception:  # as of a full disk; it must not take the place of the error before
                if error is None:
                    raise

    def later(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """Takes the metrics of a dispatched step and the seconds it waited for its data."""
        self._pending = (step, metrics, waited)

    def write(self) -> None:
        """Reads the metrics taken last, waiting for their step to end, and writes them.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if self._pending is None:
            return
        step, metrics, waited = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
            kept = (
                f"the last good checkpoint is of step {self.last_good}" if self.last_good else "none was saved before"
            )
            raise FloatingPointError(
                f"the loss of step {step} is {values['loss']}; {kept}. "
                f"What may help: {LOWER_RATE}, more --optimizer.warmup-steps or a lower --loss.entropy-weight"
            )
        self.last_good = max((s for s in self._saved if s < step), default=0)
        now = time.perf_counter()
        seconds, self._time = now - self._time, now
        values["learning_rate"] = float(self._schedule(step - 1))
        values["images_per_second"] = self._batch_size / seconds
        values["data_wait_seconds"] = waited
        values["data_wait_share"] = min(waited / seconds, 1.0)
        self._record(step, values)
        self._bar.update()
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {values['images_per_second']:.0f} images/s, "
            f"{values['data_wait_share']:.0%} of it waiting for data"
        )
        if "center_l2_norm" in values and (alarm := self._alarm.check(step, values)):
            self._say_once(alarm)

    def write_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a validation under names that begin with val_."""
        self._record(step, {f"val_{name}": value for name, value in metrics.items()})
        self._say_once(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def saved(self, step: int) -> None:
        """Notes a checkpoint, and leaves the time since the last step out of the next one's rate."""
        self._saved.append(step)
        self._time = time.perf_counter()

    def unreadable(self, source: Source, requested: np.ndarray, used: np.ndarray) -> None:
        """Reports, once each, the images of a batch that another one stood in for."""
        for index in set(requested[requested != used].tolist()) - self._reported:
            self._reported.add(index)
            error = {"path": source.paths[index], "reason": why_unreadable(source, index)}
            name = f"errors-{self._host}.jsonl" if self._host else "errors.jsonl"
            with (self._workdir / name).open("a") as file:
                file.write(json.dumps(error) + "\n")
            self._say(f"cannot read {error['path']}, the next image takes its place: {error['reason']}")

    def _say_once(self, line: str) -> None:
        if self._host == 0:
            self._say(line)

    def _say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)  # where the bar is; standard output is for the results

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        with self._events.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)


def _drop_lines_after(path: Path, step: int) -> None:
    """Leaves the lines up to a step; those after it are of steps that will be done again."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(f"{line}\n" for line in kept))
    unfinished.replace(path)


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def latest_metrics(workdir: Path) -> dict[str, float]:
    """The last value of each metric, and the last step."""
    return {name: value for line in read_metrics(workdir) for name, value in line.items()}
