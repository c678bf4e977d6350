"""A trained model as the teacher of a training: an ONNX file, or TorchScript.

What it answers on the very images that the networks see is distilled into them (Hinton, Vinyals,
Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531). Nothing is guessed: a model
whose inputs, classes or preprocessing are not clear is refused.
"""

import importlib
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.basics.units import sides_to_json
from edgenas.images.data import Images
from edgenas.images.preprocessing import PREPROCESSING_SCHEMA, Preprocessing, Size, sides
from edgenas.onnx_graph.file import shown
from edgenas.onnx_graph.model import load

TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript")
_IMAGENET = "--teacher-mean 0.485,0.456,0.406 --teacher-std 0.229,0.224,0.225"
_PROBED = 4  # random images that a model is tried with


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A trained model, ready to be asked.

    Args:
        run: from inputs, float32, shape (n, 3, height, width), to answers, shape (n, classes).
        batch: the number of images that ``run`` takes; None: any.
        size: height of the inputs in pixels. They have the shape of the stored images.
        preprocessing: from stored pixels to the inputs.
        shares: whether it answers the shares of the classes, not logits.
        record: what the file of a run says of it.
    """

    run: Callable[[Tensor], Tensor]
    batch: int | None
    size: int
    preprocessing: Preprocessing
    shares: bool
    record: dict[str, Any]

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Answer stored pixels, uint8, shape (n, 3, height, width), with logits, (n, classes)."""
        answers = _answers(self.run, self.preprocessing, pixels, size=self.size, batch=self.batch)
        # The logarithms of shares are logits, whatever constant is missing.
        return answers.clamp_min(1e-12).log() if self.shares else answers

    def accuracy(self, images: Images, *, most: int = 1000) -> tuple[float, int]:
        """Measure its accuracy on the first images of a set; the accuracy and their number."""
        some = images.take(torch.arange(min(most, len(images))))
        right = [
            self.logits(part).argmax(1).cpu() == labels
            for part, labels in zip(some.pixels.split(250), some.labels.split(250), strict=True)
        ]
        return torch.cat(right).double().mean().item(), len(some)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _TeacherModel:
    """A model file that can be run.

    Args:
        run: from inputs, float32, shape (n, 3, height, width), to answers, shape (n, classes).
        batch: the number of images that ``run`` takes; None: any.
        sides: height and width of its inputs; None: any.
        preprocessing: the JSON text that edgenas wrote into the file; None: there is none.
    """

    run: Callable[[Tensor], Tensor]
    batch: int | None = None
    sides: tuple[int | None, ...] = (None, None)
    preprocessing: str | None = None


def load_teacher(
    path: Path,
    *,
    classes: int,
    stored: Size,
    place: torch.device,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Teacher:
    """Read a model and try it.

    TorchScript files are programs. Reading one unpickles nothing into Python, but PyTorch's
    security policy says to treat it like any other code of its author.

    Args:
        path: an ONNX file, or a TorchScript file (``torch.jit.save``).
        classes: how many it has to tell apart, in the order of the images' class names.
        stored: pixels that images are stored at.
        place: where the training runs.
        size: height of its inputs. None: what an ONNX file says, else that of stored images.
        mean: per channel, of values in [0, 1]. None: what an ONNX file of edgenas says.
        std: standard deviation per channel, of values in [0, 1]. None: what such a file says.

    Raises:
        EdgenasError: there is no such model, or its inputs or outputs do not fit.
    """
    model = _read_model(path, place)
    preprocessing = _preprocessing(path, model.preprocessing, stored=stored, mean=mean, std=std)
    size = size or model.sides[0] or sides(stored)[0]
    inputs = preprocessing.size(size)
    if any(f not in (None, g) for f, g in zip(model.sides, inputs, strict=True)):
        raise EdgenasError(
            f"--teacher {path} takes inputs of {' x '.join(str(f or 'any') for f in model.sides)} "
            f"pixels, found {inputs[0]} x {inputs[1]}",
            hint="the size is --teacher-size, the shape that of the space's inputs",
        )
    answers = _try(path, model, preprocessing, classes=classes, size=size, place=place)
    sums = answers.sum(1)
    return Teacher(
        run=model.run,
        batch=model.batch,
        size=size,
        preprocessing=preprocessing,
        shares=bool((answers >= 0).all() and (sums - 1).abs().max() < 1e-3),
        record={
            "file": path.name,
            "sha256": sha256(path),
            "size": sides_to_json(inputs),
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
    )


def _read_model(path: Path, place: torch.device) -> _TeacherModel:
    if not path.is_file():
        raise EdgenasError(f"--teacher: no file {path}")
    if path.suffix == ".onnx":
        return _onnx(path, place)
    if path.suffix in TORCHSCRIPT:
        return _TeacherModel(run=_torchscript(path, place))
    raise EdgenasError(
        f"--teacher must be an .onnx file or TorchScript ({', '.join(TORCHSCRIPT)}), "
        f"found {path.name}"
    )


def _try(
    path: Path,
    model: _TeacherModel,
    preprocessing: Preprocessing,
    *,
    classes: int,
    size: int,
    place: torch.device,
) -> Tensor:
    """Ask a model about random images and check its answers.

    Returns:
        The answers, shape (images, classes).

    Raises:
        EdgenasError: the answers do not have one finite number for every class.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBED, 3, *sides(preprocessing.stored))
    probes = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(place)
    with torch.no_grad():
        answers = _answers(model.run, preprocessing, probes, size=size, batch=model.batch)
    if tuple(answers.shape) != (_PROBED, classes):
        count = f"answers of shape {tuple(answers.shape)} to {_PROBED} images"
        if answers.ndim == 2 and len(answers) == _PROBED:
            count = f"{answers.shape[1]}"
        raise EdgenasError(
            f"--teacher {path} must tell {classes} classes apart, like the images, found {count}",
            hint="give a model that was trained on these classes",
        )
    if not answers.isfinite().all():
        raise EdgenasError(f"--teacher {path} answers numbers that are not finite")
    return answers


def _answers(
    run: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    pixels: Tensor,
    *,
    size: int,
    batch: int | None,
) -> Tensor:
    inputs = preprocessing.prepare(pixels, resolution=size)
    if batch is None:
        return run(inputs).float()
    # A model made for a fixed batch wants full ones.
    short = -len(inputs) % batch
    filled = torch.cat([inputs, inputs[-1:].expand(short, -1, -1, -1)])
    return torch.cat([run(part) for part in filled.split(batch)])[: len(inputs)].float()


def _preprocessing(
    path: Path,
    written: str | None,
    *,
    stored: Size,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocessing:
    """Decide how pixels become inputs: by the arguments, else by what the file says."""
    steps = Preprocessing(stored=stored, mean=tuple(mean or ()), std=tuple(std or ())).to_json()
    try:
        value = json.loads(written or "null")
    except ValueError:
        value = None  # others use that key for what they like
    if isinstance(value, dict) and value.get("schema") == PREPROCESSING_SCHEMA:
        own = Preprocessing.from_json(value, where=f"{path}: preprocessing").to_json()
        steps |= {name: own[name] for name in ("mean", "std") if not steps[name]}
    if not steps["mean"] or not steps["std"]:
        raise EdgenasError(
            f"how images become inputs of --teacher {path} is not known: its mean and its standard "
            "deviation must be given",
            hint=f"for the usual ones of ImageNet: {_IMAGENET}",
        )
    return Preprocessing.from_json(steps, where="--teacher")


def _onnx(path: Path, place: torch.device) -> _TeacherModel:
    """Open an ONNX file with ONNX Runtime."""
    runtime: Any = importlib.import_module("onnxruntime")
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    refusals = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    refusals += (state.InvalidArgument, state.NoSuchFile, state.RuntimeException)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # a failed run raises; its log would stand beside our line
    # As in `edgenas.clock.board.EXACT_INT8`, for teachers in int8.
    options.add_session_config_entry("session.x64quantprecision", "1")
    cuda = "CUDAExecutionProvider"
    wanted = [cuda] if place.type == "cuda" and cuda in runtime.get_available_providers() else []
    try:
        model = load(path)
    except EdgenasError as error:
        raise EdgenasError(f"--teacher {error.message}", hint=error.hint) from error
    try:
        session = runtime.InferenceSession(
            model.serialized(), options, [*wanted, "CPUExecutionProvider"]
        )
    except refusals as error:
        said = shown(error, most=150)
        raise EdgenasError(
            f"--teacher {model.where} is no model for ONNX Runtime: {said}"
        ) from error
    answers = session.get_outputs()
    if len(model.inputs) != 1 or len(answers) != 1:
        names = [[shown(value.name) for value in values] for values in (model.inputs, answers)]
        raise EdgenasError(
            f"--teacher {path} must have one input and one output, found inputs "
            f"{', '.join(names[0])} and outputs {', '.join(names[1])}"
        )
    (entry,) = model.inputs
    shape = entry.extents or ()
    fits = len(shape) == 4 and (shape[1] == 3 or not isinstance(shape[1], int))
    if entry.kind not in ("float32", "float16") or not fits:
        raise EdgenasError(
            f"--teacher {path} must take float images of shape (n, 3, height, width), its input "
            f"{shown(entry.name)} is {entry.kind or 'no number'} of shape "
            f"({', '.join(str(e or '?') for e in shape)})",
            hint="export it again with channels first",
        )

    def run(inputs: Tensor) -> Tensor:
        array = inputs.contiguous().cpu().numpy().astype(entry.kind, copy=False)
        try:
            (found,) = session.run(None, {entry.name: array})
        except refusals as error:
            raise EdgenasError(
                f"--teacher {path} does not take inputs of shape {tuple(inputs.shape)}: {error}",
                hint="give the size that it was made for: --teacher-size 224",
            ) from error
        return torch.from_numpy(np.asarray(found)).to(place)

    return _TeacherModel(
        run=run,
        batch=model.batch,
        sides=tuple(size if isinstance(size, int) else None for size in shape[2:]),
        preprocessing=session.get_modelmeta().custom_metadata_map.get("preprocessing"),
    )


def _torchscript(path: Path, place: torch.device) -> Callable[[Tensor], Tensor]:
    """Open a TorchScript file. Pickles of Python objects are not even opened."""
    names: list[str] = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    if not any(name.endswith("/constants.pkl") for name in names):
        raise EdgenasError(
            f"--teacher {path} must be TorchScript; a pickle of a model or of its weights is not "
            "read, because reading it could run anything",
            hint="write it with torch.jit.trace(model, example).save(...), or export it to ONNX",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather have torch.export
            module: Any = torch.jit.load(path, map_location=place)
    except (RuntimeError, ValueError) as error:
        raise EdgenasError(f"--teacher {path} is damaged: {_last(error)}") from error
    module.eval()
    jit: Any = torch.jit

    def run(inputs: Tensor) -> Tensor:
        try:
            # What its optimiser does in the first runs of a process would change the last bits.
            with jit.optimized_execution(False):
                answer = module(inputs.to(place))
        except RuntimeError as error:
            raise EdgenasError(
                f"--teacher {path} does not take inputs of shape {tuple(inputs.shape)}: "
                f"{_last(error)}",
                hint="give the size that it was made for: --teacher-size 224",
            ) from error
        if not isinstance(answer, Tensor):
            raise EdgenasError(
                f"--teacher {path} must answer one tensor, found {type(answer).__name__}"
            )
        return answer

    return run


def _last(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
