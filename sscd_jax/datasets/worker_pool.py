"""A pool of processes that work on images."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


U = TypeVar("U")

_function: Callable[[Any], Any]


@contextmanager
def processes(function: Callable[[T], U], workers: int) -> Iterator[Callable[[Iterable[T]], Iterator[U]]]:
    """Gives a `map` whose results come in order, by so many processes; by this one alone where it is one."""
    if workers == 1:
        yield partial(map, function)
        return
    # Not forked: JAX and TensorFlow, which this process may have imported, have threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(function,))

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
            message = "one of the processes was killed, for lack of memory perhaps: take fewer --workers"
            raise OSError(f"{message}; the same command goes on") from error

    try:
        yield mapped
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any], Any]) -> None:
    """Of a process: Ctrl-C is for its parent to handle, and without the parent it ends."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes of a pool come here"
    parent.join()
    os._exit(1)


def _call(job: Any) -> Any:
    return _function(job)
