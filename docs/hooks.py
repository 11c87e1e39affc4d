"""Builds docs/reference/commands.md from the help of every command, when MkDocs builds the site."""

import contextlib
import io
import os
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

WIDTH = 76  # columns of a block on the page
INTRODUCTION = """# Commands

This page is made from `sscd-jax --help` and `sscd-jax COMMAND --help`. `train` and `preview` show the values of a
recipe as defaults if you name it: `sscd-jax train disc_blur --help`.

```text
{}
```
"""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the page of the commands."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    return files


def commands_page() -> str:
    """Returns the page: a section with the help of each command."""
    from sscd_jax.cli.main import COMMANDS

    sections = [f"## {name}\n\n```text\n{help_of(name)}\n```\n" for name in COMMANDS]
    return "\n".join([INTRODUCTION.format(help_of("")), *sections])


def help_of(command: str) -> str:
    """Returns what `sscd-jax COMMAND --help` prints, without colors and at most WIDTH columns wide."""
    from sscd_jax.cli.main import main

    printed, before = io.StringIO(), dict(os.environ)
    os.environ |= {"COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*command.split(), "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return "\n".join(textwrap.fill(line.rstrip(), WIDTH) for line in printed.getvalue().strip().splitlines())
