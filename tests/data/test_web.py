"""Images at web addresses: all of their bytes, or a reason for each that cannot be read."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sscd_jax.data import web
from sscd_jax.data.sources import open_source


@pytest.fixture
def server(images):
    """Answers with an image; or as the path says."""
    jpeg = min(images.iterdir()).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/image.jpg" if self.path == "/moved" else self.path)
                self.end_headers()
            elif self.path == "/slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(50):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif self.path == "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(jpeg)
            elif self.path == "/silent":
                time.sleep(2)
            else:
                self.send_response(200 if "image" in self.path else int(self.path[1:]))
                self.end_headers()
                self.wfile.write(jpeg)

        def log_message(self, *_) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}", jpeg
        made.shutdown()


def test_a_list_of_addresses(server, tmp_path):
    address, jpeg = server
    (tmp_path / "list.txt").write_text("\n".join(f"{address}/{name}" for name in ("image.jpg", "image?id=1.2", "404")))
    source = open_source(str(tmp_path / "list.txt"))
    assert source.ids == [f"{address}/image", f"{address}/image?id=1.2", f"{address}/404"]
    assert [source.load(k) for k in range(2)] == [jpeg] * 2
    with pytest.raises(FileNotFoundError, match="the server answers 404 Not Found"):
        source.load(2)
    assert open_source(f"{address}/image.jpg").load(0) == jpeg


def test_reasons(server, monkeypatch):
    address, jpeg = server
    monkeypatch.setattr(web, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(web, "TOTAL_SECONDS", 0.5)
    assert web.read_url(f"{address}/moved") == jpeg
    for name, kind, reason in [
        ("410", FileNotFoundError, "410 Gone"),
        ("503", OSError, "the server answers 503 Service Unavailable"),
        ("silent", TimeoutError, "the server does not answer"),
        ("slow", TimeoutError, "needs more than 0.5 seconds"),
        ("cut", OSError, "IncompleteRead"),
        ("moved-around", OSError, "redirects"),
    ]:
        with pytest.raises(kind, match=reason):
            web.read_url(f"{address}/{name}")
    monkeypatch.setattr(web, "MAX_BYTES", len(jpeg) - 1)
    with pytest.raises(OSError, match="more than"):
        web.read_url(f"{address}/image")
    for bad in ("http://127.0.0.1:1/a", "http://[", "https://127.0.0.1:99999/"):
        with pytest.raises(OSError, match="the address cannot be read"):
            web.read_url(bad)


def test_https(images):
    """By a certificate of an authority that is not known, which is refused: an image may not come from anyone."""
    import ssl

    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"image")

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made, authority.cert_pem.tempfile() as trusted:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{made.server_port}/a.jpg"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            web.read_url(address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REQUESTS_CA_BUNDLE", trusted)
            assert web.read_url(address) == b"image"
        made.shutdown()
