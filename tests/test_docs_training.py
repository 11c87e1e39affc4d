"""The page of training is run in small, and the estimates on the pages are what their commands print."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import roofline
from helpers.networks import seeded
from helpers.pages import DOCS, PAGES, empty_folder

from sscd_jax import config as configs
from sscd_jax.cli.main import main
from sscd_jax.config import Config, Data, Loss, Model, Optimizer, Validation
from sscd_jax.data.sources import open_source
from sscd_jax.files import cache_folder
from sscd_jax.presets import Preset
from sscd_jax.weights.native import write_safetensors


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    return empty_folder(tmp_path, monkeypatch)


# Scripts of the page of training whose output was copied, and why they are not run.
NOT_RUN = {
    "scripts/batch_sizes.py": "many trainings; in small below",
    "scripts/benchmarks/convolutions.py": "the time of this machine",
    "scripts/benchmarks/microbatch.py": "minutes of compiling",
    "scripts/compile_for_tpu.py": "minutes, and the package libtpu; in small in test_roofline.py",
    "scripts/benchmarks/train_step.py": "minutes, and the time of this machine",
    "scripts/precision.py": "many trainings",
    "scripts/random_kills.py": "half an hour; in small in test_random_kills.py",
}


@pytest.mark.slow
def test_training(folder, images, monkeypatch):
    """Runs the page's commands for two steps, with a narrow network and a few small images."""
    page = PAGES["training"]
    for name in ("DISC2021/training", "photos"):
        shutil.copytree(images, name)
    narrow = "--model.backbone resnet18 --model.width 8 --model.dims 24 --data.image-size 32 --data.batch-size 16"
    write_safetensors(cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet18", 24, width=8), {})
    commands = [
        shlex.split(line) for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    runs = [command for command in commands if command[0] == "sscd-jax"]
    assert [command[1] for command in runs] == ["train"] * 4
    for command in runs:
        pieces = ["--microbatch", "8"] if "--microbatch" in command else []
        main([*command[1:], *narrow.split(), "--steps", "2", "--optimizer.warmup-steps", "1", *pieces])
        assert (Path(command[command.index("--workdir") + 1]) / "checkpoints" / "2").is_dir()
    scripts = set(re.findall(r"python (scripts/\S+\.py)", page))
    assert scripts == NOT_RUN.keys() | {"scripts/roofline.py"}
    assert all((DOCS.parent / script).is_file() for script in scripts)


def test_the_tables_of_the_training_page_are_of_the_commands_above_them():
    found = re.findall(r"python scripts/batch_sizes.py (.*?)\n```\n\n```text\n(.*?)```", PAGES["training"], re.DOTALL)
    assert len(found) == 2
    for command, said in found:
        settings = [setting.split(",") for setting in command.split(" --")[0].split()]
        assert [line.split()[:4] for line in said.splitlines()[1:]] == settings


@pytest.mark.slow
def test_batch_sizes(images, tmp_path, monkeypatch, capsys):
    """Trains one setting with two seeds, for four steps of a narrow network."""
    pytest.importorskip("matplotlib")
    import batch_sizes

    truth = tmp_path / "truth.csv"
    truth.write_text("query_id,reference_id\n" + "".join(f"{path.stem},{path.stem}\n" for path in images.iterdir()))
    (tmp_path / "images").mkdir()

    def small(_: Path, *, seed: int, steps: int) -> Config:
        return Config(
            seed=seed,
            steps=steps,
            data=Data(source=str(images), image_size=32),
            model=Model(backbone="resnet18", dims=16, width=8),
            optimizer=Optimizer(warmup_steps=0),
            validation=Validation(str(images), str(images), str(truth), custom=Preset("skew", 32)),
        )

    monkeypatch.setattr(batch_sizes, "demo_config", small)
    monkeypatch.setattr(
        "sys.argv", ["batch_sizes.py", "8,0.5,2,3", "--seeds", "0", "1", "--images", "32", "--out", str(tmp_path)]
    )
    batch_sizes.main()
    header, row = capsys.readouterr().out.splitlines()
    names = ["batch", "rate", "entropy weight", "its warm-up", "steps", "uAP", "standard error", "positive_sim"]
    assert re.split("  +", header) == [*names, "nearest_negative_sim"]
    assert row.split()[:7] == ["8", "0.5", "2", "3", "4", "1.000", "0.000"], "an image is its own copy"
    run = configs.from_dict(json.loads((tmp_path / "8,0.5,2,3,1" / "config.json").read_text()))
    assert (run.seed, run.data.batch_size, run.loss) == (1, 8, Loss(entropy_weight=2, entropy_warmup_steps=3))
    assert configs.learning_rate(run) == 0.5


@pytest.mark.slow
def test_the_estimate_of_the_pipelines_page():
    page = (DOCS / "beam.md").read_text()
    ((command, said),) = re.findall(r"```bash\n(python scripts/.*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, cwd=DOCS.parent)
    assert done.stdout == said


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [pytest.param("pods", 5, marks=pytest.mark.slow), ("training", 1)])
def test_the_estimates_of_a_step(name, count, capsys, monkeypatch):
    """The output of scripts/compile_for_tpu.py was copied, as it takes minutes and the package libtpu."""
    monkeypatch.chdir(DOCS.parent)
    page = (DOCS / f"{name}.md").read_text()
    blocks = re.findall(r"```bash\npython scripts/roofline.py (.*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == count
    for arguments, said in blocks:
        roofline.main(shlex.split(arguments))
        assert capsys.readouterr().out == said


def test_the_pods_page_packs(folder, images):
    """A store in memory takes the place of the bucket."""
    shutil.copytree(images, "photos")
    (command,) = re.findall(r"^sscd-jax pack .*", (DOCS / "pods.md").read_text(), re.MULTILINE)
    main(shlex.split(command.replace("gs://BUCKET", "ram://docs"))[1:])
    packed, there = open_source("ram://docs/photos"), open_source("photos")
    assert packed.ids == there.ids
    assert [packed.load(k) for k in range(40)] == [there.load(k) for k in range(40)]
