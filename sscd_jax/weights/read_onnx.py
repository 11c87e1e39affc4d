"""Reads SSCD networks from ONNX graphs: float32, or int8 in QDQ form; batch normalization folded or not.

The graph is read by its structure, whatever its names are: a residual block is an Add whose two inputs are followed
backwards to where they meet.
"""

import json
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from sscd_jax.models import SSCD, build_model
from sscd_jax.models.folding import BATCH_NORM_EPSILON, unfolded_leaves
from sscd_jax.weights.native import METADATA, Weights, parse_preset
from sscd_jax.weights.state_dict import IMAGENET_CLASSES, Keys, abstract_variables, backbone_of, fit

MAX_NODES = 5000  # several times those of the largest network in QDQ form
FORKS = ("Conv", "BatchNormalization", "Add", "MaxPool")
# Operations between layers that map one tensor to one of the same shape; following the graph passes over them.
PASSES = {"Relu", "Clip", "QuantizeLinear", "DequantizeLinear", "Identity", "Cast"}


def import_onnx() -> Any:
    """Imports onnx; the ImportError says which extra installs it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX files need onnx: pip install 'sscd_jax[onnx]'") from error
    return onnx


def read_onnx(path: Path, origin: dict[str, str]) -> Weights:
    """Reads an ONNX file.

    A quantized weight becomes scale x (value - zero point) in float32; the rounding of activations in the graph is
    ignored. A convolution with folded batch normalization is followed by a batch normalization that only adds its bias
    (`models.folding.unfold`).

    Args:
        path: the file.
        origin: where it comes from.

    Raises:
        ValueError: the file is not ONNX, or its graph is not an SSCD network; the error says where they differ.
        ImportError: onnx is not installed.
    """
    onnx = import_onnx()
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises exceptions of its own
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    for tensor in model.graph.initializer:
        for entry in tensor.external_data if tensor.data_location == onnx.TensorProto.EXTERNAL else ():
            location = PurePosixPath(entry.value.replace("\\", "/"))
            if entry.key == "location" and (
                location.is_absolute() or len(location.parts) != 1 or ".." in location.parts
            ):
                raise ValueError(f"{path} is refused: it reads the file {entry.value}, outside its own folder")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        network, variables, quantized = _Graph(onnx, model.graph).network()
    except (ValueError, KeyError, IndexError, OSError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is not the graph of an SSCD network: {error}") from error
    try:
        ours = next((entry.value for entry in model.metadata_props if entry.key == METADATA), "{}")
        preset = parse_preset(json.loads(ours).get("preset"))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata were not written by this package: {ours[:200]}") from error
    return Weights(network, variables, "ONNX, int8" if quantized else "ONNX, float32", origin, preset)


class _Block(NamedTuple):
    """A residual block.

    Attributes:
        add: the node that ends it.
        main: its convolutions, or the batch normalizations that follow them, in order.
        shortcut: the same for the shortcut, or None.
        stride: the stride of the block.
        fork: the node whose output it takes.
    """

    add: Any
    main: list[Any]
    shortcut: Any
    stride: int
    fork: Any


class _Graph:
    """A graph, with its nodes and constants by the names of tensors."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        if len(graph.node) > MAX_NODES:  # reading takes up to the square of their number
            raise ValueError(f"it has {len(graph.node)} nodes, and no SSCD network has more than {MAX_NODES}")
        self.onnx = onnx
        self.nodes = list(graph.node)
        self.producer = {name: node for node in graph.node for name in node.output}
        self.users = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)
        self.values = {t.name: t for t in graph.initializer}
        # What was found out before, as the number of paths to a tensor can be exponential in that of the nodes.
        self.constants: dict[str, bool] = {}
        self.dequantized: dict[str, np.ndarray] = {}

    def network(self) -> tuple[SSCD, Any, bool]:
        pools = [node for node in self.nodes if node.op_type == "MaxPool"]
        if len(pools) != 1:
            raise ValueError(f"it has {len(pools)} max-pools, not one")
        self.require(pools[0], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1])
        stem, activated = self.back(pools[0].input[0])
        if not activated or stem.op_type not in ("Conv", "BatchNormalization"):
            raise ValueError(f"no convolution and Relu before the max-pool, but {stem.op_type} {stem.name!r}")
        blocks = [self.block(node) for node in self.nodes if node.op_type == "Add" and self.is_block(node)]
        for block, before in zip(blocks, [pools[0], *(block.add for block in blocks)], strict=False):
            if block.fork is not before:
                raise ValueError(f"the Add {block.add.name!r} does not follow on {before.op_type} {before.name!r}")
        # A stage begins where the stride is 2; the first one keeps the size.
        starts = [i for i, block in enumerate(blocks) if i == 0 or block.stride == 2]
        if len(starts) != 4:
            raise ValueError(f"it has {len(starts)} stages, not 4")
        flat: dict[Keys, np.ndarray] = {}
        names: dict[Keys, str] = {}

        def put(conv: str, bn: str, node: Any, stride: int, group: int = 1) -> None:
            for path, value in self.leaves(conv, bn, node).items():
                flat[path], names[path] = value, f"{'/'.join(path)} ({node.name or node.output[0]})"
            k = flat["params", "backbone", *conv.split("/"), "kernel"].shape[0]
            expected = {"strides": [stride] * 2, "pads": [k // 2] * 4, "dilations": [1, 1], "group": group}
            self.require(self.convolution(node), **expected)

        put("conv1", "bn1", stem, 2)
        convolutions = len(blocks[0].main)
        strided = 1 if convolutions == 2 else 2  # the stride of a bottleneck is in its 3x3 convolution
        group = self.attribute(self.convolution(blocks[0].main[1]), "group", 1)
        for stage, start in enumerate(starts):
            for i, block in enumerate(blocks[start : [*starts, len(blocks)][stage + 1]]):
                layer = f"layer{stage + 1}_{i}"
                for n, node in enumerate(block.main, 1):
                    put(
                        f"{layer}/conv{n}",
                        f"{layer}/bn{n}",
                        node,
                        block.stride if n == strided else 1,
                        group if n == 2 else 1,
                    )
                if block.shortcut is not None:
                    put(f"{layer}/downsample_conv", f"{layer}/downsample_bn", block.shortcut, block.stride)
        power, dims = self.head(flat, names)
        stem_outputs = flat["params", "backbone", "conv1", "kernel"].shape[3]
        group_inputs = flat["params", "backbone", "layer1_0", "conv2", "kernel"].shape[2]
        backbone, width = backbone_of(starts[3] - starts[2], convolutions, stem_outputs, group_inputs)
        model = build_model(backbone, dims, width=width, pool_param=power)
        return model, fit(flat, abstract_variables(model), names, []), bool(self.dequantized)

    def leaves(self, conv: str, bn: str, node: Any) -> dict[Keys, np.ndarray]:
        """Returns the arrays of a convolution and its batch normalization by path; `node` is the last of the two."""
        norm = node if node.op_type == "BatchNormalization" else None
        node = self.convolution(node)
        conv_path, bn_path = ("backbone", *conv.split("/")), ("backbone", *bn.split("/"))
        kernel = np.transpose(self.value(node.input[1]), (2, 3, 1, 0))
        bias = self.value(node.input[2]) if len(node.input) > 2 else np.zeros(kernel.shape[3], np.float32)
        if norm is None:
            leaves = unfolded_leaves(bias)
        else:
            scale, shift, mean, var = (self.value(name) for name in norm.input[1:5])
            epsilon = self.attribute(norm, "epsilon", 1e-5)
            if abs(epsilon - BATCH_NORM_EPSILON) > 1e-9:
                var = var + (epsilon - BATCH_NORM_EPSILON)
            leaves = {"scale": scale, "bias": shift, "mean": mean - bias, "var": var}
        found = {("params", *conv_path, "kernel"): kernel}
        for name, value in leaves.items():
            found["batch_stats" if name in ("mean", "var") else "params", *bn_path, name] = value
        return found

    def head(self, flat: dict[Keys, np.ndarray], names: dict[Keys, str]) -> tuple[float, int]:
        """Adds the projection to `flat`, and returns GeM's power and the length of a descriptor.

        As in `from_state_dict`, a classifier of 1000 classes after mean pooling, that of ImageNet, is left out.
        """
        powers = [node for node in self.nodes if node.op_type == "Pow"]
        power = float(self.value(powers[0].input[1]).item()) if powers else 1.0
        linear = [node for node in self.nodes if node.op_type in ("Gemm", "MatMul")]
        if not linear:
            return power, 0
        if len(linear) > 1:
            raise ValueError(f"it has {len(linear)} linear layers, not one")
        node = linear[0]
        kernel = self.value(node.input[1])
        adds = [n for n in self.users[node.output[0]] if n.op_type == "Add"]
        if node.op_type == "Gemm" and len(node.input) > 2:
            bias = self.value(node.input[2])
        elif adds:  # the bias is added by the node that follows
            bias = self.value(next(name for name in adds[0].input if name != node.output[0]))
        else:
            raise ValueError(f"the projection {node.name!r} has no bias")
        if not powers and len(bias) == IMAGENET_CLASSES:
            return 3.0, 0
        kernel = kernel.T if node.op_type == "Gemm" and self.attribute(node, "transB", 0) else kernel
        for leaf, value in (("kernel", kernel), ("bias", bias)):
            flat["params", "embeddings", leaf] = value
            names["params", "embeddings", leaf] = f"embeddings/{leaf} ({node.name or node.output[0]})"
        return power, len(bias)

    def back(self, tensor: str) -> tuple[Any, bool]:
        """Finds the node of `FORKS` that a tensor comes from, and whether there is a ReLU in between."""
        activated = False
        for _ in self.nodes:  # no path in a graph without cycles is longer
            node = self.producer[tensor]
            if node.op_type in FORKS:
                return node, activated
            if node.op_type not in PASSES:
                raise ValueError(f"{node.op_type} {node.name!r} where one of {', '.join(FORKS)} should be")
            activated |= self.cuts_off(node)
            tensor = node.input[0]
        raise ValueError("it has a cycle")

    def cuts_off(self, node: Any) -> bool:
        """Returns whether a node maps negative values to 0.

        Quantizers remove a Relu before a QuantizeLinear whose zero point is the smallest integer: that node clips, too.
        """
        if node.op_type == "QuantizeLinear":
            zero = self.value(node.input[2])
            return bool((zero == np.iinfo(zero.dtype).min).all())
        return node.op_type == "Relu" or (node.op_type == "Clip" and float(self.value(node.input[1])) == 0)

    def is_block(self, node: Any) -> bool:
        """Returns whether an Add joins two branches, and does not add a bias."""
        return not any(map(self.is_constant, node.input))

    def block(self, add: Any) -> _Block:
        """Returns the residual block that an Add ends."""

        def branch(tensor: str) -> tuple[list[Any], Any]:
            nodes: list[Any] = []
            node, activated = self.back(tensor)
            while node.op_type in ("Conv", "BatchNormalization"):
                if activated == (not nodes) or len(nodes) > 3:
                    raise ValueError(f"{'a' if activated else 'no'} Relu after {node.op_type} {node.name!r}")
                nodes.append(node)
                node, activated = self.back(self.convolution(node).input[0])
            if node.op_type == "Add" and not activated:
                raise ValueError(f"no Relu after the Add {node.name!r}")
            return nodes[::-1], node

        (shortcut, one), (main, other) = sorted(map(branch, add.input), key=lambda found: len(found[0]))
        if len(shortcut) > 1 or len(main) not in (2, 3) or one is not other:
            raise ValueError(f"the Add {add.name!r} joins {len(main)} and {len(shortcut)} convolutions")
        stride = max(self.attribute(self.convolution(node), "strides", [1, 1])[0] for node in main)
        return _Block(add, main, shortcut[0] if shortcut else None, stride, one)

    def require(self, node: Any, **expected: Any) -> None:
        """Raises ValueError if an attribute of a node is not the expected one."""
        defaults = {"dilations": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "group": 1}
        found = {name: self.attribute(node, name, defaults.get(name)) for name in expected}
        if found != expected or self.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            raise ValueError(f"{node.op_type} {node.name!r} has {found}, not {expected}")

    def convolution(self, node: Any) -> Any:
        """Returns the node if it is a convolution, or the convolution that a batch normalization follows."""
        if node.op_type == "Conv":
            return node
        found = self.producer[node.input[0]]
        if found.op_type != "Conv":
            raise ValueError(f"{found.op_type} {found.name!r} before the batch normalization {node.name!r}")
        return found

    def is_constant(self, name: str) -> bool:
        if name not in self.constants:
            node = self.producer.get(name)
            self.constants[name] = name in self.values if node is None else False  # in a cycle, it is none
            if node is not None and node.op_type in ("Constant", "DequantizeLinear", "Identity"):
                self.constants[name] = all(map(self.is_constant, node.input))
        return self.constants[name]

    def value(self, name: str) -> np.ndarray:
        """Returns a constant, dequantized if it is quantized."""
        to_array = self.onnx.numpy_helper.to_array
        if name in self.values:
            return to_array(self.values[name])
        node = self.producer[name]
        if node.op_type == "Constant":
            return to_array(self.attribute(node, "value", None))
        if node.op_type == "Identity":
            return self.value(node.input[0])
        if name in self.dequantized:
            return self.dequantized[name]
        if node.op_type != "DequantizeLinear":
            raise ValueError(f"{name!r} is computed by {node.op_type}, where a constant should be")
        values, scale = self.value(node.input[0]), self.value(node.input[1])
        zero = self.value(node.input[2]) if len(node.input) > 2 else np.zeros_like(scale, values.dtype)
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[self.attribute(node, "axis", 1)] = scale.size
        centered = values.astype(np.int64) - zero.astype(np.int64).reshape(shape)
        self.dequantized[name] = centered.astype(np.float32) * scale.reshape(shape)
        return self.dequantized[name]

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        found = [a for a in node.attribute if a.name == name]
        return self.onnx.helper.get_attribute_value(found[0]) if found else default
