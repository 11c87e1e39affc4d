"""The log of a training run: JSON lines, TensorBoard events, a progress bar, and a list of unreadable images."""

import contextlib
import io
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from sscd_jax.data.image_source import Source
from sscd_jax.data.names import printable
from sscd_jax.data.train_pipeline import why_unreadable
from sscd_jax.files import write_text
from sscd_jax.training.collapse_alarm import LOWER_RATE, CollapseAlarm

METRICS = "metrics.jsonl"
COMPILING_SHOWN = 1.0  # seconds between two updates of the elapsed time


class TrainLog:
    """The log of a run, resumed at the latest of its checkpoints.

    The metrics of a step are passed to `later` when the step is dispatched, and read by the next `write`, a step later,
    so that dispatching steps never waits for their results. Of several processes the first one writes; the others
    write only the images that they cannot read.

    Attributes:
        last_good: step of the last checkpoint from which a finite loss was computed, or 0 if there is none.
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
        """Opens the log.

        Args:
            workdir: the run's folder, which must exist.
            saved: the steps of the checkpoints; lines of later steps are removed, because these steps are repeated.
            total: the number of steps of the run.
            batch_size: the number of images of a step, for the rate.
            schedule: a function from a step to its learning rate.
            warmup_steps: the number of steps in which the alarm for collapsed descriptors is silent.
        """
        start = max(saved, default=0)
        self._process = jax.process_index()
        self._workdir, self._batch_size, self._schedule = workdir, batch_size, schedule
        self._pending: tuple[int, Mapping[str, Any], float] | None = None
        self._saved = sorted(saved)
        self.last_good = max((s for s in saved if s < start), default=0)
        self._reported: set[int] = set()
        self._alarm = CollapseAlarm(warmup_steps)
        self._time = time.perf_counter()
        first = self._process == 0
        if first:
            _drop_lines_after(workdir / METRICS, start)
        self._lines = (workdir / METRICS).open("a") if first else io.StringIO()
        self._events = tf.summary.create_file_writer(str(workdir)) if first else tf.summary.create_noop_writer()
        self._bar = tqdm(
            initial=start, total=total, desc="train", unit="step", dynamic_ncols=True, disable=self._process > 0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
        for file in (self._lines, self._events):
            try:
                file.close()
            except Exception:  # such as a full disk; it must not replace the first error
                if error is None:
                    raise

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Shows on the progress bar for how long XLA has been compiling, and prints at the end how long it took.

        The first call of a jitted function compiles it before it returns, which takes minutes for large networks, or
        seconds if the program is in the compilation cache.
        """
        begun, done = time.perf_counter(), threading.Event()

        def show() -> None:
            while not done.wait(COMPILING_SHOWN):
                self._bar.set_postfix_str(f"compiling the training step, {time.perf_counter() - begun:.0f} s")

        self._bar.set_postfix_str("compiling the training step")
        ticker = threading.Thread(target=show, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
        self._bar.set_postfix_str("")
        self._say_once(f"compiled the training step in {time.perf_counter() - begun:.1f} s")

    def later(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """Takes the metrics of a dispatched step, and the seconds that the step waited for its data."""
        self._pending = (step, metrics, waited)

    def write(self) -> None:
        """Waits for the step whose metrics were taken last, and writes them.

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
            f"{values['data_wait_share']:.0%} of the time waiting for data"
        )
        if "center_l2_norm" in values and (alarm := self._alarm.check(step, values)):
            self._say_once(alarm)

    def write_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a validation, under names that begin with val_."""
        self._record(step, {f"val_{name}": value for name, value in metrics.items()})
        self._say_once(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def saved(self, step: int) -> None:
        """Notes a checkpoint, and excludes the time since the last step from the rate of the next one."""
        self._saved.append(step)
        self._time = time.perf_counter()

    def unreadable(self, source: Source, requested: np.ndarray, used: np.ndarray) -> None:
        """Reports the images of a batch that could not be read and were replaced by the next one, each of them once.

        Args:
            source: the training images.
            requested: int [n], indexes of the images of the batch.
            used: int [n], indexes of the images that were read in their place.
        """
        for index in set(requested[requested != used].tolist()) - self._reported:
            self._reported.add(index)
            error = {"path": source.paths[index], "reason": why_unreadable(source, index)}
            name = f"errors-{self._process}.jsonl" if self._process else "errors.jsonl"
            with (self._workdir / name).open("a") as file:
                file.write(json.dumps(error) + "\n")
            line = f"cannot read {error['path']}, the next image replaces it: {error['reason']} (listed in {name})"
            self._say(printable(line))

    def _say_once(self, line: str) -> None:
        if self._process == 0:
            self._say(line)

    def _say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)  # above the bar; standard output is for the results

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        with self._events.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)


def _drop_lines_after(path: Path, step: int) -> None:
    """Removes the lines of later steps, which will be repeated, and a line that a killed process left incomplete."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Reads the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]


def latest_metrics(workdir: Path) -> dict[str, float]:
    """Returns the last value of each metric of a run, and its last step."""
    return {name: value for line in read_metrics(workdir) for name, value in line.items()}
