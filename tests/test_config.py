"""Configurations: the recipes, and what is refused before any data is read."""

import json
import math
from pathlib import Path

import pytest

from sscd_jax import config as configs
from sscd_jax import recipes
from sscd_jax.config import Checkpoint, Config, Data, Loss, Model, Optimizer, Validation, run_length
from sscd_jax.optimizer import warmup_cosine
from sscd_jax.presets import Preset

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_load_and_survive_json(name):
    config = recipes.load(name)
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert f"sscd-jax train {name} --workdir " in recipes.find(name).read_text(), "the docstring gives the command"


def test_a_recipe_is_found_by_name_or_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("disc_blur").mkdir()  # not a file of Python: the name is meant
    assert recipes.find("disc_blur") == Path(recipes.__file__).with_name("disc_blur.py")
    Path("disc_blur.py").write_text("from sscd_jax.config import Config\nget_config = lambda: Config(seed=7)\n")
    for path in ("disc_blur.py", "./disc_blur.py", str(tmp_path / "disc_blur.py")):
        assert recipes.load(path).seed == 7
    assert recipes.load("disc_blur").seed == 0
    for name, reason in {"disc_blurr": "no such recipe", "configs/disc_blur.py": "no such file"}.items():
        with pytest.raises(ValueError, match=f"{name}: {reason}; the recipes are debug, demo, disc_advanced, .*_mixup"):
            recipes.load(name)


def test_disc_blur_is_the_recipe_of_the_paper():
    config = recipes.load("disc_blur")
    assert (config.model.backbone, config.model.dims, config.data.augmentation) == ("resnet50", 512, "STRONG_BLUR")
    assert (config.data.batch_size, config.data.image_size, config.epochs) == (4096, 224, 100)
    assert (config.loss.temperature, config.loss.entropy_weight) == (0.05, 30)
    assert configs.learning_rate(config) == pytest.approx(4.8)
    length = run_length(config, 1_000_000)
    assert (length.epoch, length.total, length.warmup) == (244, 24400, 5 * 244)


@pytest.mark.parametrize(
    ("name", "augmentation", "mixup", "backbone", "dims", "source"),
    [
        ("disc_advanced", "ADVANCED", False, "resnet50", 512, ""),
        ("disc_mixup", "ADVANCED", True, "resnet50", 512, ""),
        ("imagenet_mixup", "ADVANCED", True, "resnet50", 512, "tfds:imagenet2012"),
        ("disc_large", "ADVANCED", True, "resnext101_32x4d", 1024, ""),
    ],
)
def test_the_other_recipes_differ_in_what_they_are_named_for(name, augmentation, mixup, backbone, dims, source):
    config = recipes.load(name)
    data = Data(source=source, augmentation=augmentation, mixup=mixup)
    assert config == Config(data=data, model=Model(backbone=backbone, dims=dims))


@pytest.mark.parametrize("name", ["disc_batch_256", "disc_batch_1024", "disc_blur", "disc_batch_16384"])
def test_recipes_of_other_batches(name):
    """Rates by the square root of the batch, and the numbers of the page and of the docstrings."""
    config, text = recipes.load(name), recipes.find(name).read_text()
    batch, rate, length = config.data.batch_size, configs.learning_rate(config), run_length(config, 1_000_000)
    assert rate == pytest.approx(0.075 * math.sqrt(batch))
    assert rate == pytest.approx(0.3 * batch / 256) or batch != 4096
    warming = config.loss.entropy_warmup_steps
    row = [f"`{name}`", f"{batch}", f"{rate:.1f}", f"{length.warmup:,}", f"{length.total:,}"]
    row += [f"{config.loss.entropy_weight:.0f}", f"{warming}"]
    assert f"| {' | '.join(row)} |" in (ROOT / "docs" / "training.md").read_text()
    assert warming in (0, length.warmup)
    changed = {difference.split()[0] for difference in configs.differences(Config(), config)}
    assert changed <= {
        *("data.batch_size", "optimizer.base_learning_rate", "optimizer.warmup_epochs"),
        *("loss.entropy_weight", "loss.entropy_warmup_steps"),
    }
    if name != "disc_blur":
        assert all(number in text for number in (f"{length.total:,} steps", f"{rate} = 0.075 x sqrt(batch)"))
        assert f"{0.3 * batch / 256:.1f}" in text, "the official rule's rate"


def test_the_second_rate_of_the_large_batch():
    """Of which the docstring of disc_batch_16384 speaks."""
    found = []
    for name in ("disc_blur", "disc_batch_16384"):
        config = recipes.load(name)
        length = run_length(config, 1_000_000)
        schedule = warmup_cosine(configs.learning_rate(config), warmup_steps=length.warmup, total_steps=length.total)
        found.append(float(schedule(1)))
    assert found[1] == pytest.approx(0.0158, abs=5e-5)
    assert found[1] / found[0] == pytest.approx(4, abs=0.1)


def test_absolute_learning_rate_takes_the_place_of_the_base_rate():
    assert configs.learning_rate(Config(optimizer=Optimizer(absolute_learning_rate=0.7))) == 0.7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Data(batch_size=1), "at least 2"),
        (lambda: Data(image_size=16), "32 or more"),
        (lambda: Data(mixup_group=1), "at least 2"),
        (lambda: Data(batch_size=96, mixup=True), "mixup-group 96, or another"),
        (lambda: Data(batch_size=8, mixup=True, mixup_group=7), "mixup-group 4, or another"),
        (lambda: Data(batch_size=7, mixup=True, mixup_group=4), "take another batch size"),
        (lambda: Model(dims=0), "positive"),
        (lambda: Loss(temperature=0.0), "positive"),
        (lambda: Loss(entropy_weight=-1.0), "negative"),
        (lambda: Optimizer(momentum=1.0), r"\[0, 1\)"),
        (lambda: Optimizer(absolute_learning_rate=0.0), "positive"),
        (lambda: Optimizer(absolute_learning_rate=float("inf")), "finite"),
        (lambda: Optimizer(weight_decay=-1.0), "at least 0"),
        (lambda: Optimizer(trust_coefficient=0.0), "above 0"),
        (lambda: Optimizer(eps=-1.0), "negative"),
        (lambda: Validation(batch_size=0), "positive"),
        (lambda: Validation(custom=Preset("skew", 8)), "32 to 4096"),
        (lambda: Validation(queries="q"), "all of queries, references and ground_truth"),
        (lambda: Checkpoint(keep=1), "at least 2"),
        (lambda: Config(epochs=0), "positive"),
        (lambda: Config(steps=0), "positive"),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fewer_images_than_a_batch_says_what_to_do():
    with pytest.raises(ValueError, match=r"--data\.batch-size 10 or less"):
        run_length(Config(data=Data(source="folder", batch_size=16)), 10)


def test_a_warmup_longer_than_the_run_says_what_to_do():
    with pytest.raises(ValueError, match=r"--optimizer\.warmup-steps 2"):
        run_length(Config(steps=20, data=Data(batch_size=8)), 64)


def test_a_file_without_get_config_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty.py has no function get_config"):
        recipes.load_file(tmp_path / "empty.py")
    with pytest.raises(ValueError, match="not a Python file"):
        recipes.load_file(tmp_path / "absent.py")


def test_a_recipe_that_fails_is_named_with_its_line(tmp_path):
    path = tmp_path / "recipe.py"
    for line, reason in {
        "return Config(stepz=3)": r"line 3: TypeError: .*stepz",
        "return Config(steps='a')": "line 3: TypeError",
        "return Config(steps=0)": "line 3: ValueError: steps is 0",
        "return (": "SyntaxError",
        "return 3": "no function get_config",
    }.items():
        path.write_text(f"from sscd_jax.config import Config\ndef get_config():\n    {line}\n")
        with pytest.raises(ValueError, match=f"recipe.py.*{reason}"):
            recipes.load_file(path)


def test_differences():
    after = Config(seed=1, data=Data(batch_size=8))
    assert configs.differences(Config(), after) == ["seed 0 -> 1", "data.batch_size 4096 -> 8"]
    assert configs.differences(after, after) == []
