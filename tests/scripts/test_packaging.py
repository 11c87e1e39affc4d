"""What pip reads: pyproject.toml and requirements.txt agree, and no one is asked for a C++ compiler."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith(("#", "-"))
]


def test_the_pins_are_within_the_bounds():
    versions = {pin.name: re.sub("^==", "", str(pin.specifier)) for pin in PINS}
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["demo"]
    for requirement in map(Requirement, wanted):
        if requirement.name != PROJECT["name"]:
            assert versions[requirement.name] in requirement.specifier, requirement


def test_only_its_own_extra_asks_for_pdqhash():
    """It has no wheel for Linux; the commands of the README install without a compiler."""
    extras = {name for name, wanted in PROJECT["optional-dependencies"].items() if "pdq" in " ".join(wanted)}
    assert extras == {"pdq"}
    assert "pdqhash" not in {pin.name for pin in PINS}
