"""Traces some steps of a run with JAX's profiler."""

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import jax


class Profile:
    """Writes a trace of some steps to a folder that TensorBoard and Perfetto open.

    Only one of several processes may trace: JAX regards a folder with two traces as invalid.

    Args:
        folder: the folder of the trace.
        first: the first step to trace; the first steps of a process include compilation and are best left out.
        steps: the number of steps to trace; 0 for no trace.
    """

    def __init__(self, folder: Path, *, first: int, steps: int) -> None:
        self._folder, self._first, self._steps = folder, first, steps
        self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        if self._steps and error is None:
            print(
                f"no trace was written: the run ended before step {self._first}, at which the trace begins",
                file=sys.stderr,
            )

    def at(self, step: int) -> None:
        """Starts or stops the trace; to be called before each step."""
        if self._steps and step == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._tracing = True
        elif step == self._first + self._steps:
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing, self._steps = False, 0
            with contextlib.suppress(RuntimeError):  # somebody else has stopped the trace
                jax.profiler.stop_trace()
            print(f"wrote a trace to {self._folder}: tensorboard --logdir {self._folder}", file=sys.stderr)
