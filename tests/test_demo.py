"""The demo's recipe on the demo's images. (.ci/run runs the demo itself, at reduced length.)"""

import dataclasses
import json

import pytest

from sscd_jax import config as configs
from sscd_jax.demo import RECIPE, demo_config, run


def test_it_is_the_recipe_in_configs_on_its_own_images(tmp_path):
    recipe, config = configs.load(RECIPE), demo_config(tmp_path, seed=3, steps=None)
    assert config.seed == 3
    assert config.data.source == str(tmp_path / "images" / "training")
    same = {"data": recipe.data, "validation": recipe.validation, "seed": recipe.seed}
    assert dataclasses.replace(config, **same) == recipe


def test_it_can_be_shorter(tmp_path):
    config = demo_config(tmp_path, seed=0, steps=20)
    assert config.steps == 20
    assert configs.run_length(config, 500).total == 20


def test_a_folder_with_another_demo_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    saved = tmp_path / "run" / "config.json"
    saved.write_text(json.dumps(configs.to_dict(demo_config(tmp_path, seed=0, steps=20))))
    for seed, steps in ((1, 20), (0, 21)):
        with pytest.raises(ValueError, match="another seed or length: remove it, or name another --out"):
            run(tmp_path, seed=seed, steps=steps)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.json"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    with pytest.raises(ValueError, match="something else than a demo"):
        run(tmp_path / "mine", seed=0, steps=20)
    # A demo that was killed when its training began is one; here its training images are gone.
    (tmp_path / "killed" / "run").mkdir(parents=True)
    (tmp_path / "killed" / "images").mkdir()
    (tmp_path / "killed" / "images" / "queries.csv").touch()
    with pytest.raises(ValueError, match="training: no such folder"):
        run(tmp_path / "killed", seed=0, steps=20)
    with pytest.raises(ValueError, match="steps is 0"):
        run(tmp_path / "new", seed=0, steps=0)
