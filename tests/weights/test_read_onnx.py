"""ONNX graphs against onnxruntime: our own, and as onnxruntime's quantizer and other exporters write them."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.networks import NARROW, assert_same, seeded

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx
import onnxruntime
from helpers.qdq import dequantize
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from sscd_jax import weights
from sscd_jax.models.folding import fold
from sscd_jax.presets import PRESETS
from sscd_jax.weights.export_onnx import run_onnx, write_onnx

IMAGES = np.random.default_rng(0).normal(size=(3, 3, 72, 88)).astype(np.float32)
NHWC = IMAGES.transpose(0, 2, 3, 1)


def write(path: Path, backbone: str, dims: int = 24) -> tuple:
    model, variables = seeded(backbone, dims)
    write_onnx(path, model, variables, uint8=False, preset=PRESETS["skew_320"])
    return model, variables


@pytest.mark.slow
@pytest.mark.parametrize("dims", [24, 0])
@pytest.mark.parametrize("backbone", NARROW)
def test_our_own_graph_comes_back(backbone, dims, tmp_path):
    model, variables = write(tmp_path / "a.onnx", backbone, dims)
    loaded = weights.read(tmp_path / "a.onnx")
    assert (loaded.model, loaded.format) == (model, "ONNX, float32")
    assert_same(fold(loaded.model, loaded.variables)[1], fold(model, variables)[1])


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches = iter([{"images": image[None]} for image in IMAGES])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def quantized(request, tmp_path_factory) -> Path:
    """A network quantized by onnxruntime's own tool, weights a channel each, as people do it."""
    folder = tmp_path_factory.mktemp("quantized")
    write(folder / "float.onnx", request.param)
    quant_pre_process(folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True)
    quantize_static(
        folder / "ready.onnx",
        folder / "int8.onnx",
        Calibration(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Add", "MaxPool"],
    )
    return folder / "int8.onnx"


@pytest.mark.slow
def test_an_int8_graph_is_read_as_its_dequantised_weights(quantized, tmp_path):
    loaded = weights.read(quantized)
    assert loaded.format == "ONNX, int8"
    found = jax.jit(loaded.model.apply)(loaded.variables, NHWC)
    dequantize(quantized, tmp_path / "float.onnx")
    np.testing.assert_allclose(found, run_onnx(tmp_path / "float.onnx", IMAGES), atol=1e-5)
    assert float((found * run_onnx(quantized, IMAGES)).sum(1).mean()) > 0.96


@pytest.mark.slow
def test_names_do_not_matter(tmp_path):
    model, variables = write(tmp_path / "a.onnx", "resnet50")
    proto = onnx.load(tmp_path / "a.onnx")
    names = {
        name: f"t{i}" for i, name in enumerate({n for node in proto.graph.node for n in (*node.input, *node.output)})
    }
    for node in proto.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            field[:] = [names[name] for name in field]
    for tensor in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        tensor.name = names[tensor.name]
    onnx.save(proto, tmp_path / "b.onnx")
    loaded, renamed = weights.load(tmp_path / "b.onnx")
    assert loaded == model
    assert_same(fold(loaded, renamed)[1], fold(model, variables)[1])


def test_weights_in_a_file_beside_it_are_read(tmp_path):
    model, variables = write(tmp_path / "a.onnx", "resnet18")
    (tmp_path / "b").mkdir()
    onnx.save(onnx.load(tmp_path / "a.onnx"), tmp_path / "b" / "b.onnx", save_as_external_data=True, location="b.data")
    loaded, found = weights.load(tmp_path / "b" / "b.onnx")
    assert_same(fold(loaded, found)[1], fold(model, variables)[1])
    (tmp_path / "b" / "b.data").unlink()
    with pytest.raises(ValueError, match=r"b\.onnx"):
        weights.load(tmp_path / "b" / "b.onnx")


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "sub/../../secret", "..\\secret"])
def test_weights_in_files_elsewhere_are_refused(location, tmp_path):
    write(tmp_path / "a.onnx", "resnet18")
    proto = onnx.load(tmp_path / "a.onnx")
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"a\.onnx is refused: it reads the file"):
        weights.load(tmp_path / "a.onnx")


def test_a_link_to_a_file_elsewhere_is_refused(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "a.onnx", "resnet18")
    onnx.save(onnx.load(tmp_path / "a.onnx"), tmp_path / "b" / "b.onnx", save_as_external_data=True, location="b.data")
    (tmp_path / "b" / "b.data").rename(tmp_path / "secret")
    (tmp_path / "b" / "b.data").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"b\.onnx"):
        weights.load(tmp_path / "b" / "b.onnx")


def without(kind: str, proto: onnx.ModelProto, number: int = -1) -> None:
    """Takes a node of a kind out; those after it read its input."""
    node = [node for node in proto.graph.node if node.op_type == kind][number]
    for other in proto.graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    proto.graph.node.remove(node)


def set_attribute(node: onnx.NodeProto, name: str, value) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def first(proto: onnx.ModelProto, kind: str, **attributes) -> onnx.NodeProto:
    """The first node of a kind with these attributes."""

    def has(node: onnx.NodeProto) -> bool:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return all(found.get(name) == value for name, value in attributes.items())

    return next(node for node in proto.graph.node if node.op_type == kind and has(node))


CHANGES = {
    "stem of stride 1": lambda p: set_attribute(first(p, "Conv"), "strides", [1, 1]),
    "dilated": lambda p: set_attribute(first(p, "Conv", kernel_shape=[3, 3]), "dilations", [2, 2]),
    "padded otherwise": lambda p: set_attribute(first(p, "Conv", kernel_shape=[3, 3]), "pads", [0, 0, 2, 2]),
    "another max-pool": lambda p: set_attribute(first(p, "MaxPool"), "pads", [0, 0, 1, 1]),
    "automatic padding": lambda p: set_attribute(first(p, "Conv"), "auto_pad", "SAME_UPPER"),
    "no Relu": lambda p: without("Relu", p, 3),
    "no Relu after the stem": lambda p: without("Relu", p, 0),
    "no Relu after an Add": lambda p: without("Relu", p, 6),
    "LeakyRelu": lambda p: setattr(first(p, "Relu"), "op_type", "LeakyRelu"),
    "a loop": lambda p: first(p, "Relu").input.__setitem__(0, first(p, "Relu").output[0]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_computes_something_else_is_refused(change, tmp_path):
    write(tmp_path / "a.onnx", "resnet50")
    proto = onnx.load(tmp_path / "a.onnx")
    CHANGES[change](proto)
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"a\.onnx is not the graph of an SSCD network: \w+"):
        weights.load(tmp_path / "a.onnx")


def test_the_stride_of_another_resnet_is_refused(tmp_path):
    """ResNet v1 has the stride of a bottleneck in its first convolution."""
    write(tmp_path / "a.onnx", "resnet50")
    proto = onnx.load(tmp_path / "a.onnx")
    for name in ("layer2_0/conv1", "layer2_0/conv2"):
        node = next(node for node in proto.graph.node if node.name == name)
        set_attribute(node, "strides", [2, 2] if name.endswith("1") else [1, 1])
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="layer2_0/conv1"):
        weights.load(tmp_path / "a.onnx")


def test_a_classifier_is_a_plain_resnet(tmp_path):
    """As torchvision exports it: mean pooling and 1000 classes."""
    model, variables = write(tmp_path / "a.onnx", "resnet18", 1000)
    proto = onnx.load(tmp_path / "a.onnx")
    for _ in range(2):
        without("Pow", proto)
    for kind in ("Div", "Clip", "ReduceL2"):
        without(kind, proto)
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    loaded, found = weights.load(tmp_path / "a.onnx")
    assert (loaded.dims, loaded.pool_param) == (0, 3.0)
    folded, _ = fold(model, variables)[1], None
    assert_same(fold(loaded, found)[1]["params"]["backbone"], folded["params"]["backbone"])


@pytest.mark.parametrize("kind", ["Conv", "Add"])
def test_a_graph_with_exponentially_many_paths_takes_no_time(kind, tmp_path):
    """Each node takes the one before it twice, which doubles the paths to the first."""
    write(tmp_path / "a.onnx", "resnet18")
    proto = onnx.load(tmp_path / "a.onnx")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.0, np.float32), "chain0"))
    for i in range(40):
        name = f"chain{i}"
        proto.graph.node.append(onnx.helper.make_node("DequantizeLinear", [name, name], [f"chain{i + 1}"]))
    first(proto, kind).input[1] = "chain40"
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a\.onnx"):
        weights.load(tmp_path / "a.onnx")
    assert time.process_time() - start < 10


def test_a_graph_of_very_many_nodes_is_refused(tmp_path):
    write(tmp_path / "a.onnx", "resnet18")
    proto = onnx.load(tmp_path / "a.onnx")
    proto.graph.node.extend(onnx.helper.make_node("Relu", ["x"], [f"x{i}"]) for i in range(6000))
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"a\.onnx .* 60\d\d nodes, and no SSCD network has more than 5000"):
        weights.load(tmp_path / "a.onnx")


@pytest.mark.parametrize("kind", ["MaxPool", "Add", "Conv"])
def test_another_graph_is_an_error_that_says_where(kind, tmp_path):
    write(tmp_path / "a.onnx", "resnet18")
    proto = onnx.load(tmp_path / "a.onnx")
    without(kind, proto)
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx is not the graph of an SSCD network: \w+"):
        weights.load(tmp_path / "a.onnx")


def test_misshapen_weights_are_listed_with_the_names_of_the_file(tmp_path):
    write(tmp_path / "a.onnx", "resnet18")
    proto = onnx.load(tmp_path / "a.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name in ("layer2_1/conv1/weight", "embeddings/kernel"):
            value = onnx.numpy_helper.to_array(tensor)[1:]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"(?s)shape.*layer2_1/conv1/kernel.*shape.*embeddings/kernel"):
        weights.load(tmp_path / "a.onnx")


def test_bytes_that_are_no_graph(tmp_path):
    for name, data in {"cut": None, "noise": b"\x08" + np.random.default_rng(0).bytes(1000)}.items():
        path = tmp_path / f"{name}.onnx"
        if data is None:
            write(path, "resnet18")
            data = path.read_bytes()[:5000]
        path.write_bytes(data)
        with pytest.raises(ValueError, match=str(path)):
            weights.load(path)


@pytest.mark.slow
def test_what_onnxruntime_runs_is_any_batch_height_and_width(tmp_path):
    model, variables = write(tmp_path / "a.onnx", "resnet18")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    for shape in [(1, 3, 33, 64), (5, 3, 64, 47)]:
        images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        (found,) = session.run(None, {"images": images})
        expected = model.apply(variables, images.transpose(0, 2, 3, 1))
        np.testing.assert_allclose(found, expected, atol=1e-5)
