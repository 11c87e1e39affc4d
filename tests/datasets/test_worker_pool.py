"""Results come in order, jobs are taken as they are needed, and a killed process is an error that says what to do."""

import os
import signal

import pytest

from sscd_jax.datasets.worker_pool import ordered_map


def kill_on_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order_and_jobs_are_lazy(workers):
    taken = []

    def jobs():
        for number in range(-40, 0):
            taken.append(number)
            yield number

    with ordered_map(abs, workers) as mapped:
        results = mapped(jobs())
        assert next(results) == 40
        assert len(taken) <= 4 * workers + 1
        assert list(results) == list(range(39, 0, -1))


def test_a_killed_process_is_an_error_that_says_what_to_do():
    with (
        pytest.raises(OSError, match=r"a worker process was killed.*fewer --workers to resume"),
        ordered_map(kill_on_seven, 2) as mapped,
    ):
        list(mapped(range(20)))
