"""A run that many tests read."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.runs import small_config
from helpers.shared import made_once

from sscd_jax.config import Checkpoint, Config, Validation
from sscd_jax.presets import Preset
from sscd_jax.training.train import train


@dataclass(frozen=True)
class Trained:
    """A run that has ended: its config, its folder, what `train` returned, and what it printed."""

    config: Config
    workdir: Path
    result: dict[str, float]
    errors: str

    def copied(self, folder: Path) -> Path:
        """A copy of the run's folder, for tests that change it."""
        return Path(shutil.copytree(self.workdir, folder))


@pytest.fixture(scope="session")
def trained(images, tmp_path_factory) -> Trained:
    """Six steps, three epochs, each with a validation and a checkpoint of which two are kept; not to be changed."""
    with made_once(tmp_path_factory, "trained") as (folder, absent):
        truth, result, errors = (folder / name for name in ("truth.csv", "result.json", "errors"))
        if absent:
            shutil.copytree(images, folder / "images")
        photos = str(folder / "images")
        validation = Validation(photos, photos, str(truth), custom=Preset("skew", 32), batch_size=16)
        config = small_config(folder / "images", validation=validation, checkpoint=Checkpoint(keep=2))
        if absent:
            pairs = "".join(f"{path.stem},{path.stem}\n" for path in images.iterdir())
            truth.write_text(f"query_id,reference_id\n{pairs}")
            with pytest.MonkeyPatch.context() as patch, errors.open("w") as file:
                patch.setattr("sys.stderr", file)
                result.write_text(json.dumps(train(config, folder / "run")))
        return Trained(config, folder / "run", json.loads(result.read_text()), errors.read_text())
