"""Checks in fresh environments: `nox -l` lists the sessions, `nox -s lint types` runs two of them.

Paths after `--` replace the default tier: `nox -s tests-3.13 -- tests/search tests/test_losses.py`.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"

# Tests call pip, which environments made by uv do not have: it is installed with the rest.
PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Runs the tests with the pinned versions."""
    session.install("-r", "requirements.txt", "-e", ".[test]", "pip")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Runs the tests with the lowest version that pyproject.toml allows of each direct dependency."""
    versions = Path(session.create_tmp()) / "lowest.txt"
    compile_ = ["uv", "pip", "compile", "pyproject.toml", "--extra", "test", "--resolution", "lowest-direct"]
    session.install("uv")
    session.run(*compile_, "--python-version", PYTHONS[0], "--quiet", "--output-file", str(versions))
    session.install("-r", str(versions))
    session.install("--no-deps", "-e", ".", "pip")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[-1])
def core(session: nox.Session) -> None:
    """Runs the tests without any extra: those that need one are skipped. The two packages have the photographs."""
    tools = ["pytest", "pytest-xdist", "hypothesis", "trustme", "pip"]
    session.install("-e", ".", *tools, "scikit-image", "scikit-learn")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Checks the style, the spelling, the direction of imports and the shell scripts."""
    session.install("-r", "requirements.txt", "-e", ".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("lint-imports")
    scripts = session.run("git", "ls-files", "*.sh", ".ci/run", external=True, silent=True)
    session.run("shellcheck", *scripts.split())


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Checks the types."""
    session.install("-r", "requirements.txt", "-e", ".[test]")
    session.run("mypy")


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """Builds the site, where a warning is an error."""
    session.install("-r", "requirements.txt", "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp())


@nox.session(python=PYTHONS[0])
def wheel(session: nox.Session) -> None:
    """Builds the wheel, installs it elsewhere, and uses it from an empty folder."""
    session.install("-r", "requirements.txt", "-e", ".[test]", "pip")
    session.run("pytest", "-n0", "-m", "slow or not slow", "tests/test_wheel.py", *session.posargs)
