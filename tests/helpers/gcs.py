"""Google Cloud Storage on this machine, for TensorFlow's own gs://: a proxy that answers for googleapis.com itself."""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import trustme


class Bucket(BaseHTTPRequestHandler):
    """What TensorFlow asks of the JSON API. Objects are by BUCKET/NAME; requests are noted as (method, path, range).

    The next requests for contents are answered with these faults: "503", or "cut" for half of the content.
    """

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    requests: list[tuple[str, str, str | None]]
    faults: list[str]
    context: ssl.SSLContext

    @classmethod
    def reads(cls, name: str) -> list[int]:
        """How many bytes of an object each request has asked for and got."""
        size = len(cls.objects[name])
        ranges = [part for method, path, part in cls.requests if method == "GET" and unquote(path) == f"/{name}"]
        ends = [tuple(map(int, re.findall(r"\d+", part or f"0-{size - 1}"))) for part in ranges]
        return [max(min(last + 1, size) - first, 0) for first, last in ends]

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def answer(self, code: int, body: object = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.requests.append(("GET", self.path, self.headers["Range"]))
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if self.headers["Host"].startswith("storage."):
            self.content(unquote(url.path[1:]))
        elif of_object := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", url.path):
            name = f"{of_object[1]}/{unquote(of_object[2])}"
            facts = {
                "size": str(len(self.objects.get(name, b""))),
                "generation": "1",
                "updated": "2024-01-01T00:00:00Z",
            }
            self.answer(200, facts) if name in self.objects else self.answer(404)
        elif of_bucket := re.fullmatch(r"/storage/v1/b/([^/]+)/o", url.path):
            start = f"{of_bucket[1]}/"
            prefix = query.get("prefix", "")
            names = [one.removeprefix(start) for one in sorted(self.objects) if one.startswith(start + prefix)]
            deeper = {one for one in names if "delimiter" in query and "/" in one[len(prefix) :]}
            items = [{"name": one} for one in names if one not in deeper]
            prefixes = {prefix + one[len(prefix) :].split("/")[0] + "/" for one in deeper}
            self.answer(200, {"items": items[: int(query.get("maxResults", 1000))], "prefixes": sorted(prefixes)})
        else:
            self.answer(200, {"location": "US"})

    def content(self, name: str) -> None:
        if name not in self.objects:
            self.answer(404)
            return
        first, last = map(int, re.findall(r"\d+", self.headers["Range"] or f"0-{len(self.objects[name])}"))
        data = self.objects[name][first : last + 1]
        fault = self.faults.pop(0) if self.faults else None
        if fault == "cut":
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.connection.close()
            self.close_connection = True
            return
        if fault:
            self.answer(int(fault))
            return
        self.answer(206, data) if data else self.answer(416)

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size + 2)[:-2])
        self.rfile.readline()
        return b"".join(chunks)

    def do_POST(self) -> None:
        self.requests.append(("POST", self.path, None))
        data, url = self.body(), urlsplit(self.path)
        if url.path.startswith("/upload/"):
            query = dict(parse_qsl(url.query))
            name = f"{url.path.split('/')[5]}/{query['name']}"
            if query["uploadType"] == "media":
                self.objects[name] = data
            self.answer(200, Location=f"https://www.googleapis.com/put/{quote(name, safe='')}")
            return
        one, other = re.fullmatch(r"/storage/v1/b/(.+)/rewriteTo/b/(.+)", url.path).groups()
        source, target = (unquote(name).replace("/o/", "/", 1) for name in (one, other))
        self.objects[target] = self.objects[source]
        self.answer(200, {"done": True})

    def do_PUT(self) -> None:
        self.requests.append(("PUT", self.path, self.headers["Content-Range"]))
        self.objects[unquote(self.path.removeprefix("/put/"))] = self.body()
        self.answer(200, b"")

    def do_DELETE(self) -> None:
        self.requests.append(("DELETE", self.path, None))
        bucket, name = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", self.path).groups()
        self.answer(204 if self.objects.pop(f"{bucket}/{unquote(name)}", None) is not None else 404)


@contextmanager
def serve(folder: Path) -> Iterator[tuple[type[Bucket], dict[str, str]]]:
    """A server with no objects, and the environment in which TensorFlow's gs:// is this server."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("www.googleapis.com", "storage.googleapis.com").configure_cert(context)
    bucket = type("Bucket", (Bucket,), {"objects": {}, "requests": [], "faults": [], "context": context})
    with ThreadingHTTPServer(("127.0.0.1", 0), bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield (
            bucket,
            {
                "https_proxy": f"http://127.0.0.1:{server.server_port}",
                "CURL_CA_BUNDLE": str(folder / "authority.pem"),
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "NO_GCE_CHECK": "true",
            },
        )
        server.shutdown()
