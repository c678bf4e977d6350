"""The board part of ncnn on the CPU."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import BoardPart, UnitError
from edgenas.clock.board.runs import make_inputs, memory_file, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCHEMA = "edgenas.ncnn/1"
# All that a precision needs is switched on, everything else off: the default is fp16 where it can.
OPTIONS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"),
    "bf16": ("use_bf16_packed", "use_bf16_storage"),
}
_WITH_MACS = ("Convolution", "ConvolutionDepthWise", "InnerProduct", "Gemm")


@dataclass(frozen=True)
class NcnnNet:
    """A network that ncnn has loaded.

    Attributes:
        net: the network of ncnn's library.
        inputs: of each input, the name in the ONNX graph, the blob and the shape of one image.
        outputs: the same of each output.
    """

    net: Any
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]


def load_network(
    source: bytes | str, *, threads: int, precision: str, light: bool = True
) -> NcnnNet:
    """A network loaded by ncnn for the processor, in the precision asked for.

    Args:
        source: what `edgenas.runtime.ncnn_cpu` makes of an ONNX graph, as bytes or a path: a line
            of JSON (inputs, outputs, length of the text), ncnn's ``.param`` text, its ``.bin``.
        threads: threads of one operator.
        precision: a key of `OPTIONS`.
        light: whether ncnn frees values within the network as soon as they are used.

    Raises:
        UnitError: ncnn lacks an operator, or this is not such a file.
    """
    ncnn: Any = importlib.import_module("ncnn")
    head, _, rest = read_bytes(source).partition(b"\n")
    try:
        fields = json.loads(head)
        if fields["schema"] != SCHEMA:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UnitError("this is no network that was converted for ncnn") from None
    text = rest[: fields["text"]].decode()
    kinds = [line.split()[0] for line in text.splitlines()[2:]]
    if lacking := sorted({kind for kind in kinds if ncnn.layer_to_index(kind) < 0}):
        raise UnitError("ncnn has no operator " + ", ".join(lacking))
    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode = threads, light
    for name in {name for names in OPTIONS.values() for name in names}:
        if hasattr(net.opt, name):  # older versions lack some
            setattr(net.opt, name, name in OPTIONS[precision])
    with memory_file(rest[fields["text"] :]) as path:
        if net.load_param_mem(text) or net.load_model(path):
            raise UnitError("ncnn cannot load the network")
    values = [
        tuple((name, blob, tuple(shape)) for name, blob, shape in fields[which])
        for which in ("inputs", "outputs")
    ]
    return NcnnNet(net, values[0], values[1])


def find_precision(net: Any) -> str:
    """What most convs and matrix products of a loaded network are stored and computed in.

    A layer that lacks a precision on this processor falls back to fp32 and does not say so.
    """
    used: dict[str, int] = {"fp32": 0}
    for layer in net.layers():
        if layer.type in _WITH_MACS:
            kind = find_layer_precision(net, layer)
            used[kind] = used.get(kind, 0) + 1
    return max(used, key=lambda kind: used[kind])


def find_layer_precision(net: Any, layer: Any) -> str:
    """What one layer is stored and computed in."""
    if net.opt.use_fp16_storage and layer.support_fp16_storage:
        return "fp16"
    return "bf16" if net.opt.use_bf16_storage and layer.support_bf16_storage else "fp32"


def run_image(loaded: NcnnNet, mats: Sequence[Any]) -> list[Any]:
    """The outputs of one image, in the order of the graph.

    Args:
        loaded: a network of `load_network`.
        mats: one `Mat` for each input.
    """
    extractor = loaded.net.create_extractor()
    for (_, blob, _), mat in zip(loaded.inputs, mats):
        extractor.input(blob, mat)
    return [extractor.extract(blob)[1] for _, blob, _ in loaded.outputs]


def load_ncnn(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of a network on ncnn: image after image, as ncnn knows no batches.

    Args:
        source: see `load_network`.
        threads: threads of one operator.
        batch: images a run.
        precision: a key of `OPTIONS`. A unit is refused where this processor lacks it.
    """
    # Threads wait for work by spinning, for milliseconds, on processors that the canary looks at
    # between runs. So many rounds are still longer than any pause between two operators.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    ncnn: Any = importlib.import_module("ncnn")
    loaded = load_network(source, threads=threads, precision=precision)
    used = find_precision(loaded.net)
    if used != precision:
        raise UnitError(f"it would run in {used}, not in {precision}")
    inputs = make_inputs([(name, (batch, *shape), "float32") for name, _, shape in loaded.inputs])
    images = [
        [ncnn.Mat(inputs[name][i]).clone() for name, _, _ in loaded.inputs] for i in range(batch)
    ]

    def run() -> None:
        for mats in images:
            run_image(loaded, mats)

    return run


PART = BoardPart(runtime="ncnn", library="ncnn", load=load_ncnn)
