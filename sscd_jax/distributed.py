"""The processes of a job: their start, how they find one another, and how they end together.

A process is what JAX calls one: a Python program with some of the devices. A pod or cluster runs one on each of its
machines, or one for each GPU.
"""

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

# Seconds that a finished process waits for the others. After that, JAX ends all processes.
_SHUTDOWN = 30 * 24 * 3600


def start() -> None:
    """Sets what must be set before the first computation of a process; what the user has set is kept.

    Compiled programs are stored in ~/.cache/sscd_jax/compiled, or where JAX_COMPILATION_CACHE_DIR says. TensorFlow
    prepares many images at once, each on one thread: splitting one operation over threads costs more than it saves
    (scripts/benchmarks/device_augment.py). On CPUs one fusion pass of XLA is turned off.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow is imported later; errors are still shown
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))
    _turn_off_ynn_fusion()


def join_processes_if_any(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Joins the other processes of a job, so that each knows its index; otherwise this process is alone.

    JAX finds the processes of TPU pods, Slurm and Open MPI itself. For other jobs a coordinator is given.

    Args:
        coordinator: HOST:PORT of process 0, for jobs that JAX does not know; `count` and `index` are then required.
        count: the number of processes.
        index: the index of this process, from 0.

    Raises:
        ValueError: the three arguments do not go together, or the other processes do not answer.
    """
    if (coordinator, count, index) != (None, None, None):
        if coordinator is None or count is None or index is None or not 0 <= index < count:
            raise ValueError(
                f"--coordinator {coordinator}, --processes {count}, --process {index}: give all three, such as "
                "--coordinator HOST:1234 --processes 2 --process 0, where each process has another index, from 0"
            )
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"--coordinator {coordinator}: its port is missing; give HOST:PORT, such as host0:1234")
        try:
            with _said_if_late(
                f"process {index} of {count} is still waiting for the others at {coordinator}; are all started?"
            ):
                _join(coordinator, count, index)
        except RuntimeError as error:
            raise ValueError(f"process {index} of {count} cannot join the others at {coordinator}: {error}") from error
        return
    try:
        _join()
    except ValueError:  # no pod, no Slurm, no Open MPI
        return
    except RuntimeError as error:
        if "before any JAX" not in str(error):
            raise ValueError(f"this process cannot join the others of its job: {error}") from error
        # A program that has computed before it trains is alone, or has joined the others itself.


def _join(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=_SHUTDOWN)
    _give_gloo_an_address()


@contextlib.contextmanager
def _said_if_late(message: str) -> Iterator[None]:
    """Prints the message after 30 seconds; after 5 minutes JAX ends the process with a stack trace of C++."""
    timer = threading.Timer(30, print, [message], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def has_other_processes() -> bool:
    """Returns whether this process is one of several; this may be called before the first computation."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first_process() -> bool:
    """Returns whether this is the process that writes what must be written once."""
    return jax.process_index() == 0


def end(status: int) -> NoReturn:
    """Ends this process after an error.

    With several processes it ends without a clean shutdown, which would deadlock in the pending all-reduce. The other
    processes notice that it is gone, and end too.
    """
    if has_other_processes():
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def finish_together() -> None:
    """Waits for all processes to arrive here, so that what the first one wrote is complete."""
    if has_other_processes():
        multihost_utils.sync_global_devices("finish_together")


def check_same_on_all_processes(values: Mapping[str, str]) -> None:
    """Checks that all processes have the same values; all of them must call this.

    Args:
        values: name -> value, with the same names in all processes.

    Raises:
        ValueError: a value differs; raised in every process, and names those that differ.
    """
    digests = [
        np.frombuffer(hashlib.sha256(value.encode("utf-8", "replace")).digest(), np.uint8) for value in values.values()
    ]
    of_all = multihost_utils.process_allgather(np.stack(digests))  # [processes, values, 32]
    same = (of_all == of_all[0]).all(axis=(0, 2))
    if different := [name for name, is_same in zip(values, same, strict=True) if not is_same]:
        raise ValueError(
            f"the processes of this run differ in {', '.join(different)}: "
            "start all with the same recipe, options and images"
        )


# ---- Workarounds, needed with jax 0.10.2; look again at the next version. tests/test_distributed.py shows the need for
# each and fails once it is gone.

# The versions of jaxlib on which the flag was tried: XLA aborts the process on a flag that it does not know.
_YNN_FUSION = {"0.10.2": "--xla_cpu_experimental_ynn_fusion_type="}


def _turn_off_ynn_fusion() -> None:
    """Turns off the fusion by YNNPACK, a library of CPU kernels, which makes convolutions slower on XLA:CPU.

    scripts/benchmarks/layers.py measures by how much.
    """
    flag = _YNN_FUSION.get(jaxlib.__version__)
    flags = os.environ.get("XLA_FLAGS", "")
    if flag and flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def _give_gloo_an_address() -> None:
    """Gives gloo the address of this machine where its host name has none, as in many containers.

    Gloo, through which the CPU devices of several processes communicate, looks the host name up and fails. JAX has an
    option for the address in its private functions only.
    """
    try:
        socket.getaddrinfo(socket.gethostname(), None)
        return
    except OSError:
        if jax.config.values["jax_cpu_collectives_implementation"] != "gloo":  # the user chose MPI
            return
    from jax._src import distributed, xla_bridge
    from jax._src.lib import _jax

    job = distributed.global_state
    address = _address_towards(str(job.coordinator_address))

    def create_client() -> Any:
        gloo = _jax.make_gloo_tcp_collectives(distributed_client=job.client, hostname=address)
        return xla_bridge.make_cpu_client(gloo)

    register_backend_factory("cpu", create_client, fail_quietly=False)


def _address_towards(coordinator: str) -> str:
    """Returns the address of this machine on the route to the coordinator, where the other processes find it too.

    Connecting a datagram socket chooses the route and sends nothing.
    """
    host, port = coordinator.rsplit(":", 1)
    family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as route:
        route.connect(address)
        return route.getsockname()[0]
