"""The command `sscd-jax`: each subcommand is a thin call into the package."""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from sscd_jax.cli.benchmark import benchmark_make
from sscd_jax.cli.calibrate import calibrate
from sscd_jax.cli.embed import descriptors_export, embed
from sscd_jax.cli.evaluate import evaluate_compare, evaluate_copydays, evaluate_disc
from sscd_jax.cli.output import table
from sscd_jax.cli.pack import pack
from sscd_jax.cli.report import report
from sscd_jax.cli.train import WITH_RECIPE
from sscd_jax.cli.weights import weights_convert, weights_export, weights_fetch
from sscd_jax.training.preemption import PREEMPTED, Interrupted, Preempted


def demo(out: Path = Path("sscd-demo"), seed: int = 0, steps: int | None = None) -> None:
    """Train on bundled photographs, search, evaluate, and write OUT/report.html: the whole of it in minutes.

    Args:
        out: Folder for everything it makes; a demo that was interrupted there goes on.
        seed: Of the image set and of the training.
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
USAGE = """usage: sscd-jax COMMAND [options]

SSCD, the descriptor for image copy detection, in JAX.

  demo            train on bundled photographs, search, evaluate: the whole of it in minutes
  train           train a network from a recipe, or continue a run
  preview         show what training sees, as a contact sheet
  pack            put images into a few large files, for object stores
  embed           write the descriptors of images
  descriptors export
                  write descriptors for numpy, faiss, Arrow, ISC2021
  evaluate disc   measure copy detection as on DISC2021
  evaluate copydays
                  the same as on Copydays with distractors
  evaluate compare
                  say whether two evaluations differ by more than chance
  calibrate       fit a transform, score normalization and a threshold on your images
  report          make one page of evaluations, with images
  benchmark make  make references and edited queries of any images, to measure on
  weights fetch   download published weights
  weights convert read weights of any format
  weights export  write weights for another runtime

sscd-jax COMMAND --help lists the options of a command with their defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand; an error of the user's making is one line on stderr and status 1."""
    from sscd_jax import distributed  # here, as it imports JAX, and processes of `benchmark make` import this file

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)
    distributed.start()
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
        distributed.end(1)
    except Preempted as error:
        print(f"sscd-jax {name}: ended by SIGTERM, {error}", file=sys.stderr)
        sys.exit(PREEMPTED)
    except KeyboardInterrupt as error:
        resumed = ("train", "demo", "pack", "embed", "benchmark make", "weights fetch")
        more = str(error) or ("rerun the same command to resume" if name in resumed else "")
        print(f"\nsscd-jax {name}: interrupted{', ' if more else ''}{more}", file=sys.stderr)
        if isinstance(error, Interrupted):  # all processes have saved, and end together
            sys.exit(130)
        distributed.end(130)
    except Exception:
        if not distributed.has_other_processes():
            raise
        traceback.print_exc()
        distributed.end(1)
