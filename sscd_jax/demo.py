"""The demo: trains and measures a descriptor on bundled photographs, with the parts that users run on their images."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sscd_jax import config as configs
from sscd_jax import recipes
from sscd_jax.config import Config
from sscd_jax.data.sources import open_source
from sscd_jax.datasets import demo_set
from sscd_jax.datasets.annotations import Edited, read_edits, read_ground_truth
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.embedding.pdq import HINT, is_installed, pdq_vectors
from sscd_jax.evaluation import results
from sscd_jax.evaluation.report.page import Result, results_of, write_report
from sscd_jax.evaluation.run import evaluate_disc
from sscd_jax.files import write_text
from sscd_jax.models import SSCD, build_model
from sscd_jax.optimizer import lars
from sscd_jax.presets import Preset
from sscd_jax.provenance import Provenance
from sscd_jax.search.faiss_backend import write_index
from sscd_jax.sharding import create_mesh, replicated
from sscd_jax.training import state as train_state
from sscd_jax.training.log import read_metrics
from sscd_jax.training.train import train
from sscd_jax.weights import runs

SETS = ("queries", "references", "training")
SCORE_NORM = "1.0[0,2]"
RECIPE = recipes.find("demo")


def run(out: Path, *, seed: int, steps: int | None = None) -> list[dict[str, Any]]:
    """Makes the image set, trains, embeds, searches, evaluates and writes the report.

    The folder `out` then has images/, run/ (checkpoints and metrics), descriptors/NAME/SET, references.faiss,
    evaluations/NAME.json, metrics.json and report.html. A demo that was interrupted is resumed.

    Args:
        out: the folder.
        seed: random seed of the image set, and of the initialization, shuffling and augmentation of the training.
        steps: the number of training steps; by default that of the recipe.

    Returns:
        The rows of the table: the name of each descriptor and its metrics. PDQ is among them if pdqhash is installed.

    Raises:
        ValueError: `out` holds a demo of another seed or length, or something else.
        FileNotFoundError: the photographs are missing; the error says which package to install.
    """
    config = demo_config(out, seed=seed, steps=steps)
    images, earlier = out / "images", out / "run" / "config.json"
    if earlier.is_file():
        there = configs.from_dict(json.loads(earlier.read_text()))
        # The folder may have been moved since.
        data = dataclasses.replace(there.data, source=config.data.source)
        if dataclasses.replace(there, data=data, validation=config.validation) != config:
            raise ValueError(f"{out} holds a demo of another seed or length: remove it, or name another --out")
    elif out.exists() and not (images / "queries.csv").is_file() and any(map(_is_foreign, out.iterdir())):
        raise ValueError(f"{out} holds something else than a demo: name another --out")
    if not is_installed():
        print(f"the demo leaves out PDQ: {HINT}", file=sys.stderr)
    if not images.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        demo_set.make(images, seed=seed)

    train(config, out / "run")
    model = build_model(**dataclasses.asdict(config.model))
    start = train_state.create(model, lars(0.0), seed, replicated(create_mesh())).variables
    _, trained = runs.load_run(out / "run")
    preset = config.validation.chosen
    descriptors = out / "descriptors"
    described = {"PDQ, a perceptual hash": ("pdq", _hash(images, descriptors / "pdq"))} if is_installed() else {}
    described |= {
        "network before training": ("untrained", _embed(model, start, images, preset, descriptors / "untrained")),
        "network after training": ("trained", _embed(model, trained, images, preset, descriptors / "trained")),
    }
    write_index(out / "references.faiss", described["network after training"][1]["references"].vectors)

    ground_truth = read_ground_truth(images / "ground_truth.csv")
    edits = read_edits(images / "queries.csv")
    (out / "evaluations").mkdir(exist_ok=True)
    rows, shown = [], []
    for name, (folder, sets) in described.items():
        evaluation = evaluate_disc(
            sets["queries"],
            sets["references"],
            sets["training"],
            ground_truth,
            codecs=["Flat"],
            score_norms=[None, SCORE_NORM],
            edits=edits,
            facts={},
            sources=[(part, str(images / part)) for part in SETS[:2]],
        )
        results.write(out / "evaluations" / f"{folder}.json", evaluation)
        plain, normed = results_of(evaluation)
        metrics = {"uAP": plain.metrics["uAP"], "uAP, score normalization": normed.metrics["uAP"]}
        metrics |= {metric: plain.metrics[metric] for metric in ("accuracy@1", "recall@p90")}
        intervals = {**plain.intervals, "uAP, score normalization": normed.intervals["uAP"]}
        rows.append({"descriptor": name} | metrics)
        shown.append(dataclasses.replace(plain, name=name, metrics=metrics, intervals=intervals))
    summary = {"seed": seed, "config": configs.to_dict(config), "rows": rows}
    write_text(out / "metrics.json", json.dumps(summary, indent=2))
    _report(out, config, shown, ground_truth, edits)
    return rows


def _is_foreign(path: Path) -> bool:
    """Returns whether a demo that was interrupted while it made its images cannot have left this file or folder."""
    return not path.name.lstrip(".").startswith("images.")


def demo_config(out: Path, *, seed: int, steps: int | None) -> Config:
    """Returns the recipe `demo` for the images in `out`; the warm-up is at most a tenth of a shorter run."""
    config = recipes.load_file(RECIPE)
    images = out.absolute() / "images"
    optimizer = config.optimizer
    if steps is not None:
        optimizer = dataclasses.replace(optimizer, warmup_steps=min(optimizer.warmup_steps or 0, steps // 10))
    return dataclasses.replace(
        config,
        seed=seed,
        steps=config.steps if steps is None else steps,
        optimizer=optimizer,
        data=dataclasses.replace(config.data, source=str(images / "training")),
        validation=dataclasses.replace(
            config.validation,
            queries=str(images / "queries"),
            references=str(images / "references"),
            ground_truth=str(images / "ground_truth.csv"),
        ),
    )


def _embed(model: SSCD, variables: Any, images: Path, preset: Preset, out: Path) -> dict[str, Descriptors]:
    for name in SETS:
        # The name is not the path, because the folder may be moved, and it cannot be mistaken for a path.
        source = dataclasses.replace(open_source(str(images / name)), name=f"demo:{name}")
        batch_size = 32 * jax.device_count()
        write_descriptors(model, variables, source, preset, out / name, batch_size=batch_size)
    return {name: Descriptors.read(out / name) for name in SETS}


def _hash(images: Path, out: Path) -> dict[str, Descriptors]:
    for name in SETS:
        paths = sorted((images / name).iterdir())
        ids = [path.stem for path in paths]
        Descriptors(ids, pdq_vectors(paths), Provenance("pdqhash", "whole image")).write(out / name)
    return {name: Descriptors.read(out / name) for name in SETS}


def _report(
    out: Path,
    config: Config,
    shown: list[Result],
    ground_truth: list[tuple[str, str]],
    edits: dict[str, Edited],
) -> None:
    images = out / "images"
    lines = [line for line in read_metrics(out / "run") if "loss" in line]
    counts = {name: len(list((images / name).iterdir())) for name in SETS}
    write_report(
        out / "report.html",
        title="Finding copies: a descriptor trained from photographs",
        summary=(
            f"A narrow {config.model.backbone} learned from {counts['training']} images, cut from photographs that "
            f"scikit-image and scikit-learn ship, which images are edited copies of one another. It then searched "
            f"{counts['references']} other images, cut from other photographs, for the originals of "
            f"{counts['queries']} queries: {len(ground_truth)} are copies with two or three strong edits, the rest "
            "copy nothing."
        ),
        results=shown,
        ground_truth=ground_truth,
        query_images={path.stem: path.read_bytes for path in (images / "queries").iterdir()},
        reference_images={path.stem: path.read_bytes for path in (images / "references").iterdir()},
        query_ids=list(dict.fromkeys(shown[0].query_ids.tolist())),
        history={name: np.array([line[name] for line in lines]).tolist() for name in lines[0]},
        edits=edits,
        facts={
            "Training": f"{config.steps} steps of {config.data.batch_size} images, two views of "
            f"{config.data.image_size} px each, {config.data.augmentation}, seed {config.seed}",
            "Descriptor": f"{config.model.dims} numbers, from images resized to {config.validation.custom.size} px",
            "Command": "sscd-jax demo",
        },
    )
