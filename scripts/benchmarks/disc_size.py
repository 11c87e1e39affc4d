"""Measures an evaluation of DISC2021's size: 50,000 queries, 1,000,000 references and training images, 512 dims.

    python scripts/benchmarks/disc_size.py [--queries 50000] [--references 1000000]

It writes random vectors of unequal variance with planted copies to disk and runs the command `sscd-jax evaluate disc`
on them with whitening, and without and with score normalization. It prints the time and the peak memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sscd_jax.descriptors import Descriptors
from sscd_jax.provenance import Provenance

DIMS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=50_000, help="number of queries (default %(default)s)")
    parser.add_argument("--references", type=int, default=1_000_000, help="number of references (default %(default)s)")
    parser.add_argument(
        "--training", type=int, default=1_000_000, help="number of training images (default %(default)s)"
    )
    parser.add_argument(
        "--candidates", default="per_query", help="rule for candidates, per_query or global (default %(default)s)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        scale = np.linspace(0.5, 1.5, DIMS, dtype=np.float32)
        references = unit(rng.standard_normal((given.references, DIMS), np.float32) * scale)
        copied = rng.integers(0, given.references, given.queries // 5)
        queries = rng.standard_normal((given.queries, DIMS), np.float32) * scale
        noise = rng.uniform(1, 6, (len(copied), 1)).astype(np.float32)
        queries[: len(copied)] = references[copied] * np.sqrt(DIMS) + noise * queries[: len(copied)]
        training = unit(rng.standard_normal((given.training, DIMS), np.float32) * scale)
        for part, vectors in (("queries", unit(queries)), ("references", references), ("training", training)):
            ids = [f"{part[0]}{i}" for i in range(len(vectors))]
            Descriptors(ids, vectors, Provenance("random", "none")).write(folder / part)
        truth = folder / "truth.csv"
        pairs = (f"q{i},r{row}\n" for i, row in enumerate(copied.tolist()))
        truth.write_text("query_id,reference_id\n" + "".join(pairs))
        del references, queries, training, vectors

        sets = [text for part in ("queries", "references", "training") for text in (f"--{part}", str(folder / part))]
        command = [sys.executable, "-c", "from sscd_jax.cli.main import main; main()", "evaluate", "disc", *sets]
        command += [
            "--ground-truth",
            str(truth),
            "--codecs",
            f"PCAW{DIMS},L2norm,Flat",
            "--candidates",
            given.candidates,
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    counts = f"{given.queries} queries, {given.references} references, {given.training} training"
    print(f"{counts}: {seconds:.0f} s, {peak:.1f} GiB")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
