"""A trace of some steps."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from sscd_jax.training.profiling import Profile


@pytest.mark.parametrize("last", [9, 5])
def test_the_trace_has_the_steps_that_are_asked_for(last, tmp_path, capfd):
    """Also where the run ends in the middle of it."""
    with Profile(tmp_path / "profile", first=4, steps=3) as profile:
        for step in range(1, last + 1):
            profile.at(step)
            with jax.profiler.TraceAnnotation(f"number{step}"):
                jnp.ones(8).sum().block_until_ready()
    (perfetto,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {f"number{step}" for step in range(1, 10)} & names == {
        f"number{step}" for step in range(4, min(6, last) + 1)
    }
    assert list((tmp_path / "profile").rglob("*.xplane.pb")), "for TensorBoard"
    assert "tensorboard --logdir" in capfd.readouterr().err


def test_a_run_that_ends_before_it_says_so(tmp_path, capfd):
    with Profile(tmp_path / "profile", first=4, steps=3) as profile:
        for step in range(1, 4):
            profile.at(step)
    assert not list(tmp_path.iterdir())
    assert "no trace was written: the run ended before step 4" in capfd.readouterr().err


def test_none(tmp_path):
    with Profile(tmp_path / "profile", first=4, steps=0) as profile:
        for step in range(1, 9):
            profile.at(step)
    assert not list(tmp_path.iterdir())
