"""ncnn on the CPU, for whole networks.

ncnn has a format of its own. pnnx, made by ncnn's authors, converts ONNX graphs to it: it knows
many more operators than ours, fuses activations and is what people use who ship ncnn. Only this
machine needs it: the clock, here or on a board, gets the converted network and needs ncnn alone.

ncnn keeps no batches: a batch of n is n runs, and is timed so. On its own it computes in fp16 where
the processor can; here the precision is always set, and what a processor lacks is refused.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.temporary import scratch_folder
from edgenas.clock.board import ncnn_cpu as board
from edgenas.clock.board.part import UnitError
from edgenas.clock.board.runs import make_inputs
from edgenas.runtime.checks import (
    Array,
    check_batch,
    check_inputs,
    check_precision,
    check_used,
    read_graph,
)
from edgenas.runtime.contract import ExportFormat, Kernel, Runtime

if TYPE_CHECKING:
    from onnx import ModelProto

NAME = "ncnn"

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
_PATIENCE = 600.0  # seconds for a conversion; our networks take less than one
_PROFILED_RUNS = 20
# Where a layer of the .param text says how many weights it has.
_WEIGHTS_AT = {"Convolution": "6", "ConvolutionDepthWise": "6", "InnerProduct": "2"}


def available() -> str | None:
    """None, or why ncnn cannot be used here."""
    try:
        importlib.import_module("ncnn")
    except (ImportError, OSError) as error:
        return f"ncnn cannot be imported ({error}); pip install 'edgenas[ncnn]'"
    return why_not_convert()


def why_not_convert() -> str | None:
    """None, or why no network can be converted for ncnn here."""
    return None if _pnnx() else "pnnx, which converts for it, is not here; pip install pnnx"


def _pnnx() -> str | None:
    """The program; importing its Python module would load torch."""
    spec = importlib.util.find_spec("pnnx")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / "pnnx").is_file():
            return str(Path(folder) / "pnnx")
    return shutil.which("pnnx")


def convert(onnx_bytes: bytes, *, batch: int = 1) -> bytes:
    """An ONNX graph in the form that the clock reads, see `edgenas.clock.board.ncnn_cpu`.

    Args:
        onnx_bytes: of any batch; what comes out is for one image.
        batch: does not matter here.

    Raises:
        EdgenasError: pnnx is not here, or cannot convert it.
    """
    head, text, weights = _parts(onnx_bytes)
    return head + text + weights


@functools.lru_cache(maxsize=8)  # a network is checked, evaluated and timed several times
def _parts(onnx_bytes: bytes) -> tuple[bytes, bytes, bytes]:
    """The line of JSON, the ``.param`` text and the ``.bin``."""
    model, inputs, outputs = _of_one_image(onnx_bytes)
    program = _pnnx()
    if program is None:
        raise EdgenasError(f"networks cannot be converted for ncnn: {why_not_convert()}")
    with scratch_folder() as folder:
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        try:
            done = subprocess.run(
                [program, "model.onnx", "fp16=0"],
                cwd=folder,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},  # it has ONNX Runtime in it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise EdgenasError(f"{NAME} refuses the model: pnnx does not come to an end") from None
        if done.returncode or not (folder / BIN).is_file():
            lines = done.stdout.decode(errors="replace").splitlines()
            said = [line.strip() for line in lines if "fail" in line or "rror" in line]
            why = said[-1] if said else f"pnnx stopped with code {done.returncode}"
            raise EdgenasError(f"{NAME} refuses the model: {why}")
        text, weights = ((folder / part).read_bytes() for part in (PARAM, BIN))
    text = _avoid_wrong_kernel(text.decode()).encode()
    head = {
        "schema": board.SCHEMA,
        "inputs": [(value, f"in{i}", shape) for i, (value, shape) in enumerate(inputs)],
        "outputs": [(value, f"out{i}", shape) for i, (value, shape) in enumerate(outputs)],
        "text": len(text),
    }
    return json.dumps(head).encode() + b"\n", text, weights


def _avoid_wrong_kernel(text: str) -> str:
    """A ``.param`` text whose depthwise 3x3 convs of stride 2 compute in no fp16.

    With fp16 arithmetic on ARM, ncnn's kernel for eight channels and two pixels reads two of three
    rows from the wrong place (convolutiondepthwise_3x3_pack8_fp16s.h; seen in 1.0.20261020). Where
    the width of what it gives leaves 2 or 3 when divided by 4, as 14 and 7 do, one can be wrong.
    Feature mask 1 leaves the arithmetic of one layer in fp32, whatever the options say.
    """
    lines = text.splitlines()
    for i, line in enumerate(lines[2:], start=2):
        kind, given = _read_layer(line)
        if kind == "ConvolutionDepthWise" and (given.get("1"), given.get("3")) == ("3", "2"):
            lines[i] = f"{line} 31=1"
    return "\n".join([*lines, ""])


def _read_layer(line: str) -> tuple[str, dict[str, str]]:
    """The kind of a layer, and what its line of the ``.param`` text says of it."""
    kind, _, reads, writes, *rest = line.split()
    return kind, dict(word.split("=", 1) for word in rest[int(reads) + int(writes) :])


Values = list[tuple[str, tuple[int, ...]]]


def _of_one_image(onnx_bytes: bytes) -> tuple["ModelProto", Values, Values]:
    """The graph for a single image; names and shapes of its inputs and outputs, without it.

    Raises:
        EdgenasError: inputs are no float32 images or vectors, or sizes are open.
    """
    from onnx import TensorProto

    from edgenas.onnx_graph.walk import infer

    model = read_graph(onnx_bytes, runtime=NAME)
    shapes: dict[str, tuple[int, ...]] = {}
    for one in model.inputs:
        extents = one.extents or ()
        if one.element != TensorProto.FLOAT or len(extents) < 2:
            raise EdgenasError(
                f"{NAME} refuses the model: its input {one.name} must be float32, the batch first"
            )
        if not all(isinstance(extent, int) for extent in extents[1:]):
            raise EdgenasError(f"{NAME} refuses the model: the sizes of {one.name} are open")
        shapes[one.name] = (1, *(extent for extent in extents[1:] if isinstance(extent, int)))
    closed = model.of_other_sizes(shapes)
    try:
        graph = infer(closed)
    except EdgenasError as error:
        raise EdgenasError(
            f"{NAME} refuses the model: its shapes do not fit a batch of one "
            f"({error.message[:200]})",
            hint="export it for a batch of one",
        ) from error
    outputs = [(value.name, graph.shapes.get(value.name)) for value in closed.proto.graph.output]
    for name, shape in outputs:
        if not shape:
            raise EdgenasError(f"{NAME} refuses the model: the sizes of {name} are open")
    return (
        closed.proto,
        [(name, shape[1:]) for name, shape in shapes.items()],
        [(name, shape[1:]) for name, shape in outputs if shape],
    )


class NcnnSession:
    """A network on ncnn. Made by `compile_graph`."""

    def __init__(
        self, loaded: board.NcnnNet, *, onnx_bytes: bytes, batch: int, facts: dict[str, str]
    ) -> None:
        self._loaded, self._onnx, self._batch, self._facts = loaded, onnx_bytes, batch, facts
        self._library = importlib.import_module(NAME)
        self._inputs = {
            name: ((batch, *shape), np.dtype(np.float32)) for name, _, shape in loaded.inputs
        }

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session`. One image after the other."""
        check_inputs(inputs, expected=self._inputs)
        images = [
            board.run_image(self._loaded, self._mats(inputs, image)) for image in range(self._batch)
        ]
        return [
            np.stack([np.array(image[i]).reshape(shape) for image in images])
            for i, (_, _, shape) in enumerate(self._loaded.outputs)
        ]

    def _mats(self, inputs: Mapping[str, Array], image: int) -> list[Any]:
        return [self._mat(inputs[name][image]) for name, _, _ in self._loaded.inputs]

    def _mat(self, value: Array) -> Any:
        held = np.ascontiguousarray(value)  # a Mat does not keep alive what it looks at
        return self._library.Mat(held).clone()

    def facts(self) -> dict[str, str]:
        """See `Session`."""
        return dict(self._facts)

    def kernels(self) -> list[Kernel]:
        """See `Session`. ncnn has no profile: layers are run one by one."""
        threads, precision = int(self._facts["threads"]), self._facts["precision"]
        loaded = board.load_network(
            convert(self._onnx), threads=threads, precision=precision, light=False
        )
        layers = [layer for layer in loaded.net.layers() if layer.type not in ("Input", "Split")]
        made = make_inputs([(name, s, kind.name) for name, (s, kind) in self._inputs.items()])
        mats = self._mats(made, 0)
        seconds: list[list[float]] = [[] for _ in layers]
        for _ in range(_PROFILED_RUNS):
            extractor = loaded.net.create_extractor()
            for (_, blob, _), mat in zip(loaded.inputs, mats, strict=True):
                extractor.input(blob, mat)
            for runs, layer in zip(seconds, layers, strict=True):
                start = time.perf_counter()
                for top in layer.tops:
                    extractor.extract(top, 1)  # as it is inside
                runs.append(time.perf_counter() - start)
        origins = _find_nodes_of_layers(self._onnx)
        return [
            Kernel(
                name=layer.name,
                nodes=origins.get(layer.name, ()),
                kind=layer.type,
                precision=board.find_layer_precision(loaded.net, layer),
                seconds=statistics.median(runs),
            )
            for runs, layer in zip(seconds, layers, strict=True)
        ]


def compile_graph(onnx: bytes, *, precision: str | None, threads: int, batch: int) -> NcnnSession:
    """See `Runtime`. Networks are loaded as the clock loads them."""
    asked = precision or "fp32"
    check_precision(asked, runtime=NAME, precisions=RUNTIME.precisions)
    if why_not := available():
        raise EdgenasError(f"runtime {NAME} is not available here: {why_not}")
    check_batch(read_graph(onnx, runtime=NAME), batch=batch)
    try:
        loaded = board.load_network(convert(onnx), threads=threads, precision=asked)
    except UnitError as error:
        raise EdgenasError(f"{NAME} refuses the model: {error}") from error
    used = board.find_precision(loaded.net)
    check_used(used, asked=asked, runtime=NAME)
    facts = {
        "runtime": NAME,
        "version": importlib.import_module(NAME).__version__,
        "provider": "CPU",
        "precision": used,
        "threads": str(loaded.net.opt.num_threads),
        "converter": f"pnnx {_pnnx_version()}",
    }
    return NcnnSession(loaded, onnx_bytes=onnx, batch=batch, facts=facts)


def _pnnx_version() -> str:
    try:
        return importlib.metadata.version("pnnx")
    except importlib.metadata.PackageNotFoundError:  # a program in the PATH does not tell
        return "of unknown version"


def _find_nodes_of_layers(onnx_bytes: bytes) -> dict[str, tuple[str, ...]]:
    """The conv or matrix product that each layer with weights stems from, by the layer's name.

    pnnx gives layers new names and keeps their order. Where the numbers of weights, one after the
    other, are not those of the graph's nodes, nothing is said.
    """
    _, text, _ = _parts(onnx_bytes)
    graph = read_graph(onnx_bytes, runtime=NAME).proto.graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    nodes = [
        (node.name or node.output[0], sizes[node.input[1]])
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in sizes
    ]
    layers: list[tuple[str, int]] = []
    for line in text.decode().splitlines()[2:]:
        kind, given = _read_layer(line)
        if kind in _WEIGHTS_AT:
            layers.append((line.split()[1], int(given[_WEIGHTS_AT[kind]])))
    if [size for _, size in nodes] != [size for _, size in layers]:
        return {}
    return {layer: (node,) for (layer, _), (node, _) in zip(layers, nodes, strict=True)}


def save_export(
    onnx: bytes, folder: Path, *, precision: str, batches: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write a graph as ``model.ncnn.param`` and ``model.ncnn.bin``, see `SaveExport`.

    There, its inputs are called ``in0``, ``in1`` ... and its outputs ``out0``, ``out1`` ...
    """
    _, text, weights = _parts(onnx)
    (folder / PARAM).write_bytes(text)
    (folder / BIN).write_bytes(weights)
    return (
        "ncnn keeps no batches: images run one by one; weights are in fp32, and what ncnn "
        "computes in is said where it is loaded (opt.use_fp16_storage ...)",
    )


RUNTIME = Runtime(
    name=NAME,
    # Weights are stored in fp32; ncnn brings them to the precision when it loads them.
    forms={"fp32": "fp32", "bf16": "fp32", "fp16": "fp32"},
    available=available,
    compile=compile_graph,
    method="networks",
    part="edgenas.clock.board.ncnn_cpu:PART",
    convert=convert,
    why_not_convert=why_not_convert,
    exports=(ExportFormat("ncnn", "fp32", "fp32", "ncnn", files=(PARAM, BIN), save=save_export),),
    bundle_note="the bundle holds ONNX; ncnn reads what edgenas export --to ncnn makes",
)
