"""The command `sscd-jax`: finds and runs the command that the user names, and reports an error in one line."""

import functools
import gc
import importlib
import inspect
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tyro.extras import SubcommandApp

from sscd_jax.cli.native_output import native_output_to_log
from sscd_jax.data.names import printable_lines
from sscd_jax.data.storage import SCHEME
from sscd_jax.files import is_full
from sscd_jax.training.preemption import PREEMPTED, Interrupted, Preempted

# The name of each command, its function, and its line in the list of commands. A command is imported only when it is
# called, so that the help is shown at once.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "Train a small network on bundled photographs and report how well it finds copies."),
    "train": ("train:train", "Train a network from a recipe, or resume a run."),
    "preview": ("train:preview", "Draw a contact sheet of training images and their augmented views."),
    "dedup apply": ("dedup:dedup_apply", "Move the duplicates that were found to another folder."),
    "dedup undo": ("dedup:dedup_undo", "Bring back what was moved."),
    "dedup": ("dedup:dedup", "Find duplicate images, and show them; then dedup apply, dedup undo."),
    "search": ("search:search", "Find the copies of images in a collection."),
    "overlap": ("search:overlap", "Find the images that two sets have in common, such as training and test images."),
    "pack": ("pack:pack", "Copy images into a few large files, for fast reading from object stores."),
    "embed": ("embed:embed", "Compute the descriptors of images."),
    "descriptors export": ("embed:descriptors_export", "Write descriptors as .npy, .faiss, .parquet or .hdf5."),
    "evaluate disc": ("evaluate:evaluate_disc", "Evaluate copy detection as on DISC2021."),
    "evaluate copydays": ("evaluate:evaluate_copydays", "Evaluate copy detection on Copydays with distractors."),
    "evaluate memorization": ("memorization:evaluate_memorization", "Measure how much a generative model copies."),
    "evaluate compare": ("evaluate:evaluate_compare", "Test whether two evaluations differ by more than chance."),
    "calibrate": ("calibrate:calibrate", "Fit whitening, score normalization and a threshold to your own images."),
    "report": ("report:report", "Make a web page of evaluations, with images."),
    "benchmark make": ("benchmark:benchmark_make", "Make references and edited queries from any images."),
    "weights fetch": ("weights:weights_fetch", "Download published weights."),
    "weights convert": ("weights:weights_convert", "Convert weights of any supported format to safetensors."),
    "weights export": ("weights:weights_export", "Write weights for another runtime, such as ONNX Runtime."),
}
GROUPS = {
    "dedup": "Move the duplicates that were found, or bring them back: dedup apply, undo.",
    "descriptors": "Write descriptors in the formats of other tools: descriptors export.",
    "evaluate": "Measure how well copies are found: evaluate disc, copydays, compare. Measure copying: memorization.",
    "benchmark": "Make a benchmark from your own images: benchmark make.",
    "weights": "Download, convert or export weights: weights fetch, convert, export.",
}
RESUMABLE = ("dedup", "search", "overlap", "train", "demo", "pack", "embed", "benchmark make", "weights fetch")
EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, Preempted)  # errors that end in one line
ABOUT = """SSCD, the descriptor for image copy detection, in JAX.

Start with `sscd-jax demo`. `sscd-jax COMMAND --help` lists the options of a command.
`sscd-jax --version` prints the version. For completion in bash (or zsh, fish, tcsh), run once:
    mkdir -p ~/.local/share/bash-completion/completions
    sscd-jax --tyro-write-completion bash ~/.local/share/bash-completion/completions/sscd-jax"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        arguments: The command line without the program's name; by default that of this process.

    Raises:
        SystemExit: With status 1 after an error that the user can fix, which is one line on stderr; with status 2 for
            a wrong command line; with status 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    name = next((n for n in COMMANDS if arguments[: len(n.split())] == n.split()), None)
    try:
        if arguments == ["--version"]:
            print(f"sscd-jax {version('sscd_jax')}")
            return
        run = _parse(name, arguments)
    except BrokenPipeError:  # of `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes the rest when it ends
        sys.exit(1)
    except SystemExit as ended:
        for one in arguments if ended.code else ():
            if one.startswith("-") and len(one) > 1 and os.path.exists(one):
                print(
                    printable_lines(f"{one} was read as an option; for the file of that name, give ./{one}"),
                    file=sys.stderr,
                )
        raise
    except ValueError as error:  # a value of the right type that is out of range, or a wrong recipe
        print(f"sscd-jax {name}: {printable_lines(str(error))}", file=sys.stderr)
        sys.exit(1)
    assert name is not None, "only a command gets here"
    _run(name, run)


def _parse(name: str | None, arguments: Sequence[str]) -> functools.partial[None]:
    """Reads the command line. Returns the command with its options, ready to run."""
    completion = arguments[0].startswith("--tyro-")
    apps = {"": SubcommandApp()}  # by the name of the group
    for command, (target, summary) in COMMANDS.items():
        group, _, last = command.rpartition(" ")
        # A command may have the name of a group, as dedup has: one of the two is there, and the group only if called.
        if (group in COMMANDS and not (name or "").startswith(f"{group} ")) or (name or "").startswith(f"{command} "):
            continue
        if group not in apps:
            apps[group] = apps[""].command(SubcommandApp(), name=group, help=GROUPS[group])
        called = command == name
        function = _command(target, arguments[1:] if called else ()) if called or completion else _not_called
        apps[group].command(name=last, help=None if called else summary)(function)
    return apps[""].cli(prog="sscd-jax", description=ABOUT, args=arguments)


def _not_called() -> None:
    """Takes the place of a command that is not called."""


def _command(target: str, rest: Sequence[str]) -> Callable[..., functools.partial[None] | None]:
    """Imports a command. Returns a function with its options which binds them, for it to be run later.

    Args:
        target: MODULE:FUNCTION, below sscd_jax.cli.
        rest: The command line after the command. The values of the recipe that it begins with become defaults.
    """
    module, function = target.split(":")
    command: Callable[..., None] = getattr(importlib.import_module(f"sscd_jax.cli.{module}"), function)

    def bind(**options: Any) -> functools.partial[None]:
        if "recipe" in options and options["recipe"] != rest[0]:
            raise ValueError(f"the recipe comes first: sscd-jax {function} {options['recipe']} ...")
        for option, value in options.items():
            if option == "workdir":  # `train` has better advice
                continue
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path) and (scheme := SCHEME.match(str(path))):
                    place = str(path).replace(":/", "://", 1)
                    raise ValueError(f"{place}: here, give a path on this machine, not in {scheme[1]}://")
        return functools.partial(command, **options)

    signature = inspect.signature(command)
    if "recipe" in signature.parameters and rest and not rest[0].startswith("-"):
        from sscd_jax import recipes

        config = recipes.load(rest[0])
        parameters = [p.replace(default=config) if p.name == "config" else p for p in signature.parameters.values()]
        signature = signature.replace(parameters=parameters)
    # tyro reads these attributes. The line breaks within the description of an option are removed, as tyro would keep
    # them. functools.wraps would not help, since tyro follows it to the function itself.
    bind.__doc__ = re.sub(r"\n {8,}", " ", inspect.getdoc(command) or "")
    bind.__annotations__ = command.__annotations__
    bind.__signature__ = signature  # type: ignore[attr-defined]  # inspect reads it; mypy does not know it
    return bind


def _run(name: str, command: functools.partial[None]) -> None:
    """Runs a command, and ends this process after an error."""
    from sscd_jax import distributed  # imports JAX, so not for help, and not in the processes of `benchmark make`

    try:
        with native_output_to_log(expected=EXPECTED), warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show, show=warnings.showwarning)
            _start()
            command()
    except Preempted as error:
        print(f"sscd-jax {name}: ended by SIGTERM, {error}", file=sys.stderr)
        sys.exit(PREEMPTED)
    except KeyboardInterrupt as error:
        resumable = name in RESUMABLE and command.keywords.get("out", "") is not None  # `search` may write nothing
        more = str(error) or ("rerun the same command to resume" if resumable else "")
        print(f"\nsscd-jax {name}: interrupted{', ' if more else ''}{more}", file=sys.stderr)
        if isinstance(error, Interrupted):  # all processes have saved, and end together
            sys.exit(130)
        distributed.end(130)
    except Exception as error:
        if isinstance(error, EXPECTED) or is_full(error):
            print(f"sscd-jax {name}: {printable_lines(_line(error, command.keywords))}", file=sys.stderr)
            distributed.end(1)
        if not distributed.has_other_processes():
            raise
        traceback.print_exc()
        distributed.end(1)


def _start() -> None:
    """Sets what must be set before JAX computes and TensorFlow is imported."""
    from sscd_jax import distributed
    from sscd_jax.data.storage import limit_readahead

    logging.getLogger("absl").setLevel(logging.ERROR)
    distributed.start()
    limit_readahead()
    gc.set_threshold(50_000, 10, 5)  # many objects of JAX and TensorFlow stay alive; do not visit them often
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else TensorFlow imports Keras, which nothing here uses


def _show(
    message: Warning | str, category: type[Warning], filename: str, *rest: Any, show: Callable[..., None]
) -> None:
    """Shows a warning of this package, which is for users, as a line of its own; others as Python shows them."""
    if Path(__file__).parents[1] in Path(filename).parents and category is UserWarning:
        print(message, file=sys.stderr)
    else:
        show(message, category, filename, *rest)


def _line(error: Exception, options: Mapping[str, Any]) -> str:
    """Returns the line about an error: the file, if there is one, and the reason.

    For a full disk it names OUT where a library does not name the file.
    """
    file, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
    if not is_full(error):
        if isinstance(file, str | os.PathLike) and reason and not getattr(error, "filename2", None):
            return f"{os.fspath(file)}: {reason}"
        return str(error)
    if file:
        return f"{file}: no space left on the disk"
    where, text = options.get("out") or options.get("workdir"), reason or str(error)
    return text if where is None or str(where) in text else f"{where}: {text}"
