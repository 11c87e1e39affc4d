"""Tells a failed disk or network from a bad image, and reads again where another attempt may succeed."""

import errno

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from sscd_jax.data import storage
from sscd_jax.data.image_source import Source

ATTEMPTS = 4
LONGEST_WAIT = 8.0  # seconds between two attempts
# The names that this system has, of errors after which another attempt may succeed.
_PASSING = {
    getattr(errno, name)
    for name in (
        *("EIO", "EAGAIN", "EINTR", "EBUSY", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENOTCONN", "ECONNRESET"),
        *("ECONNABORTED", "ECONNREFUSED", "ENETDOWN", "ENETRESET", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
}


def load(source: Source, index: int) -> bytes:
    """Returns the bytes of an image, after several attempts with growing pauses where reading fails.

    Raises:
        OSError: the image cannot be read; `is_failed_read` says whether its bytes could not be read or are bad.
    """
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT),
        retry=retry_if_exception(lambda error: is_failed_read(error, source.paths[index]) and _may_pass(error)),
        reraise=True,
    )
    return attempts(source.load, index)


def is_failed_read(error: BaseException, path: str) -> bool:
    """Returns whether an error means that the bytes of an image could not be read, rather than that they are bad."""
    if not isinstance(error, OSError) or isinstance(error, storage.DamagedError):
        return False
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return False
    return error.errno is not None or isinstance(error, FileNotFoundError) or storage.in_store(path)


def _may_pass(error: BaseException) -> bool:
    """Returns whether another attempt may succeed: not where a file does not exist or may not be read."""
    number = getattr(error, "errno", None)
    return number in _PASSING or (number is None and not isinstance(error, FileNotFoundError))


def most_failed_reads(images: int, max_errors: int | None) -> int:
    """Returns how many of some images a disk or a network may fail to deliver: `max_errors`, or 100, or 1 %.

    Raises:
        ValueError: `max_errors` is negative.
    """
    if max_errors is not None and max_errors < 0:
        raise ValueError(f"--max-errors is {max_errors}; it must not be negative")
    return max(100, images // 100) if max_errors is None else max_errors


def check_failed_reads(count: int, most: int, path: str, reason: str) -> None:
    """Raises OSError if more images could not be read from a disk or a network than allowed.

    Args:
        count: how many could not be read.
        most: how many are allowed.
        path, reason: the last one, and why.
    """
    if count > most:
        raise OSError(
            f"{count} images could not be read from the disk or the network, the last one {path}: {reason}. "
            "Fix that and rerun the command with --retry, or raise --max-errors to leave them out"
        )
