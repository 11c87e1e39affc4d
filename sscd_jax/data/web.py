"""Reads images from web addresses."""

import threading
import time
from typing import TYPE_CHECKING

from sscd_jax.data.archives import MAX_BYTES

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS = 10, 30, 300
_local = threading.local()


def is_url(path: str) -> bool:
    """Returns whether a path is an address that begins with http:// or https://."""
    return path.lower().startswith(("http://", "https://"))


def read_url(url: str) -> bytes:
    """Returns what is at an address, which may have at most MAX_BYTES.

    Raises:
        FileNotFoundError: there is nothing at the address (status 404 or 410).
        TimeoutError: the server does not answer, or takes more than 5 minutes.
        OSError: the address cannot be read for another reason.
    """
    import requests  # not before: it adds filters of warnings

    end = time.monotonic() + TOTAL_SECONDS
    data = bytearray()
    try:
        with _session().get(url, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)) as response:
            if response.status_code != requests.codes.ok:
                missing = response.status_code in (requests.codes.not_found, requests.codes.gone)
                reason = f"the server answers {response.status_code} {response.reason}"
                raise FileNotFoundError(reason) if missing else OSError(reason)
            for part in response.iter_content(1 << 16):
                data += part
                if len(data) > MAX_BYTES:
                    raise OSError(f"it has more than {MAX_BYTES} bytes")
                if time.monotonic() > end:
                    raise TimeoutError(f"the server needs more than {TOTAL_SECONDS} seconds")
    except requests.Timeout as error:
        raise TimeoutError("the server does not answer") from error
    except (requests.RequestException, ValueError) as error:  # ValueError: the address has no valid form
        raise OSError(f"the address cannot be read: {error}") from error
    return bytes(data)


def _session() -> "requests.Session":
    import requests

    if not hasattr(_local, "session"):  # one for each thread, which keeps its connections open
        _local.session = requests.Session()
        _local.session.max_redirects = 10
    return _local.session
