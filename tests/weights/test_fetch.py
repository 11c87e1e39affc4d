"""Fetching from a local server that breaks off, changes the file, lies, or sends something else."""

import hashlib
import importlib
import io
import json
import re
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import tenacity
import trustme
from filelock import FileLock
from helpers.networks import SHAPES, seeded

from sscd_jax import weights
from sscd_jax.files import cache_folder
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.weights.fetch import PUBLISHED, SHA256, cached
from sscd_jax.weights.formats import check_archive
from sscd_jax.weights.native import write_safetensors
from sscd_jax.weights.read_torch import import_torch

module = importlib.import_module("sscd_jax.weights.fetch")
fetch = partial(module.fetch, allow_http=True)  # the servers of these tests have no certificate
NAME = "sscd_disc_mixup"


def archive(seed: int) -> bytes:
    """As torch.save writes: a zip of stored members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data/0", np.random.default_rng(seed).bytes(500_000))
    return buffer.getvalue()


DATA, OTHER = archive(0), archive(1)


class Handler(BaseHTTPRequestHandler):
    """Serves `self.server.file`, in the ways that the other fields of the fixture `server` say."""

    def do_GET(self) -> None:
        says = self.server.says
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        says.requests.append((asked, condition))
        status = says.statuses.pop(0) if says.statuses else 200
        data, start = says.file, 0
        if status == 200 and asked and says.ranges and (condition == says.version[1] or says.ignores_condition):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            status = 206 if start < len(data) else 416
        end = min(len(data), start + says.at_most) if status == 206 else len(data)
        body = data[start:end] if status in (200, 206) else b""
        self.send_response(status)
        if status in (200, 206) and says.version:
            self.send_header(*says.version)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(data)}")
        if says.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        breaks = says.breaks.pop(0) if says.breaks else len(body)
        self.wfile.write(body[:breaks])
        if says.after:
            says.after.pop(0)()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sscd_jax" / "weights"


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch) -> None:
    """The files that are served here need no PyTorch."""
    monkeypatch.setattr(module, "import_torch", lambda: None)


@pytest.fixture(autouse=True)
def sleeps(monkeypatch) -> list[float]:
    """What was slept, without sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(module.RETRYING, "sleep", slept.append)
    return slept


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A server on this machine. Fields are changed by a test; `requests` are (Range, If-Range) of those that came.

    `statuses` and `breaks` (bytes after which the connection ends) are used up by one request each.
    """
    says = SimpleNamespace(
        file=DATA,
        version=("ETag", '"1"'),
        ranges=True,
        ignores_condition=False,
        at_most=sys.maxsize,
        length=True,
        statuses=[],
        breaks=[],
        after=[],
        requests=[],
    )
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.says = says
    says.url = f"http://127.0.0.1:{http.server_port}/weights/{NAME}.torchvision.pt"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield says
    http.shutdown()
    http.server_close()


@pytest.fixture
def copies(monkeypatch) -> list[dict[str, str]]:
    """In place of the conversion a copy; the origins it was given."""
    origins: list[dict[str, str]] = []

    def convert(source: Path, out: Path, *, origin: dict[str, str], expected: tuple[str, int], preset: Preset) -> None:
        if not source.read_bytes().startswith(b"PK"):
            raise ValueError(f"{source}: not a file of weights")
        check_archive(source)
        out.write_bytes(source.read_bytes())
        origins.append(origin)
        assert expected == PUBLISHED[origin["name"]]
        assert preset == PRESETS["small_288"]

    monkeypatch.setattr(module, "convert", convert)
    monkeypatch.setattr(module, "read_file", Path.read_bytes)
    return origins


def left(cache: Path) -> set[str]:
    """Files in the cache but for locks and hashes."""
    return {path.name for path in cache.iterdir() if path.suffix not in (".lock", ".sha256")}


def starts(server: SimpleNamespace) -> list[int]:
    """Where each request asked to start."""
    return [int(asked[6:-1]) if asked else 0 for asked, _ in server.requests]


def test_download(server, copies, cache, capfd):
    path = fetch(NAME, url=f"{server.url.replace('//', '//user:secret@')}?signature=secret")
    assert path == cache / f"{NAME}.safetensors" == cached(NAME)
    assert path.read_bytes() == DATA
    assert left(cache) == {path.name}
    assert server.requests == [(None, None)]
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert copies == [
        {"name": NAME, "url": server.url, "file": f"{NAME}.torchvision.pt", "file_sha256": sha256},
    ]
    told = capfd.readouterr()
    assert f"{NAME}.torchvision.pt: 100%" in told.err
    assert not told.out


def test_the_published_addresses(copies, monkeypatch):
    """Large is a file of classy_vision, the others of torchvision; their license is known."""
    asked = []

    def get(url: str, **_: object) -> None:
        asked.append(url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(module.requests, "get", get)
    monkeypatch.setattr(module.RETRYING, "stop", tenacity.stop_after_attempt(1))
    for name in PUBLISHED:
        with pytest.raises(OSError, match=rf"{name}\.\w+\.pt: no network; try again later; other ways: --url.*--file"):
            fetch(name)
    base = "https://dl.fbaipublicfiles.com/sscd-copy-detection"
    assert f"{base}/sscd_disc_large.classy.pt" in asked
    assert {f"{base}/{name}.torchvision.pt" for name in PUBLISHED if name != "sscd_disc_large"} < set(asked)


def test_the_published_file(server, copies, monkeypatch):
    monkeypatch.setattr(module, "ADDRESS", server.url.rpartition("/")[0])
    assert fetch(NAME).read_bytes() == DATA
    assert copies[0]["url"] == server.url
    assert copies[0]["license"] == "MIT (Meta Platforms, Inc.)"
    server.file = OTHER
    assert fetch(NAME).read_bytes() == DATA, "it is there"
    assert len(server.requests) == 1
    other = server.url.replace(NAME, "other")
    assert fetch(NAME, url=other).read_bytes() == OTHER, "an address that is given is fetched again"


def test_without_pytorch_no_published_file_is_downloaded(server, copies, monkeypatch):
    monkeypatch.setattr(module, "ADDRESS", server.url.rpartition("/")[0])
    monkeypatch.setattr(module, "import_torch", import_torch)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'sscd_jax\[torch\]'"):
        fetch(NAME)
    assert server.requests == []


def recorded(cache: Path) -> dict[str, str]:
    lines = (cache / f"{NAME}.sha256").read_text().splitlines()
    return {line[66:]: line[:64] for line in lines}


def test_the_hash_of_the_first_file_is_recorded_and_checked(server, copies, cache, tmp_path):
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert recorded(cache) == {f"{NAME}.torchvision.pt": sha256, f"{NAME}.safetensors": sha256}
    done = subprocess.run(
        ["sha256sum", "--check", "--ignore-missing", f"{NAME}.sha256"], cwd=cache, capture_output=True, check=False
    )
    assert done.stdout == f"{NAME}.safetensors: OK\n".encode()
    assert fetch(NAME, url=server.url).read_bytes() == DATA, "the same file again"
    server.file = OTHER
    message = rf"another file than before: its SHA-256 is [0-9a-f]{{64}}, and .*{NAME}\.sha256 has {sha256}\."
    with pytest.raises(ValueError, match=message):
        fetch(NAME, url=server.url)
    (tmp_path / f"{NAME}.torchvision.pt").write_bytes(OTHER)
    with pytest.raises(ValueError, match=message):
        fetch(NAME, file=tmp_path / f"{NAME}.torchvision.pt")
    assert cached(NAME).read_bytes() == DATA, "what was there stays"
    (cache / f"{NAME}.sha256").unlink()
    assert fetch(NAME, url=server.url).read_bytes() == OTHER, "the user trusts it"


def test_a_file_whose_hash_is_known(server, copies, cache, tmp_path, monkeypatch):
    path = tmp_path / f"{NAME}.torchscript.pt"
    path.write_bytes(DATA)
    with pytest.raises(ValueError, match=rf"is not the published file: its SHA-256 is .*, not {SHA256[path.name]}"):
        fetch(NAME, file=path)
    with pytest.raises(ValueError, match=r"is not the published file.*it is removed"):
        fetch(NAME, url=server.url.replace("torchvision", "torchscript"))
    assert cached(NAME) is None
    monkeypatch.setitem(module.SHA256, path.name, hashlib.sha256(DATA).hexdigest())
    assert fetch(NAME, file=path).read_bytes() == DATA


def test_a_cached_file_that_changes_is_not_read(server, cache, tmp_path, monkeypatch, capsys):
    """One of an older version has no record: its hash is recorded at first use."""
    cache.mkdir(parents=True)
    path = cache / f"{NAME}.safetensors"
    write_safetensors(path, *seeded("resnet18"), {})
    weights.load(NAME)
    assert recorded(cache) == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_safetensors(path, *seeded("resnet18", seed=1), {})
    with pytest.raises(ValueError, match=r"has changed since it was fetched.*`sscd-jax weights fetch` repairs it"):
        weights.load(NAME)
    weights.load(path)
    monkeypatch.setattr(module, "ADDRESS", server.url.rpartition("/")[0])
    with pytest.raises(ValueError, match="sent is not"):
        fetch(NAME)
    assert "has changed since it was fetched" in capsys.readouterr().err
    (cache / f"{NAME}.sha256").write_text("of something else\n\n")
    weights.load(NAME)


class Redirects(BaseHTTPRequestHandler):
    """Redirects to the address `server.target`."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.server.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def redirects(tmp_path, monkeypatch) -> Iterator[SimpleNamespace]:
    """A server with a certificate, at https://localhost, which redirects to its `target`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    http.url = f"https://localhost:{http.server_port}/a.pt"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


def test_redirects(server, redirects, copies, capsys):
    redirects.target = server.url
    server.breaks = [200_000]
    assert fetch(NAME, url=redirects.url).read_bytes() == DATA
    assert capsys.readouterr().err.count("localhost redirects to 127.0.0.1\n") == 1, "although it was tried twice"
    assert [asked is None for asked, _ in server.requests] == [True, False], "it was resumed"
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert "redirects" not in capsys.readouterr().err
    server.requests.clear()
    redirects.target = f"{server.url}?signature=secret"
    with pytest.raises(OSError, match=rf"^{redirects.url}: it redirects to {server.url}, and anyone on the way can"):
        module.fetch(NAME, url=redirects.url)
    redirects.target = "ftp://127.0.0.1/a.pt"
    with pytest.raises(OSError, match="ftp://"):
        fetch(NAME, url=redirects.url)
    assert not server.requests


def test_cached(cache):
    assert cached(NAME) is None
    cache.mkdir(parents=True)
    for name in PUBLISHED:
        (cache / f"{name}.safetensors").touch()
        assert cached(name) == cache / f"{name}.safetensors"
    (cache / "other.safetensors").touch()
    assert cached("other") is None
    assert cached(str(cache / "other")) is None


def test_what_is_there_is_not_fetched_again_unless_it_is_damaged(server, cache, monkeypatch, capsys):
    monkeypatch.setattr(module, "ADDRESS", server.url.rpartition("/")[0])
    cache.mkdir(parents=True)
    write_safetensors(cache / f"{NAME}.safetensors", *seeded("resnet18"), {})
    assert fetch(NAME) == cached(NAME)
    assert not server.requests
    (cache / f"{NAME}.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="sent is not"):
        fetch(NAME)
    assert server.requests, "it was asked for"
    assert "it is fetched again" in capsys.readouterr().err


def test_the_cache_is_below_home_by_default(monkeypatch):
    monkeypatch.setenv("HOME", "/home/nobody")
    for value in (None, ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value) if value is not None else monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder("weights") == Path("/home/nobody/.cache/sscd_jax/weights")


@pytest.mark.parametrize("version", [("ETag", '"1"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")])
def test_a_download_that_breaks_is_resumed(server, copies, sleeps, version):
    server.version = version
    server.breaks = [200_000, 150_000]
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    first, second, third = starts(server)
    assert first == 0
    assert 100_000 < second <= 200_000
    assert second + 80_000 < third <= second + 150_000
    assert [condition for _, condition in server.requests] == [None, version[1], version[1]]
    assert sleeps == [1, 2]


def test_it_is_resumed_by_another_call(server, copies, cache):
    server.breaks = [50_000 + 70_000 * (not number) for number in range(module.TRIES)]
    with pytest.raises(OSError, match=r"rerun the same command to resume; other ways: --url MIRROR, --file PATH$"):
        fetch(NAME, url=f"{server.url}?signature=1")
    part = cache / f"{NAME}.torchvision.pt.part"
    assert left(cache) == {part.name, f"{NAME}.torchvision.pt.json"}
    there = part.stat().st_size
    assert part.read_bytes() == DATA[:there]
    assert cached(NAME) is None
    assert len(server.requests) == module.TRIES
    assert fetch(NAME, url=f"{server.url}?signature=2").read_bytes() == DATA
    assert starts(server)[module.TRIES :] == [there]
    assert left(cache) == {f"{NAME}.safetensors"}


def test_a_server_without_ranges_starts_again(server, copies):
    server.ranges = False
    server.breaks = [200_000]
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert [asked is None for asked, _ in server.requests] == [True, False]


@pytest.mark.parametrize("version", [None, ("ETag", 'W/"1"')])
def test_without_a_version_nothing_is_resumed(server, copies, version):
    """The file may have changed, and there is no telling."""
    server.version = version
    server.breaks = [200_000]
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert server.requests == [(None, None)] * 2


@pytest.mark.parametrize("ignores_condition", [False, True])
def test_a_file_that_changed_starts_again(server, copies, ignores_condition):
    def change() -> None:
        server.file, server.version = OTHER, ("ETag", '"2"')

    server.ignores_condition = ignores_condition
    server.breaks, server.after = [200_000], [change]
    assert fetch(NAME, url=server.url).read_bytes() == OTHER
    assert starts(server)[1] > 0
    assert len(server.requests) == (3 if ignores_condition else 2)


def test_another_address_starts_again(server, copies, cache):
    """Also where the other mirror says that its file is of the same version."""
    for other in (server.url.replace("/weights/", "/"), server.url.replace(".torchvision", "")):
        server.breaks, server.file = [0, 0, 0, 0, 200_000], DATA
        with pytest.raises(OSError, match="to resume"):
            fetch(NAME, url=server.url)
        server.file = OTHER
        assert fetch(NAME, url=other).read_bytes() == OTHER
        assert server.requests[-1] == (None, None)
        assert left(cache) == {f"{NAME}.safetensors"}


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_download_that_was_complete_already(server, copies, cache, more):
    """As after a kill before the conversion; the server answers 416. More than the file is started again."""
    cache.mkdir(parents=True)
    (cache / f"{NAME}.torchvision.pt.part").write_bytes(DATA + more)
    (cache / f"{NAME}.torchvision.pt.json").write_text(json.dumps({"url": server.url, "version": '"1"'}))
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert starts(server) == [len(DATA + more), 0][: 2 if more else 1]
    assert left(cache) == {f"{NAME}.safetensors"}


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 1}', None])
def test_what_is_there_without_its_version_is_not_used(server, copies, cache, note):
    cache.mkdir(parents=True)
    (cache / f"{NAME}.torchvision.pt.part").write_bytes(OTHER)
    if note is not None:
        (cache / f"{NAME}.torchvision.pt.json").write_text(note)
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert server.requests == [(None, None)]


def test_a_short_file_is_never_complete(server, copies, cache):
    """Each answer ends before the length it gave."""
    server.ranges = False
    server.breaks = [len(DATA) - 1] * 100
    with pytest.raises(OSError, match="bytes are kept"):
        fetch(NAME, url=server.url)
    assert cached(NAME) is None
    assert not copies
    assert len(server.requests) == module.TRIES


def test_a_server_that_sends_less_than_the_range(server, copies):
    """As it may; the answer itself is complete."""
    server.at_most, server.breaks = 150_000, [200_000]
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    _, second, third, fourth = starts(server)
    assert (third - second, fourth - third) == (150_000, 150_000)


def test_a_server_that_gives_no_length(server, copies, cache):
    server.length = False
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    server.breaks = [len(DATA) - 1]
    with pytest.raises(ValueError, match=r"is damaged, or is another file.* removed"):
        fetch(NAME, url=server.url)
    assert cached(NAME).read_bytes() == DATA, "what was there stays"


def test_errors_of_the_server(server, copies, sleeps, cache):
    server.statuses = [503, 500, 429]
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert sleeps == [1, 2, 4]
    server.statuses, server.requests = [404], []
    with pytest.raises(OSError, match=rf"{server.url}: the server says 404 Not Found; other ways: --url"):
        fetch(NAME, url=server.url)
    assert len(server.requests) == 1
    server.statuses = [503] * module.TRIES
    with pytest.raises(OSError, match="503 Service Unavailable; try again later; other ways"):
        fetch("sscd_disc_blur", url=server.url)
    with pytest.raises(OSError, match=r"other ways: --url MIRROR, --file PATH$"):
        fetch("sscd_disc_blur", url="http://127.0.0.1:9/a.pt")


def test_too_large(server, copies, cache, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 300_000)
    for server.length in (True, False):
        server.breaks = [1000] if server.length else []  # a length that is given is enough
        with pytest.raises(OSError, match="more than 300,000 bytes"):
            fetch(NAME, url=server.url)
        assert left(cache) == set()
    assert len(server.requests) == 2


def test_what_is_not_weights_is_removed(server, copies, cache):
    broken = bytearray(DATA)
    broken[len(DATA) // 2] ^= 1
    for server.file, reason in (
        (b"<html>please log in</html>", "not a file of weights"),
        (bytes(broken), "archive/data/0 does not fit its checksum"),
        (DATA[:-100], "cut off or broken"),
    ):
        with pytest.raises(ValueError, match=f"what {server.url} sent is not {NAME}: .*{reason}.* fetches it again"):
            fetch(NAME, url=server.url)
        assert left(cache) == set()
    server.file, server.requests = DATA, []
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert server.requests == [(None, None)]


def test_a_download_outlives_what_it_does_not_cause(server, copies, cache, monkeypatch):
    """Where an extra is missing, the disk is full, or a user loses patience, the same command resumes."""
    copy = module.convert
    for error in (ImportError("pip install it"), OSError("disk full"), KeyboardInterrupt()):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(module, "convert", fail)
        with pytest.raises(type(error)):
            fetch(NAME, url=server.url)
        assert left(cache) == {f"{NAME}.torchvision.pt.part", f"{NAME}.torchvision.pt.json"}
    monkeypatch.setattr(module, "convert", copy)
    assert fetch(NAME, url=server.url).read_bytes() == DATA
    assert starts(server) == [0] + [len(DATA)] * 3


def test_weights_of_another_network_are_refused(server, cache, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", *seeded("resnet18", 24), {})
    server.file = (tmp_path / "a.safetensors").read_bytes()
    reason = "holds a resnet18 with 24 dims, not a resnext101_32x4d with 1024 dims"
    with pytest.raises(ValueError, match=f"sent is not sscd_disc_large: .* {reason}; it is removed"):
        fetch("sscd_disc_large", url=server.url)
    assert left(cache) == set()
    with pytest.raises(ValueError, match=rf"a\.safetensors {reason}$"):
        fetch("sscd_disc_large", file=tmp_path / "a.safetensors")
    assert left(cache) == set()


@pytest.mark.parametrize("path", ["../../up.pt?x=/../y", "..", "", "a%2F..%2Fb.pt", "a\\b.pt", "x" * 300, "x;y/:*"])
def test_no_address_leads_out_of_the_cache(server, copies, cache, path, monkeypatch):
    session = requests.Session()

    def get(url: str, **options: object) -> requests.Response:
        (part,) = {p.resolve().parent for p in cache.iterdir()}
        assert part == cache
        return session.get(server.url, **options)

    monkeypatch.setattr(module.requests, "get", get)
    server.breaks = [10]
    assert fetch(NAME, url=f"http://host/{path}").read_bytes() == DATA
    assert left(cache) == {f"{NAME}.safetensors"}
    assert {p.name for p in cache.parent.iterdir()} == {"weights"}


def test_a_mirror_on_disk(tmp_path, copies, cache):
    path = tmp_path / "mine.pt"
    path.write_bytes(DATA)
    assert fetch(NAME, file=path).read_bytes() == DATA
    assert copies == [{"name": NAME, "file": "mine.pt", "file_sha256": hashlib.sha256(DATA).hexdigest()}]
    path.write_bytes(DATA[:-100])
    with pytest.raises(ValueError, match=r"mine\.pt is damaged, or is another file"):
        fetch(NAME, file=path)
    assert path.read_bytes() == DATA[:-100]
    assert cached(NAME).read_bytes() == DATA
    with pytest.raises(OSError, match=r"absent\.pt"):
        fetch(NAME, file=tmp_path / "absent.pt")


def test_arguments_that_cannot_be(tmp_path, cache):
    with pytest.raises(ValueError, match="'sscd'; choose one of sscd_disc_mixup, sscd_disc_blur, "):
        fetch("sscd")
    with pytest.raises(ValueError, match="exclude one another"):
        fetch(NAME, url="http://host/a.pt", file=tmp_path)
    for url in ("file:///etc/passwd", "a.pt", "", "https://"):
        with pytest.raises(ValueError, match="must begin with https://"):
            fetch(NAME, url=url)
    with pytest.raises(ValueError, match=r"--url http://host/a\.pt: anyone on the way can .* or pass --allow-http$"):
        module.fetch(NAME, url="http://user:secret@host/a.pt?signature=secret")
    assert not cache.exists()


def test_processes_do_not_meet(server, copies, cache, capfd):
    """While another process holds the lock, this one waits, and takes what the other made."""
    cache.mkdir(parents=True)
    holder = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(); input()"
    command = [sys.executable, "-c", holder, str(cache / f"{NAME}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        fetched: list[Path] = []
        thread = threading.Thread(target=lambda: fetched.append(fetch(NAME)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        (cache / f"{NAME}.safetensors").write_bytes(b"of the other")
        other.communicate(b"\n")
        thread.join(10)
    assert fetched == [cached(NAME)]
    assert cached(NAME).read_bytes() == b"of the other"
    assert f"another process is fetching {NAME}: waiting" in capfd.readouterr().err
    FileLock(cache / f"{NAME}.lock").acquire(blocking=False).lock.release()  # it was released


def test_many_at_once(server, copies, cache):
    threads = [threading.Thread(target=fetch, args=[NAME], kwargs={"url": server.url}) for _ in range(4)]
    server.breaks = [200_000, 100_000]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert cached(NAME).read_bytes() == DATA
    assert left(cache) == {f"{NAME}.safetensors"}
    assert starts(server).count(0) == 4


def metadata(path: Path) -> dict[str, str]:
    """Of a file of safetensors."""
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]


@pytest.mark.slow
def test_with_the_conversion(server, tmp_path, cache):
    """A file of torch, over a connection that breaks, to one that names where it is from."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    state = {key: rng.uniform(0.1, 0.5, shape).astype(np.float32) for key, shape in SHAPES["TV_RESNET50"].items()}
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, tmp_path / "weights.pt")
    server.file = (tmp_path / "weights.pt").read_bytes()
    server.breaks = [30_000_000]
    path = fetch(NAME, url=server.url)
    assert starts(server)[1] > 29_000_000
    said = json.dumps(metadata(path))
    for value in (NAME, server.url, hashlib.sha256(server.file).hexdigest()):
        assert value in said
    assert ".part" not in said
    assert left(cache) == {path.name}
    with pytest.raises(ValueError, match="a resnet50 with 512 dims, not a resnext101_32x4d"):
        fetch("sscd_disc_large", file=tmp_path / "weights.pt")
    server.file = server.file[:1000].replace(b"PK", b"  ")
    with pytest.raises(ValueError, match="it is removed"):
        fetch("sscd_disc_blur", url=server.url)
    assert left(cache) == {path.name}
