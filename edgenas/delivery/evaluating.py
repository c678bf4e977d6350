"""The accuracy of what ships, measured on images, and the gate on what a lower precision loses.

Chosen -> evaluate -> Evaluated
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.classes import ClassAccuracies, count_by_class
from edgenas.clock import measure
from edgenas.delivery.export_request import ExportRequest
from edgenas.delivery.images import ImageSets
from edgenas.delivery.request import AUTO, SpecializeRequest
from edgenas.images.data import Images
from edgenas.latency.device import Target
from edgenas.model.calibration import batch_for, predict_logits
from edgenas.model.export import integer_share, read_metadata, run_onnx
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.onnx_graph.quantize import KEPT
from edgenas.runtime import registry as runtimes
from edgenas.runtime.registry import form_of
from edgenas.space.presets import tiny

if TYPE_CHECKING:
    from edgenas.delivery.building import BuiltNetwork
    from edgenas.delivery.preparing import Prepared

LARGEST_DROP = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How many of the evaluation images a network classifies correctly.

    Args:
        correct: as it ships.
        correct_fp32: before the precision was lowered.
        n: images.
        classes: the accuracy of each class, as it ships.
        note: what the lower precision costs, in words; empty where the network is fp32.
    """

    correct: int
    correct_fp32: int
    n: int
    classes: ClassAccuracies
    note: str = ""

    @property
    def drop(self) -> float:
        """Accuracy lost, a fraction."""
        return (self.correct_fp32 - self.correct) / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What is known of the accuracy of a network.

    Args:
        evaluation: on images; None where there are none, or none that this machine can run.
        notes: what a reader of the accuracy should know.
    """

    evaluation: Evaluation | None
    notes: tuple[str, ...] = ()


def may_lose_accuracy(request: SpecializeRequest | ExportRequest) -> bool:
    """Whether int8 may ship whatever accuracy it loses."""
    return request.allow_accuracy_drop


def check_images(
    request: SpecializeRequest, images: ImageSets, *, target: Target, here: bool
) -> None:
    """Refuse int8 where nothing can tell what it costs.

    Raises:
        EdgenasError: there are no labelled images.
    """
    quantised = here and target.precision == "int8"
    if quantised and images.evaluation is None and not may_lose_accuracy(request):
        raise no_images("int8")


def auto_precisions(request: SpecializeRequest, *, target: Target, here: bool) -> tuple[str, ...]:
    """The precisions to choose from.

    Raises:
        EdgenasError: the device is not at hand, or there are no labelled images.
    """
    if not here:
        raise EdgenasError(
            f"--precision {AUTO} needs a device that networks can be measured on, "
            f"{target.device} is not at hand",
            hint="name one: --precision fp16",
        )
    if request.data is None and request.test is None:
        raise no_images(f"--precision {AUTO}")
    return _usable_precisions(target)


def _usable_precisions(target: Target) -> tuple[str, ...]:
    """Precisions that a runtime really computes in on this machine."""
    precisions = runtimes.get(target.runtime).precisions
    return tuple(p for p in precisions if not explain_absence(replace(target, precision=p)))


def explain_absence(target: Target) -> str:
    """Why a runtime does not compute in the target's precision on this machine; empty: it does."""
    space, runtime = tiny(), runtimes.get(target.runtime)
    graph = network_graph(space, space.smallest(), batch=target.batch)
    try:
        onnx = convert_to_form(graph, form=form_of(target.runtime, target.precision))
        runtime.compile(
            onnx, precision=target.precision, threads=target.threads, batch=target.batch
        )
    except EdgenasError as error:
        return error.message
    return ""


def no_images(what: str) -> EdgenasError:
    """The error where nothing can tell what lower precision costs."""
    return EdgenasError(
        f"{what} needs images with labels, to measure what lower precision costs in accuracy",
        hint="pass --data or --test, or take any loss with --allow-accuracy-drop",
    )


def evaluate(prepared: "Prepared", built: "BuiltNetwork") -> Evaluated:
    """Measure the accuracy of what ships.

    Raises:
        EdgenasError: int8 loses more than a point, and that was not allowed.
    """
    target, images = prepared.latency.target, prepared.images.evaluation
    lowered, notes = prepared.lowered, tuple[str, ...]()
    absence = ""
    if lowered and prepared.latency.clock is not measure:
        absence = explain_absence(target)
    by_tool = runtimes.is_built_by_tool(target.runtime)
    if lowered and target.precision == "int8" and not (by_tool and absence):
        notes += (_describe_kernels(built, target),)
    if absence and by_tool:
        if images is not None:
            notes += ("accuracy is that of the shipped file as ONNX Runtime computes it here",)
    elif absence:
        # A board may compute in what this machine cannot, e.g. fp16 on ARM.
        notes += (f"accuracy is that of fp32: {absence} on this machine",)
        lowered = False
    if images is None:
        if lowered:
            notes += (_describe_agreement(prepared, built),)
        return Evaluated(evaluation=None, notes=notes)
    evaluation = _count_correct(prepared, built, images, lowered=lowered)
    if evaluation.drop > LARGEST_DROP and not may_lose_accuracy(prepared.request):
        raise EdgenasError(
            f"{target.precision} costs {100 * evaluation.drop:.2f} points of accuracy, more than "
            f"{100 * LARGEST_DROP:.1f}: {evaluation.note}",
            hint="use --precision fp32, or take the loss with --allow-accuracy-drop",
        )
    if evaluation.note:
        notes += (evaluation.note,)
    return Evaluated(evaluation=evaluation, notes=notes)


def _count_correct(
    prepared: "Prepared", built: "BuiltNetwork", images: Images, *, lowered: bool
) -> Evaluation:
    """How many images the module and, where the precision is lower, the file classify correctly."""
    labels = images.labels.numpy()
    logits = predict_logits(
        built.network, images.pixels, preprocessing=prepared.trained.preprocessing
    )
    answers = logits.argmax(1).numpy()
    full = int((answers == labels).sum())
    if not lowered:
        classes = count_by_class(labels, answers, names=images.classes)
        return Evaluation(correct=full, correct_fp32=full, n=len(images), classes=classes)
    batch = batch_for(prepared.trained.preprocessing.size(built.arch.resolution))
    outputs = [run_as_shipped(prepared, built, pixels) for pixels in images.pixels.split(batch)]
    answers = np.concatenate(outputs).argmax(1)
    correct = int((answers == labels).sum())
    note = (
        f"{prepared.latency.target.precision}: {correct / len(images):.2%} against "
        f"{full / len(images):.2%} in fp32 on the same {len(images)} images"
    )
    return Evaluation(
        correct=correct,
        correct_fp32=full,
        n=len(images),
        classes=count_by_class(labels, answers, names=images.classes),
        note=note,
    )


def run_as_shipped(prepared: "Prepared", built: "BuiltNetwork", pixels: Tensor) -> np.ndarray:
    """The logits of the file that ships, as the target's runtime computes them here.

    Args:
        prepared: the target and the preprocessing.
        built: the network.
        pixels: stored images, uint8, shape (n, 3, height, width).
    """
    target, resolution = prepared.latency.target, built.arch.resolution
    inputs = prepared.trained.preprocessing.prepare(pixels, resolution=resolution)
    pixels_in, runtime = inputs.contiguous().numpy(), runtimes.get(target.runtime)
    if runtime.built_by_tool and runtime.available():
        return run_onnx(built.onnx, pixels_in)  # the graph decides the precision
    return run_onnx(built.onnx, pixels_in, runtime=target.runtime, precision=target.precision)


def _describe_kernels(built: "BuiltNetwork", target: Target) -> str:
    share = integer_share(built.onnx, runtime=target.runtime)
    in_float = read_metadata(built.onnx).get(KEPT, "nothing")
    return (
        f"int8: {share:.1%} of the MACs in integer kernels, by the profile of {target.runtime}; "
        f"kept in float: {in_float}"
    )


def _describe_agreement(prepared: "Prepared", built: "BuiltNetwork") -> str:
    pixels = prepared.images.calibration
    logits = predict_logits(built.network, pixels, preprocessing=prepared.trained.preprocessing)
    same = (run_as_shipped(prepared, built, pixels).argmax(1) == logits.argmax(1).numpy()).mean()
    return (
        f"the accuracy is that of fp32; in {prepared.latency.target.precision} the class is the "
        f"same on {same:.1%} of the {len(pixels)} calibration images"
    )
