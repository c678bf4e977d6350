"""A bundle in the format of another runtime, with its own parity, accuracy and latency."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import new_folder, sha256, write_json
from edgenas.basics.options import check_request
from edgenas.basics.progress import Progress, no_progress
from edgenas.bundle import manifest as manifests
from edgenas.bundle.contents import load_array
from edgenas.bundle.engines import RECORD, SCHEMA, engine_formats
from edgenas.bundle.manifest import find_framing
from edgenas.bundle.record import Record
from edgenas.bundle.signing import NAME as SIGNATURE
from edgenas.bundle.verify import is_litter
from edgenas.bundle.write import load_bundle
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.measure import NETWORK, environment
from edgenas.clock.ssh import Place
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.delivery.engines import engine_of_board
from edgenas.delivery.evaluating import LARGEST_DROP, may_lose_accuracy, no_images
from edgenas.delivery.export_request import ExportRequest
from edgenas.delivery.given import ORIGINAL
from edgenas.delivery.images import ImageSets, read_image_sets
from edgenas.delivery.onnx_versions import check_versions, tell_versions, write_for_request
from edgenas.delivery.request import SpecializeRequest
from edgenas.latency.benchmark_log import phone_commands
from edgenas.latency.device import Target
from edgenas.model.export import compared, integer_share, run_onnx, with_open_batch
from edgenas.model.importing import find_start
from edgenas.model.saved import TrainedSupernet, load_supernet
from edgenas.onnx_graph.forms import Form, convert_to_form
from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.older import restore
from edgenas.profiling.reach import tool_clock
from edgenas.profiling.tables import measure_network
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import ExportFormat, Runtime
from edgenas.runtime.registry import form_of
from edgenas.space.arch import Arch

Array = NDArray[np.float32]

_IMAGES = 250
_BATCHES = (1, 8, 32)  # least, usual and largest of an engine for an open batch
_CHUNK = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An exported model, on disk.

    Args:
        folder: of it.
        kind: the name of the format.
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

    def convert(self, form: Form, *, images: Array, open_batch: bool) -> bytes:
        """The model of the bundle in another form, calibrated with images.

        One that is in that precision already ships as it is: it was calibrated when it was made.
        """
        if loads(self.onnx).precision() != "fp32":
            return with_open_batch(self.onnx) if open_batch else self.onnx
        return convert_to_form(
            with_open_batch(self.onnx) if open_batch else self.onnx,
            form=form,
            images=images,
            keep=self.trained.supernet.space.kept_in_float,
        )

    def sample(self, batch: int) -> Array:
        """The sample of the bundle, as a run of so many images."""
        sample = load_array(self.folder / "sample_input.npy")
        return np.repeat(sample[:1], batch, axis=0).astype(np.float32)

    def prepare(self, pixels: Tensor) -> Array:
        """Images as the network takes them, fp32."""
        prepare = self.trained.preprocessing.prepare
        return prepare(pixels, resolution=self.arch.resolution).contiguous().numpy()


def export(
    request: ExportRequest,
    *,
    settings: TimingSettings = NETWORK,
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
    formats = runtimes.export_formats()
    if request.to not in formats:
        raise unknown_name("format", request.to, names=formats, listing="edgenas list formats")
    runtime, kind = formats[request.to]
    checker = runtime if kind.runs_here else runtimes.get(runtimes.DEFAULT)
    out = request.out or _usual_folder(request)
    _check_out(out, force=request.force)
    check_versions(request, kind)
    clock = _clock_of_board(request, runtime=runtime)
    form = kind.choose_form() if kind.choose_form and clock is None else kind.form
    source = _read_source(request, kind, checker=checker, progress=progress)
    some = source.prepare(source.images.calibration[:_IMAGES])
    graph = source.convert(form, images=some, open_batch=request.dynamic_batch)
    graph = write_for_request(graph, request)
    logits = functools.partial(_logits, kind=kind, checker=checker)
    parity = compared(logits(graph, some), run_onnx(source.onnx, some), precision=kind.precision)
    parity.require()
    accuracy = _check_accuracy(graph, source, request, logits=logits)
    batch = 1 if request.dynamic_batch else source.record.target.batch
    latency = None
    if kind.runs_here:
        progress("measuring", 0, 1, request.to)
        latency = _latency(graph, kind, runtime=runtime, batch=batch, settings=settings)
    with new_folder(out.resolve(), beside=_whose_neighbour(out, request)) as folder:
        batches = _BATCHES if request.dynamic_batch else (batch, batch, batch)
        if clock is None:
            file_notes = _save(graph, kind, folder, batches=batches)
        else:
            progress("building the engine", 0, 1, clock.where)
            latency, file_notes = engine_of_board(
                graph, folder, kind=kind, by=(runtime, clock), sample=source.sample(batch)
            )
            progress("building the engine", 1, 1, clock.where)
        made = _notes(graph, kind, runtime=runtime, evaluated=accuracy is not None, clock=clock)
        notes = [*source.images.notes, *made, *file_notes, *_unsigned(source.folder)]
        report = {
            "schema": SCHEMA,
            "bundle_id": manifests.read(source.folder)["bundle_id"],
            "arch_id": source.arch.id,
            "kind": request.to,
            "precision": kind.precision,
            "dynamic_batch": request.dynamic_batch,
            **tell_versions(graph, kind),
            "parity": parity.to_json(),
            "accuracy": accuracy,
            "latency": latency,
            "notes": notes,
            "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
        }
        report = json.loads(json.dumps(report))
        write_json(folder / RECORD, report)
    return Export(folder=out, kind=request.to, report=report)


def _usual_folder(request: ExportRequest) -> Path:
    """Where an export goes that nobody gave a folder for: an engine into that of its bundle."""
    if request.to in engine_formats():
        return request.bundle / request.to
    return Path(f"{request.bundle.resolve().name}-{request.to}")


def _whose_neighbour(out: Path, request: ExportRequest) -> Path | None:
    """What the temporary folder lies beside: what a killed build leaves is not in the bundle."""
    bundle = request.bundle.resolve()
    return bundle if out.resolve().parent == bundle else None


def _read_source(
    request: ExportRequest, kind: ExportFormat, *, checker: Runtime, progress: Progress
) -> _Source:
    """The bundle of a request, with its supernet and images.

    Raises:
        EdgenasError: the bundle is damaged or no fp32 one, int8 has no images, or the runtime that
            checks the format is not here.
    """
    arch, record = load_bundle(request.bundle)
    onnx = restore((request.bundle / "model.onnx").read_bytes())
    own = loads(onnx, where=str(request.bundle / "model.onnx")).precision()
    target = record.target
    same = runtimes.find(target.runtime) and form_of(target.runtime, target.precision) == kind.form
    if own != "fp32" and not same:
        raise EdgenasError(
            f"the bundle {request.bundle} holds an {own} model of {target.runtime}, an export to "
            f"{request.to} starts from an fp32 one",
            hint="make one with --precision fp32",
        )
    with_images = request.data or request.test
    if kind.precision == "int8" and not (with_images or may_lose_accuracy(request)):
        raise no_images(request.to)
    if why_not := checker.available():
        raise EdgenasError(f"runtime {checker.name} is not available here: {why_not}")
    name = request.supernet or record.supernet
    trained = _framed_as(request.bundle, load_supernet(find_start(name)))
    original = trained.supernet.original
    published = original is not None and original.stages == arch.stages
    sources = SpecializeRequest(
        device="host",
        supernet=name,
        arch=ORIGINAL if published else None,
        data=request.data,
        test=request.test,
    )
    images = read_image_sets(sources, trained, progress=progress)
    return _Source(request.bundle, arch, record, onnx, trained, images)


def _framed_as(bundle: Path, trained: TrainedSupernet) -> TrainedSupernet:
    """The supernet of a bundle, whose pictures get the shape of inputs as in that bundle."""
    where = str(bundle / manifests.NAME)
    framing = find_framing(manifests.read(bundle)["preprocessing"], where=where)
    return replace(trained, preprocessing=replace(trained.preprocessing, framing=framing))


def _check_accuracy(
    graph: bytes,
    source: _Source,
    request: ExportRequest,
    *,
    logits: Callable[[bytes, Array], Array],
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
        right["export"] += int((logits(graph, values).argmax(1) == true).sum())
    accuracy = {which: count / len(labels) for which, count in right.items()}
    drop = accuracy["bundle"] - accuracy["export"]
    if drop > LARGEST_DROP and not may_lose_accuracy(request):
        raise EdgenasError(
            f"{request.to} costs {100 * drop:.2f} points of accuracy, more than "
            f"{100 * LARGEST_DROP:.1f}, on {len(labels)} images",
            hint="take another format, or the loss with --allow-accuracy-drop",
        )
    return {**accuracy, "images": len(labels), "split": source.images.split}


def _save(
    graph: bytes, kind: ExportFormat, folder: Path, *, batches: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write the files of a format. Returns notes about them."""
    if kind.save is None:
        (folder / "model.onnx").write_bytes(graph)
        return ()
    return kind.save(graph, folder, precision=kind.precision, batches=batches)


def _logits(graph: bytes, values: Array, kind: ExportFormat, *, checker: Runtime) -> Array:
    """The logits of a graph. The default runtime computes those of formats for other machines."""
    precision = (kind.runs_in or kind.precision) if kind.runs_here else None
    return run_onnx(graph, values, runtime=checker.name, precision=precision)


def _clock_of_board(request: ExportRequest, *, runtime: Runtime) -> TrtexecClock | None:
    """The clock of the board that builds the engine; None: this machine writes the export.

    Raises:
        EdgenasError: the format is none that a board builds.
    """
    if request.ssh is None:
        return None
    if not runtime.built_by_tool:
        raise EdgenasError(
            f"--ssh is for engines that a board builds, {request.to} is written here",
            hint="leave out --ssh, or take another format: --to trt-fp16",
        )
    if request.dynamic_batch:
        raise EdgenasError(
            "an engine for any number of images cannot be built over ssh",
            hint="leave out --dynamic-batch",
        )
    return tool_clock(runtime, place=Place(address=request.ssh))


def _notes(
    graph: bytes,
    kind: ExportFormat,
    *,
    runtime: Runtime,
    evaluated: bool,
    clock: TrtexecClock | None,
) -> list[str]:
    notes: list[str] = []
    if not evaluated:
        notes.append("accuracy was not measured: no images were given (--data or --test)")
    if not kind.runs_here:
        if clock is None:
            notes.append(f"not timed here: the format is for {kind.about}")
        notes.append("parity and accuracy are those of the graph, as ONNX Runtime computes it")
    elif kind.precision == "int8":
        share = integer_share(graph, runtime=runtime.name)
        notes.append(f"{share:.1%} of the MACs in integer kernels, by the runtime's own profile")
    if runtime.bundle_file is not None:
        commands = phone_commands(runtime.bundle_file.name, threads=1, runtime=runtime.name)
        notes.append("times on a phone, where benchmark_model lies: " + "; ".join(commands))
    return notes


def _unsigned(bundle: Path) -> list[str]:
    if not (bundle / SIGNATURE).exists():
        return []
    return ["the bundle is signed, this export is not: the signature covers the bundle's own files"]


def _check_out(out: Path, *, force: bool) -> None:
    if not out.exists():
        return
    formats = runtimes.export_formats().values()
    own = {file for _, kind in formats for file in kind.files}
    if not out.is_dir():
        raise EdgenasError(f"--out {out} is a file", hint="choose another --out")
    names = {path.name for path in out.iterdir() if not is_litter(path)}
    if strangers := sorted(names - own - {RECORD}):
        raise EdgenasError(
            f"--out {out} holds what is no part of an export: {strangers[0]}",
            hint="choose another --out, or remove the folder yourself",
        )
    if names and not force:
        raise EdgenasError(f"--out {out} holds an export already", hint="replace it with --force")


def _latency(
    graph: bytes, kind: ExportFormat, *, runtime: Runtime, batch: int, settings: TimingSettings
) -> dict[str, Any]:
    target = Target("host", runtime.name, kind.runs_in or kind.precision, batch=batch)
    measured = measure_network(graph, target=target, settings=settings)
    names = ("median", "p10", "p90", "n", "half_width", "wall_p50", "wall_p95", "wall_n", "flag")
    return {
        "runtime": runtime.name,
        "precision": target.precision,
        "threads": 1,
        "batch": batch,
        **{name: getattr(measured, name) for name in names},
        "environment": environment(runtime),
    }
