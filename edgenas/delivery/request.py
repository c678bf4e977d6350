"""What is asked for, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from edgenas.basics.errors import EdgenasError, unknown
from edgenas.bundle.record import Record
from edgenas.bundle.signing import check_key
from edgenas.latency import device as devices
from edgenas.latency.device import Device, Target
from edgenas.profiling.reach import clock_of, timed_target
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch
from edgenas.strategies.constraint import Constraint
from edgenas.strategies.gradient.run import STRATEGIES as GRADIENT
from edgenas.strategies.run import STRATEGIES as SEARCH

SUPERNET = "mbv3-cifar10"
AUTO = "auto"
STRATEGIES = (*SEARCH, *GRADIENT)
# These learn from validation images, all others from the accuracy predictor alone.
LEARNING = ("bayes", *GRADIENT)

Percentile = Literal["p50", "p95"]
Tell = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        device: name or alias of the device, or the path of a profile.
        constraints: the budgets, e.g. ``latency<=20ms``.
        supernet: name or folder of the supernet.
        runtime: None: the device's first, likewise below.
        precision: of weights and activations; ``auto``: the most accurate of those that the
            runtime has, as measured, within the budgets.
        threads: of the processor.
        batch: images a run.
        percentile: what a measured latency is held to: ``p50``, the median at the machine's
            normal speed, or ``p95`` of all runs, whatever the machine did meanwhile.
        confidence: of the upper bound of a predicted latency.
        strategy: ``evolution``, ``aging`` or ``random``, which ask the accuracy predictor; or
            ``bayes``, ``proxyless``, ``gumbel`` or ``reinforce``, which learn from ``data``.
        data: images the supernet was trained on, to calibrate with and to measure accuracy on
            their validation split; None: synthetic images, and accuracy is predicted.
        test: images to measure accuracy on.
        allow_accuracy_drop: ship int8 whatever it loses against fp32; else a point at most.
        skip_bad_images: leave out images that cannot be read instead of refusing.
        weights: ``fixed``: those of the supernet; ``joint``: a gradient strategy trains them too,
            on the training part of ``data``.
        retrain_top: so many of the best networks are trained further on the training part of
            ``data``, and the one that is then best on the validation part is taken; 0: none.
        retrain_from: ``inherited``: from the supernet's weights; ``scratch``: from random ones.
        retrain_epochs: passes over the training images; None: as is usual for ``retrain_from``.
        retrain_rate: peak learning rate; None: likewise.
        seed: of the search, and of retraining.
        ssh: address of the board to measure on; None: the one in the device's profile, if any.
        python: on that board; None: ``python3``.
        sign: the SSH key that signs the bundle, see `edgenas.bundle.signing`; None: nobody does.
    """

    device: str
    constraints: tuple[Constraint, ...]
    supernet: str = SUPERNET
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    batch: int | None = None
    percentile: Percentile = "p50"
    confidence: float = 0.95
    strategy: str = "evolution"
    data: str | None = None
    test: str | None = None
    allow_accuracy_drop: bool = False
    skip_bad_images: bool = False
    weights: Literal["fixed", "joint"] = "fixed"
    retrain_top: int = 0
    retrain_from: Literal["inherited", "scratch"] = "inherited"
    retrain_epochs: int | None = None
    retrain_rate: float | None = None
    seed: int = 0
    ssh: str | None = None
    python: str | None = None
    sign: str | None = None

    @property
    def learns(self) -> bool:
        """Whether the strategy learns from images."""
        return self.strategy in LEARNING

    @property
    def trains(self) -> bool:
        """Whether weights are trained."""
        return self.weights == "joint" or self.retrain_top > 0

    def budgets(self, metric: str = "latency") -> list[Constraint]:
        """The limits on a metric of the device itself, the tightest first."""
        own = [c for c in self.constraints if c.metric == metric and not c.target]
        return sorted(own, key=lambda c: c.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came out.

    Args:
        folder: the bundle.
        arch: the network.
        record: its numbers, with their evidence.
        existed: whether an identical bundle was there already and was only verified.
        signed_by: the fingerprint of the key that signed it now; empty: nobody did.
    """

    folder: Path
    arch: Arch
    record: Record
    existed: bool = False
    signed_by: str = ""


def checked(request: Request, *, tell: Tell) -> tuple[Request, Device, Target, Clock | None]:
    """The request with its words looked up, before anything slow is done.

    Args:
        request: what is asked for.
        tell: called with (step, done, total, words).

    Returns:
        The request, whose constraints name no device where they mean its own; the device; the
        target; where it is timed, None: nowhere.

    Raises:
        EdgenasError: a name is unknown or a number out of range.
    """
    if request.strategy not in STRATEGIES:
        listing = "edgenas specialize --help"
        raise unknown("strategy", request.strategy, known=STRATEGIES, listing=listing)
    if request.learns and request.data is None:
        raise EdgenasError(
            f"strategy {request.strategy} needs --data: it learns from images, none are given",
            hint="give the training images with --data, and others with --test; or --strategy "
            "evolution",
        )
    _check_training(request)
    if request.percentile not in ("p50", "p95"):
        raise EdgenasError(f"percentile must be p50 or p95, found {request.percentile!r}")
    if not 0.5 <= request.confidence <= 0.999:
        raise EdgenasError(f"confidence must be from 0.5 to 0.999, found {request.confidence}")
    if request.seed < 0:
        raise EdgenasError(f"seed must not be negative, found {request.seed}")
    if request.sign is not None:
        check_key(request.sign)
    device = devices.load(request.device)
    if request.runtime is not None:
        check_runtime(request.runtime)
    clock = clock_of(
        device,
        ssh=request.ssh,
        python=request.python,
        say=lambda line: tell("connecting", 0, 1, line),
    )
    target = (device.target if clock is None else partial(timed_target, device))(
        runtime=request.runtime,
        precision=None if request.precision == AUTO else request.precision,
        threads=request.threads,
        batch=request.batch,
    )
    constraints = [
        replace(c, target="") if c.target and devices.load(c.target).name == device.name else c
        for c in request.constraints
    ]
    return replace(request, constraints=tuple(constraints)), device, target, clock


def _check_training(request: Request) -> None:
    """Refuse what cannot be trained."""
    if request.weights not in ("fixed", "joint"):
        raise EdgenasError(f"weights must be fixed or joint, found {request.weights!r}")
    if request.weights == "joint" and request.strategy not in GRADIENT:
        raise EdgenasError(
            f"weights joint needs a strategy that learns by gradients, found {request.strategy}",
            hint=f"add --strategy {' or '.join(GRADIENT)}, or use --retrain-top",
        )
    if request.weights == "joint" and request.retrain_top:
        raise EdgenasError(
            "weights joint and retrain_top both train the weights that are delivered",
            hint="leave one of them out",
        )
    if request.retrain_from not in ("inherited", "scratch"):
        raise EdgenasError(
            f"retrain_from must be inherited or scratch, found {request.retrain_from!r}"
        )
    if request.retrain_top < 0:
        raise EdgenasError(f"retrain_top must not be negative, found {request.retrain_top}")
    if request.retrain_epochs is not None and request.retrain_epochs < 1:
        raise EdgenasError(f"retrain_epochs must be at least 1, found {request.retrain_epochs}")
    if request.retrain_rate is not None and not request.retrain_rate > 0:
        raise EdgenasError(f"retrain_rate must be above 0, found {request.retrain_rate}")
    if not request.retrain_top and (
        request.retrain_from != "inherited"
        or request.retrain_epochs is not None
        or request.retrain_rate is not None
    ):
        raise EdgenasError(
            "retrain_from, retrain_epochs and retrain_rate say how to retrain; nothing is",
            hint="add --retrain-top 3",
        )
    if request.trains and request.data is None:
        raise EdgenasError(
            "training weights needs --data: it learns from images, none are given",
            hint="give the training images with --data, and others with --test",
        )


def check_runtime(name: str) -> None:
    """Refuse a runtime that neither this machine nor any device profile knows.

    Raises:
        EdgenasError: names the nearest.
    """
    profiled = {use.target.runtime for d in devices.list_devices() for use in d.uses}
    known = profiled | set(runtimes.names())
    if name not in known:
        raise unknown("runtime", name, known=known, listing="edgenas list runtimes")
