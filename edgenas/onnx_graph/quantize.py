"""INT8: static post-training quantisation with quantise and dequantise operators (QDQ).

The library of ONNX Runtime calibrates and inserts the operators; weights have a scale for each
output channel. Runtimes fuse two different styles:

* unsigned (ONNX Runtime, OpenVINO): 8-bit activations with a zero point, 32-bit integer biases,
  every value between two operators quantised;
* signed (TensorRT): symmetric activations, float biases, and only what convs and matrix products
  read is quantised, so that what follows them is fused in float.

ONNX Runtime has no integer hard swish: it dequantises, computes in float and quantises again, which
costs more than int8 wins. Both factors of ``x * clip(x / 6 + 1/2, 0, 1)`` are affine in x, so they
need no arithmetic but another reading of the same integers. With a scale of 3 / k and the zero
point k, x is known from -3 on (below, the product is 0 anyway) and ``min(q, 2 k)`` read with the
scale 1 / 2k and the zero point 0 is the second factor. One integer product remains, and a hard
sigmoid costs nothing at all. Functions that do this are ``_integer_activations`` and
``_activation_ranges``; the latter also clips swishes, see ``_top``.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgenas.basics.errors import EdgenasError
from edgenas.basics.temporary import redirect_temporary_files, scratch_folder
from edgenas.clock.board.onnx_runtime import open_session
from edgenas.onnx_graph.inputs import declared
from edgenas.onnx_graph.model import batch_of, loads
from edgenas.space.check import PARTS

Array = NDArray[Any]

KEPT = "kept_in_float"  # in the metadata of a model

_CHUNK = 25
_STEPS = 255
_VALUES = 500_000  # of a tensor, over all calibration images: more say nothing new
_CLIPPED = 24  # candidates for the largest value, each a tenth below the other


def quantized(
    onnx_bytes: bytes, *, signed: bool, images: Array, keep: Collection[str] = ()
) -> bytes:
    """The int8 model of an fp32 model.

    Args:
        onnx_bytes: one input and one output, both float32.
        signed: the style: symmetric for TensorRT, or unsigned for ONNX Runtime and OpenVINO.
        images: what it is calibrated with, shape (n, ...) as its input.
        keep: parts that stay in float, see ``parts``; they are in the model's metadata.

    Raises:
        EdgenasError: there is nothing to quantise, or a part has another name.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = loads(onnx_bytes).proto
    known = parts(model)
    if unknown := sorted(set(keep) - set(known)):
        raise EdgenasError(f"parts are {', '.join(known)}, found {unknown[0]!r}")
    if not any(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.graph.node):
        raise EdgenasError("the model has no convolution or matrix product to quantise")
    # The mean over images of what is smallest and largest: a single odd image would stretch the
    # steps of all others.
    options: dict[str, Any] = {"CalibMovingAverage": True}
    if signed:
        options |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        options |= {"AddQDQPairToWeight": True}
        options |= {"OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"]}
    options["TensorQuantOverrides"] = _activation_ranges(model, images, signed=signed)
    reader: Any = _Reader(model.graph.input[0].name, images, batch=_batch(model))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    with scratch_folder() as folder, redirect_temporary_files(folder), _quiet():
        path = folder / "int8.onnx"
        quantize_static(
            model,  # it is changed
            path,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"] if signed else None,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[
                *(name for part in keep for name in known[part]),
                *_joins_read_often(model),
            ],
            extra_options=options,
        )
        made = onnx.load(path)
    helper.set_model_props(made, {**metadata, **({KEPT: ", ".join(keep)} if keep else {})})
    return made.SerializeToString(deterministic=True)


def with_integer_activations(onnx_bytes: bytes) -> bytes:
    """An unsigned int8 model whose hard swishes and hard sigmoids are integers too."""
    model = loads(onnx_bytes).proto
    _integer_activations(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def with_integer_ends(onnx_bytes: bytes, *, first: bool, last: bool) -> bytes:
    """An unsigned int8 model that reads or gives integers: a layer amid others, to be timed.

    Args:
        onnx_bytes: of ``quantized``.
        first: whether its input becomes 8-bit integers.
        last: whether its output does.
    """
    model = loads(onnx_bytes).proto
    graph = model.graph
    if first:
        name = graph.input[0].name
        readers = [node for node in graph.node if name in node.input]
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            _rename_input(model, to=readers[0].output[0], kind=_kind(model, readers[0].input[2]))
            graph.node.remove(readers[0])
    if last:
        output = graph.output[0]
        (writer,) = (node for node in graph.node if output.name in node.output)
        if writer.op_type == "DequantizeLinear":
            output.name, kind = writer.input[0], _kind(model, writer.input[2])
            graph.node.remove(writer)
        else:
            # The library leaves what ends a graph in float; any scale will do to time it.
            kind = TensorProto.UINT8
            graph.initializer.extend(
                numpy_helper.from_array(value, f"end_{name}")
                for name, value in _affine(1 / 16, 128).items()
            )
            inputs = [output.name, "end_scale", "end_zero_point"]
            graph.node.append(helper.make_node("QuantizeLinear", inputs, ["end"], "end"))
            output.name = "end"
        output.type.tensor_type.elem_type = kind
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def parts(model: ModelProto) -> dict[str, list[str]]:
    """Names of the nodes of the parts of a network that may stay in float.

    ``first`` is the first conv, ``squeeze`` the convs behind pools (squeeze-and-excitation),
    ``depthwise`` the depthwise convs, ``classifier`` the last matrix product.
    """
    names: dict[str, list[str]] = {part: [] for part in PARTS}
    writers = {output: node for node in model.graph.node for output in node.output}
    image = model.graph.input[0].name
    small = {node.output[0] for node in model.graph.node if node.op_type == "GlobalAveragePool"}
    for node in model.graph.node:
        if node.op_type != "GlobalAveragePool" and node.op_type != "Mul" and node.input[0] in small:
            small.update(node.output)
        if node.op_type in ("Gemm", "MatMul"):
            names["classifier"] = [node.name]
        if node.op_type != "Conv":
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.input[0] == image and writers.get(image) is None and _images(model):
            names["first"].append(node.name)
        elif node.input[0] in small:
            names["squeeze"].append(node.name)
        elif groups > 1:
            names["depthwise"].append(node.name)
    return names


def _joins_read_often(model: ModelProto) -> list[str]:
    """Names of the concats that several nodes read, such as the outputs of cells.

    They stay in float: OpenVINO 2026.4 ends the process on integer ones.
    """
    readers = Counter(name for node in model.graph.node for name in node.input)
    joins = (node for node in model.graph.node if node.op_type == "Concat")
    return [node.name for node in joins if readers[node.output[0]] > 1]


def _images(model: ModelProto) -> bool:
    """Whether the input has the channels of images, and not those of a layer amid a network."""
    (image,) = declared(model)
    return image.is_image and image.extents is not None and image.extents[1] in (1, 3)


def _batch(model: ModelProto) -> int:
    """The batch a model is made for; a few where that is open."""
    return batch_of(model) or _CHUNK


class _Reader:
    """Feeds calibration images to the library, in batches that the model takes."""

    def __init__(self, name: str, images: Array, *, batch: int) -> None:
        full = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
        self._left = iter(full[i : i + batch] for i in range(0, len(full), batch))
        self._name = name

    def get_next(self) -> dict[str, Array] | None:
        """The next batch; None: there is none."""
        batch = next(self._left, None)
        return None if batch is None else {self._name: np.ascontiguousarray(batch, np.float32)}


def _activation_ranges(
    model: ModelProto, images: Array, *, signed: bool
) -> dict[str, list[dict[str, Array]]]:
    """Scales and zero points of what hard swishes read and give, and hard sigmoids read.

    In the signed style swishes are computed in float, and only what they give is quantised.
    """
    nodes = [node for node in model.graph.node if _is_integer_activation(node)]
    swishes = {node.input[0]: node.output[0] for node in nodes if node.op_type == "HardSwish"}
    ranges = {} if signed else {node.input[0]: _affine(6 / 254, 127) for node in nodes}
    for name, values in _values(model, list(swishes), images).items():
        top = _top(values, signed=signed)
        if not signed:
            ranges[name] = _affine(3 / _middle(top), _middle(top))
        ranges[swishes[name]] = _swish_steps(top, signed=signed)
    return {name: [value] for name, value in ranges.items()}


def _values(model: ModelProto, names: list[str], images: Array) -> dict[str, Array]:
    """Some values over calibration images, by name: float32, shape (channels, n)."""
    if not names:
        return {}
    watched = ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = open_session(watched.SerializeToString(), threads=1, batch=_batch(model))
    reader = _Reader(model.graph.input[0].name, images, batch=_batch(model))
    rng = np.random.default_rng(0)
    parts: dict[str, list[Array]] = {name: [] for name in names}
    while (inputs := reader.get_next()) is not None:
        for name, value in zip(names, session.run(names, inputs), strict=True):
            values = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            count = -(-_VALUES * len(value) // (len(images) * len(values)))
            if count < values.shape[1]:
                values = values[:, rng.permutation(values.shape[1])[:count]]
            parts[name].append(values)
    return {name: np.concatenate(values, 1) for name, values in parts.items()}


def _top(values: Array, *, signed: bool) -> float:
    """The largest value that is worth its integers, of what a hard swish reads.

    A channel with few large values would stretch the steps of all others. So values are clipped
    where the error of the swish, relative to the variance of each channel, is least on average:
    what reads it has weights for each channel and was trained to use them all.

    Args:
        values: over calibration images, float32, shape (channels, n).
        signed: the style.
    """
    swish = _swish(values)
    variance = swish.var(1) + 1e-6
    best = np.inf, 0.0
    for top in max(float(values.max()), 0.1) * 0.9 ** np.arange(_CLIPPED):
        read = values if signed else _quantised(values, _affine(3 / _middle(top), _middle(top)))
        made = _quantised(_swish(read), _swish_steps(top, signed=signed))
        error = float((np.square(made - swish).mean(1) / variance).mean())
        best = min(best, (error, float(top)))
    return best[1]


def _swish(values: Array) -> Array:
    return values * np.clip(values / 6 + 0.5, 0, 1)


def _quantised(values: Array, steps: dict[str, Array]) -> Array:
    """Values as integers give them back."""
    zero, kind = steps["zero_point"], np.iinfo(steps["zero_point"].dtype)
    least, most = kind.min - float(zero), kind.max - float(zero)
    return np.clip(np.rint(values / steps["scale"]), least, most) * steps["scale"]


def _swish_steps(top: float, *, signed: bool) -> dict[str, Array]:
    """Scale and zero point of what a hard swish gives, which is nowhere below -3/8."""
    if signed:
        return {"scale": np.array(top / 127, np.float32), "zero_point": np.array(0, np.int8)}
    scale = (top + 0.375) / _STEPS
    return _affine(scale, round(0.375 / scale))


def _middle(top: float) -> int:
    """The integer for 0, where 0 stands for -3 and 255 for the largest value."""
    return max(1, min(int(_STEPS * 3 / (3 + top)), _STEPS - 1))


def _affine(scale: float, zero_point: int) -> dict[str, Array]:
    return {
        "scale": np.array(scale, np.float32),
        "zero_point": np.array(zero_point, np.uint8),
    }


def _is_integer_activation(node: NodeProto) -> bool:
    """Whether it is a hard swish, or the hard sigmoid with the slope 1/6 that belongs to it."""
    if node.op_type != "HardSigmoid":
        return node.op_type == "HardSwish"
    values = {a.name: a.f for a in node.attribute}
    return abs(values.get("alpha", 0.2) - 1 / 6) < 1e-6 and values.get("beta", 0.5) == 0.5


def _integer_activations(model: ModelProto) -> None:
    graph = model.graph
    writers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if _is_integer_activation(n)]:
        before = writers.get(node.input[0])
        if before is None or before.op_type != "DequantizeLinear":
            continue  # kept in float
        scale = float(numpy_helper.to_array(constants[before.input[1]]))
        k = int(numpy_helper.to_array(constants[before.input[2]]))
        integers, swish = before.input[0], node.op_type == "HardSwish"
        names = [f"{node.name}_{word}" for word in ("gate_scale", "gate_zero_point", "gate_top")]
        values = (np.float32(scale / 6), np.uint8(0), np.uint8(min(2 * k, _STEPS)))
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, values, strict=True)
        )
        made: list[NodeProto] = []
        if swish and 2 * k < _STEPS:
            top = f"{node.name}_gate_integers"
            made.append(helper.make_node("Clip", [integers, "", names[2]], [top], f"{top}_clip"))
            integers = top
        gate = f"{node.name}_gate"
        made.append(
            helper.make_node("DequantizeLinear", [integers, *names[:2]], [gate], f"{gate}_read")
        )
        if swish:
            product = helper.make_node("Mul", [node.input[0], gate], [node.output[0]], node.name)
            made.append(product)
            _replace(model, node, made)
        else:
            _replace(model, node, made)
            _skip_pair(model, node.output[0], to=gate)
    _drop_unused(model)


def _replace(model: ModelProto, node: NodeProto, made: list[NodeProto]) -> None:
    place = next(i for i, other in enumerate(model.graph.node) if other is node)
    model.graph.node.remove(node)
    for i, new in enumerate(made):
        model.graph.node.insert(place + i, new)


def _skip_pair(model: ModelProto, name: str, *, to: str) -> None:
    """What reads a value, or that value behind quantise and dequantise, reads another one."""
    stale = {name}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in stale:
            stale.add(node.output[0])
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            for i, read in enumerate(node.input):
                if read in stale:
                    node.input[i] = to


def _drop_unused(model: ModelProto) -> None:
    """Remove the nodes and the constants whose outputs nothing reads."""
    graph, wanted = model.graph, {value.name for value in model.graph.output}
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)
    for tensor in [t for t in graph.initializer if t.name not in wanted]:
        graph.initializer.remove(tensor)


def _kind(model: ModelProto, zero_point: str) -> int:
    return next(t.data_type for t in model.graph.initializer if t.name == zero_point)


def _rename_input(model: ModelProto, *, to: str, kind: int) -> None:
    value = model.graph.input[0]
    old, value.name = value.name, to
    value.type.tensor_type.elem_type = kind
    assert kind in (TensorProto.UINT8, TensorProto.INT8)
    assert not any(old in node.input[1:] for node in model.graph.node)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to optimise the graph first: this one is folded already."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
