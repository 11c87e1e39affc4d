"""The commands that take a recipe: training, and a preview of what the network sees."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from sscd_jax.config import Config

Recipe = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
Settings = Annotated[Config, tyro.conf.arg(name="")]  # its fields are options of the command, without a prefix


def train(
    recipe: Recipe,
    workdir: Path,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    config: Settings = Config(),  # noqa: B008  (frozen; `cli.main` puts the recipe's values in its place)
) -> None:
    """Train a network from a recipe, or resume the run in WORKDIR.

    Write the recipe first: sscd-jax train RECIPE --workdir DIR --data.source IMAGES. The values of the recipe are the
    defaults of the options: sscd-jax train RECIPE --help shows them. Rerun the same command to resume a run that
    was interrupted.

    Args:
        recipe: Name of a recipe that comes with the package, such as disc_blur, or path of a Python file with
            get_config(), such as mine/recipe.py. A wrong name lists the right ones.
        workdir: Folder of the run: checkpoints, config.json, metrics.jsonl, TensorBoard events. All processes of a run
            share it.
        coordinator: Address HOST:PORT of the first process, if several processes train together. It is not
            needed on TPU pods, in Slurm and under Open MPI, where JAX finds the other processes.
        processes: Number of processes that train together. Give it together with --coordinator.
        process: Number of this process, from 0. Give it together with --coordinator.
    """
    if not config.data.source:
        raise ValueError("no training images are given: --data.source DIR, or tfds:NAME, or sample")
    from sscd_jax import distributed
    from sscd_jax.training.train import train as run

    distributed.join_processes_if_any(coordinator, processes, process)
    metrics = run(config, workdir)
    if distributed.is_first_process():
        print(json.dumps(metrics, indent=2))


def preview(
    recipe: Recipe,
    out: Path,
    rows: int = 8,
    pairs: int = 2,
    config: Settings = Config(),  # noqa: B008  (as for `train`)
) -> None:
    """Draw a contact sheet of training images and their augmented views.

    Write the recipe first: sscd-jax preview RECIPE --out sheet.png. The caption of each view says what was applied to
    it. The options of the recipe are those of training. Without --data.source, the images are the bundled photographs.

    Args:
        recipe: Name of a recipe, such as disc_blur, or path of a Python file with get_config().
        out: Image to write, .png or .jpg. The captions are also written to a file beside it, which ends in
            .captions.json.
        rows: Number of images, which are spread evenly over the source.
        pairs: Number of pairs of views of each image. They are the views of the first epochs of a training with the
            same seed, except that images are mixed with those on the sheet.
    """
    from sscd_jax.data.preview import CAPTIONS, write_preview
    from sscd_jax.files import write_text

    captions = write_preview(config, out, rows=rows, pairs=pairs)
    write_text(out.with_suffix(CAPTIONS), json.dumps(captions, indent=2, ensure_ascii=False))
    print(f"Look at {out}")
