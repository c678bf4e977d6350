"""A bundle in the format of another runtime, with its own parity, accuracy and latency."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import new_folder, sha256, write_json
from edgenas.basics.progress import Progress
from edgenas.bundle import manifest as manifests
from edgenas.bundle.signing import NAME as SIGNATURE
from edgenas.bundle.verify import is_litter
from edgenas.bundle.write import load_bundle
from edgenas.clock import board
from edgenas.clock.board import Settings
from edgenas.clock.measure import NETWORK
from edgenas.delivery.evaluating import LARGEST_DROP, no_images
from edgenas.delivery.images import read_image_sets
from edgenas.delivery.request import SpecializeRequest
from edgenas.images.data import Images
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


KINDS: Mapping[str, Kind] = {
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


def export(
    bundle: Path,
    *,
    kind: str,
    out: Path,
    dynamic_batch: bool = False,
    supernet: str | None = None,
    data: str | None = None,
    test: str | None = None,
    allow_accuracy_drop: bool = False,
    force: bool = False,
    settings: Settings = NETWORK,
    tell: Progress = lambda step, done, total, words: None,
) -> Export:
    """Write the model of a bundle in another format, checked, judged and timed.

    Args:
        bundle: folder of an fp32 bundle; it is verified first, and stays as it is.
        kind: a key of ``KINDS``.
        out: folder of the result; complete afterwards, or as it was.
        dynamic_batch: leave the number of images a run open.
        supernet: name or folder of the supernet of the bundle; None: as the bundle names it.
        data: images to calibrate with and to judge on, see `SpecializeRequest`.
        test: images to judge on.
        allow_accuracy_drop: write it whatever it loses against the bundle's model.
        force: replace an export that is there.
        settings: of the clock.
        tell: called with (step, done, total, words).

    Raises:
        EdgenasError: a word is unknown, the bundle is damaged, a gate is not passed, or the
            runtime is not here. Nothing is left behind then.
    """
    if kind not in KINDS:
        raise unknown_name("format", kind, names=KINDS, listing="edgenas export --help")
    wanted = KINDS[kind]
    _check_out(out, force=force)
    arch, record = load_bundle(bundle)
    source = (bundle / "model.onnx").read_bytes()
    if loads(source, where=str(bundle / "model.onnx")).precision() != "fp32":
        raise EdgenasError(
            f"the bundle {bundle} holds an int8 model, an export starts from an fp32 one",
            hint="make one with --precision fp32",
        )
    if wanted.precision == "int8" and not (data or test or allow_accuracy_drop):
        raise no_images(kind)
    builder = _builder() if wanted.runtime == "tensorrt" else None
    if why_not := runtimes.get(wanted.runs).available():
        raise EdgenasError(f"runtime {wanted.runs} is not available here: {why_not}")
    name = supernet or record.supernet
    trained = load_supernet(find_supernet(name))
    request = SpecializeRequest(device="host", supernet=name, data=data, test=test)
    images = read_image_sets(request, trained, progress=tell)
    prepared = functools.partial(_inputs, trained, arch.resolution)
    some = prepared(images.calibration[:_IMAGES])
    graph = formed(
        with_open_batch(source) if dynamic_batch else source,
        wanted=builder.FORMS[wanted.precision] if builder else wanted.form,
        images=some,
        keep=trained.supernet.space.kept_in_float,
    )
    parity = compared(
        _logits(graph, some, wanted), run_onnx(source, some), precision=wanted.precision
    )
    parity.require()
    accuracy = None
    if images.evaluation is not None:
        accuracy = _accuracy(source, graph, wanted, images=images.evaluation, prepared=prepared)
        drop = accuracy["bundle"] - accuracy["export"]
        if drop > LARGEST_DROP and not allow_accuracy_drop:
            raise EdgenasError(
                f"{kind} costs {100 * drop:.2f} points of accuracy, more than "
                f"{100 * LARGEST_DROP:.1f}, on {accuracy['images']} images",
                hint="take another format, or the loss with --allow-accuracy-drop",
            )
        accuracy["split"] = images.split
    batch = 1 if dynamic_batch else record.target.batch
    latency = None
    if wanted.runtime in board.LOADERS:
        tell("measuring", 0, 1, kind)
        latency = _latency(graph, wanted, batch=batch, settings=settings)
        tell("measuring", 1, 1, kind)
    with new_folder(out.resolve()) as made:
        if wanted.runtime == "openvino":
            _save_openvino(graph, made)
        elif wanted.runtime == "ncnn":
            ncnn_cpu.save(graph, made)
        else:
            (made / "model.onnx").write_bytes(graph)
        if builder is not None:
            engine_for(
                made / "model.engine",
                runtime=builder,
                onnx=graph,
                precision=wanted.precision,
                batches=_BATCHES if dynamic_batch else (batch, batch, batch),
            )
        report = {
            "schema": SCHEMA,
            "bundle_id": manifests.read(bundle)["bundle_id"],
            "arch_id": arch.id,
            "kind": kind,
            "precision": wanted.precision,
            "dynamic_batch": dynamic_batch,
            "parity": parity.to_json(),
            "accuracy": accuracy,
            "latency": latency,
            "notes": [
                *images.notes,
                *_notes(graph, wanted, builder=builder, judged=accuracy is not None),
                *_unsigned(bundle),
            ],
            "files": {path.name: sha256(path) for path in sorted(made.iterdir())},
        }
        report = json.loads(json.dumps(report))
        write_json(made / "export.json", report)
    return Export(folder=out, kind=kind, report=report)


def _inputs(trained: TrainedSupernet, resolution: int, pixels: Tensor) -> Array:
    return trained.preprocessing.prepare(pixels, resolution=resolution).contiguous().numpy()


def _logits(graph: bytes, values: Array, wanted: Kind) -> Array:
    """What the runtime of a format gives; formats for GPUs are run by ONNX Runtime here."""
    precision = wanted.precision if wanted.runtime == wanted.runs else None
    return run_onnx(graph, values, runtime=wanted.runs, precision=precision)


def _accuracy(
    source: bytes,
    graph: bytes,
    wanted: Kind,
    *,
    images: Images,
    prepared: Callable[[Tensor], Array],
) -> dict[str, Any]:
    """Top-1 of the bundle's model and of the exported one, on the same images."""
    labels, right = images.labels.numpy(), {"bundle": 0, "export": 0}
    for i in range(0, len(labels), _CHUNK):
        values, true = prepared(images.pixels[i : i + _CHUNK]), labels[i : i + _CHUNK]
        right["bundle"] += int((run_onnx(source, values).argmax(1) == true).sum())
        right["export"] += int((_logits(graph, values, wanted).argmax(1) == true).sum())
    found = {which: count / len(labels) for which, count in right.items()}
    return {**found, "images": len(labels)}


def _notes(graph: bytes, wanted: Kind, *, builder: TensorRT | None, judged: bool) -> list[str]:
    notes: list[str] = []
    if not judged:
        notes.append("accuracy was not measured: no images were given (--data or --test)")
    if wanted.runtime not in board.LOADERS:
        notes.append(f"not timed here: the format is for {wanted.about}")
        notes.append("parity and accuracy are those of the graph, as ONNX Runtime computes it")
    elif wanted.precision == "int8":
        share = integer_share(graph, runtime=wanted.runtime)
        notes.append(f"{share:.1%} of the MACs in integer kernels, by the runtime's own profile")
    if wanted.runtime == "ncnn":
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
    known = {"model.onnx", "model.xml", "model.bin", "model.engine", "model.engine.json"}
    known |= {ncnn_cpu.PARAM, ncnn_cpu.BIN}
    if not out.is_dir():
        raise EdgenasError(f"--out {out} is a file", hint="choose another --out")
    found = {path.name for path in out.iterdir() if not is_litter(path)}
    if strangers := sorted(found - known - {"export.json"}):
        raise EdgenasError(
            f"--out {out} holds what is no part of an export: {strangers[0]}",
            hint="choose another --out, or remove the folder yourself",
        )
    if found and not force:
        raise EdgenasError(f"--out {out} holds an export already", hint="replace it with --force")


def _save_openvino(graph: bytes, folder: Path) -> None:
    import openvino

    model = openvino.Core().read_model(graph)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _latency(graph: bytes, wanted: Kind, *, batch: int, settings: Settings) -> dict[str, Any]:
    target = Target("host", wanted.runtime, wanted.precision, batch=batch)
    measured = measure_network(graph, target=target, settings=settings)
    names = ("median", "p10", "p90", "n", "half_width", "wall_p50", "wall_p95", "wall_n", "flag")
    return {
        "runtime": wanted.runtime,
        "precision": wanted.precision,
        "threads": 1,
        "batch": batch,
        **{name: getattr(measured, name) for name in names},
        "environment": board.environment(wanted.runtime, threads=1),
    }
