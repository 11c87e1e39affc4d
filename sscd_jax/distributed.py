"""The processes of a job: start-up, finding one another, and ending together."""

import contextlib
import hashlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import jaxlib
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.backend import register_backend_factory

from sscd_jax.files import cache_folder

# One that is done before the others waits for them at its end, however long: JAX would end them all.
_SHUTDOWN = 30 * 24 * 3600


# An unknown XLA flag aborts the process: only versions on which the flag was tried.
_CPU_FLAGS = {"0.10.2": "--xla_cpu_experimental_ynn_fusion_type="}


def start() -> None:
    """Sets what must be set before the first computation of a process.

    On the CPU, one fusion pass of XLA makes convolutions slower; it is turned off (scripts/benchmarks/layers.py).
    Compiled programs are kept in ~/.cache/sscd_jax/compiled, or where JAX_COMPILATION_CACHE_DIR says.
    TensorFlow prepares images side by side, each on one thread: to share an operation out costs more than it gains
    (scripts/benchmarks/device_augment.py).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow is imported later; errors still show.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))
    flag = _CPU_FLAGS.get(jaxlib.__version__)
    flags = os.environ.get("XLA_FLAGS", "")
    if flag and flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def join_hosts() -> None:
    """Joins the processes of a TPU pod, or of a SLURM or Open MPI job, so that each knows its number among them.

    Raises:
        ValueError: JAX finds no such job.
    """
    try:
        _join()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"JAX finds no TPU pod, SLURM or Open MPI job that this process is of: {error}") from error


def join_hosts_if_any(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """The same where there is such a job, or a coordinator is given; else this process is alone.

    Args:
        coordinator: HOST:PORT of process 0, for jobs that JAX does not know; then the others are needed too.
        count, index: how many processes there are, and which this is.

    Raises:
        ValueError: the three do not go together, or the others do not answer.
    """
    if (coordinator, count, index) != (None, None, None):
        if coordinator is None or count is None or index is None or not 0 <= index < count:
            raise ValueError(
                f"--coordinator {coordinator}, --processes {count}, --process {index}: give all three, as "
                "--coordinator HOST:1234 --processes 2 --process 0, with each number below that of the processes once"
            )
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"--coordinator {coordinator}: its port is missing, as HOST:1234")
        try:
            with _said_if_late(
                f"process {index} of {count} still waits for the others at {coordinator}; are all started?"
            ):
                _join(coordinator, count, index)
        except RuntimeError as error:
            raise ValueError(f"process {index} of {count} cannot join the others at {coordinator}: {error}") from error
        return
    try:
        _join()
    except ValueError:  # no pod, no SLURM, no Open MPI
        return
    except RuntimeError as error:
        if "before any JAX" not in str(error):
            raise ValueError(f"this process cannot join the others of its job: {error}") from error
        # A program that has computed before it trains: it is alone, or has joined the others itself.


def _join(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=_SHUTDOWN)
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:  # as in many containers
        if jax.config.values["jax_cpu_collectives_implementation"] == "gloo":  # not where somebody chose MPI
            _give_gloo_an_address()


def _give_gloo_an_address() -> None:
    """Gloo, by which CPU devices talk, else looks this machine's name up; JAX has no option for it."""
    from jax._src import distributed, xla_bridge
    from jax._src.lib import _jax

    job = distributed.global_state
    address = _address_towards(str(job.coordinator_address))

    def create_client() -> Any:
        gloo = _jax.make_gloo_tcp_collectives(distributed_client=job.client, hostname=address)
        return xla_bridge.make_cpu_client(gloo)

    register_backend_factory("cpu", create_client, fail_quietly=False)


def _address_towards(coordinator: str) -> str:
    """This machine's address on the way there, where the others find it too; nothing is sent."""
    host, port = coordinator.rsplit(":", 1)
    family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as route:
        route.connect(address)
        return route.getsockname()[0]


@contextlib.contextmanager
def _said_if_late(message: str) -> Iterator[None]:
    """Says so after half a minute: after five JAX ends the process by a stack of C++."""
    timer = threading.Timer(30, print, [message], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def has_other_hosts() -> bool:
    """Whether this process is one of several; may be asked before the first computation."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first_host() -> bool:
    """Whether this process writes what must be written once."""
    return jax.process_index() == 0


def end(status: int) -> NoReturn:
    """Ends this process after an error.

    One of several ends at once: to say goodbye to the others it would wait for them, and they for its part of the sum
    that they compute. They notice that it is gone, and end too.
    """
    if has_other_hosts():
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def finish_together() -> None:
    """Waits until all processes are here, so that what the first wrote is there."""
    if has_other_hosts():
        multihost_utils.sync_global_devices("finish_together")


def check_same_on_all_hosts(values: Mapping[str, str]) -> None:
    """Raises ValueError in every process where they have not the same values; names those."""
    digests = [
        np.frombuffer(hashlib.sha256(value.encode("utf-8", "replace")).digest(), np.uint8) for value in values.values()
    ]
    of_all = multihost_utils.process_allgather(np.stack(digests))  # [hosts, values, 32]
    same = (of_all == of_all[0]).all(axis=(0, 2))
    if different := [name for name, is_same in zip(values, same, strict=True) if not is_same]:
        raise ValueError(
            f"the processes of this run differ in {', '.join(different)}: "
            "start all with the same recipe, options and images"
        )
