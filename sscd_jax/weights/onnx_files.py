"""SSCD networks out of ONNX graphs: float32, or int8 in QDQ form; batch normalisation folded or not.

The graph is read by its structure, whatever its names: a residual block is an Add, its two inputs are walked back to
where they meet.
"""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sscd_jax.models import SSCD, build_model
from sscd_jax.models.folding import BATCH_NORM_EPSILON, unfolded_leaves
from sscd_jax.weights.official import Keys, abstract_variables, backbone_of, fit

FORKS = ("Conv", "BatchNormalization", "Add", "MaxPool")
# Operations that hand on one tensor; its values may change, its place in the network does not.
PASSES = {"Relu", "Clip", "QuantizeLinear", "DequantizeLinear", "Identity", "Cast"}


def import_onnx() -> Any:
    """The module onnx; ImportError says which extra brings it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX files need onnx: pip install 'sscd_jax[onnx]'") from error
    return onnx


def read_onnx(path: Path) -> tuple[SSCD, Any, bool]:
    """(model, variables, whether any weight is quantised) of an ONNX file.

    A quantised weight is scale x (value - zero point); the rounding of activations is left out, as is natural in
    float32. A folded convolution becomes one without batch normalisation: see `models.folding.unfold`.

    Raises:
        ValueError: the file is not ONNX, or its graph is no SSCD network; says where it departs from one.
        ImportError: onnx is not installed.
    """
    onnx = import_onnx()
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
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
        return _Graph(onnx, model.graph).network()
    except (ValueError, KeyError, IndexError, OSError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path} is not the graph of an SSCD network: {error}") from error


class _Graph:
    """A graph with look-up by tensor name."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self.nodes = list(graph.node)
        self.producer = {name: node for node in graph.node for name in node.output}
        self.users = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.users[name].append(node)
        self.values = {t.name: t for t in graph.initializer}
        self.quantised = False

    def network(self) -> tuple[SSCD, Any, bool]:
        pools = [node for node in self.nodes if node.op_type == "MaxPool"]
        if len(pools) != 1:
            raise ValueError(f"it has {len(pools)} max-pools, not one")
        stem = self.back(pools[0].input[0], "Conv", "BatchNormalization")
        blocks = [self.block(n) for n in self.nodes if n.op_type == "Add" and self.is_block(n)]
        # A stage begins where the stride is 2; the first one keeps the size.
        starts = [i for i, (_, _, stride) in enumerate(blocks) if i == 0 or stride == 2]
        if len(starts) != 4:
            raise ValueError(f"it has {len(starts)} stages, not 4")
        flat: dict[Keys, np.ndarray] = {}
        names: dict[Keys, str] = {}

        def put(conv: str, bn: str, node: Any) -> None:
            for path, value in self.leaves(conv, bn, node).items():
                flat[path], names[path] = value, f"{'/'.join(path)} ({node.name or node.output[0]})"

        put("conv1", "bn1", stem)
        for stage, start in enumerate(starts):
            for i, (main, shortcut, _) in enumerate(blocks[start : [*starts, len(blocks)][stage + 1]]):
                layer = f"layer{stage + 1}_{i}"
                for n, node in enumerate(main, 1):
                    put(f"{layer}/conv{n}", f"{layer}/bn{n}", node)
                if shortcut is not None:
                    put(f"{layer}/downsample_conv", f"{layer}/downsample_bn", shortcut)
        power, dims = self.head(flat, names)
        stem_outputs = flat["params", "backbone", "conv1", "kernel"].shape[3]
        group_inputs = flat["params", "backbone", "layer1_0", "conv2", "kernel"].shape[2]
        backbone, width = backbone_of(starts[3] - starts[2], stem_outputs, group_inputs)
        model = build_model(backbone, dims, width=width, pool_param=power)
        return model, fit(flat, abstract_variables(model), names, []), self.quantised

    def leaves(self, conv: str, bn: str, node: Any) -> dict[Keys, np.ndarray]:
        """The arrays of a convolution, or of a batch normalisation and the convolution before it, by path."""
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
        """GeM's power and the length of the descriptor; puts the projection into `flat`."""
        powers = [node for node in self.nodes if node.op_type == "Pow"]
        power = float(self.value(powers[0].input[1]).item()) if powers else 1.0
        linear = [node for node in self.nodes if node.op_type in ("Gemm", "MatMul")]
        if not linear:
            return power, 0
        (node,) = linear
        kernel = self.value(node.input[1])
        if node.op_type == "Gemm":
            transposed, bias = self.attribute(node, "transB", 0), self.value(node.input[2])
        else:  # the bias is added by the node that follows
            (add,) = [n for n in self.users[node.output[0]] if n.op_type == "Add"]
            transposed, bias = False, self.value(next(name for name in add.input if name != node.output[0]))
        for leaf, value in (("kernel", kernel.T if transposed else kernel), ("bias", bias)):
            flat["params", "embeddings", leaf] = value
            names["params", "embeddings", leaf] = f"embeddings/{leaf} ({node.name or node.output[0]})"
        return power, len(bias)

    def back(self, tensor: str, *kinds: str) -> Any:
        """The node of such a kind that a tensor comes from, past those that hand it on."""
        node = self.producer[tensor]
        while node.op_type not in kinds:
            if node.op_type not in PASSES:
                raise ValueError(f"{node.op_type} {node.name!r} where one of {', '.join(kinds)} should be")
            node = self.producer[node.input[0]]
        return node

    def is_block(self, node: Any) -> bool:
        """Whether an Add joins two branches of activations; others add a bias."""
        return not any(map(self.is_constant, node.input))

    def block(self, add: Any) -> tuple[list[Any], Any, int]:
        """The convolutions of a residual block (or their normalisations), the shortcut's, and the block's stride."""

        def branch(tensor: str) -> list[Any]:
            nodes, node = [], self.back(tensor, *FORKS)
            while node.op_type in ("Conv", "BatchNormalization"):
                nodes.append(node)
                node = self.back(self.convolution(node).input[0], *FORKS)
            return nodes[::-1]

        shortcut, main = sorted(map(branch, add.input), key=len)
        if len(shortcut) > 1 or len(main) not in (2, 3):
            raise ValueError(f"the Add {add.name!r} joins {len(main)} and {len(shortcut)} convolutions")
        stride = max(self.attribute(self.convolution(node), "strides", [1, 1])[0] for node in main)
        return main, shortcut[0] if shortcut else None, stride

    def convolution(self, node: Any) -> Any:
        """The convolution that a batch normalisation follows, or that the node is."""
        return node if node.op_type == "Conv" else self.back(node.input[0], "Conv")

    def is_constant(self, name: str) -> bool:
        node = self.producer.get(name)
        if node is None:
            return name in self.values
        return node.op_type in ("Constant", "DequantizeLinear", "Identity") and all(map(self.is_constant, node.input))

    def value(self, name: str) -> np.ndarray:
        """A constant, dequantised where it is quantised."""
        to_array = self.onnx.numpy_helper.to_array
        if name in self.values:
            return to_array(self.values[name])
        node = self.producer[name]
        if node.op_type == "Constant":
            return to_array(self.attribute(node, "value", None))
        if node.op_type == "Identity":
            return self.value(node.input[0])
        if node.op_type != "DequantizeLinear":
            raise ValueError(f"{name!r} is computed by {node.op_type}, where a constant should be")
        self.quantised = True
        values, scale = self.value(node.input[0]), self.value(node.input[1])
        zero = self.value(node.input[2]) if len(node.input) > 2 else np.zeros_like(scale, values.dtype)
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[self.attribute(node, "axis", 1)] = scale.size
        centred = values.astype(np.int64) - zero.astype(np.int64).reshape(shape)
        return centred.astype(np.float32) * scale.reshape(shape)

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        found = [a for a in node.attribute if a.name == name]
        return self.onnx.helper.get_attribute_value(found[0]) if found else default
