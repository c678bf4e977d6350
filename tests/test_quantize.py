from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph import quantize
from edgenas.onnx_graph.build import INPUT, layer_graph, network_graph
from edgenas.onnx_graph.forms import (
    Form,
    convert_layer_to_form,
    convert_to_form,
    convert_to_half,
    make_random_images,
)
from edgenas.onnx_graph.quantize import parts, quantized, with_integer_activations
from edgenas.profiling.units import layer_unit, network_unit
from edgenas.runtime import registry as runtimes
from edgenas.runtime.registry import form_of
from edgenas.space import presets as spaces
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan
from edgenas.space.space import Space

STEM = Layer(kind="conv", inputs=3, outputs=8, size=8, kernel=3, activation="hswish")
SQUEEZED = next(
    layer for layer in layers(spaces.tiny()) if layer.squeeze and layer.activation == "hswish"
)


TINY = spaces.tiny()
WIDE = replace(TINY, name="wide", resolutions=(12, 15), aspect=(3, 5))


def network(space: Space = TINY) -> bytes:
    return network_graph(space, space.largest())


def nodes(onnx_bytes: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node]


def run(onnx_bytes: bytes, x: np.ndarray, *, precision: str | None = None) -> np.ndarray:
    runtime = runtimes.get("onnxruntime")
    session = runtime.compile(onnx_bytes, precision=precision, threads=1, batch=len(x))
    return session.run({INPUT: x})[0]


def run_exactly(onnx_bytes: bytes, x: np.ndarray) -> np.ndarray:
    """What the operators mean, whatever a processor has kernels for: onnx's own evaluator.

    A sum of products of 8-bit integers, each read with its scale, is off by no more than the
    rounding of float32. So it is exact up to values on the border between two integers.
    """
    return ReferenceEvaluator(onnx.load_from_string(onnx_bytes)).run(None, {INPUT: x})[0]


def output_step(onnx_bytes: bytes) -> float:
    """The scale of what a model gives, which is dequantised last."""
    graph = onnx.load_from_string(onnx_bytes).graph
    (last,) = (node for node in graph.node if graph.output[0].name in node.output)
    assert last.op_type == "DequantizeLinear"
    (scale,) = (t for t in graph.initializer if t.name == last.input[1])
    return float(numpy_helper.to_array(scale))


def every_input(onnx_bytes: bytes, *, of: str) -> tuple[np.ndarray, np.ndarray]:
    """What an activation of an int8 model gives for each 8-bit integer, and the real input."""
    model = onnx.load_from_string(onnx_bytes)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    writers = {output: node for node in model.graph.node for output in node.output}
    readers = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    gate = next(n for n in readers if n.output[0].endswith("_gate") and of in n.output[0])
    q = np.arange(256)
    clip = writers.get(gate.input[0])
    integers = gate.input[0]
    capped = q
    if clip is not None and clip.op_type == "Clip":
        capped, integers = np.minimum(q, constants[clip.input[2]]), clip.input[0]
    own = next(n for n in readers if n.input[0] == integers and n is not gate)
    x = (q - constants[own.input[2]].astype(int)) * constants[own.input[1]]
    factor = (capped - constants[gate.input[2]].astype(int)) * constants[gate.input[1]]
    return x, factor


# The range of a hard swish


def uneven(factor: float) -> bytes:
    """A conv, a hard swish and a depthwise conv; channels grow in size up to a factor.

    The depthwise conv makes all channels alike again, as trained networks do.
    """
    rng = np.random.default_rng(0)
    size = np.geomspace(5 / factor, 5, 8)[:, None, None, None]
    weights = {
        "first": 0.2 * size * rng.standard_normal((8, 3, 3, 3)),
        "depthwise": rng.standard_normal((8, 1, 3, 3)) / size,
    }
    pads = {"pads": [1, 1, 1, 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [INPUT, "first"], ["a"], "Conv_0", **pads),
            helper.make_node("HardSwish", ["a"], ["b"], "HardSwish_1"),
            helper.make_node("Conv", ["b", "depthwise"], ["y"], "Conv_2", group=8, **pads),
        ],
        "uneven",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 12, 12])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def error_of(model: bytes, made: bytes, x: np.ndarray) -> float:
    """Mean squared error of the outputs, relative to their variance, over channels."""
    real = run_each(model, x)
    found = np.concatenate([run_exactly(made, one[None]) for one in x])
    return float((((found - real) ** 2).mean((0, 2, 3)) / real.var((0, 2, 3))).mean())


def run_each(onnx_bytes: bytes, x: np.ndarray) -> np.ndarray:
    session = runtimes.get("onnxruntime").compile(onnx_bytes, precision=None, threads=1, batch=1)
    return np.concatenate([session.run({INPUT: one[None]})[0] for one in x])


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_large_channel_does_not_coarsen_the_others(signed: bool, monkeypatch):
    x = np.random.default_rng(1).standard_normal((40, 3, 12, 12)).astype(np.float32)
    model = uneven(100.0)
    own = error_of(model, quantized(model, signed=signed, images=x[:20]), x[20:])
    monkeypatch.setattr(quantize, "_activation_ranges", lambda *words, **given: {})
    plain = error_of(model, quantized(model, signed=signed, images=x[:20]), x[20:])
    # Measured over 12 seeds of weights and images: 0.29 to 0.68.
    assert own < 0.85 * plain
    # Channels that are alike lose nothing by it.
    monkeypatch.undo()
    model = uneven(1.0)
    own = error_of(model, quantized(model, signed=signed, images=x[:20]), x[20:])
    monkeypatch.setattr(quantize, "_activation_ranges", lambda *words, **given: {})
    # Measured over 12 seeds: 0.59 to 0.98.
    assert own < 1.2 * error_of(model, quantized(model, signed=signed, images=x[:20]), x[20:])


# Integer activations: exact, whatever the scale


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_integer_hard_swish_is_the_real_one_of_the_same_integers(seed):
    x = 4 * np.random.default_rng(seed).standard_normal((8, 3, 8, 8)).astype(np.float32)
    made = with_integer_activations(quantized(layer_graph(STEM), signed=False, images=x))
    real, factor = every_input(made, of="HardSwish")
    # Both factors are products of an integer and a float32, and below 16: three roundings.
    np.testing.assert_allclose(
        real * factor, real * np.clip(real / 6 + 0.5, 0, 1), atol=3 * 16 * 2**-23
    )
    assert real.min() == pytest.approx(-3)


def test_an_integer_hard_sigmoid_is_the_real_one_without_any_operator():
    graph = layer_graph(SQUEEZED)
    before = quantized(graph, signed=False, images=make_random_images(graph))
    made = with_integer_activations(before)
    assert nodes(before).count("HardSigmoid") == 1
    assert "HardSigmoid" not in nodes(made)
    assert "HardSwish" not in nodes(made)
    assert onnx.checker.check_model(onnx.load_from_string(made), full_check=True) is None


def test_all_of_a_network_runs_in_integers_between_its_two_ends():
    int8 = convert_to_form(network(), form="int8-integer")
    kernels = (
        runtimes.get("onnxruntime").compile(int8, precision="int8", threads=1, batch=1).kernels()
    )
    floats = [kernel.kind for kernel in kernels if kernel.precision != "int8"]
    assert floats == ["DequantizeLinear"]  # the logits
    plain = convert_to_form(network(), form="int8-unsigned")
    kernels = (
        runtimes.get("onnxruntime").compile(plain, precision="int8", threads=1, batch=1).kernels()
    )
    assert "HardSigmoid" in [kernel.kind for kernel in kernels]


def formed_network(wanted: Form, space: Space) -> tuple[bytes, bytes, np.ndarray]:
    """A network, its other form and the images that the form was calibrated with."""
    graph = network(space)
    size = space.input_size(max(space.resolutions))
    images = np.random.default_rng(3).standard_normal((64, 3, *size)).astype(np.float32)
    return graph, convert_to_form(graph, form=wanted, images=images), images


@pytest.mark.parametrize(
    ("wanted", "bound"),
    [
        # Measured for both spaces over 12 seeds of weights and images: 0.03 to 0.128.
        ("int8-unsigned", 0.2),
        ("int8-integer", 0.2),
        ("int8-signed", 0.15),  # 0.015 to 0.09
        ("fp16", 6 * 2**-11),  # 0.0002 to 0.0013; a rounding to fp16 is 2**-11
    ],
)
@pytest.mark.parametrize("space", [TINY, WIDE], ids=["square", "wide"])
def test_another_form_computes_nearly_the_same(wanted: Form, bound: float, space: Space):
    graph, made, images = formed_network(wanted, space)
    real = np.concatenate([run(graph, x[None]) for x in images[:16]])
    one = run if wanted == "fp16" else run_exactly
    found = np.concatenate([one(made, x[None]) for x in images[:16]])
    assert np.abs(found - real).mean() < bound * real.std()
    assert convert_to_form(graph, form=wanted, images=images) == made


@pytest.mark.parametrize(
    "wanted", ["int8-unsigned", pytest.param("int8-integer", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "space", [TINY, pytest.param(WIDE, marks=pytest.mark.slow)], ids=["square", "wide"]
)
def test_onnx_runtime_multiplies_integers_exactly(wanted: Form, space: Space):
    """Also where the processor would add products of integers in 16 bits, and cut them off."""
    _, made, images = formed_network(wanted, space)
    exact, found = (np.concatenate([f(made, x[None]) for x in images]) for f in (run_exactly, run))
    steps = np.rint((found - exact) / output_step(made))
    # Measured on three kinds of processor: all are equal. A value that lies on the border between
    # two integers may become either, and moves what follows by a step or two. Such values are rare.
    assert np.abs(steps).max() <= 2
    assert (steps != 0).mean() < 0.05


# The styles


def test_the_signed_style_is_what_tensorrt_reads():
    graph = onnx.load_from_string(convert_to_form(network(), form="int8-signed"))
    zero_points = {
        node.input[2] for node in graph.graph.node if node.op_type.endswith("uantizeLinear")
    }
    constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    assert zero_points
    for name in zero_points:
        assert constants[name].dtype == np.int8
        assert not constants[name].any()
    for node in graph.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            assert constants[node.input[2]].dtype == np.float32
    # What follows a conv is fused with it in float: nothing is quantised in between.
    convs = {n.output[0] for n in graph.graph.node if n.op_type == "Conv"}
    behind = [n.op_type for n in graph.graph.node if n.input[0] in convs]
    assert behind.count("HardSwish") > 0


def test_weights_have_a_scale_for_each_output_channel():
    graph = layer_graph(STEM)
    made = onnx.load_from_string(quantized(graph, signed=False, images=make_random_images(graph)))
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    scales = [
        constants[n.input[1]]
        for n in made.graph.node
        if n.op_type == "DequantizeLinear" and constants.get(n.input[0], np.zeros(0)).ndim == 4
    ]
    assert [scale.shape for scale in scales] == [(8,)]


def test_a_layer_amid_others_reads_and_gives_integers():
    inner = layers(spaces.tiny())[4]
    made = convert_layer_to_form(layer_graph(inner), form="int8-integer", first=False, last=False)
    graph = onnx.load_from_string(made).graph
    kinds = [v.type.tensor_type.elem_type for v in (graph.input[0], graph.output[0])]
    assert kinds == [onnx.TensorProto.UINT8] * 2
    ends = convert_layer_to_form(layer_graph(STEM), form="int8-integer", first=True, last=True)
    graph = onnx.load_from_string(ends).graph
    kinds = [v.type.tensor_type.elem_type for v in (graph.input[0], graph.output[0])]
    assert kinds == [onnx.TensorProto.FLOAT] * 2


@pytest.mark.parametrize("layer", layers(spaces.tiny())[::5], ids=str)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_runs_in_int8_alone(layer, runtime):
    if runtimes.get(runtime).available():
        pytest.skip(runtimes.get(runtime).available())
    ends = {"first": layer.inputs == 3, "last": layer.kind == "head"}
    made = convert_layer_to_form(layer_graph(layer), form=form_of(runtime, "int8"), **ends)
    session = runtimes.get(runtime).compile(made, precision="int8", threads=1, batch=1)
    assert session.facts()["precision"] == "int8"


# Parts


def test_parts_of_a_network_by_name():
    found = parts(onnx.load_from_string(network()))
    assert found["first"] == ["Conv_0"]
    assert found["classifier"][0].startswith("Gemm")
    assert len(found["squeeze"]) == 4  # two in each of two blocks
    assert len(found["depthwise"]) == 4
    inner = layer_graph(layers(spaces.tiny())[4])
    assert not parts(onnx.load_from_string(inner))["first"]


def test_a_part_that_is_kept_stays_in_float():
    graph = network()
    made = quantized(graph, signed=False, images=make_random_images(graph), keep=("squeeze",))
    kernels = (
        runtimes.get("onnxruntime").compile(made, precision="int8", threads=1, batch=1).kernels()
    )
    squeeze = parts(onnx.load_from_string(graph))["squeeze"]
    assert not [k for k in kernels if k.precision == "int8" and set(k.nodes) & set(squeeze)]


@pytest.mark.parametrize("wanted", ["int8-unsigned", "int8-integer", "int8-signed"])
def test_layers_and_networks_of_a_space_keep_the_same_parts(wanted):
    """A table and a model agree: what is in float in one is in the other."""
    space = replace(spaces.tiny(), kept_in_float=("depthwise", "squeeze"))
    arch = space.largest()

    def floats(unit) -> list[tuple[int, ...]]:
        graph = onnx.load_from_string(unit.build()).graph
        shapes = {t.name: tuple(t.dims) for t in graph.initializer}
        return [
            shapes[n.input[1]] for n in graph.node if n.op_type == "Conv" and n.input[1] in shapes
        ]

    network_ = network_unit(space, arch, batch=1, form=wanted)
    alone = [
        layer_unit(space, layer, copies=0, batch=1, form=wanted) for _, layer in plan(space, arch)
    ]
    kept = floats(network_)
    assert sorted(kept) == sorted(shape for unit in alone for shape in floats(unit))
    assert len(kept) == sum(
        len(nodes)
        for part, nodes in parts(onnx.load_from_string(network())).items()
        if part in space.kept_in_float
    )
    told = {e.key: e.value for e in onnx.load_from_string(network_.build()).metadata_props}
    assert told == {"kept_in_float": "depthwise, squeeze"}


def test_an_unknown_part_is_refused():
    graph = network()
    with pytest.raises(EdgenasError, match=r"parts are first, squeeze, .* found 'middle'"):
        quantized(graph, signed=False, images=make_random_images(graph), keep=("middle",))


def test_what_has_no_conv_is_refused():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 4, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 4, 4])],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets).SerializeToString()
    with pytest.raises(EdgenasError, match="no convolution or matrix product to quantise"):
        quantized(model, signed=False, images=make_random_images(model))


# FP16


def test_an_fp16_model_keeps_its_float_ends():
    graph = onnx.load_from_string(convert_to_half(network())).graph
    kinds = [v.type.tensor_type.elem_type for v in (graph.input[0], graph.output[0])]
    assert kinds == [onnx.TensorProto.FLOAT] * 2
    assert {t.data_type for t in graph.initializer if t.dims} == {onnx.TensorProto.FLOAT16}


def test_a_form_is_that_of_a_runtime_and_a_precision():
    assert form_of("onnxruntime", "int8") == "int8-integer"
    assert form_of("openvino", "bf16") == "fp32"
    with pytest.raises(EdgenasError, match="precision of onnxruntime must be one of fp32, int8"):
        form_of("onnxruntime", "bf16")
