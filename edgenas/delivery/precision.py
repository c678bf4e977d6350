"""Lower precision: its accuracy measured again, and the gate on what it loses."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.delivery.building import Built, Job
from edgenas.delivery.images import Material
from edgenas.delivery.request import AUTO, Request
from edgenas.latency.device import Target
from edgenas.model.evaluate import BATCH, predictions
from edgenas.model.export import integer_share, read_metadata, run_onnx
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.quantize import KEPT
from edgenas.runtime import registry as runtimes
from edgenas.runtime.forms import form, formed
from edgenas.space.presets import tiny

LARGEST_DROP = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a network classifies correctly of the images to judge on.

    Args:
        correct: as it ships.
        correct_fp32: before the precision was lowered.
        n: images.
        note: what the lower precision costs, in words; empty: it is fp32.
    """

    correct: int
    correct_fp32: int
    n: int
    note: str = ""

    @property
    def drop(self) -> float:
        """Accuracy lost, a fraction."""
        return (self.correct_fp32 - self.correct) / self.n


def check_images(request: Request, material: Material, *, target: Target, here: bool) -> None:
    """Refuse int8 where nothing can tell what it costs.

    Raises:
        EdgenasError: there are no labelled images.
    """
    quantised = here and target.precision == "int8"
    if quantised and material.judged is None and not request.allow_accuracy_drop:
        raise no_images("int8")


def auto_precisions(request: Request, *, target: Target, here: bool) -> tuple[str, ...]:
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
    return _usable(target)


def _usable(target: Target) -> tuple[str, ...]:
    """Precisions that a runtime really computes in on this machine."""
    known = runtimes.get(target.runtime).PRECISIONS
    return tuple(p for p in known if not why_not_here(replace(target, precision=p)))


def why_not_here(target: Target) -> str:
    """Why a runtime does not compute in the target's precision on this machine, or nothing."""
    space, runtime = tiny(), runtimes.get(target.runtime)
    graph = network_graph(space, space.smallest(), batch=target.batch)
    given = {"precision": target.precision, "threads": target.threads, "batch": target.batch}
    try:
        onnx = formed(graph, wanted=form(target.runtime, target.precision))
        runtime.compile(onnx, **given)
    except EdgenasError as error:
        return error.message
    return ""


def no_images(what: str) -> EdgenasError:
    """The error where nothing can tell what lower precision costs."""
    return EdgenasError(
        f"{what} needs images with labels, to measure what lower precision costs in accuracy",
        hint="pass --data or --test, or take any loss with --allow-accuracy-drop",
    )


def judge(job: Job, built: Built) -> Judged | None:
    """Measure the accuracy of what ships; None: there are no images to judge on.

    Raises:
        EdgenasError: int8 loses more than a point, and that was not allowed.
    """
    target, images = job.latency.target, job.material.judged
    if job.lowered and target.precision == "int8":
        job.notes.append(_kernels(built, target))
    lowered = job.lowered
    if lowered and job.latency.clock is not measure and (why_not := why_not_here(target)):
        # A board may compute in what this machine cannot, e.g. fp16 on ARM.
        job.notes.append(f"accuracy is that of fp32: {why_not} on this machine")
        lowered = False
    if images is None:
        if lowered:
            job.notes.append(_agreement(job, built))
        return None
    preprocessing = job.trained.preprocessing
    labels = images.labels.numpy()
    logits = predictions(built.network, images.pixels, preprocessing=preprocessing)
    full = int((logits.argmax(1).numpy() == labels).sum())
    if not lowered:
        return Judged(correct=full, correct_fp32=full, n=len(images))
    found = np.concatenate([_run(job, built, part) for part in images.pixels.split(BATCH)])
    correct = int((found.argmax(1) == labels).sum())
    note = (
        f"{target.precision}: {correct / len(images):.2%} against {full / len(images):.2%} in fp32 "
        f"on the same {len(images)} images"
    )
    judged = Judged(correct=correct, correct_fp32=full, n=len(images), note=note)
    if judged.drop > LARGEST_DROP and not job.request.allow_accuracy_drop:
        raise EdgenasError(
            f"{target.precision} costs {100 * judged.drop:.2f} points of accuracy, more than "
            f"{100 * LARGEST_DROP:.1f}: {note}",
            hint="use --precision fp32, or take the loss with --allow-accuracy-drop",
        )
    job.notes.append(note)
    return judged


def _run(job: Job, built: Built, pixels: Tensor) -> np.ndarray:
    target, resolution = job.latency.target, built.arch.resolution
    inputs = job.trained.preprocessing.prepare(pixels, resolution=resolution)
    return run_onnx(
        built.onnx,
        inputs.contiguous().numpy(),
        runtime=target.runtime,
        precision=target.precision,
    )


def _kernels(built: Built, target: Target) -> str:
    share = integer_share(built.onnx, runtime=target.runtime)
    kept = read_metadata(built.onnx).get(KEPT, "nothing")
    return (
        f"int8: {share:.1%} of the MACs in integer kernels, by the profile of {target.runtime}; "
        f"kept in float: {kept}"
    )


def _agreement(job: Job, built: Built) -> str:
    pixels = job.material.calibration
    logits = predictions(built.network, pixels, preprocessing=job.trained.preprocessing)
    same = (_run(job, built, pixels).argmax(1) == logits.argmax(1).numpy()).mean()
    return (
        f"the accuracy is that of fp32; in {job.latency.target.precision} the class is the same on "
        f"{same:.1%} of the {len(pixels)} calibration images"
    )
