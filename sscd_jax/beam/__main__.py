"""`python -m sscd_jax.beam`: embedding on many machines."""

import importlib
import sys

# Workers find the classes of the pipeline by the name of their module, which must not be __main__.
importlib.import_module("sscd_jax.beam.embed").main(sys.argv[1:])
