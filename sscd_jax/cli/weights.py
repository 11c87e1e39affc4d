"""The commands `sscd-jax weights`: thin calls into the package."""

import json
from pathlib import Path
from typing import Literal

import tyro

from sscd_jax.presets import CUSTOM, Preset, PresetName, choose


def weights_convert(source: tyro.conf.Positional[str], out: Path) -> None:
    """Read weights of any format and write them as a .safetensors file that every command here reads.

    The format is told by the content of the file: the official .classy.pt, .torchvision.pt and .torchscript.pt,
    Lightning checkpoints of the official training code, ResNets of torchvision (.pt, .safetensors), ONNX graphs
    (float32, or int8 in QDQ form), training runs, and what `sscd-jax weights export` wrote. No code in a file is
    executed.

    Args:
        source: The file or folder to read, or the name of published weights that were fetched.
        out: The file to write; its name ends in .safetensors.
    """
    from sscd_jax.weights import find
    from sscd_jax.weights.convert import convert

    print(json.dumps(convert(find(source), out), indent=2))


def weights_fetch(name: tyro.conf.Positional[str], url: str | None = None, file: Path | None = None) -> None:
    """Download published weights, check and convert them; afterwards --weights NAME finds them.

    The download must be complete, and hold a network of the backbone and descriptor length that NAME has. Meta
    publishes no checksums; the SHA-256 of the file is recorded in the converted weights.

    NAME is sscd_disc_mixup (recommended), sscd_disc_large, sscd_disc_advanced, sscd_disc_blur, sscd_imagenet_mixup,
    sscd_imagenet_advanced or sscd_imagenet_blur. If a download was interrupted, rerun the same command to resume. The
    converted file is kept in the cache (on Linux ~/.cache/sscd_jax/weights, or $XDG_CACHE_HOME/sscd_jax/weights).

    Args:
        name: The name of the weights.
        url: Download from this address, a mirror of the official file, instead of Meta's server.
        file: Read this copy of the official file instead of downloading it.
    """
    from sscd_jax.weights.fetch import fetch

    print(fetch(name, url=url, file=file))


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

    The file is loaded by its own runtime, and its descriptors of some photographs are compared with those of our
    network. It is kept only if they agree.

    Args:
        source: A training run, a file of weights of any format, or the name of published weights that were fetched.
        format: The format to write. npz and safetensors hold the arrays by our names, torchvision a state dict by the
            official names. onnx, stablehlo (for jax.export) and saved_model (for TensorFlow Serving) hold the
            computation too.
        out: The folder to write.
        input: The input of formats that hold the computation: float32, if the caller normalizes images; uint8, if the
            exported program shall do it.
        head: The output of formats that hold the computation: l2, descriptors of norm 1; raw, descriptors before L2
            normalization.
        preset: How the images that the network is for are resized and normalized, as for `sscd-jax embed`. It is
            recorded in the model card, and is what `sscd_jax.load(OUT).embed` then does by default.
        custom: The values of the preset "custom".
        images: Images for the check and the golden pairs, given as for `sscd-jax embed`; "sample" needs the extra demo.
        license: The license of the weights, for the model card; by default what the source says.
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
