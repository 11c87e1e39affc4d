"""`python -m sscd_jax.beam`: embeds images on many machines; see `sscd_jax.beam.embed`."""

import importlib
import sys

# Workers find the classes of a pipeline by the name of their module, which must not be __main__.
importlib.import_module("sscd_jax.beam.embed").main(sys.argv[1:])
