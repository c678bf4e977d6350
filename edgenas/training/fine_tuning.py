"""Fine-tuning of one network in a folder of its own, see `edgenas.training.job`."""

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgenas.accuracy.evaluation import measure_accuracy
from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import disk_errors, read_json, write_json
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import calibrate
from edgenas.model.network import Network
from edgenas.model.saved import load_tensors, save_tensors
from edgenas.space.arch import Arch
from edgenas.space.presets import space_from_json
from edgenas.space.space import Space
from edgenas.training.alone import DivergedError, Pace, count_steps, train_alone
from edgenas.training.job import (
    JOB,
    JOB_SCHEMA,
    METRICS,
    PLAN,
    PLAN_SCHEMA,
    START,
    STATE,
    TRAINED,
    EpochAccuracy,
    Job,
    Plan,
    plan_steps,
    read_evaluations,
)
from edgenas.training.recipe import Recipe

_DIVERGED, _MOST_DIVERGED = "diverged-", 2  # files, each for a training that diverged
_WARM, _STEPS = 1, 3  # steps to warm up, and to measure
_LATE = 1.05  # a training this much behind its plan is made shorter

Tell = Callable[[Mapping[str, Any]], None]
"""Called with what happened: a plan, a step, or an accuracy."""


def has_ended(folder: Path) -> bool:
    """Whether the fine-tuning of a folder has ended."""
    return (folder / TRAINED).exists()


def load_trained(folder: Path, space: Space, arch: Arch) -> Network:
    """The network of a fine-tuning that has ended, not yet calibrated.

    Args:
        folder: of the fine-tuning.
        space: of the network.
        arch: the network.

    Raises:
        EdgenasError: the weights are absent, damaged, or those of another network.
    """
    path = folder / TRAINED
    network = _network(space, arch)
    _put(network, load_tensors(path), path=path)
    return network.eval()


def fine_tune(
    folder: Path, *, images: Path, tell: Tell, progress: Progress = no_progress
) -> Network:
    """Do the work of a folder, or what is left of it.

    Args:
        folder: as ``write_job`` lays it out.
        images: as ``save_images`` writes them.
        tell: called with the plan, and with every accuracy.
        progress: called with ("training", steps done, steps in all, words).

    Returns:
        The network with its new weights, not yet calibrated.

    Raises:
        EdgenasError: a file is damaged, or the training diverges.
    """
    job = decode(Job, read_json(folder / JOB, schema=JOB_SCHEMA), where=str(folder / JOB))
    space = space_from_json(job.space, where=f"{folder / JOB}: space")
    arch = Arch.from_json(job.arch, where=f"{folder / JOB}: arch")
    if has_ended(folder):
        return load_trained(folder, space, arch)
    network = _network(space, arch)
    _put(network, load_tensors(folder / START), path=folder / START)
    where = f"{folder / JOB}: preprocessing"
    preprocessing = Preprocessing.from_json(job.preprocessing, where=where)
    training, validation = _load_images(images, classes=space.classes)
    evaluator = _Evaluator(job, preprocessing, training=training, validation=validation)
    plan = _find_plan(folder, job, network, evaluator)
    tell({"plan": asdict(plan)})

    def train(rate: float) -> Network:
        look = _Look(folder, job, plan, evaluator=evaluator, tell=tell)
        return train_alone(
            network,
            training,
            recipe=replace(job.recipe, learning_rate=rate),
            preprocessing=preprocessing,
            seed=job.seed,
            state=folder / STATE,
            progress=progress,
            pace=Pace(steps=plan.steps, look=look),
        )

    trained = _train_calmly(folder, train, rate=job.recipe.learning_rate)
    save_tensors(folder / TRAINED, dict(trained.named_parameters()))
    (folder / STATE).unlink(missing_ok=True)
    return trained


def _train_calmly(folder: Path, train: Callable[[float], Network], *, rate: float) -> Network:
    """Train; where that diverges, start over with a third of the learning rate, twice at most.

    Args:
        folder: of the fine-tuning. It keeps how often the training diverged.
        train: trains at a peak learning rate.
        rate: the first one.

    Raises:
        DivergedError: the smallest rate is too high too.
    """
    while True:
        diverged = len(list(folder.glob(f"{_DIVERGED}*")))
        try:
            return train(rate / 3**diverged)
        except DivergedError:
            if diverged == _MOST_DIVERGED:
                raise
            for name in (STATE, METRICS):
                (folder / name).unlink(missing_ok=True)
            (folder / f"{_DIVERGED}{diverged + 1}").touch()


def _network(space: Space, arch: Arch) -> Network:
    return Network(space, arch).to(memory_format=torch.channels_last)


@torch.no_grad()
def _put(network: Network, tensors: Mapping[str, Tensor], *, path: Path) -> None:
    """Put parameters into a network."""
    named = dict(network.named_parameters())
    if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in named.items()}:
        raise EdgenasError(f"{path} has the weights of another network", hint="remove its folder")
    for name, parameter in named.items():
        parameter.copy_(tensors[name])


def _load_images(path: Path, *, classes: int) -> tuple[Images, Images]:
    tensors = load_tensors(path)
    names = tuple(str(i) for i in range(classes))

    def part(name: str) -> Images:
        return Images(
            pixels=tensors[f"{name}.pixels"],
            labels=tensors[f"{name}.labels"],
            classes=names,
            source=str(path),
            digest="",
        )

    return part("training"), part("validation")


@dataclass(frozen=True, slots=True)
class _Evaluator:
    """Measures the accuracy of a network on the way."""

    job: Job
    preprocessing: Preprocessing
    training: Images
    validation: Images

    def measure(self, network: Network) -> float:
        """On the validation images, after a brief calibration; the network stays as it is."""
        network = copy.deepcopy(network)
        count = min(self.job.calibration, len(self.training))
        lines = torch.linspace(0, len(self.training) - 1, count).long()
        pixels = self.training.pixels[lines]
        calibrate(network, pixels, preprocessing=self.preprocessing)
        return measure_accuracy(
            network, self.validation, preprocessing=self.preprocessing, split="validation"
        ).value


def _find_plan(folder: Path, job: Job, network: Network, evaluator: _Evaluator) -> Plan:
    """The plan of a folder, or a new one from timed steps."""
    path = folder / PLAN
    if path.exists():
        return decode(Plan, read_json(path, schema=PLAN_SCHEMA), where=str(path))
    begun = time.monotonic()
    step_seconds = time_steps(
        network, evaluator.training, recipe=job.recipe, preprocessing=evaluator.preprocessing
    )
    evaluating = time.monotonic()
    evaluator.measure(network)
    now = time.monotonic()
    plan = plan_steps(
        job,
        per_epoch=count_steps(job.recipe, images=len(evaluator.training))[1],
        step_seconds=step_seconds,
        evaluation_seconds=now - evaluating,
        spent=now - begun,
    )
    write_json(path, {"schema": PLAN_SCHEMA, **asdict(plan)})
    return plan


def time_steps(
    network: Network, images: Images, *, recipe: Recipe, preprocessing: Preprocessing
) -> float:
    """The seconds of a step of a network; it is trained on a copy.

    Args:
        network: to be timed.
        images: that it learns from.
        recipe: how.
        preprocessing: from stored images to inputs.
    """
    marks: list[float] = []
    train_alone(
        network,
        images,
        recipe=replace(recipe, learning_rate=0.0),
        preprocessing=preprocessing,
        progress=lambda *_: marks.append(time.monotonic()),
        pace=Pace(steps=_WARM + _STEPS, look=lambda network, step, steps: steps),
    )
    return (marks[-1] - marks[_WARM - 1]) / _STEPS


class _Look:
    """Evaluates the network now and then, and ends the training where that is due."""

    def __init__(
        self, folder: Path, job: Job, plan: Plan, *, evaluator: _Evaluator, tell: Tell
    ) -> None:
        self.folder, self.job, self.plan = folder, job, plan
        self.evaluator, self.tell = evaluator, tell
        before = read_evaluations(folder)
        self.begun = time.monotonic() - (before[-1].seconds if before else 0.0)
        self.first = True

    def __call__(self, network: Network, step: int, steps: int) -> int:
        epoch = -(-step // self.plan.per_epoch)
        if step < steps and epoch % self.plan.evaluate_every:
            return steps
        earlier = [one for one in read_evaluations(self.folder) if one.step < step]
        accuracy = self.evaluator.measure(network)
        seconds = time.monotonic() - self.begun
        accuracies = [*(one.validation for one in earlier), accuracy]
        fewer, why = self._shorten(accuracies, step=step, steps=steps, seconds=seconds)
        line = EpochAccuracy(step=step, steps=fewer, seconds=seconds, validation=accuracy, why=why)
        with disk_errors(self.folder / METRICS), (self.folder / METRICS).open("a") as stream:
            stream.write(json.dumps(asdict(line)) + "\n")
        self.tell({"accuracy": asdict(line)})
        return fewer

    def _shorten(
        self, accuracies: list[float], *, step: int, steps: int, seconds: float
    ) -> tuple[int, str]:
        """The steps in all from now on, and why they are fewer; empty: they are not."""
        cooldown = round(self.job.cooldown * self.plan.per_epoch)
        best = max(range(len(accuracies)), key=lambda i: accuracies[i])
        stale = len(accuracies) - 1 - best
        if stale >= self.job.patience and step + cooldown < steps:
            return step + cooldown, f"no better accuracy in {stale} evaluations"
        pace = seconds / step
        if pace * steps > _LATE * self.job.seconds:
            fitting = max(step + cooldown, int(self.job.seconds / pace))
            if fitting < steps:
                return fitting, "the machine is slower than when its steps were timed"
        return steps, ""
