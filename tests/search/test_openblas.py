"""The kernels of faiss's OpenBLAS: which are chosen, and that they are used in this process alone."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.search import openblas
from sscd_jax.search.faiss_backend import import_faiss
from sscd_jax.search.openblas import CORE_TYPES, VARIABLE, X86_64_V3, X86_64_V4, core_type, cpu_features

OLD = {"sse2", "ssse3", "sse4_1", "sse4_2", "avx"}


@pytest.mark.parametrize(
    ("features", "chosen", "machine", "expected"),
    [
        (X86_64_V4 | OLD, "Prescott", "x86_64", "SkylakeX"),  # Sapphire Rapids
        (X86_64_V4 | OLD, "Barcelona", "x86_64", "SkylakeX"),  # Zen 5
        (X86_64_V3 | OLD, "Prescott", "x86_64", "Haswell"),  # Alder Lake
        (X86_64_V4 - {"avx512vl"}, "Prescott", "x86_64", "Haswell"),
        (X86_64_V4 - {"fma"}, "Prescott", "x86_64", None),
        (X86_64_V3 - {"avx2"}, "Prescott", "x86_64", None),
        (OLD, "Sandybridge", "x86_64", None),
        (set(), "Nehalem", "x86_64", None),
        (X86_64_V4, "Zen", "x86_64", None),  # these are known
        (X86_64_V4, "Haswell", "x86_64", None),
        (X86_64_V4, "SkylakeX", "x86_64", None),
        (X86_64_V4, "Cooperlake", "x86_64", None),
        (X86_64_V4, "of the future", "x86_64", None),
        ({"asimd", "sve"}, "armv8", "aarch64", None),
        (X86_64_V4, "Prescott", "i686", None),
    ],
)
def test_core_type(features, chosen, machine, expected):
    assert core_type(features, chosen, machine) == expected


def test_features_are_read_as_linux_writes_them(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t\t: none\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_features(path) == {"fpu", "avx2", "fma"}
    path.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_features(path) == set()
    assert cpu_features(tmp_path / "none") == set()


# What a process prints that searches for the first time. Numpy, whose OpenBLAS is another, is imported before.
PROGRAM = """
import ctypes, json, os, subprocess, sys
import numpy as np
from pathlib import Path
from sscd_jax.search import openblas
from sscd_jax.search.faiss_backend import openblas_files
from sscd_jax.search.knn import knn

{before}
rng = np.random.default_rng(0)
queries, references = (rng.standard_normal((n, 64), np.float32) for n in (50, 300))
def numpys():
    paths = Path(np.__file__).parents[1].glob("numpy.libs/libscipy_openblas64_*.so")
    found = [openblas.loaded(path).scipy_openblas_get_corename64_ for path in paths]
    for name in found:
        name.restype = ctypes.c_char_p
    return [name().decode() for name in found]
numpy_before = numpys()
indexes = knn(queries, references, 1, "inner_product", backend="faiss")[1]
import faiss
child = [sys.executable, "-c", "import os; print(os.environ.get('OPENBLAS_CORETYPE'))"]
print(json.dumps({{
    "variable": os.environ.get("OPENBLAS_CORETYPE"),
    "of a child": subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip(),
    "core": [openblas.core_name(openblas.loaded(path)) for path in openblas_files(faiss)],
    "numpy": [numpy_before, numpys()],
    "is right": bool((indexes[:, 0] == (queries @ references.T).argmax(1)).all()),
}}))
"""
# OpenBLAS chooses so for a processor that it does not know.
AS_UNKNOWN = """
import importlib.util
folder = importlib.util.find_spec("faiss").submodule_search_locations[0]
os.environ["OPENBLAS_CORETYPE"] = "Prescott"
ctypes.CDLL(folder + "/libfaiss.so")
del os.environ["OPENBLAS_CORETYPE"]
"""


def first_search(before: str = "", **environment: str) -> tuple[dict, str]:
    """Returns what PROGRAM prints, and its standard error."""
    env = {name: value for name, value in os.environ.items() if name != VARIABLE} | environment
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout), done.stderr


def bundled() -> list[Path]:
    folder = Path(importlib.util.find_spec("faiss").submodule_search_locations[0])
    return list(folder.parent.glob("faiss_cpu.libs/libopenblas*.so*")) if (folder / "libfaiss.so").exists() else []


def fast() -> str | None:
    """Returns what an OpenBLAS that does not know this processor should use."""
    return core_type(cpu_features(), "Prescott", platform.machine())


needs_bundled = pytest.mark.skipif(not bundled(), reason="faiss has no OpenBLAS of its own here")
needs_fast = pytest.mark.skipif(fast() is None, reason="this processor has no AVX2, or is none of x86-64")


@needs_bundled
@needs_fast
def test_an_unknown_processor_gets_fast_kernels_in_this_process_alone():
    seen, errors = first_search(AS_UNKNOWN)
    assert (seen["variable"], seen["of a child"], seen["core"]) == (None, "None", [fast()])
    assert seen["numpy"][0] == seen["numpy"][1]
    assert seen["is right"]
    assert VARIABLE not in errors


@pytest.mark.slow
@needs_bundled
def test_this_processor_has_the_fast_kernels_or_those_of_a_known_one():
    own, _ = first_search("import faiss")  # before us
    seen, _ = first_search()
    expected = core_type(cpu_features(), own["core"][0], platform.machine()) or own["core"][0]
    assert (seen["variable"], seen["core"], seen["is right"]) == (None, [expected], True)


@pytest.mark.slow
@needs_bundled
@needs_fast
def test_the_users_choice_is_kept():
    seen, _ = first_search(OPENBLAS_CORETYPE="Nehalem")
    assert (seen["variable"], seen["of a child"], seen["core"]) == ("Nehalem", "Nehalem", ["Nehalem"])


@pytest.mark.slow
@needs_bundled
@needs_fast
def test_a_faiss_that_is_in_use_is_left_alone():
    seen, _ = first_search(AS_UNKNOWN + "import faiss")
    assert seen["core"] == ["Prescott"]


@pytest.mark.slow
@needs_bundled
@needs_fast
def test_wrong_products_bring_its_own_choice_back():
    own, _ = first_search("import faiss")
    wrong = "product = openblas.product\nopenblas.product = lambda *given: product(*given) + 1"
    seen, errors = first_search(AS_UNKNOWN + wrong)
    assert (seen["variable"], seen["core"], seen["is right"]) == (None, own["core"], True)
    assert f"multiplies wrongly with its kernels for {fast()}" in errors


@needs_bundled
def test_product_is_that_of_the_library():
    import_faiss()
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((33, 70), np.float32), rng.standard_normal((20, 70), np.float32)
    library = openblas.loaded(bundled()[0])
    np.testing.assert_allclose(openblas.product(library, one, other), one @ other.T, atol=1e-4)
    assert openblas.multiplies(library)


def test_libraries_without_these_functions_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    openblas.use_fast_kernels(tmp_path / "libopenblas.so")  # not loaded
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc" in line)
    assert openblas.loaded(libc) is not None
    openblas.use_fast_kernels(libc)
    assert VARIABLE not in os.environ


def test_what_is_forced_is_what_the_kernels_need():
    assert all(CORE_TYPES[name] >= {"avx2", "fma"} for name in CORE_TYPES)
    assert CORE_TYPES["SkylakeX"] >= {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}
