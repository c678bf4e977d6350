"""A bundle in the format of another runtime, with its own parity, accuracy and latency."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import new_folder, sha256, write_json
from edgenas.basics.options import check_request
from edgenas.basics.progress import Progress, no_progress
from edgenas.bundle import manifest as manifests
from edgenas.bundle.record import Record
from edgenas.bundle.signing import NAME as SIGNATURE
from edgenas.bundle.verify import is_litter
from edgenas.bundle.write import load_bundle
from edgenas.clock import board
from edgenas.clock.board import Settings
from edgenas.clock.measure import NETWORK
from edgenas.delivery.evaluating import LARGEST_DROP, no_images
from edgenas.delivery.images import ImageSets, read_image_sets
from edgenas.delivery.request import ExportFormat, ExportRequest, SpecializeRequest
from edgenas.latency.device import Target
from edgenas.model.export import compared, integer_share, run_onnx, with_open_batch
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet
from edgenas.onnx_graph.model import loads
from edgenas.profiling.tables import measure_network
from edgenas.runtime import ncnn_cpu
from edgenas.runtime import registry as runtimes
from edgenas.runtime.engines import engine_for
from edgenas.runtime.forms import formed
from edgenas.runtime.registry import Form
from edgenas.runtime.trt import TENSORRT, TENSORRT_RTX, TensorRT
from edgenas.space.arch import Arch

Array = NDArray[np.float32]

SCHEMA = "edgenas.export/1"
_IMAGES = 250
_BATCHES = (1, 8, 32)  # least, usual and largest of an engine for an open batch
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Kind:
    """What a bundle can be exported to.

    Args:
        form: of the graph.
        precision: of it.
        runtime: what it is for.
        runs: the runtime that checks it here; the graph is the same.
        about: what it is for, in words.
    """

    form: Form
    precision: str
    runtime: str
    runs: str
    about: str


KINDS: Mapping[ExportFormat, Kind] = {
    "onnx": Kind("fp32", "fp32", "onnxruntime", "onnxruntime", "ONNX Runtime and others"),
    "onnx-fp16": Kind("fp16", "fp16", "", "onnxruntime", "GPUs and TensorRT"),
    "onnx-int8": Kind("int8-integer", "int8", "onnxruntime", "onnxruntime", "ONNX Runtime"),
    "onnx-int8-signed": Kind("int8-signed", "int8", "", "onnxruntime", "TensorRT"),
    "openvino": Kind("fp32", "fp32", "openvino", "openvino", "OpenVINO"),
    "openvino-int8": Kind("int8-unsigned", "int8", "openvino", "openvino", "OpenVINO"),
    "ncnn": Kind("fp32", "fp32", "ncnn", "ncnn", "ncnn"),
    "trt": Kind("fp32", "fp32", "tensorrt", "onnxruntime", "this machine's GPU"),
    "trt-fp16": Kind("fp16", "fp16", "tensorrt", "onnxruntime", "this machine's GPU"),
    "trt-int8": Kind("int8-signed", "int8", "tensorrt", "onnxruntime", "this machine's GPU"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An exported model, on disk.

    Args:
        folder: of it.
        kind: a key of ``KINDS``.
        report: what ``export.json`` holds.
    """

    folder: Path
    kind: str
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Source:
    """The bundle that an export starts from, and what it is checked with."""

    folder: Path
    arch: Arch
    record: Record
    onnx: bytes
    trained: TrainedSupernet
    images: ImageSets

    def prepare(self, pixels: Tensor) -> Array:
        """Images as the network takes them, fp32."""
        prepare = self.trained.preprocessing.prepare
        return prepare(pixels, resolution=self.arch.resolution).contiguous().numpy()


def export(
    request: ExportRequest,
    *,
    settings: Settings = NETWORK,
    progress: Progress = no_progress,
) -> Export:
    """Write the model of a bundle in another format, checked, evaluated and timed.

    Args:
        request: the bundle and the format.
        settings: of the clock.
        progress: called with (step, done, total, words).

    Raises:
        EdgenasError: a word is unknown, the bundle is damaged, a gate is not passed, or the
            runtime is not here. Nothing is left behind then.
    """
    check_request(request)
    kind = KINDS[request.to]
    out = request.out or Path(f"{request.bundle.resolve().name}-{request.to}")
    _check_out(out, force=request.force)
    builder = _builder() if kind.runtime == "tensorrt" else None
    source = _read_source(request, kind, progress=progress)
    some = source.prepare(source.images.calibration[:_IMAGES])
    graph = formed(
        with_open_batch(source.onnx) if request.dynamic_batch else source.onnx,
        wanted=builder.FORMS[kind.precision] if builder else kind.form,
        images=some,
        keep=source.trained.supernet.space.kept_in_float,
    )
    parity = compared(
        _logits(graph, some, kind), run_onnx(source.onnx, some), precision=kind.precision
    )
    parity.require()
    accuracy = _check_accuracy(graph, kind, source, request)
    batch = 1 if request.dynamic_batch else source.record.target.batch
    latency = None
    if kind.runtime in board.LOADERS:
        progress("measuring", 0, 1, request.to)
        latency = _latency(graph, kind, batch=batch, settings=settings)
        progress("measuring", 1, 1, request.to)
    notes = [
        *source.images.notes,
        *_notes(graph, kind, builder=builder, evaluated=accuracy is not None),
        *_unsigned(source.folder),
    ]
    with new_folder(out.resolve()) as folder:
        _save(graph, kind, folder)
        if builder is not None:
            engine_for(
                folder / "model.engine",
                runtime=builder,
                onnx=graph,
                precision=kind.precision,
                batches=_BATCHES if request.dynamic_batch else (batch, batch, batch),
            )
        report = {
            "schema": SCHEMA,
            "bundle_id": manifests.read(source.folder)["bundle_id"],
            "arch_id": source.arch.id,
            "kind": request.to,
            "precision": kind.precision,
            "dynamic_batch": request.dynamic_batch,
            "parity": parity.to_json(),
            "accuracy": accuracy,
            "latency": latency,
            "notes": notes,
            "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
        }
        report = json.loads(json.dumps(report))
        write_json(folder / "export.json", report)
    return Export(folder=out, kind=request.to, report=report)


def _read_source(request: ExportRequest, kind: Kind, *, progress: Progress) -> _Source:
    """The bundle of a request, with its supernet and images.

    Raises:
        EdgenasError: the bundle is damaged or no fp32 one, int8 has no images, or the runtime that
            checks the format is not here.
    """
    arch, record = load_bundle(request.bundle)
    onnx = (request.bundle / "model.onnx").read_bytes()
    if loads(onnx, where=str(request.bundle / "model.onnx")).precision() != "fp32":
        raise EdgenasError(
            f"the bundle {request.bundle} holds an int8 model, an export starts from an fp32 one",
            hint="make one with --precision fp32",
        )
    with_images = request.data or request.test
    if kind.precision == "int8" and not (with_images or request.allow_accuracy_drop):
        raise no_images(request.to)
    if why_not := runtimes.get(kind.runs).available():
        raise EdgenasError(f"runtime {kind.runs} is not available here: {why_not}")
    name = request.supernet or record.supernet
    trained = load_supernet(find_supernet(name))
    sources = SpecializeRequest(device="host", supernet=name, data=request.data, test=request.test)
    images = read_image_sets(sources, trained, progress=progress)
    return _Source(request.bundle, arch, record, onnx, trained, images)


def _check_accuracy(
    graph: bytes, kind: Kind, source: _Source, request: ExportRequest
) -> dict[str, Any] | None:
    """Top-1 of the bundle's model and of the exported one; None without images.

    Raises:
        EdgenasError: the export loses too much.
    """
    images = source.images.evaluation
    if images is None:
        return None
    labels, right = images.labels.numpy(), {"bundle": 0, "export": 0}
    for i in range(0, len(labels), _CHUNK):
        values, true = source.prepare(images.pixels[i : i + _CHUNK]), labels[i : i + _CHUNK]
        right["bundle"] += int((run_onnx(source.onnx, values).argmax(1) == true).sum())
        right["export"] += int((_logits(graph, values, kind).argmax(1) == true).sum())
    accuracy = {which: count / len(labels) for which, count in right.items()}
    drop = accuracy["bundle"] - accuracy["export"]
    if drop > LARGEST_DROP and not request.allow_accuracy_drop:
        raise EdgenasError(
            f"{request.to} costs {100 * drop:.2f} points of accuracy, more than "
            f"{100 * LARGEST_DROP:.1f}, on {len(labels)} images",
            hint="take another format, or the loss with --allow-accuracy-drop",
        )
    return {**accuracy, "images": len(labels), "split": source.images.split}


def _save(graph: bytes, kind: Kind, folder: Path) -> None:
    """Write the files that the runtime of a format reads."""
    if kind.runtime == "openvino":
        _save_openvino(graph, folder)
    elif kind.runtime == "ncnn":
        ncnn_cpu.save(graph, folder)
    else:
        (folder / "model.onnx").write_bytes(graph)


def _logits(graph: bytes, values: Array, kind: Kind) -> Array:
    """What the runtime of a format gives; formats for GPUs are run by ONNX Runtime here."""
    precision = kind.precision if kind.runtime == kind.runs else None
    return run_onnx(graph, values, runtime=kind.runs, precision=precision)


def _notes(graph: bytes, kind: Kind, *, builder: TensorRT | None, evaluated: bool) -> list[str]:
    notes: list[str] = []
    if not evaluated:
        notes.append("accuracy was not measured: no images were given (--data or --test)")
    if kind.runtime not in board.LOADERS:
        notes.append(f"not timed here: the format is for {kind.about}")
        notes.append("parity and accuracy are those of the graph, as ONNX Runtime computes it")
    elif kind.precision == "int8":
        share = integer_share(graph, runtime=kind.runtime)
        notes.append(f"{share:.1%} of the MACs in integer kernels, by the runtime's own profile")
    if kind.runtime == "ncnn":
        notes.append(
            "ncnn keeps no batches: images run one by one; weights are in fp32, and what ncnn "
            "computes in is said where it is loaded (opt.use_fp16_storage ...)"
        )
    if builder is not None:
        notes.append(f"engine of {builder.NAME} {builder.version()}")
        if builder is TENSORRT_RTX:
            notes.append("TensorRT is not here; an engine of TensorRT-RTX never runs on a Jetson")
        if why_not := builder.available():
            notes.append(why_not)
    return notes


def _unsigned(bundle: Path) -> list[str]:
    if not (bundle / SIGNATURE).exists():
        return []
    return ["the bundle is signed, this export is not: the signature covers the bundle's own files"]


def _builder() -> TensorRT:
    """The library that builds engines: TensorRT, or TensorRT-RTX where only that is here."""
    missing = TENSORRT.why_not_build()
    if missing is None:
        return TENSORRT
    if TENSORRT_RTX.why_not_build() is None:
        return TENSORRT_RTX
    raise EdgenasError(
        f"no engine can be built here: {missing}", hint="see docs/guides/tensorrt.md"
    )


def _check_out(out: Path, *, force: bool) -> None:
    if not out.exists():
        return
    own = {"model.onnx", "model.xml", "model.bin", "model.engine", "model.engine.json"}
    own |= {ncnn_cpu.PARAM, ncnn_cpu.BIN}
    if not out.is_dir():
        raise EdgenasError(f"--out {out} is a file", hint="choose another --out")
    names = {path.name for path in out.iterdir() if not is_litter(path)}
    if strangers := sorted(names - own - {"export.json"}):
        raise EdgenasError(
            f"--out {out} holds what is no part of an export: {strangers[0]}",
            hint="choose another --out, or remove the folder yourself",
        )
    if names and not force:
        raise EdgenasError(f"--out {out} holds an export already", hint="replace it with --force")


def _save_openvino(graph: bytes, folder: Path) -> None:
    import openvino

    model = openvino.Core().read_model(graph)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _latency(graph: bytes, kind: Kind, *, batch: int, settings: Settings) -> dict[str, Any]:
    target = Target("host", kind.runtime, kind.precision, batch=batch)
    measured = measure_network(graph, target=target, settings=settings)
    names = ("median", "p10", "p90", "n", "half_width", "wall_p50", "wall_p95", "wall_n", "flag")
    return {
        "runtime": kind.runtime,
        "precision": kind.precision,
        "threads": 1,
        "batch": batch,
        **{name: getattr(measured, name) for name in names},
        "environment": board.environment(kind.runtime, threads=1),
    }
