"""The command line: each command is a thin call into the package."""

from sscd_jax.cli.main import main

__all__ = ["main"]
