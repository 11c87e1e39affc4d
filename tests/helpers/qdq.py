"""A quantized ONNX graph (QDQ form) without its rounding: the float32 graph that it stands for."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def dequantize(path: Path, out: Path) -> None:
    """Writes the graph with float32 weights, and activations that are not rounded.

    Quantizers drop a Relu before a QuantizeLinear whose zero point is the least value of its type, as that cuts
    negative values off; here it comes back.
    """
    model = onnx.load(path)
    graph = model.graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantize = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    nodes = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
        elif node.input[0] in quantize:
            zero = values[node.input[2]]
            op = "Relu" if zero == np.iinfo(zero.dtype).min else "Identity"
            nodes.append(onnx.helper.make_node(op, [quantize[node.input[0]].input[0]], list(node.output)))
        else:
            quantized, scale, zero = (values[name] for name in node.input)
            shape = (-1,) + (1,) * (quantized.ndim - 1) if scale.size > 1 else ()
            wide = quantized.astype(np.float64) - zero.astype(np.float64).reshape(shape)
            weight = (wide * scale.astype(np.float64).reshape(shape)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, out)
