"""Exports the network as an ONNX graph, built node by node, and runs it by onnxruntime."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sscd_jax.models import SSCD
from sscd_jax.models.folding import fold
from sscd_jax.presets import Preset
from sscd_jax.weights.native import METADATA
from sscd_jax.weights.read_onnx import import_onnx

OPSET, IR_VERSION = 17, 8  # every onnxruntime since 1.12 (2022) runs these


def write_onnx(path: Path, model: SSCD, variables: Any, *, uint8: bool, preset: Preset) -> None:
    """Writes the network with folded batch normalization, for any batch size, height and width.

    Args:
        path: the file.
        model: the network; its field `normalized` says whether the graph ends in L2 normalization.
        variables: its variables.
        uint8: whether the input `images` is uint8 [batch, height, width, 3], to be normalized by the graph; else it is
            float32 [batch, 3, height, width], normalized already. The output `descriptors` is float32 [batch, dims].
        preset: what the network is for, kept in the metadata; its mean and std normalize uint8 images.
    """
    onnx = import_onnx()
    model, variables = fold(model, variables)
    params = jax.device_get(variables["params"])
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def add(op: str, *inputs: str, output: str, **attributes: Any) -> str:
        nodes.append(onnx.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def convolution(x: str, name: str, *, stride: int = 1) -> str:
        """Adds the convolution `name`, with the bias of its folded batch normalization."""
        block, _, last = name.rpartition("/")
        layer = params["backbone"] if not block else params["backbone"][block]
        kernel, bias = np.asarray(layer[last]["kernel"]), np.asarray(layer[last.replace("conv", "bn")]["bias"])
        k = kernel.shape[0]
        weights = constant(f"{name}/weight", kernel.transpose(3, 2, 0, 1))
        group = 1 if last != "conv2" else model.backbone.groups
        attributes = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [k // 2] * 4, "group": group}
        return add("Conv", x, weights, constant(f"{name}/bias", bias), output=name, **attributes)

    def relu(x: str) -> str:
        return add("Relu", x, output=f"{x}/relu")

    x = "images"
    if uint8:  # (x / 255 - mean) / std
        mean, std = np.array(preset.mean), np.array(preset.std)
        x = add("Cast", x, output="float", to=onnx.TensorProto.FLOAT)
        x = add("Mul", x, constant("multiplier", 1 / (255 * std)), output="scaled")
        x = add("Sub", x, constant("offset", mean / std), output="normalized")
        x = add("Transpose", x, output="nchw", perm=[0, 3, 1, 2])
    x = relu(convolution(x, "conv1", stride=2))
    x = add("MaxPool", x, output="pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    bottleneck = model.backbone.block.expansion > 1
    for stage, blocks in enumerate(model.backbone.stage_sizes, 1):
        for i in range(blocks):
            block, stride = f"layer{stage}_{i}", 2 if stage > 1 and i == 0 else 1
            y = relu(convolution(x, f"{block}/conv1", stride=1 if bottleneck else stride))
            y = convolution(y, f"{block}/conv2", stride=stride if bottleneck else 1)
            if bottleneck:
                y = convolution(relu(y), f"{block}/conv3")
            if "downsample_conv" in params["backbone"][block]:
                x = convolution(x, f"{block}/downsample_conv", stride=stride)
            x = relu(add("Add", y, x, output=f"{block}/sum"))

    p = model.pool_param
    x = add("Clip", x, constant("gem/floor", np.array(1e-6)), output="gem/clipped")
    x = add("Pow", x, constant("gem/p", np.array(p)), output="gem/powers")
    x = add("GlobalAveragePool", x, output="gem/mean")
    x = add("Pow", x, constant("gem/1/p", np.array(1 / p)), output="gem/root")
    x = add("Flatten", x, output="gem")
    if model.dims:
        kernel, bias = (constant(f"embeddings/{leaf}", params["embeddings"][leaf]) for leaf in ("kernel", "bias"))
        x = add("Gemm", x, kernel, bias, output="embeddings")
    if model.normalized:
        norm = add("ReduceL2", x, output="norm", axes=[1], keepdims=1)
        x = add("Div", x, add("Clip", norm, constant("l2/floor", np.array(1e-12)), output="l2"), output="unit")
    add("Identity", x, output="descriptors")

    def value(name: str, dtype: int, *shape: str | int) -> Any:
        return onnx.helper.make_tensor_value_info(name, dtype, shape)

    if uint8:
        images = value("images", onnx.TensorProto.UINT8, "batch", "height", "width", 3)
    else:
        images = value("images", onnx.TensorProto.FLOAT, "batch", 3, "height", "width")
    dims = model.dims or 8 * model.backbone.width * model.backbone.block.expansion
    output = value("descriptors", onnx.TensorProto.FLOAT, "batch", dims)
    graph = onnx.helper.make_graph(nodes, "sscd", [images], [output], constants)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="sscd_jax")
    proto.ir_version = IR_VERSION
    onnx.helper.set_model_props(proto, {METADATA: json.dumps({"preset": preset.parameters()})})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    """Runs a graph of one input and one output by onnxruntime on the CPU; its input determines the shape of images."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("checking an ONNX export needs onnxruntime: pip install 'sscd_jax[onnx]'") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (descriptors,) = session.run(None, {session.get_inputs()[0].name: images})
    return descriptors
