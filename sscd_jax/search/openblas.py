"""Gives new processors the fast kernels of the OpenBLAS that faiss's wheel brings.

This OpenBLAS (0.3.15 of 2021 in faiss-cpu 1.15.1, for x86-64) chooses its kernels when it is loaded, by the family and
model of the processor. For one that it does not know it takes those of an old processor, without AVX, whatever the
processor can do (get_coretype in its driver/others/dynamic.c). The environment variable OPENBLAS_CORETYPE names others;
OpenBLAS reads it each time that it chooses. Here it is asked what it has chosen, and made to choose again, before its
first product.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Set
from pathlib import Path

import numpy as np

VARIABLE = "OPENBLAS_CORETYPE"
FUNCTIONS = ("openblas_get_corename", "gotoblas_dynamic_quit", "gotoblas_dynamic_init", "cblas_sgemm")
# Chosen for processors without AVX2, and for those that OpenBLAS does not know: Prescott, or Barcelona for AMD's.
WITHOUT_AVX2 = {
    "Atom", "Barcelona", "Bobcat", "Core2", "Dunnington", "Nano", "Nehalem", "Opteron", "Opteron_SSE3", "Penryn",
    "Prescott", "Sandybridge",
}  # fmt: skip
X86_64_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}  # as Linux names them; abm has lzcnt
X86_64_V4 = X86_64_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
CORE_TYPES = {"SkylakeX": X86_64_V4, "Haswell": X86_64_V3}  # from fast to slow: what their kernels are compiled for
ROW_MAJOR, AS_IS, TRANSPOSED = 101, 111, 112  # of cblas.h


def core_type(features: Set[str], chosen: str, machine: str) -> str | None:
    """Returns the core type whose kernels OpenBLAS should use, or None if its own choice is right.

    Args:
        features: the instruction sets of the processor, as in /proc/cpuinfo.
        chosen: the core type that OpenBLAS has chosen.
        machine: the architecture, as `platform.machine` names it.
    """
    if machine != "x86_64" or chosen not in WITHOUT_AVX2:
        return None
    return next((name for name, needed in CORE_TYPES.items() if needed <= features), None)


def cpu_features(path: str | os.PathLike[str] = "/proc/cpuinfo") -> set[str]:
    """Returns the instruction sets that the processor has and the system supports; none if Linux does not say."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def use_fast_kernels(path: str | os.PathLike[str]) -> None:
    """Makes an OpenBLAS use the fastest kernels of this processor, if it has chosen those of an old one.

    Nothing is changed if the user has set OPENBLAS_CORETYPE. No product may be under way in this library. If the fast
    kernels multiply wrongly, the function says so and returns to OpenBLAS's own choice.

    Args:
        path: the file of the library. Nothing is done if this process has not loaded it.
    """
    if VARIABLE in os.environ or sys.platform != "linux":
        return
    library = loaded(path)
    if library is None or not all(hasattr(library, name) for name in FUNCTIONS):
        return
    chosen = core_name(library)
    fast = core_type(cpu_features(), chosen, platform.machine())
    if fast is None:
        return
    choose(library, fast)
    if not multiplies(library):
        choose(library, None)
        print(
            f"OpenBLAS multiplies wrongly with its kernels for {fast}: faiss uses the slower ones for {chosen}. "
            f"{VARIABLE}={chosen} in the environment avoids this check",
            file=sys.stderr,
        )


def loaded(path: str | os.PathLike[str]) -> ctypes.CDLL | None:
    """Returns a library that this process has loaded, or None if it has not."""
    try:
        return ctypes.CDLL(os.fspath(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None


def core_name(library: ctypes.CDLL) -> str:
    """Returns the core type whose kernels an OpenBLAS uses."""
    name = library.openblas_get_corename
    name.restype = ctypes.c_char_p
    return name().decode()


def choose(library: ctypes.CDLL, core: str | None) -> None:
    """Makes an OpenBLAS use the kernels for a core type, or for None those that it chooses itself.

    It reads the environment of this process, which has the variable for this moment only: neither processes that are
    started later nor other libraries' OpenBLAS are affected.
    """
    library.gotoblas_dynamic_quit()  # it forgets its choice, and nothing else
    if core is not None:
        os.environ[VARIABLE] = core
    try:
        library.gotoblas_dynamic_init()
    finally:
        os.environ.pop(VARIABLE, None)


def multiplies(library: ctypes.CDLL) -> bool:
    """Returns whether the products of an OpenBLAS are those of numpy, for sizes that need whole and partial tiles."""
    rng = np.random.default_rng(0)
    for rows, columns, inner in ((1, 1, 1), (7, 5, 3), (129, 263, 512), (64, 1031, 77)):
        one = rng.standard_normal((rows, inner), np.float32)
        other = rng.standard_normal((columns, inner), np.float32)
        if not np.allclose(product(library, one, other), one @ other.T, rtol=1e-4, atol=1e-3):
            return False
    return True


def product(library: ctypes.CDLL, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns one @ other.T by an OpenBLAS, float32 [N, M], of C-contiguous float32 arrays [N, D] and [M, D]."""
    (n, d), m = one.shape, len(other)
    result = np.full((n, m), np.nan, np.float32)
    whole, real = ctypes.c_long, ctypes.c_float  # on x86-64, a long is also read rightly as an int
    library.cblas_sgemm(
        *(whole(value) for value in (ROW_MAJOR, AS_IS, TRANSPOSED, n, m, d)),
        *(real(1), ctypes.c_void_p(one.ctypes.data), whole(d), ctypes.c_void_p(other.ctypes.data), whole(d)),
        *(real(0), ctypes.c_void_p(result.ctypes.data), whole(m)),
    )
    return result
