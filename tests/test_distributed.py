"""The processes of a job, and workarounds that the installed version of JAX needs."""

import os
import shutil
import socket
import subprocess
import sys

import jax
import jaxlib
import pytest
from helpers.processes import two_processes

from sscd_jax import distributed

# Two processes that do not train: all that they compile takes a moment.
DIFFER = """
import sys
from sscd_jax import distributed
distributed.start()
distributed.join_processes_if_any(sys.argv[1], 2, int(sys.argv[2]))
assert distributed.has_other_processes()
assert distributed.is_first_process() == (sys.argv[2] == "0")
distributed.check_same_on_all_processes({"seed": "0", "steps": "1"})
distributed.finish_together()
try:
    distributed.check_same_on_all_processes({"seed": "0", "steps": sys.argv[2], "images": sys.argv[2]})
except ValueError as error:
    print(error)
"""
# The same on a machine whose name has no address, within `unshare --uts`.
NAMELESS = """
import socket, sys
socket.sethostname("no-such-host.invalid")
from sscd_jax import distributed
if sys.argv[3] == "without":
    distributed._give_gloo_an_address = lambda: None
"""
CONVOLUTION = """
import jax, jax.numpy as jnp
from sscd_jax import distributed
def apply(x, kernel):
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order).sum((0, 1))
print(jax.jit(apply).lower(jnp.ones((8, 56, 56, 64)), jnp.ones((3, 3, 64, 64))).compile().as_text())
"""


def test_what_differs_between_processes_is_named_in_each():
    for status, output, errors in two_processes(DIFFER):
        assert status == 0, errors
        assert "the processes of this run differ in steps, images: start all" in output


@pytest.fixture(scope="module")
def uts() -> tuple[str, ...]:
    """The command that gives a process a host name of its own."""
    for command in (("unshare", "--uts"), ("unshare", "--map-root-user", "--uts")):
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("this machine allows no name spaces, so that a process cannot have a host name of its own")


@pytest.mark.slow
def test_a_machine_whose_name_has_no_address(uts):
    for status, output, errors in two_processes(NAMELESS + DIFFER, "with", before=uts):
        assert status == 0, errors
        assert "differ in steps" in output


@pytest.mark.slow
def test_gloo_needs_an_address(uts):
    """The need for `_give_gloo_an_address`."""
    for status, _, errors in two_processes(NAMELESS + DIFFER, "without", before=uts):
        assert status != 0, "gloo finds its address itself by now: remove distributed._give_gloo_an_address"
        assert "gloo/transport/tcp/device.cc" in errors, errors


@pytest.mark.slow
def test_xla_fuses_for_ynnpack_unless_told_not_to():
    """The need for `_turn_off_ynn_fusion`."""

    def compiled(code: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        return done.stdout

    assert jaxlib.__version__ in distributed._YNN_FUSION, (
        f"does jaxlib {jaxlib.__version__} know the flag, and is a network faster with it? "
        "scripts/benchmarks/layers.py measures it; then add the version to distributed._YNN_FUSION"
    )
    assert "__ynn_fusion" in compiled(CONVOLUTION), (
        "XLA does not fuse for YNNPACK by now: remove distributed._turn_off_ynn_fusion"
    )
    assert "__ynn_fusion" not in compiled(CONVOLUTION.replace("\ndef", "\ndistributed.start()\ndef"))


def test_the_address_towards_a_coordinator():
    assert distributed._address_towards("127.0.0.1:1234") == "127.0.0.1"
    with socket.create_server(("localhost", 0)) as server:
        assert distributed._address_towards(f"localhost:{server.getsockname()[1]}") in ("127.0.0.1", "::1")


def test_a_coordinator_without_a_port_is_refused():
    with pytest.raises(ValueError, match="--coordinator nohost: its port is missing"):
        distributed.join_processes_if_any("nohost", 2, 0)


def test_what_does_not_go_together_is_refused():
    for coordinator, count, index in (("localhost:1", None, 0), (None, 2, 0), ("localhost:1", 2, 2)):
        with pytest.raises(ValueError, match="give all three"):
            distributed.join_processes_if_any(coordinator, count, index)


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag=1")
    cache = jax.config.values["jax_compilation_cache_dir"]
    yield
    jax.config.update("jax_compilation_cache_dir", cache)


def test_start_keeps_what_the_user_set(settings, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "mine")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    distributed.start()
    distributed.start()
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "3"
    assert jax.config.values["jax_compilation_cache_dir"] == "mine"
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_some_flag=1"
    assert len(flags) == len(set(flags))
    monkeypatch.setattr(jaxlib, "__version__", "0.0.1")
    monkeypatch.setenv("XLA_FLAGS", "")
    distributed.start()
    assert os.environ["XLA_FLAGS"] == "", "a flag that this version may not know would abort the process"
