"""The command `sscd-jax`: each subcommand is a thin call into the package."""

import gc
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sscd_jax import config as configs
from sscd_jax.cli.benchmark import benchmark_make
from sscd_jax.cli.calibrate import calibrate
from sscd_jax.cli.copydays import evaluate_copydays
from sscd_jax.cli.embed import descriptors_export, embed
from sscd_jax.cli.evaluate import evaluate_compare, evaluate_disc
from sscd_jax.cli.output import table
from sscd_jax.cli.pack import pack
from sscd_jax.cli.report import report
from sscd_jax.cli.weights import weights_convert, weights_export, weights_fetch
from sscd_jax.config import Config
from sscd_jax.training.preemption import PREEMPTED, Preempted


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
            raise ValueError("no training pictures given: --data.source DIR, or tfds:NAME, or sample")
        from sscd_jax import sharding as mesh
        from sscd_jax.training.train import train as run

        mesh.join_hosts_if_any(coordinator, processes, process)
        metrics = run(config, workdir)
        if mesh.is_first_host():
            print(json.dumps(metrics, indent=2))

    tyro.cli(command, args=arguments[1:] if path else arguments, prog=f"sscd-jax train {path or 'CONFIG.py'}")


def preview(arguments: Sequence[str]) -> None:
    """Reads the recipe first, as `train`."""
    path, default = _recipe("preview CONFIG.py --out sheet.png", arguments)

    def command(
        out: Path, rows: int = 8, pairs: int = 2, config: Annotated[Config, tyro.conf.arg(name="")] = default
    ) -> None:
        """Show what training sees: a contact sheet of pictures and their views, with what was applied below each.

        Usage: sscd-jax preview CONFIG.py --out sheet.png [options]. The options of the recipe are those of training;
        without --data.source the pictures are the sample's.

        Args:
            out: Picture to write, .png or .jpg; what was applied goes beside it, to a file that ends in .captions.json.
            rows: Pictures, evenly over the source.
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


def demo(out: Path = Path("sscd-demo"), seed: int = 0, steps: int | None = None) -> None:
    """Train on bundled photographs, search, evaluate, and write OUT/report.html: the whole of it in minutes.

    Args:
        out: Folder for everything it makes; a demo that was interrupted there goes on.
        seed: Of the picture set and of the training.
        steps: Steps of training; by default what configs/demo.py says.
    """
    from sscd_jax.demo import run

    print(table(run(out, seed=seed, steps=steps)))
    print(f"\nLook at {out / 'report.html'}")


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "pack": pack,
    "embed": embed,
    "descriptors export": descriptors_export,
    "evaluate disc": evaluate_disc,
    "evaluate copydays": evaluate_copydays,
    "evaluate compare": evaluate_compare,
    "calibrate": calibrate,
    "report": report,
    "benchmark make": benchmark_make,
    "weights fetch": weights_fetch,
    "weights convert": weights_convert,
    "weights export": weights_export,
}
WITH_RECIPE: dict[str, Callable[[Sequence[str]], None]] = {"train": train, "preview": preview}
USAGE = """usage: sscd-jax COMMAND [options]

SSCD, the descriptor for image copy detection, in JAX.

  demo            train on bundled photographs, search, evaluate: the whole of it in minutes
  train           train a network from a recipe, or continue a run
  preview         show what training sees, as a contact sheet
  pack            put pictures into a few large files, for object stores
  embed           write the descriptors of pictures
  descriptors export
                  write descriptors for numpy, faiss, Arrow, ISC2021
  evaluate disc   measure copy detection as on DISC2021
  evaluate copydays
                  the same as on Copydays with distractors
  evaluate compare
                  say whether two evaluations differ by more than chance
  calibrate       fit a transform, score normalisation and a threshold on your pictures
  report          make one page of evaluations, with pictures
  benchmark make  make references and edited queries of any pictures, to measure on
  weights fetch   download published weights
  weights convert read weights of any format
  weights export  write weights for another runtime

sscd-jax COMMAND --help lists the options of a command with their defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand; an error of the user's making is one line on stderr and status 1."""
    from sscd_jax import sharding as mesh  # here, as it imports JAX, and processes of `benchmark make` import this file

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)
    mesh.start()
    gc.set_threshold(50_000, 10, 5)  # what JAX and TensorFlow trace stays, and each collection would go through it
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else TensorFlow imports Keras, which nothing here uses
    name = next((n for n in [*COMMANDS, *WITH_RECIPE] if arguments[: len(n.split())] == n.split()), None)
    if name is None:
        if arguments and arguments[0] not in ("-h", "--help"):
            near = [n for n in COMMANDS if n.startswith(arguments[0])]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            print(f"sscd-jax: no command {arguments[0]}{hint}\n\n{USAGE}", file=sys.stderr)
            sys.exit(2)
        print(USAGE)
        return
    rest = arguments[len(name.split()) :]
    try:
        if name in WITH_RECIPE:
            WITH_RECIPE[name](rest)
        else:
            tyro.cli(COMMANDS[name], args=rest, prog=f"sscd-jax {name}")
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"sscd-jax {name}: {error}", file=sys.stderr)
        mesh.end(1)
    except Preempted as error:
        print(f"sscd-jax {name}: ended by SIGTERM, {error}; the same command goes on", file=sys.stderr)
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:
        resumed = ("train", "demo", "pack", "embed", "benchmark make", "weights fetch")
        more = "; the same command goes on" if name in resumed else ""
        print(f"\nsscd-jax {name}: interrupted{more}", file=sys.stderr)
        mesh.end(130)
    except Exception:
        if not mesh.has_other_hosts():
            raise
        traceback.print_exc()
        mesh.end(1)
