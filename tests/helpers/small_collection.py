"""A folder of images, some of them broken, and a narrow network to embed it with."""

from pathlib import Path
from typing import Any

from PIL import Image

from helpers.networks import seeded
from sscd_jax.data.sources import open_source
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.models import build_model
from sscd_jax.presets import Preset

MODEL = build_model("resnet18", 16, width=8)
PRESET = Preset("short", 48)
OPTIONS: dict[str, Any] = {"batch_size": 8, "shard_size": 12}


def make_variables() -> Any:
    return seeded("resnet18", 16)[1]


def make_folder(images: Path, out: Path) -> Path:
    """Forty cuts of several aspects, two of which cannot be read."""
    (out / "b").mkdir(parents=True)
    for number, path in enumerate(sorted(images.iterdir())):
        image = Image.open(path).crop((0, 0, 96, [80, 64, 54, 40][number % 4]))
        (image.transpose(Image.Transpose.ROTATE_90) if number % 3 else image).save(out / "b" / path.name)
    (out / "b" / "013.jpg").write_bytes(b"text")
    (out / "b" / "029.jpg").write_bytes(path.read_bytes()[:500])
    return out


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def write(variables, folder, out, **options):
    return write_descriptors(MODEL, variables, open_source(str(folder)), PRESET, out, **(OPTIONS | options))
