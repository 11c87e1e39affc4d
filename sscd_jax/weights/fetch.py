"""Downloads published weights, checks and converts them, and keeps them in the cache."""

import contextlib
import functools
import hashlib
import itertools
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
import tenacity
from filelock import FileLock, Timeout
from tqdm import tqdm

from sscd_jax.files import cache_folder
from sscd_jax.presets import PRESETS
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
LICENSE = "MIT (Meta Platforms, Inc.)"

LIMIT = 2 * 2**30  # bytes, many times the size of any published file, so that no mirror fills the disk
TRIES = 5
OTHER_WAYS = "other ways: --url MIRROR, --file PATH"

RETRYING = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(requests.RequestException),
    wait=tenacity.wait_exponential(),  # 1, 2, 4, 8 seconds
    stop=tenacity.stop_after_attempt(TRIES),
    reraise=True,
)


def cached(name: str) -> Path | None:
    """Returns the converted file of published weights that were fetched, or None.

    Args:
        name: one of `PUBLISHED`.
    """
    path = cache_folder("weights") / f"{name}.safetensors"
    return path if name in PUBLISHED and path.is_file() else None


def fetch(name: str, *, url: str | None = None, file: Path | None = None) -> Path:
    """Downloads published weights, checks and converts them; returns at once if they are in the cache.

    A download that was interrupted is resumed by the next call. If several processes fetch the same weights, one
    downloads them and the others wait.

    Args:
        name: one of `PUBLISHED`.
        url: the address of a mirror, to download from instead, whether or not the weights are in the cache.
        file: a copy of the published file on disk, to read instead; it is left as it is.

    Returns:
        The file NAME.safetensors in the cache.

    Raises:
        ValueError: the name is unknown, both `url` and `file` are given, or the weights are broken or are not those
            of the name.
        OSError: the download failed; the error says why, how much of it is kept, and which other ways there are.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published weights {name!r}; choose one of {', '.join(PUBLISHED)}")
    if url is not None and file is not None:
        raise ValueError("--url and --file exclude one another: give one")
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ValueError(f"--url {url}: it must begin with https:// or http://; for a file on disk there is --file")
    is_default = url is None and file is None
    if is_default and (found := _intact(name)):
        return found
    out = cache_folder("weights") / f"{name}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    with _lock(out.with_name(f"{name}.lock")):
        if is_default and (found := _intact(name)):
            return found  # the other process has made it
        if file is not None:
            _convert(name, file, out, {"file": file.name})
        else:
            _from_url(name, url, out)
        for part in out.parent.glob(f"{name}*.part"):
            _discard(part)  # also those of other mirrors
    return out


def _intact(name: str) -> Path | None:
    """Returns the converted file if it exists and is not damaged, else None."""
    found = cached(name)
    try:
        return found if found and read_file(found) else None
    except ValueError as error:
        print(f"{error}: it is fetched again", file=sys.stderr)
        return None


def _lock(path: Path) -> contextlib.AbstractContextManager[object]:
    """Acquires a lock, which `with` or the end of the process releases; prints a line if it must wait."""
    lock = FileLock(path)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        print(f"another process is fetching {path.stem}: waiting for it", file=sys.stderr)
        return lock.acquire()


def _convert(name: str, path: Path, out: Path, origin: Mapping[str, str]) -> None:
    """Checks a file and converts it; `out` appears, or is replaced, only if the weights are those of the name."""
    _check_zip(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    convert(
        path,
        out,
        origin={"name": name, **origin, "file_sha256": digest},
        expected=PUBLISHED[name],
        preset=PRESETS["small_288"],
    )


def _check_zip(path: Path) -> None:
    """Checks the checksum that torch's files, which are zips, have for each tensor; ignores files of other formats."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LIMIT:
                raise ValueError(f"it unpacks to more than {LIMIT:,} bytes")
            if broken := archive.testzip():
                raise ValueError(f"{broken} does not fit its checksum")
    except Exception as error:  # its type depends on where the bytes are wrong
        raise ValueError(f"{path} is broken ({error}): fetch or copy it again") from error


def _from_url(name: str, url: str | None, out: Path) -> None:
    published = f"{ADDRESS}/{name}.{'classy' if name == 'sscd_disc_large' else 'torchvision'}.pt"
    url = url or published
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # no password, no signature
    file = re.sub(r"[^\w.-]", "_", PurePosixPath(parts.path).name, flags=re.ASCII)[-100:]
    part = out.with_name(f"{file if file.startswith(name) else f'{name}-{file}'}.part")
    _download(url, shown, part)
    try:
        origin = {"url": shown, "file": part.stem} | ({"license": LICENSE} if url == published else {})
        _convert(name, part, out, origin)
    except ValueError as error:
        _discard(part)
        again = f"it is removed, and the same command fetches it again; {OTHER_WAYS}"
        raise ValueError(f"what {shown} sent is not {name}: {error}; {again}") from error


def _download(url: str, shown: str, part: Path) -> None:
    """Completes `part`, resuming from the bytes that it has; tries again if that may help."""
    try:
        RETRYING(functools.partial(_request, url, shown, part))
    except requests.RequestException as error:
        there, _ = _begun(shown, part)
        state = f"{there:,} bytes are kept, rerun the same command to resume" if there else "try again later"
        raise OSError(f"{shown}: {error}; {state}; {OTHER_WAYS}") from error
    except OSError as error:
        raise OSError(f"{shown}: {error}; {OTHER_WAYS}") from error


def _request(url: str, shown: str, part: Path) -> None:
    """Makes one request, for the bytes that are not there yet.

    Raises:
        requests.RequestException: the request failed, and trying again may help.
        OSError: the request failed, and trying again does not help.
    """
    there, version = _begun(shown, part)
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": version}  # a file that changed is sent from its start
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
        status, sent = response.status_code, response.headers
        said = f"the server says {status} {response.reason}"
        length = sent.get("Content-Length", "")
        match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", sent.get("Content-Range", ""))
        if status == 416 and there and match and match[2] == str(there):
            return  # it was complete already
        if status == 206 and match and match[1] == str(there) and _version(sent) in ("", version):
            length = match[2]
        elif status == 200:
            there = 0
            part.write_bytes(b"")  # before the note, which must not describe the bytes of another file
            _note(part).write_text(json.dumps({"url": shown, "version": _version(sent)}))
        elif status in (206, 416):
            _discard(part)
            raise requests.ConnectionError(f"{said} and has a different file than before")
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
        raise requests.ConnectionError(f"{there:,} of {size:,} bytes were received")


def _note(part: Path) -> Path:
    return part.with_suffix(".json")


def _begun(shown: str, part: Path) -> tuple[int, str]:
    """Returns the number of bytes that `part` has and the version of the file; 0 if the version is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(_note(part).read_text())
        if note["url"] == shown and note["version"]:
            return part.stat().st_size, note["version"]
    return 0, ""


def _version(headers: Mapping[str, str]) -> str:
    """Returns what identifies the file in If-Range: a strong ETag, or the date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
