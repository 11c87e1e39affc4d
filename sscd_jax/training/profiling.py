"""A trace of some steps of a run."""

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import jax


class Profile:
    """Traces `steps` steps from `first` on (none: 0), to a folder that TensorBoard and Perfetto open.

    The first steps of a process, which compile, are best left out. Of several processes one traces: JAX takes a folder
    with two traces for damaged.
    """

    def __init__(self, folder: Path, *, first: int, steps: int) -> None:
        self._folder, self._first, self._steps = folder, first, steps
        self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        if self._steps and error is None:
            print(f"no trace: the run ended before step {self._first}, the first of it", file=sys.stderr)

    def at(self, step: int) -> None:
        """To be called before each step."""
        if self._steps and step == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._tracing = True
        elif step == self._first + self._steps:
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing, self._steps = False, 0
            with contextlib.suppress(RuntimeError):  # of a trace that was stopped elsewhere
                jax.profiler.stop_trace()
            print(f"a trace is in {self._folder}: tensorboard --logdir {self._folder}", file=sys.stderr)
