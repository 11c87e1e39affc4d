"""A campaign of faults: embed, export, calibrate and evaluate are killed, disturbed and run twice at once.

    python scripts/faults.py --runs 200

A run embeds a small collection into a new folder by up to six attempts that are disturbed, and one that is not. Then it
exports, calibrates and evaluates in the same way. Disturbances are kills at a random operation on a file or at a random
time, a full disk, errors of reading and writing, reads that return less than was asked for, jumps of the clock, and a
second process that does the same at the same time. Afterwards every descriptor must be that of its own image, every
output must be complete, and files of others must be as they were. The script prints what happened, and ends with status
1 if anything was lost or mixed up.
"""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

IMAGES = 48
ATTEMPTS = {"embed": 6, "export": 2, "calibrate": 2, "evaluate": 2}  # the largest number of disturbed ones
DISTURBANCES = (
    *("kill", "kill later", "full disk", "error of writing"),
    *("error of reading", "short reads", "clock", "two"),
)


@dataclass(frozen=True)
class Disturbance:
    """What happens to an attempt: the kind, and the number of the operation on a file at which it happens."""

    kind: str
    at: int


def collection(folder: Path) -> None:
    """Makes images that all differ: files, and a tar file of them."""
    import tarfile

    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    for number in range(IMAGES):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((64 + number % 5, 48), Image.Resampling.BICUBIC)
        image.save(folder / "photos" / f"{number:03d}.png")
    with tarfile.open(folder / "photos" / "packed.tar", "w") as archive:
        for number in range(0, IMAGES, 2):
            archive.add(path := folder / "photos" / f"{number:03d}.png", path.name)
            path.unlink()


def network() -> tuple[Any, Any]:
    """Returns a narrow network with random weights, the same in every process."""
    import jax

    from sscd_jax.models import build_model

    model = build_model("resnet18", 16, width=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [np.abs(rng.normal(1, 0.1, x.shape)) if len(x.shape) == 1 else rng.normal(0, 0.1, x.shape) for x in leaves]
    return model, jax.tree.unflatten(tree, [x.astype(np.float32) for x in drawn])


def work(step: str, folder: Path) -> None:
    """Does one step, as its command does."""
    from sscd_jax.data import failed_reads
    from sscd_jax.data.sources import open_source
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.embedding import compute
    from sscd_jax.embedding.collection import write_descriptors
    from sscd_jax.embedding.export import export_descriptors
    from sscd_jax.evaluation import results, run
    from sscd_jax.evaluation.fit_calibration import calibrate_by_rate
    from sscd_jax.presets import Preset

    out = folder / "out"
    if step == "embed":
        compute.SAVE_SECONDS, failed_reads.LONGEST_WAIT = 0.0, 0.01
        source = open_source(str(folder / "photos"))
        write_descriptors(*network(), source, Preset("skew", 32), out, batch_size=8, shard_size=10)
    elif step == "export":
        export_descriptors(out, folder / "all.npy")
    elif step == "calibrate":
        fitted = calibrate_by_rate(Descriptors.read(out), rate=0.2, method="center", score_norm=None)
        fitted.write(folder / "calibration.npz")
    else:
        read = Descriptors.read(out)
        truth = [(one, one) for one in read.ids[:9]]
        options: dict[str, Any] = {"codecs": ["Flat"], "score_norms": [None], "k": 3, "rules": ["per_query"]}
        evaluation = run.evaluate_disc(read, read, None, truth, bootstrap=0, **options)
        results.write(folder / "evaluation.json", evaluation)


def disturb(disturbance: Disturbance, seed: int) -> None:
    """Makes the operations of this process on files fail, once or now and then."""
    from sscd_jax.data import image_source, storage

    rng, count = random.Random(seed), iter(range(10**9))

    def wrapped(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            hit = next(count) == disturbance.at
            if hit and disturbance.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if hit and disturbance.kind in ("full disk", "error of writing"):
                code = errno.ENOSPC if disturbance.kind == "full disk" else errno.EIO
                raise OSError(code, os.strerror(code))
            return operation(*args, **kwargs)

        return run

    for name in ("replace", "link", "unlink", "rename", "fsync", "mkdir"):
        setattr(os, name, wrapped(getattr(os, name)))
    if disturbance.kind == "kill later":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.05, 3))
    if disturbance.kind == "error of reading":
        read = image_source.read_file

        def fails(path: str, *args: Any) -> bytes:
            if rng.random() < 0.3:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return read(path, *args)

        image_source.read_file = fails  # type: ignore[assignment]  # it is called with a path alone
    if disturbance.kind == "short reads":

        class Short:
            """A file without a buffer, whose reads may return less than was asked for, as the system allows."""

            def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
                self.file = open(path, *args, **kwargs)  # noqa: SIM115  (closed by __exit__)

            def __enter__(self) -> "Short":
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

            def read(self, size: int = -1) -> bytes:
                return self.file.read(size if size < 2 or rng.random() < 0.5 else rng.randrange(1, size))

        def opened(path: str, *args: Any, **kwargs: Any) -> Any:
            return Short(path, *args, **kwargs) if kwargs.get("buffering") == 0 else open(path, *args, **kwargs)

        storage.open = opened  # type: ignore[attr-defined]  # it hides the built-in function
    if disturbance.kind == "clock":
        now = time.time
        time.time = lambda: now() + rng.uniform(-1e6, 1e6)


def attempt(step: str, folder: Path, disturbance: Disturbance | None, seed: int) -> None:
    """The body of a process. Its exit status is 0, 3 for an error in one line, or that of a signal."""
    sys.stderr = sys.stdout = open(folder / "log.txt", "a")  # noqa: SIM115  (open until the process ends)
    tqdm.set_lock(threading.RLock())  # its own has a semaphore, which a process that is killed would leave behind
    if disturbance:
        disturb(disturbance, seed)
    try:
        work(step, folder)
    except (OSError, ValueError) as error:
        print(f"{step} {disturbance}: {error}", flush=True)
        os._exit(3)
    sys.stdout.flush()
    os._exit(0)


def check(folder: Path, expected: dict[str, np.ndarray]) -> list[str]:
    """Returns what is wrong after a run."""
    from sscd_jax.descriptors import FOLDER, Descriptors
    from sscd_jax.evaluation import results
    from sscd_jax.files import list_files
    from sscd_jax.search.calibration import Calibration

    read = Descriptors.read(folder / "out")
    wrong = [f"{one} is missing" for one in expected if one not in set(read.ids)]
    for one, vector in zip(read.ids, read.vectors, strict=True):
        if one not in expected or np.abs(vector - expected[one]).max() > 1e-5:
            wrong.append(f"{one} has the descriptor of something else")
    exported = np.load(folder / "all.npy"), (folder / "all.npy.ids.txt").read_text().splitlines()
    if exported[1] != list(read.ids) or not np.array_equal(exported[0], read.vectors):
        wrong.append("the export has other ids or vectors")
    Calibration.read(folder / "calibration.npz")
    results.read(folder / "evaluation.json")
    if (folder / "mine.txt").read_text() != "mine":
        wrong.append("a file of others was changed")
    if foreign := [name for name in list_files(folder / "out") if not FOLDER.has(name)]:
        wrong.append(f"{foreign[0]} was left")
    return wrong


def main(runs: int = 200, seed: int = 0) -> None:
    """Run a campaign of faults, and print what happened.

    Args:
        runs: Number of runs, each in a new folder.
        seed: Random seed of the disturbances.
    """
    rng, happened = random.Random(seed), Counter[str]()
    context = multiprocessing.get_context("forkserver")
    modules = ("embedding.collection", "embedding.export", "evaluation.run", "evaluation.results", "data.sources")
    context.set_forkserver_preload([f"sscd_jax.{module}" for module in modules])
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{temporary}/compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        template = Path(temporary) / "template"
        collection(template)
        (template / "mine.txt").write_text("mine")
        expected: dict[str, np.ndarray] = {}
        wrong: list[str] = []
        for number in tqdm(range(runs + 1), desc="runs", dynamic_ncols=True):
            folder = Path(temporary) / f"run-{number}"
            shutil.copytree(template, folder)
            start = partial(_start, context, folder)
            for step, most in ATTEMPTS.items():
                for _ in range(rng.randrange(1, most + 1) if number else 0):
                    disturbance = Disturbance(rng.choice(DISTURBANCES), rng.randrange(60 if step == "embed" else 12))
                    processes = [start(step, disturbance, rng.randrange(2**31))]
                    if disturbance.kind == "two":
                        processes.append(start(step, Disturbance("kill", rng.randrange(60)), rng.randrange(2**31)))
                    for process in processes:
                        process.join()
                        status = {0: "succeeded", 3: "ended with an error in one line"}.get(process.exitcode or 0)
                        happened[f"{disturbance.kind}: {status or 'was killed'}"] += 1
                        if process.exitcode == 1:
                            wrong.append(f"run {number}, {step}, {disturbance}: a traceback, see the log")
                process = start(step, None, 0)
                process.join()
                if process.exitcode:
                    wrong.append(f"run {number}, {step}: without a disturbance, the status is {process.exitcode}")
            if not number:
                from sscd_jax.descriptors import Descriptors

                read = Descriptors.read(folder / "out")
                expected = dict(zip(read.ids, np.array(read.vectors), strict=True))
                assert len(expected) == IMAGES
            try:
                found = check(folder, expected)
            except (OSError, ValueError) as error:
                found = [str(error)]
            wrong += [f"run {number}: {one}" for one in found]
            if found or wrong:
                print((folder / "log.txt").read_text()[-3000:], file=sys.stderr)
                break
            shutil.rmtree(folder)
    attempts = dict(sorted(happened.items()))
    print(json.dumps({"runs": runs, "disturbed_attempts": sum(happened.values()), "by_kind": attempts}, indent=2))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(1)
    print("nothing was lost or mixed up")


def _start(context: Any, folder: Path, step: str, disturbance: Disturbance | None, seed: int) -> Any:
    process = context.Process(target=attempt, args=(step, folder, disturbance, seed))
    process.start()
    return process


if __name__ == "__main__":
    tyro.cli(main)
