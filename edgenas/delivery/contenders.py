"""Networks with weights that may be fine-tuned or delivered, and where their weights come from."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgenas.basics.decode import decode
from edgenas.basics.files import read_json
from edgenas.delivery.building import build
from edgenas.delivery.choosing import AIM, DeviceBench
from edgenas.delivery.limits import limits_for
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.retraining import Start, inherit, measure
from edgenas.delivery.transfer import Transfer
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.training.alone import count_steps
from edgenas.training.fine_tuning import has_ended, load_trained
from edgenas.training.job import JOB, JOB_SCHEMA, Job, read_evaluations
from edgenas.training.recipe import Recipe
from edgenas.training.start import copy_weights

_NEAR = 1.1  # of the budget: what is predicted to take more is not measured
# The same for networks that are fine-tuned already: minutes were spent on each. After a brief
# profile of a busy machine, one was predicted to take twice as long as it takes.
_PLAUSIBLE = 3.0
_STARTS = 3  # weights of other resolutions that are tried, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A network with weights.

    Args:
        network: with its weights, not calibrated.
        start: where the weights come from.
        trained: whether they have learnt from the images before.
        folder: of their fine-tuning; None: the network was not fine-tuned alone.
        recipe: of that fine-tuning.
        epochs: of all fine-tunings of these weights together.
        score: accuracy on the validation images; None: not measured yet.
        before: the key of the contender that was fine-tuned to this one; empty: none.
    """

    network: Network
    start: Start
    trained: bool = True
    folder: Path | None = None
    recipe: Recipe | None = None
    epochs: float = 0.0
    score: float | None = None
    before: str = ""

    @property
    def arch(self) -> Arch:
        """The network as a value."""
        return self.network.arch

    @property
    def key(self) -> str:
        """What tells it from other contenders."""
        return f"{self.arch.id} {self.start}" if self.folder is None else str(self.folder)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arch.id} at {self.arch.resolution} pixels from {self.start} weights"


def with_score(prepared: Prepared, contender: Contender) -> Contender:
    """The contender with its accuracy on all validation images."""
    if contender.score is not None:
        return contender
    validation = prepared.images.require_validation()
    value = measure(prepared, copy.deepcopy(contender.network), validation, "validation").value
    return replace(contender, score=value)


def keeps_budgets(
    prepared: Prepared,
    arch: Arch,
    network: Network,
    bench: DeviceBench | None,
    *,
    near: float = _NEAR,
) -> tuple[bool, DeviceBench | None]:
    """Whether a network keeps all budgets, measured where that is possible, and the bench then.

    Args:
        prepared: the budgets.
        arch: the network.
        network: its module, with any weights.
        bench: the device with what was measured on it; None: it is out of reach.
        near: what is predicted to take this multiple of the budget or less is measured.
    """
    row, budget = prepared.space.encode([arch]), prepared.budget
    for limit in limits_for(prepared, own=None):
        if limit.of(row)[0] > limit.constraint.limit:
            return False, bench
    if budget is None:
        return True, bench
    if bench is None:
        bound = prepared.latency.upper(prepared.request.confidence)
        return bool(bound(row)[0] <= budget), bench
    built = bench.find(arch)
    if built is None:
        if bench.correct()(row)[0] > near * budget:
            return False, bench
        prepared.progress("measuring", 0, 1, str(arch))
        built = build(prepared, arch, network=copy.deepcopy(network))
        bench, built = bench.measure_briefly(built)
    return bench.seconds(built) <= AIM * budget, bench


def find_original(
    prepared: Prepared, transfer: Transfer, bench: DeviceBench | None
) -> tuple[Arch | None, DeviceBench | None]:
    """The network at the start at the largest resolution that keeps all budgets, and the bench.

    Args:
        prepared: the budgets.
        transfer: the weights at the start; a supernet without a published network has its largest.
        bench: the device with what was measured on it; None: it is out of reach.
    """
    supernet = transfer.start.supernet
    original: Arch = supernet.original or supernet.space.largest()
    for resolution in sorted(prepared.space.resolutions, reverse=True):
        arch = replace(original, resolution=resolution)
        fits, bench = keeps_budgets(prepared, arch, inherit(prepared, arch), bench)
        if fits:
            return arch, bench
    return None, bench


def find_earlier(prepared: Prepared, transfer: Transfer, names: Sequence[str]) -> list[Contender]:
    """The networks of fine-tunings that ended before, the most accurate first.

    Args:
        prepared: the space.
        transfer: the folder.
        names: of the fine-tunings.
    """
    contenders: list[tuple[float, Contender]] = []
    for name in names:
        folder = transfer.alone / name
        path = folder / JOB
        job = decode(Job, read_json(path, schema=JOB_SCHEMA), where=str(path))
        arch = Arch.from_json(job.arch, where=f"{path}: arch")
        seen = read_evaluations(folder)
        if not has_ended(folder) or not seen:
            continue
        network = load_trained(folder, prepared.space, arch)
        images = len(prepared.images.require_training())
        contender = Contender(
            network=network,
            start=job.start,
            folder=folder,
            recipe=job.recipe,
            epochs=job.epochs_before + seen[-1].step / count_steps(job.recipe, images=images)[1],
        )
        contenders.append((seen[-1].validation, contender))
    return [contender for _, contender in sorted(contenders, key=lambda pair: -pair[0])]


def find_fitting(
    prepared: Prepared, earlier: Sequence[Contender], bench: DeviceBench | None, *, most: int
) -> tuple[list[Contender], DeviceBench | None]:
    """The networks of earlier fine-tunings that keep all budgets, in their order, and the bench.

    On a device at hand measurements decide. A prediction leaves out only what is hopeless.

    Args:
        prepared: the budgets.
        earlier: the most accurate first.
        bench: the device with what was measured on it; None: it is out of reach.
        most: how many at most.
    """
    fitting, beyond = list[Contender](), list[Arch]()
    for contender in earlier:
        if len(fitting) == most:
            break
        arch = contender.arch
        # The same network at more pixels costs more of everything.
        if any(one.stages == arch.stages and one.resolution <= arch.resolution for one in beyond):
            continue
        fits, bench = keeps_budgets(prepared, arch, contender.network, bench, near=_PLAUSIBLE)
        if fits:
            fitting.append(contender)
        else:
            beyond.append(arch)
    return fitting, bench


def best_start(prepared: Prepared, arch: Arch, earlier: Sequence[Contender]) -> Contender:
    """A network with the best of the weights that have learnt from the images, by validation.

    Args:
        prepared: the elastic weights.
        arch: the network.
        earlier: fine-tuned networks; those that differ in the resolution alone can give weights.
    """
    contenders = [Contender(network=inherit(prepared, arch), start="inherited")]
    alike = [contender for contender in earlier if contender.arch.stages == arch.stages]
    for contender in alike[:_STARTS]:
        network = inherit(prepared, arch)
        with torch.no_grad():
            theirs = dict(contender.network.named_parameters())
            for name, parameter in network.named_parameters():
                parameter.copy_(theirs[name])
        tuned = replace(contender, network=network, folder=None, score=None, before="")
        contenders.append(tuned)
    if len(contenders) == 1:
        return contenders[0]
    return max(
        (with_score(prepared, contender) for contender in contenders), key=lambda e: e.score or 0.0
    )


def start_from_original(prepared: Prepared, transfer: Transfer, arch: Arch) -> Contender:
    """A network with the weights at the start, and a new classifier where the classes are new."""
    supernet = Supernet(prepared.space, seed=prepared.request.seed)
    copy_weights(transfer.start, supernet, classes=prepared.trained.classes)
    network = supernet.train().extract(arch).to(memory_format=torch.channels_last)
    return Contender(network=network, start="original", trained=False)
