"""What engines take on the stand-in for a board: a truth that the code under test knows nothing of.

An ONNX file is read by a few lines of our own, because importing onnx would take longer than all
else. A law turns its nodes into kernels, and kernels into seconds. Laws differ in what they fuse,
in how they count work and in where a cache is full, so that nothing can be fitted to one of them.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number and value."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("the message ends too early")
            value, at = data[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("this is no protobuf message")
        yield key >> 3, value


def _text(value) -> str:
    return bytes(value).decode()


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _numbers(value) -> list[int]:
    """A repeated whole number, packed or not."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        one, at = _varint(value, at)
        found.append(_signed(one))
    return found


@dataclass
class Tensor:
    shape: list[int]
    kind: int  # the number of its type in ONNX: 1 float, 3 int8, 10 float16
    zero: bool = True  # whether all its bytes are zero


@dataclass
class Node:
    operator: str
    name: str
    inputs: list[str]
    outputs: list[str]
    numbers: dict[str, list[int]]


@dataclass
class Graph:
    ir: int = 0
    opset: int = 0
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    external: bool = False


def _tensor(data) -> tuple[str, Tensor, bool]:
    name, made, external = "", Tensor([], 1), False
    for number, value in _fields(data):
        if number == 1:
            made.shape += _numbers(value)
        elif number == 2:
            made.kind = value
        elif number == 8:
            name = _text(value)
        elif number in (4, 5, 9):
            made.zero = not any(bytes(value[:64])) if not isinstance(value, int) else not value
        elif number == 14:
            external = value == 1
    return name, made, external


def _node(data) -> Node:
    made = Node("", "", [], [], {})
    for number, value in _fields(data):
        if number == 1:
            made.inputs.append(_text(value))
        elif number == 2:
            made.outputs.append(_text(value))
        elif number == 3:
            made.name = _text(value)
        elif number == 4:
            made.operator = _text(value)
        elif number == 5:
            label, numbers = "", []
            for inner, one in _fields(value):
                if inner == 1:
                    label = _text(one)
                elif inner in (3, 8):
                    numbers += _numbers(one)
            made.numbers[label] = numbers
    return made


def _value(data) -> tuple[str, Tensor]:
    name, made = "", Tensor([], 1)
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for _, kind in _fields(value):
                for inner, one in _fields(kind):
                    if inner == 1:
                        made.kind = one
                    elif inner == 2:
                        for _, dimension in _fields(one):
                            sizes = [s for n, s in _fields(dimension) if n == 1]
                            made.shape.append(sizes[0] if sizes else 1)
    return name, made


def read_graph(data: bytes) -> Graph:
    """Read an ONNX file. Raises ValueError where it is none."""
    graph, inner = Graph(), memoryview(b"")
    try:
        for number, value in _fields(memoryview(data)):
            if number == 1:
                graph.ir = value
            elif number == 7:
                inner = value
            elif number == 8:
                pairs = dict(_fields(value))
                if not bytes(pairs.get(1, b"")):
                    graph.opset = pairs.get(2, 0)
        for number, value in _fields(inner):
            if number == 1:
                graph.nodes.append(_node(value))
            elif number == 5:
                name, tensor, external = _tensor(value)
                graph.constants[name] = tensor
                graph.external |= external
            elif number == 11:
                name, tensor = _value(value)
                graph.inputs[name] = tensor
            elif number == 12:
                graph.outputs.append(_value(value)[0])
    except (IndexError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if not graph.nodes:
        raise ValueError("there is no graph")
    graph.inputs = {n: t for n, t in graph.inputs.items() if n not in graph.constants}
    return graph


@dataclass
class Kernel:
    """A piece of work of an engine; sizes in elements."""

    kind: str  # conv, depthwise, linear, pool, pointwise
    macs: int = 0
    inputs: int = 0  # channels
    outputs: int = 0
    pixels: int = 0
    window: int = 1
    read: int = 0
    written: int = 0
    weights: int = 0
    tails: int = 0  # pointwise operators that were fused into it

    @property
    def signature(self) -> str:
        """What the timing cache knows it by."""
        return f"{self.kind} {self.macs} {self.inputs} {self.outputs} {self.pixels} {self.tails}"


_POINTWISE = {"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Mul", "Add", "Tanh"}
_FREE = {"Cast", "QuantizeLinear", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze"}


def shapes_of(graph: Graph) -> dict[str, list[int]]:
    """The shape of every value, as far as the operators of networks need it."""
    shapes = {n: t.shape for n, t in (*graph.constants.items(), *graph.inputs.items())}
    for node in graph.nodes:
        first = shapes.get(node.inputs[0], []) if node.inputs else []
        shape = list(first)
        if node.operator in ("Conv", "MaxPool", "AveragePool"):
            window = node.numbers.get("kernel_shape") or shapes[node.inputs[1]][2:]
            strides = node.numbers.get("strides") or [1, 1]
            pads = node.numbers.get("pads") or [0, 0, 0, 0]
            up = 1 if node.numbers.get("ceil_mode") == [1] else 0
            sizes = [
                (first[2 + i] + pads[i] + pads[2 + i] - window[i] + up * (strides[i] - 1))
                // strides[i]
                + 1
                for i in (0, 1)
            ]
            channels = shapes[node.inputs[1]][0] if node.operator == "Conv" else first[1]
            shape = [first[0], channels, *sizes]
        elif node.operator in ("GlobalAveragePool", "ReduceMean"):
            shape = [*first[:2], 1, 1]
        elif node.operator in ("Gemm", "MatMul"):
            weight = shapes[node.inputs[1]]
            shape = [first[0], weight[0] if node.numbers.get("transB") == [1] else weight[-1]]
        elif node.operator == "Flatten":
            shape = [first[0], math.prod(first[1:])]
        elif len(node.inputs) > 1 and node.operator in ("Add", "Mul"):
            second = shapes.get(node.inputs[1], [])
            shape = list(max(first, second, key=math.prod)) if second else shape
        for output in node.outputs:
            shapes[output] = shape
    return shapes


def kernels_of(graph: Graph) -> list[Kernel]:
    """The kernels of a graph: pointwise operators are fused into the conv before them."""
    shapes, kernels, made_by = shapes_of(graph), [], {}
    for node in graph.nodes:
        output = node.outputs[0]
        sizes = [math.prod(shapes.get(name, [])) for name in node.inputs]
        written = math.prod(shapes[output])
        if node.operator in _FREE:
            made_by[output] = made_by.get(node.inputs[0])
            continue
        if node.operator in ("Conv", "Gemm", "MatMul"):
            weight = shapes[node.inputs[1]]
            groups = (node.numbers.get("group") or [1])[0]
            transposed = node.operator == "MatMul"
            window = math.prod(weight[2:])
            kernel = Kernel(
                "linear" if node.operator != "Conv" else "depthwise" if groups > 1 else "conv",
                macs=written * (weight[0] if transposed else math.prod(weight[1:])),
                inputs=weight[1] * groups,
                outputs=weight[0],
                pixels=math.prod(shapes[output][2:]),
                window=window,
                read=sizes[0],
                written=written,
                weights=math.prod(weight),
            )
        elif node.operator in _POINTWISE:
            before = [made_by[name] for name in node.inputs if made_by.get(name)]
            host = max(before, key=kernels.index) if before else None
            if host is not None and host.written == written and host.kind != "pool":
                host.tails += 1
                host.read += max(sizes) if node.operator == "Add" else 0
                made_by[output] = host
                continue
            kernel = Kernel("pointwise", read=sum(sizes), written=written)
        else:
            kernel = Kernel("pool", read=sizes[0] if sizes else 0, written=written)
        kernels.append(kernel)
        made_by[output] = kernel
    return kernels


def _tiles(value: int, tile: int) -> int:
    return -(-value // tile) * tile


def fused_pairs(kernels: list[Kernel], *, narrow: int = 96) -> list[list[Kernel]]:
    """Groups of kernels that run as one: a 1x1 conv behind another, where both are narrow."""
    groups: list[list[Kernel]] = []
    for kernel in kernels:
        last = groups[-1][-1] if groups else None
        joins = (
            last is not None
            and len(groups[-1]) == 1
            and last.kind == kernel.kind == "conv"
            and last.window == kernel.window == 1
            and last.outputs == kernel.inputs <= narrow
            and last.pixels == kernel.pixels
        )
        if joins:
            groups[-1].append(kernel)
        else:
            groups.append([kernel])
    return groups


def tiles(kernels: list[Kernel], *, size: int) -> float:
    """Channel tiles, a floor for each kernel, fusion across blocks, a step where a cache is full.

    Args:
        kernels: of the engine.
        size: bytes of an element.
    """
    total = 9e-6
    for group in fused_pairs(kernels):
        compute = memory = 0.0
        for kernel in group:
            if kernel.kind == "depthwise":
                compute += _tiles(kernel.outputs, 32) * kernel.pixels * (kernel.window + 4) / 2.4e11
            elif kernel.macs:
                padded = _tiles(kernel.inputs, 16) * _tiles(kernel.outputs, 32) * kernel.window
                compute += padded * _tiles(max(kernel.pixels, 1), 64) * size / 2 / 2.6e12
            memory += kernel.weights * size / 6e10
        moved = (group[0].read + group[-1].written) * size
        memory += moved / (1.6e11 if moved < 3e5 else 6.5e10)
        total += max(3.1e-6, 1.7e-6 + compute + memory)
    return total


def waves(kernels: list[Kernel], *, size: int) -> float:
    """Another law: whole waves over eight processors, adds up, weights beyond a cache are dear."""
    total, weights = 1.4e-5, 0
    for kernel in kernels:
        weights += kernel.weights * size
        if kernel.macs:
            blocks = -(-kernel.pixels // 128) * -(-kernel.outputs // 64)
            depth = max(
                kernel.inputs * kernel.window // (1 if kernel.kind != "depthwise" else 64), 1
            )
            step = (
                2.3e-9 * _tiles(depth, 32) if kernel.kind != "depthwise" else 9e-8 * kernel.window
            )
            total += 2.2e-6 + -(-blocks // 8) * step * size / 2
        else:
            total += 2.9e-6
        total += (kernel.read + kernel.written) * size / 1.1e11
    return total + max(0, weights - (1 << 20)) / 4.5e10


LAWS: dict[str, Callable[..., float]] = {"tiles": tiles, "waves": waves}


def truth(data: bytes, *, law: str = "tiles", size: int = 2, scale: float = 1.0) -> float:
    """The noiseless seconds of one run of a graph.

    Args:
        data: the ONNX file.
        law: a name of `LAWS`, ``drawn-3`` of `trtexec_drawn`, or the path of a Python file that has
            ``seconds(kernels, size=...)``.
        size: bytes of an element: 1 int8, 2 fp16, 4 fp32.
        scale: how many times slower this board is.
    """
    kernels = kernels_of(read_graph(data))
    if law in LAWS:
        return LAWS[law](kernels, size=size) * scale
    if law.startswith("drawn-"):
        from trtexec_drawn import draw

        return draw(int(law[6:]))(kernels, size=size) * scale
    names: dict = {"__name__": "law", "sys": sys}
    with open(law, encoding="utf-8") as stream:
        exec(compile(stream.read(), law, "exec"), names)
    return names["seconds"](kernels, size=size) * scale


def energy(data: bytes, *, seconds: float, idle: float = 4.0) -> float:
    """The joules of one run of a graph: what the board draws anyway, the arithmetic, the memory.

    Args:
        data: the ONNX file.
        seconds: of the run.
        idle: watts.
    """
    joules = idle * seconds
    for kernel in kernels_of(read_graph(data)):
        joules += kernel.macs * (9e-12 if kernel.kind == "depthwise" else 3e-12)
        joules += (kernel.read + kernel.written) * 8e-11 + kernel.weights * 1.2e-10
    return joules
