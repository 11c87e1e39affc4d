"""A pool of processes that work on images.

`ProcessPoolExecutor.map` submits all jobs at once (Python 3.14 adds the argument `buffersize`). Here a new job is taken
only when a result is taken, so that the jobs may come from a generator that reads images.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from sscd_jax.data.isolated import end_with_parent

T = TypeVar("T")
U = TypeVar("U")

_function: Callable[[Any], Any]


@contextmanager
def ordered_map(function: Callable[[T], U], workers: int) -> Iterator[Callable[[Iterable[T]], Iterator[U]]]:
    """Yields a function that maps `function` over jobs in several processes, with the results in order.

    Args:
        function: the function that is called for each job; it must be picklable.
        workers: the number of processes; with 1, the current process does the work.

    Raises:
        OSError: a process was killed.
    """
    if workers == 1:
        yield partial(map, function)
        return
    # Forking is not safe, as this process may have threads of JAX and TensorFlow.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(function,))

    def mapped(jobs: Iterable[T]) -> Iterator[U]:
        pending: deque[Future[U]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_call, job))
                if len(pending) > 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process was killed, perhaps for lack of memory: "
                "rerun the same command with fewer --workers to resume"
            ) from error

    try:
        yield mapped
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Prepares a worker process: it ignores Ctrl-C, which its parent handles, and ends when its parent ends."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _call(job: Any) -> Any:
    return _function(job)
