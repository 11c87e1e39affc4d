"""The commands that begin with a recipe: training, and a preview of what it sees."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sscd_jax import config as configs
from sscd_jax.config import Config


def train(arguments: Sequence[str]) -> None:
    """Reads the recipe first: its values are the defaults of the options."""
    path, default = _recipe("train CONFIG.py --workdir DIR", arguments)

    def command(
        workdir: Path,
        coordinator: str | None = None,
        processes: int | None = None,
        process: int | None = None,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> None:
        """Train a network, or continue the run in WORKDIR.

        Usage: sscd-jax train CONFIG.py --workdir DIR [options]. CONFIG.py is a recipe, as configs/disc_blur.py; its
        values are the defaults of the options below.

        Args:
            workdir: Folder of the run: checkpoints, config.json, metrics.jsonl, TensorBoard events. Several processes
                share it.
            coordinator: HOST:PORT of the first of several processes. TPU pods, SLURM and Open MPI need none of these
                three: JAX finds the others.
            processes: How many there are.
            process: Which this is, from 0.
        """
        if not config.data.source:
            raise ValueError("no training images given: --data.source DIR, or tfds:NAME, or sample")
        from sscd_jax import distributed
        from sscd_jax.training.train import train as run

        distributed.join_processes_if_any(coordinator, processes, process)
        metrics = run(config, workdir)
        if distributed.is_first_process():
            print(json.dumps(metrics, indent=2))

    tyro.cli(command, args=arguments[1:] if path else arguments, prog=f"sscd-jax train {path or 'CONFIG.py'}")


def preview(arguments: Sequence[str]) -> None:
    """Reads the recipe first, as `train`."""
    path, default = _recipe("preview CONFIG.py --out sheet.png", arguments)

    def command(
        out: Path, rows: int = 8, pairs: int = 2, config: Annotated[Config, tyro.conf.arg(name="")] = default
    ) -> None:
        """Show what training sees: a contact sheet of images and their views, with what was applied below each.

        Usage: sscd-jax preview CONFIG.py --out sheet.png [options]. The options of the recipe are those of training;
        without --data.source the images are the sample's.

        Args:
            out: Image to write, .png or .jpg; what was applied goes beside it, to a file that ends in .captions.json.
            rows: Images, evenly over the source.
            pairs: Pairs of views of each; they are those of the first epochs of training with the same seed, but that
                mixing is among the rows.
        """
        from sscd_jax.data.preview import write_preview

        captions = write_preview(config, out, rows=rows, pairs=pairs)
        out.with_suffix(".captions.json").write_text(json.dumps(captions, indent=2, ensure_ascii=False))
        print(f"Look at {out}")

    tyro.cli(command, args=arguments[1:] if path else arguments, prog=f"sscd-jax preview {path or 'CONFIG.py'}")


def _recipe(usage: str, arguments: Sequence[str]) -> tuple[Path | None, Config]:
    """The recipe that the arguments begin with; none where only help is asked for."""
    path = Path(arguments[0]) if arguments and not arguments[0].startswith("-") else None
    if path is None and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"the recipe comes first: sscd-jax {usage}, as configs/disc_blur.py")
    return path, configs.load(path) if path else Config()


WITH_RECIPE: dict[str, Callable[[Sequence[str]], None]] = {"train": train, "preview": preview}
