"""Reads the operations, bytes and collectives of a training step from its program; nothing is run.

The program is that of accelerators. Where a layer has another implementation for CPUs (`lax.platform_dependent`), the
one for accelerators is counted, and the step is exported for TPUs before it is compiled for simulated devices.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from sscd_jax import sharding
from sscd_jax.config import Config, Data
from sscd_jax.models import build_model, normalize
from sscd_jax.optimizer import lars
from sscd_jax.training.state import TrainState
from sscd_jax.training.train import train_step

VIEWS = 1009  # views of the traced step; no other axis of an array has this length


@dataclass(frozen=True)
class Work:
    """The operations of convolutions and matrix products, and the bytes of their operands and results."""

    operations: float
    bytes_of_views: float
    bytes_of_weights: float


@dataclass(frozen=True)
class Program:
    """A training step. Numbers that grow with the number of views are for one view, all others for one chip."""

    forward: float
    """Operations of the forward pass of the network."""
    step: Work
    """Work of the forward and backward pass of the network; the bytes of weights are for a chip."""
    loss_products: int
    """Number of products between all views and the chip's own in the loss, at Precision.HIGHEST."""
    dims: int
    parameters: float
    """Bytes of the parameters, which are also those of the momentum and of the gradients."""
    kept: float
    """Bytes of the activations that the backward pass needs: inputs and outputs of the convolutions."""
    pixels: float
    """Bytes of a view as the host sends it."""


@dataclass(frozen=True)
class Collective:
    """All collectives of a kind and a purpose: their number, and the bytes of the complete arrays.

    Only those of the loss grow with the views of the global batch.
    """

    kind: str
    purpose: str
    count: int
    bytes: float


def equations(jaxpr: Any, names: dict[Any, object] | None = None) -> Iterator[tuple[Any, list[object], list[object]]]:
    """Yields all equations of a program for accelerators, with those of called programs in place of the calls.

    Yields:
        The equation, the names of its operands, and the names of its results. An array has the same name wherever it
        is used.
    """
    names = {} if names is None else names

    def name(variable: Any) -> object:
        return object() if isinstance(variable, Literal) else names.setdefault(variable, object())

    for equation in jaxpr.eqns:
        operands = [name(variable) for variable in equation.invars]
        inner = _called(equation)
        if inner is None:
            results: list[object] = [object() for _ in equation.outvars]
            yield equation, operands, results
        else:
            # The first operand of a choice of platforms is the index of the platform.
            inside = dict(zip(inner.invars, operands[len(operands) - len(inner.invars) :], strict=True))
            yield from equations(inner, inside)
            results = [object() if isinstance(v, Literal) else inside[v] for v in inner.outvars]
        names.update(zip(equation.outvars, results, strict=True))


def needed(jaxpr: Any) -> list[tuple[Any, list[object], list[object]]]:
    """Returns the equations that a result depends on.

    XLA computes no others, of which a traced gradient has many.
    """
    names: dict[Any, object] = {}
    found = list(equations(jaxpr, names))
    wanted = {names[variable] for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    kept = []
    for equation, operands, results in reversed(found):
        if wanted.intersection(results):
            wanted.update(operands)
            kept.append((equation, operands, results))
    return kept[::-1]


def _called(equation: Any) -> Any:
    """Returns the program that an equation calls exactly once, if any."""
    params = equation.params
    if equation.primitive.name == "cond":
        platforms = params.get("branches_platforms")
        if platforms is None:
            return None
        return params["branches"][platforms.index(None)].jaxpr
    for key in ("jaxpr", "call_jaxpr"):
        if key in params:
            return getattr(params[key], "jaxpr", params[key])
    return None


def _operations(equation: Any) -> float | None:
    """Returns the operations of a convolution or matrix product, without those on zeros between dilated pixels."""
    if equation.primitive.name not in ("dot_general", "conv_general_dilated"):
        return None
    left, right = (variable.aval.shape for variable in equation.invars)
    result = prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        ((contracted, _), _) = equation.params["dimension_numbers"]
        return 2 * result * prod(left[axis] for axis in contracted)
    features = equation.params["dimension_numbers"].rhs_spec[0]
    return 2 * result * prod(right) / right[features] / prod(equation.params["lhs_dilation"])


def _bytes(aval: Any) -> float:
    return prod(aval.shape) * aval.dtype.itemsize


def _is_exact(equation: Any) -> bool:
    return equation.params["precision"] == (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def count(jaxpr: Any) -> tuple[Work, list[Any]]:
    """Returns the work for one view of a program of `VIEWS` views, and separately its products at HIGHEST."""
    operations = views = weights = 0.0
    exact = []
    for equation, _, _ in needed(jaxpr):
        found = _operations(equation)
        if found is None:
            continue
        if _is_exact(equation):
            exact.append(equation)
            continue
        operations += found
        for variable in (*equation.invars, *equation.outvars):
            if VIEWS in variable.aval.shape:
                views += _bytes(variable.aval)
            else:
                weights += _bytes(variable.aval)
    return Work(operations / VIEWS, views / VIEWS, weights), exact


def _kept(jaxpr: Any) -> float:
    """Returns the bytes of all distinct inputs and outputs of convolutions, except for the image, the first input."""
    seen: dict[object, float] = {}
    first = True
    for equation, operands, results in needed(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            if not first:
                seen[operands[0]] = _bytes(equation.invars[0].aval)
            seen[results[0]] = _bytes(equation.outvars[0].aval)
            first = False
    return sum(seen.values()) / VIEWS


def abstract_step(config: Config, views: int) -> tuple[Any, TrainState, Any, Any]:
    """Returns the training step of a recipe, with augmentations on the host, and the shapes of its arguments."""
    model, optimizer = build_model(**dataclasses.asdict(config.model)), lars(0.1)

    def initial() -> TrainState:
        variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))

    size = config.data.image_size
    images = jax.ShapeDtypeStruct((views, size, size, 3), jnp.uint8)
    ids = jax.ShapeDtypeStruct((views, 2), jnp.int32)
    step = partial(train_step, model=model, optimizer=optimizer, loss=config.loss)
    return step, jax.eval_shape(initial), images, ids


def traced_forward(config: Config) -> Any:
    """Returns the program of the network alone, in training mode, for `VIEWS` views."""
    model = build_model(**dataclasses.asdict(config.model))
    _, state, images, _ = abstract_step(config, VIEWS)

    def forward(variables: Any, images: Any) -> Any:
        return model.apply(variables, normalize(images), train=True, mutable=["batch_stats"])[0]

    return jax.make_jaxpr(forward)(state.variables, images).jaxpr


def essential(config: Config) -> Config:
    """Returns the settings that the step's program depends on, with all others at their defaults."""
    return Config(data=Data(image_size=config.data.image_size), model=config.model, loss=config.loss)


def program(config: Config) -> Program:
    """Returns the numbers of a recipe's step, from the programs that JAX traces."""
    return _program(essential(config))


@cache
def _program(config: Config) -> Program:
    step, state, images, ids = abstract_step(config, VIEWS)
    whole, exact = count(jax.make_jaxpr(step)(state, images, ids).jaxpr)
    forward = traced_forward(config)
    return Program(
        forward=count(forward)[0].operations,
        step=whole,
        loss_products=len(exact),
        dims=config.model.dims,
        parameters=sum(_bytes(leaf) for leaf in jax.tree.leaves(state.params)),
        kept=_kept(forward),
        pixels=_bytes(images) / VIEWS,
    )


_RESULT = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


def collectives(config: Config, devices: int, views: int) -> list[Collective]:
    """Returns the collectives of a step with `views` views on each of `devices` simulated devices."""
    # XLA sums bfloat16 in float32 on CPUs. TPUs sum the gradients of convolutions in their own dtype.
    kernel_bits = 8 * jnp.dtype(config.model.dtype).itemsize
    return collectives_of(_partitioned(essential(config), devices, views), devices * views, kernel_bits)


def collectives_of(text: str, rows: int, kernel_bits: int | None = None) -> list[Collective]:
    """Returns the collectives of a chip's program.

    Args:
        text: the program as XLA prints it.
        rows: the number of views over all chips.
        kernel_bits: bits of a number in the gradient of a convolution; by default those in the program.
    """
    found: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    seen = set()
    for line in text.splitlines():
        result = _RESULT.search(line)
        channel = re.findall(r"channel_id=\d+", line)
        if not result or (*channel, result[2]) in seen:  # one that overlaps with others is printed with each
            continue
        seen.add((*channel, result[2]))
        keys = set()
        for _, bits, shape in _ARRAY.findall(re.sub(r"\{.*?\}", "", result[1])):
            axes = [int(side) for side in shape.split(",") if side]
            kind, purpose = result[2], "loss" if result[2] == "all-gather" else _purpose(line, axes, rows)
            # Every chip needs the sum of its own rows only, for which XLA uses a reduce-scatter on accelerators.
            if (kind, purpose) == ("all-reduce", "loss"):
                kind = "reduce-scatter"
            keys.add((kind, purpose))
            sizes[kind, purpose] += prod(axes) * (kernel_bits or int(bits) if len(axes) == 4 else int(bits)) // 8
        found.update(keys)
    return [Collective(*key, found[key], sizes[key]) for key in found]


def _purpose(line: str, axes: list[int], rows: int) -> str:
    """Returns the purpose of one array of a collective; XLA combines several arrays into one."""
    (name,) = re.findall(r'op_name="(.*?)"', line) or [""]
    if "backbone" not in name and "embeddings" not in name:
        return "loss" if rows in axes else "metrics"
    is_statistic = len(axes) == 1 and re.search(r"/\(?(bn\d|downsample_bn)", name)
    return "batch normalization" if is_statistic else "gradients"


@cache
def _partitioned(config: Config, devices: int, views: int) -> str:
    """Returns the program of one of `devices` simulated devices, as XLA prints it."""
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # it is never run
    return compiled(config, jax.devices("cpu")[:devices], views, options).as_text() or ""


def compiled(
    config: Config, devices: Sequence[jax.Device], views: int, options: dict[str, str | bool] | None = None
) -> Any:
    """Compiles a step with `views` views on each of the devices, from its program for TPUs."""
    step, state, images, ids = abstract_step(config, len(devices) * views)
    on = sharding.create_mesh(devices)
    whole, rows = sharding.replicated(on), sharding.by_rows(on)
    leaves, tree = jax.tree.flatten(state)  # an export supports the containers of Python only

    def flat(leaves: Any, images: Any, ids: Any) -> Any:
        state, metrics = step(jax.tree.unflatten(tree, leaves), images, ids)
        return jax.tree.leaves(state), metrics

    def placed(shape: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    arguments = [placed(leaf, whole) for leaf in leaves], placed(images, rows), placed(ids, rows)
    anywhere = [jax.export.DisabledSafetyCheck.platform()]
    exported = jax.export.export(jax.jit(flat, out_shardings=whole), platforms=["tpu"], disabled_checks=anywhere)
    called = jax.jit(exported(*arguments).call, out_shardings=whole, donate_argnums=0)
    return called.lower(*arguments).compile(compiler_options=options)


def rows_of_the_loss(config: Config, devices: int, views: int) -> set[tuple[int, ...]]:
    """Returns the shapes of all arrays of a chip's program that have an axis of the length of all views."""
    text = _partitioned(essential(config), devices, views)
    shapes = {tuple(int(side) for side in shape.split(",")) for _, _, shape in _ARRAY.findall(text) if shape}
    return {shape for shape in shapes if devices * views in shape}
