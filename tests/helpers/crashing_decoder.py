"""A decoder for processes that crashes, is killed or never ends on images that say so."""

import ctypes
import os
import signal
import time

from sscd_jax.data.isolated import Decoded, _decode_unless_large
from sscd_jax.presets import Preset


def decode(data: bytes, preset: Preset, max_pixels: int) -> Decoded | int:
    if data.startswith(b"crash"):
        ctypes.string_at(0)  # a segmentation fault
    if data.startswith(b"killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.startswith(b"hang"):
        time.sleep(1000)
    return _decode_unless_large(data, preset, max_pixels)
