"""Starts a training run from weights of any format."""

import dataclasses
import sys

import jax
import numpy as np
import tensorflow as tf
from flax import traverse_util

from sscd_jax.data.train_pipeline import numpy_batches
from sscd_jax.models import SSCD, build_model, describe, normalize
from sscd_jax.models.folding import lacks_statistics, restore_statistics
from sscd_jax.training.state import TrainState
from sscd_jax.weights import load


def start_from(path: str, state: TrainState, model: SSCD, views: tf.data.Dataset, *, projection: bool) -> TrainState:
    """Replaces the weights of a new run's state by those of a file, run or published network.

    Args:
        path: anything that `weights.load` reads: a file, the folder of a run, or the name of published weights.
        state: the state at step 0.
        model: the network to be trained.
        views: batches of `train_batches`. One is read if the batch normalization of the file was folded into its
            convolutions: the statistics are then those of the batch (`folding.restore_statistics`).
        projection: whether to take the projection to descriptors too. Otherwise, and if the file has none, that of
            `state` is kept.

    Returns:
        The state with the weights, placed on devices as `state` is.

    Raises:
        ValueError: the file holds another network; the error says which options agree with it.
    """
    loaded, variables = load(path)
    found, wanted = describe(loaded), describe(model)
    has_projection = projection and found["dims"] > 0
    if projection and not has_projection:
        print(f"{path} has no projection: it is initialized randomly", file=sys.stderr)
    same = ["backbone", "width", "pool_param", *(["dims"] if has_projection else [])]
    if wrong := [name for name in same if found[name] != wanted[name]]:
        options = " ".join(f"--model.{name.replace('_', '-')} {found[name]}" for name in wrong)
        other = ", or --no-init-projection" if wrong == ["dims"] else ""
        raise ValueError(f"{path} does not fit the network of the run: {options}{other}")
    if lacks_statistics(variables):
        print(f"{path} has its batch normalization folded away: the statistics are taken from a batch", file=sys.stderr)
        images = normalize(next(numpy_batches(views))["images"])
        variables = restore_statistics(build_model(**found), variables, images)
    flat = traverse_util.flatten_dict(variables)
    for name, tree in (("params", state.params), ("batch_stats", state.batch_stats)):
        for path_, leaf in traverse_util.flatten_dict(tree).items():
            if path_[0] == "embeddings" and not has_projection:
                flat[name, *path_] = leaf
    tree = traverse_util.unflatten_dict(flat)
    placed = {
        name: jax.tree.map(
            lambda new, old: jax.device_put(np.asarray(new), old.sharding), tree[name], getattr(state, name)
        )
        for name in ("params", "batch_stats")
    }
    return dataclasses.replace(state, params=placed["params"], batch_stats=placed["batch_stats"])
