"""`python -m sscd_jax.beam`: embeds images on many machines; see `sscd_jax.beam.embed`."""

import importlib
import sys

from sscd_jax.cli.native_output import native_output_to_log

with native_output_to_log(expected=(ValueError, OSError, ImportError)):
    # Workers find the classes of a pipeline by the name of their module, which must not be __main__.
    importlib.import_module("sscd_jax.beam.embed").main(sys.argv[1:])
