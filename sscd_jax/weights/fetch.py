"""Downloads published weights, checks and converts them, and keeps them in the cache."""

import contextlib
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

import requests
import tenacity
from filelock import FileLock, Timeout
from tqdm import tqdm

from sscd_jax.files import cache_folder, write_text
from sscd_jax.presets import PRESETS
from sscd_jax.weights.convert import convert
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import hash_file
from sscd_jax.weights.read_torch import import_torch

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
# Meta publishes no checksums. This one stands in many public projects that fetched the file on their own. Of the other
# files none is known: theirs are recorded when they are first fetched.
SHA256 = {"sscd_disc_mixup.torchscript.pt": "9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56"}

LIMIT = 2 * 2**30  # bytes, many times the size of any published file, so that no mirror fills the disk
TRIES = 5
OTHER_WAYS = "other ways: --url MIRROR, --file PATH"
UNSAFE = "anyone on the way can change what http:// sends: name an https:// address, or pass --allow-http"

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


def fetch(name: str, *, url: str | None = None, file: Path | None = None, allow_http: bool = False) -> Path:
    """Downloads published weights, checks and converts them; returns at once if they are in the cache.

    A download that was interrupted is resumed by the next call. If several processes fetch the same weights, one
    downloads them and the others wait. A file whose SHA-256 is known must have it. That of any other file is recorded
    in NAME.sha256 beside the cached file, and a file of the same name must have it from then on.

    Args:
        name: one of `PUBLISHED`.
        url: the address of a mirror, to download from instead, whether or not the weights are in the cache.
        file: a copy of the published file on disk, to read instead; it is left as it is.
        allow_http: whether `url`, or an address that it redirects to, may be http://, which anyone on the way can
            change.

    Returns:
        The file NAME.safetensors in the cache.

    Raises:
        ValueError: the name is unknown, both `url` and `file` are given, the weights are broken or are not those of the
            name, or the file is another one than its SHA-256 says.
        OSError: the download failed; the error says why, how much of it is kept, and which other ways there are.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published weights {name!r}; choose one of {', '.join(PUBLISHED)}")
    if url is not None and file is not None:
        raise ValueError("--url and --file exclude one another: give one")
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ValueError(f"--url {url}: it must begin with https://; for a file on disk there is --file")
    if url is not None and urlsplit(url).scheme == "http" and not allow_http:
        raise ValueError(f"--url {_shown(url)}: {UNSAFE}")
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
            _from_url(name, url, out, allow_http)
        for part in out.parent.glob(f"{name}*.part"):
            _discard(part)  # also those of other mirrors
    return out


def ensure(name: str) -> None:
    """Downloads the published weights of a name, unless they are in the cache or a file has that name.

    Raises:
        OSError: they cannot be downloaded; the error says which other ways there are.
    """
    if name in PUBLISHED and not Path(name).exists() and not cached(name):
        fetch(name)


def check(path: Path) -> None:
    """Checks a file of the cache by the SHA-256 that was recorded when it was made.

    The hash of a file of an older version, which recorded none, is recorded now.

    Raises:
        ValueError: the file has changed.
    """
    known, found = _recorded(path), hash_file(path)
    if known.setdefault(path.name, found) != found:
        raise ValueError(f"{path} has changed since it was fetched: its SHA-256 is not the one in {_record(path)}")
    with contextlib.suppress(OSError):  # a cache that others filled, and that cannot be written
        _add(path, known)


def _record(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _recorded(path: Path) -> dict[str, str]:
    """Returns the SHA-256 of files by their names, from the record beside a file of the cache."""
    try:
        lines = _record(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _add(path: Path, more: Mapping[str, str]) -> None:
    """Adds SHA-256 sums to the record, in the format of sha256sum."""
    before = _recorded(path)
    if not more.items() <= before.items():
        write_text(_record(path), "".join(f"{digest}  {name}\n" for name, digest in {**before, **more}.items()))


def _intact(name: str) -> Path | None:
    """Returns the converted file if it exists and is not damaged, else None."""
    found = cached(name)
    try:
        if found is None:
            return None
        check(found)
        read_file(found)
        return found
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
    digest, file = hash_file(path), _safe(origin["file"])
    if digest != SHA256.get(file, digest):
        raise ValueError(f"{path} is not the published file: its SHA-256 is {digest}, not {SHA256[file]}")
    if digest != (known := _recorded(out).get(file, digest)):
        raise ValueError(
            f"{path} is damaged, or is another file than before: its SHA-256 is {digest}, and {_record(out)} has "
            f"{known}. If you trust the new one, remove that record"
        )
    facts = {"name": name, **origin, "file_sha256": digest}
    convert(path, out, origin=facts, expected=PUBLISHED[name], preset=PRESETS["small_288"])
    _add(out, {file: digest, out.name: hash_file(out)})


def _shown(url: str) -> str:
    """Returns an address without password and signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _safe(name: str) -> str:
    """Returns the name of a file, without what leads elsewhere or breaks lines."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-100:]


def _from_url(name: str, url: str | None, out: Path, allow_http: bool) -> None:
    published = f"{ADDRESS}/{name}.{'classy' if name == 'sscd_disc_large' else 'torchvision'}.pt"
    url = url or published
    shown, file = _shown(url), _safe(PurePosixPath(urlsplit(url).path).name)
    part = out.with_name(f"{file if file.startswith(name) else f'{name}-{file}'}.part")
    if url == published:
        import_torch()  # an error comes before 100 MB are downloaded
    _download(url, shown, part, allow_http)
    try:
        origin = {"url": shown, "file": part.stem} | ({"license": LICENSE} if url == published else {})
        _convert(name, part, out, origin)
    except ValueError as error:
        _discard(part)
        again = f"it is removed, and the same command fetches it again; {OTHER_WAYS}"
        raise ValueError(f"what {shown} sent is not {name}: {error}; {again}") from error


def _download(url: str, shown: str, part: Path, allow_http: bool) -> None:
    """Completes `part`, resuming from the bytes that it has; tries again if that may help."""
    said: set[str] = set()

    def follow(response: requests.Response, **_: object) -> None:
        """Is called for each answer: says to which other host a redirect leads, and refuses http://."""
        target = urljoin(response.url, response.headers.get("Location", ""))
        if not response.is_redirect:
            return
        if urlsplit(target).scheme != "https" and not allow_http:
            raise OSError(f"it redirects to {_shown(target)}, and {UNSAFE}")
        hosts = [urlsplit(one).hostname for one in (response.url, target)]
        line = f"{hosts[0]} redirects to {hosts[1]}"
        if hosts[0] != hosts[1] and line not in said:
            print(line, file=sys.stderr)
            said.add(line)

    try:
        RETRYING(functools.partial(_request, url, shown, part, follow))
    except requests.RequestException as error:
        there, _ = _begun(shown, part)
        state = f"{there:,} bytes are kept, rerun the same command to resume" if there else "try again later"
        raise OSError(f"{shown}: {error}; {state}; {OTHER_WAYS}") from error
    except OSError as error:
        raise OSError(f"{shown}: {error}; {OTHER_WAYS}") from error


def _request(url: str, shown: str, part: Path, follow: Callable[..., None]) -> None:
    """Makes one request, for the bytes that are not there yet.

    Raises:
        requests.RequestException: the request failed, and trying again may help.
        OSError: the request failed, and trying again does not help.
    """
    there, version = _begun(shown, part)
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": version}  # a file that changed is sent from its start
    hooks = {"response": follow}
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60), hooks=hooks) as response:
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
