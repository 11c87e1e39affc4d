"""The recipes that come with the package: each module has `get_config() -> Config`, and its name is the recipe's."""

import importlib.util
import traceback
from pathlib import Path

from sscd_jax.config import Config


def names() -> list[str]:
    """Returns the names of the recipes, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def find(name: str) -> Path:
    """Returns the file of a recipe.

    Args:
        name: The name of a recipe, such as "disc_blur"; or the path of a Python file, which ends in .py or contains a
            path separator.

    Raises:
        ValueError: `name` is neither; the message lists the names.
    """
    known = names()
    if name in known:
        return Path(__file__).with_name(f"{name}.py")
    is_path = name.endswith(".py") or "/" in name or "\\" in name
    if is_path and Path(name).is_file():
        return Path(name)
    what = "no such file" if is_path else "no such recipe"
    raise ValueError(f"{name}: {what}; the recipes are {', '.join(known)}")


def load(name: str) -> Config:
    """Returns the configuration of a recipe, given its name or the path of a Python file.

    Raises:
        ValueError: There is no such recipe, or the file has no `get_config()` that returns a Config.

    Examples:
        >>> load("disc_blur").data.batch_size
        4096
    """
    return load_file(find(name))


def load_file(path: Path) -> Config:
    """Returns what `get_config()` of a Python file returns.

    Raises:
        ValueError: There is no such file, its code fails, or it has no `get_config()` that returns a Config.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except Exception as error:  # a recipe is the user's code, so anything can happen in it
        line = max(
            (f.lineno or 0 for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)), default=0
        )
        where = f"{path}, line {line}" if line else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path} has no function get_config() that returns a sscd_jax.config.Config")
    return config
