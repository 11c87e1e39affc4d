"""Draws the README's picture of the page of `sscd-jax dedup`: bundled photographs, and edited copies of some of them.

    python scripts/readme_duplicates.py scripts/readme_duplicates.jpg [--weights sscd_disc_mixup]

It needs Chromium (the command `chromium`), which takes the picture.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sscd_jax.cli.main import main as sscd_jax
from sscd_jax.data.images import open_image
from sscd_jax.data.sample import photograph_paths
from sscd_jax.datasets.edits import KINDS

SIDE = 640  # pixels, of the photographs
SIZE = (1240, 1800)  # of the window
SHOWN = (40, 880, 1200, 1750)  # left, top, right and bottom of what is shown: the groups, without the text above
# The photographs that are copied, and the edits of each copy.
COPIES = (
    ("astronaut", ("crop", "JPEG")),
    ("astronaut", ("screenshot",)),
    ("chelsea", ("flip", "text")),
    ("coffee", ("rotate", "stickers")),
    ("china", ("pad", "color")),
    ("rocket", ("blur", "caption")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the picture, a .jpg file")
    parser.add_argument("--weights", default="sscd_disc_mixup", help="as for `sscd-jax dedup` (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos, out = Path(folder) / "photos", Path(folder) / "duplicates"
        make(photos)
        sscd_jax(["dedup", str(photos), "--out", str(out), "--weights", given.weights])
        shot = Path(folder) / "page.png"
        chromium = shutil.which("chromium")
        if chromium is None:
            raise SystemExit("the command chromium is missing: apt-get install chromium")
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={shot}"]
        subprocess.run([chromium, *options, (out / "duplicates.html").as_uri()], check=True, capture_output=True)
        image = Image.open(shot).convert("RGB").crop(SHOWN)
        image.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
        image.save(given.out, quality=85)


def make(folder: Path) -> None:
    """Writes the photographs and the copies."""
    (folder / "shared").mkdir(parents=True)
    photographs = {}
    for name, path in photograph_paths().items():
        image = open_image(Path(path).read_bytes())
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(folder / f"{name}.jpg", quality=92)
        photographs[name] = image
    for number, (name, kinds) in enumerate(COPIES):
        rng, image = np.random.default_rng(number), photographs[name]
        for kind in kinds:
            image = KINDS[kind](image, rng, "medium", [])
        image.thumbnail((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)
        image.save(folder / "shared" / f"{name}_{'_'.join(kinds)}.jpg", quality=85)


if __name__ == "__main__":
    main()
