"""The commands `sscd-jax weights`: thin calls into the package."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

Source = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]


def weights_convert(source: Source, out: Path) -> None:
    """Convert weights of any supported format to a safetensors file, which every command reads.

    The format is recognized by content: the official .classy.pt, .torchvision.pt and .torchscript.pt files, Lightning
    checkpoints of the official training code, ResNets of torchvision (.pt, .safetensors), ONNX graphs (float32, or int8
    in QDQ form), training runs, and the output of `sscd-jax weights export`. Code in a file is never executed.

    Args:
        source: File or folder of the weights, or the name of published weights.
        out: File to write; its name must end in .safetensors.
    """
    from sscd_jax.weights import find
    from sscd_jax.weights.convert import convert

    print(json.dumps(convert(find(source), out), indent=2))


def weights_fetch(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")],
    url: str | None = None,
    file: Path | None = None,
    allow_http: bool = False,
) -> None:
    """Download published weights, check them and convert them. Afterwards, --weights NAME finds them.

    The check is that the file is complete, and that it holds a network of the right backbone and dimensions. Its
    SHA-256 is recorded in NAME.sha256 when it is first fetched, and a file of the same name must have it from then on.
    Meta publishes no checksums; that of sscd_disc_mixup.torchscript.pt, which --url or --file may name, is known from
    public projects. Published files are read by PyTorch, which the extra torch installs. All of it is in
    $XDG_CACHE_HOME/sscd_jax/weights (by default ~/.cache/sscd_jax/weights).
    Redirects to other hosts are printed. Rerun the same command to resume an interrupted download.

    Args:
        name: Name of the weights: sscd_disc_mixup (recommended), sscd_disc_large, sscd_disc_advanced, sscd_disc_blur,
            sscd_imagenet_mixup, sscd_imagenet_advanced or sscd_imagenet_blur.
        url: Address of a mirror of the official file, to download from instead.
        file: Copy of the official file on disk, to read instead of downloading.
        allow_http: Download without encryption if --url is an http:// address or redirects to one. Anyone on the way
            can then change the file.
    """
    from sscd_jax.weights.fetch import fetch

    print(fetch(name, url=url, file=file, allow_http=allow_http))


def weights_export(
    source: Source,
    format: Literal["npz", "safetensors", "torchvision", "onnx", "stablehlo", "saved_model"],
    out: Path,
    input: Literal["float32", "uint8"] = "float32",
    head: Literal["l2", "raw"] = "l2",
    preset: PresetName | None = None,
    custom: Preset = CUSTOM,
    images: str = "sample",
    license: str | None = None,
) -> None:
    """Write weights for another runtime.

    The output is a folder with the weights, a model card, golden pairs (images and their descriptors) and SHA-256
    sums. The file is loaded with its own runtime and compared with this package's network on photographs; it is kept
    only if the descriptors agree.

    Args:
        source: Training run, file of weights of any format, or name of published weights.
        format: npz and safetensors hold arrays under this package's names, and torchvision is a state dict under the
            official names. onnx is for ONNX Runtime, stablehlo for jax.export, and saved_model for TensorFlow Serving.
        out: Folder to write.
        input: Data type of the input of onnx, stablehlo and saved_model. The caller normalizes float32 images; the
            graph normalizes uint8 images.
        head: Last operation of onnx, stablehlo and saved_model. l2 gives descriptors of norm 1, and raw leaves the
            normalization out.
        preset: How images are resized and normalized, as in `sscd-jax embed`. It is recorded in the model card. By
            default it is the preset that the network is for, or else small_288.
        custom: The preset that is used with --preset custom.
        images: Images for the comparison and the golden pairs, given as in `sscd-jax embed`. sample needs the extra
            demo.
        license: License of the weights, for the model card; by default, that of the source.
    """
    from sscd_jax.data.sources import open_source
    from sscd_jax.weights.export import export

    card = export(
        source,
        out,
        format=format,
        images=open_source(images),
        preset=None if (preset, custom) == (None, CUSTOM) else choose(preset, custom),
        input=input,
        head=head,
        license=license,
    )
    if card["preset_of_source"] not in (None, card["preset"]):
        names = card["preset_of_source"]["name"], card["preset"]["name"]
        print("these weights are for the preset {}, and the export is for {}".format(*names), file=sys.stderr)
    print(json.dumps({"out": str(out), "file": str(out / card["file"]), "check": card["check"]}, indent=2))
