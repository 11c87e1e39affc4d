"""What a measurement loads, and when."""

import subprocess
import sys

HEAVY = ("jax", "flax", "tensorflow", "faiss", "matplotlib", "jinja2")


def test_measuring_loads_no_heavy_library_before_a_search_begins():
    modules = [f"sscd_jax.evaluation.{name}" for name in ("disc", "copydays", "run", "results", "compare")]
    code = f"import sys, {', '.join(modules)}, sscd_jax.evaluation.fit_calibration; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sscd_jax.evaluation.run" in loaded
    assert not loaded & {*HEAVY}
