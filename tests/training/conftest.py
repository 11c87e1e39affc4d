"""A run that many tests read."""

import dataclasses
import pickle
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
        if absent:
            (folder / "trained.pickle").write_bytes(pickle.dumps(_train(images, folder)))
        return pickle.loads((folder / "trained.pickle").read_bytes())


def _train(images: Path, folder: Path) -> Trained:
    truth = folder / "truth.csv"
    truth.write_text("query_id,reference_id\n" + "".join(f"{p.stem},{p.stem}\n" for p in images.iterdir()))
    sources = {"queries": str(images), "references": str(images), "ground_truth": str(truth)}
    validation = Validation(**sources, custom=Preset("skew", 32), batch_size=16)
    config = dataclasses.replace(small_config(images), validation=validation, checkpoint=Checkpoint(keep=2))
    with pytest.MonkeyPatch.context() as patch, (folder / "errors").open("w+") as errors:
        patch.setattr("sys.stderr", errors)
        result = train(config, folder / "run")
        errors.seek(0)
        return Trained(config, folder / "run", result, errors.read())
