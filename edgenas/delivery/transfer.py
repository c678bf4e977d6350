"""A user's own images: trained weights learn them, once for all budgets.

    SpecializeRequest -> start_transfer -> Transfer

Everything that is learnt lies in one folder of the user's cache, below ``transfers/``, whose name
comes from the images, the weights at the start, the recipe and the seed. A command that was killed
goes on there, and the next budget takes up what is done::

    elastic/             the supernet after a few elastic epochs, with its accuracy predictor
    first.json           the request that paid for these epochs
    images-*             the images that networks learn from and are evaluated on
    alone/<network>/     one network that is fine-tuned, see `edgenas.training.job`
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, file_lock, read_json, write_json
from edgenas.basics.progress import Progress, Say, explain_stop
from edgenas.basics.ranges import SecondsOrZero, Words
from edgenas.basics.units import duration
from edgenas.delivery.latency import TargetLatency, find_latency, find_or_profile_latency
from edgenas.delivery.limits import check_reachable
from edgenas.delivery.preparing import Resolved
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.shared import SharedInputs
from edgenas.delivery.supernets import plan_training, train_as_planned
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import choose_stored_size
from edgenas.latency.table import Statistic
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet
from edgenas.profiling.tables import NoTableError
from edgenas.space.cost import macs_table
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.strategies.run import search
from edgenas.training.request import TRANSFER as RECIPE
from edgenas.training.request import TrainRequest
from edgenas.training.run_file import read_run_file
from edgenas.training.runs import RUN
from edgenas.training.timing import TooLittleTimeError
from edgenas.training.transfer import TRANSFER

SCHEMA = "edgenas.transfer/1"
_VERSION = "1"  # raise it where the same request would be trained otherwise
_LEAST = 60.0  # seconds: less is no time for a training


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What has learnt a user's images.

    Args:
        folder: in the cache.
        start: the weights at the start.
        seconds: for the fine-tuning of this request; 0: none.
    """

    folder: Path
    start: TrainedSupernet
    seconds: float

    @property
    def supernet(self) -> Path:
        """The folder of the elastic weights."""
        return self.folder / "elastic"

    @property
    def alone(self) -> Path:
        """The folder of the networks that are fine-tuned."""
        return self.folder / "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimeShares:
    """``first.json``: the request that pays for the elastic epochs, and what is left for it."""

    request: Words
    elastic_seconds: SecondsOrZero
    alone_seconds: SecondsOrZero


def start_transfer(
    resolved: Resolved,
    inputs: SharedInputs,
    *,
    before: Callable[[], object],
    progress: Progress,
    say: Say,
) -> Transfer:
    """Let trained weights learn the images of a request, or find that they did.

    Args:
        resolved: a request with ``init`` and ``data``.
        inputs: what was read already; it grows.
        before: called before weights learn anything.
        progress: called with (step, done, total, words).
        say: called with lines that a person should read.

    Raises:
        EdgenasError: the images or the weights cannot be read, no network keeps the budgets, or
            the time is too short.
    """
    request = resolved.request
    source = request.data or ""
    start = inputs.supernet(request.start)
    images = load_images(
        source,
        stored=choose_stored_size(start.supernet.space),
        framing=start.supernet.space.framing.with_fit(request.fit),
        skip_bad_images=request.skip_bad_images,
        progress=lambda done, of: progress("reading images", done, of, Path(source).name),
    )
    # The training reads them again; their pixels are not held twice meanwhile.
    images = replace(images, pixels=images.pixels[:0].clone())
    space = start.supernet.space.with_classes(len(images.classes))
    target = resolved.target
    check_reachable(space, resolved.constraints, precision=target.precision, batch=target.batch)
    texts = [_VERSION, repr(start.supernet.space), images.digest, str(TRANSFER)]
    texts += [str(request.seed), str(torch.get_num_threads())]
    if request.balance:  # what older versions have learnt stays known by its name
        texts.append(f"balance {request.balance}")
    name = digest(texts, start.supernet.parameters())[:16]
    folder = cache_folder() / "transfers" / f"{len(images.classes)}-classes-{name}"
    transfer = Transfer(folder=folder, start=start, seconds=0.0)
    with _alone(folder):
        first = _divide_time(transfer, request)
        complete, planned = _is_complete(transfer), None
        if not complete:
            before()
        # A device is profiled for minutes: what is known without that is refused before.
        checked = _check_latency(resolved, space, find=_find_known_latency)
        if not complete and not (transfer.supernet / RUN).exists():
            planned = _plan(transfer, request, first, progress=progress)
        if not checked:
            _check_latency(resolved, space, find=partial(_find_latency, progress=progress))
        if not complete:
            _train(transfer, request, first, planned=planned, progress=progress, say=say)
    seconds = request.training_seconds
    if first.request == _words_of(request):
        seconds = first.alone_seconds
    elif seconds is None:
        seconds = TRANSFER.further_seconds
    say(f"elastic weights for {len(images)} images of {len(images.classes)} classes: {folder}")
    return replace(transfer, seconds=seconds)


def _check_latency(
    resolved: Resolved, space: Space, *, find: Callable[[Resolved, Space], TargetLatency | None]
) -> bool:
    """Refuse latency budgets that no network keeps before weights learn for an hour.

    Args:
        resolved: the budgets.
        space: of the networks.
        find: gives the latency on the target; None: it is not known.

    Returns:
        Whether the budgets were checked.

    Raises:
        EdgenasError: says what is least reachable, and which constraint is in the way.
    """
    budgets = [c for c in resolved.constraints if c.metric == "latency" and not c.target]
    if not budgets:
        return True
    latency = find(resolved, space)
    if latency is None:
        return False
    confidence = resolved.request.confidence
    bound = latency.predictor.predict if latency.reachable else latency.upper(confidence)
    tightest = min(budgets, key=lambda constraint: constraint.limit)
    limit = Limit(constraint=tightest, values=bound, guide=latency.predictor.tables())
    search(space, maximize=macs_table(space), subject_to=[limit], evaluations=1)
    return True


def _find_latency(resolved: Resolved, space: Space, *, progress: Progress) -> TargetLatency:
    """The latency on the target. A device that can be timed is profiled, if it was not yet."""
    return find_or_profile_latency(
        space,
        device=resolved.device,
        target=resolved.target,
        statistic=_statistic_of(resolved),
        clock=resolved.clock,
        progress=progress,
        seconds=TRANSFER.profile_seconds,
    )


def _find_known_latency(resolved: Resolved, space: Space) -> TargetLatency | None:
    """The latency on the target; None: a device that can be timed was not profiled yet."""
    try:
        return find_latency(
            space,
            device=resolved.device,
            target=resolved.target,
            statistic=_statistic_of(resolved),
            clock=resolved.clock,
        )
    except NoTableError:
        if resolved.clock is None:
            raise
        return None


def _statistic_of(resolved: Resolved) -> Statistic:
    return "typical" if resolved.request.percentile == "p50" else "wall_p95"


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the folder, so that two commands do not do the same training."""
    with file_lock(folder / "lock"):
        yield


def _is_complete(transfer: Transfer) -> bool:
    """Whether the elastic weights and their accuracy predictor are there."""
    names = ("supernet.json", ACCURACY_FILE)
    return all((transfer.supernet / name).exists() for name in names)


def _words_of(request: SpecializeRequest) -> str:
    """What tells a request from that for another budget."""
    budgets = sorted(str(constraint) for constraint in request.constraints)
    parts = [request.device, request.runtime, request.precision, request.threads, request.batch]
    return " ".join([*(str(part) for part in parts), *budgets, str(request.time)])


def _divide_time(transfer: Transfer, request: SpecializeRequest) -> _TimeShares:
    """What the elastic epochs get and what is left, as the first request for them decided it.

    Raises:
        EdgenasError: there are no elastic weights yet, and no time to make them.
    """
    path = transfer.folder / "first.json"
    if path.exists() and (transfer.supernet / RUN).exists():
        return decode(_TimeShares, read_json(path, schema=SCHEMA), where=str(path))
    seconds = request.training_seconds
    seconds = TRANSFER.first_seconds if seconds is None else seconds
    if seconds < _LEAST and not _is_complete(transfer):
        raise EdgenasError(
            f"no weights have learnt these images yet, --time {request.time} leaves no time for it",
            hint="give --time 45min once; further budgets can then have --time 0",
        )
    elastic = seconds * TRANSFER.elastic_share
    first = _TimeShares(
        request=_words_of(request), elastic_seconds=elastic, alone_seconds=seconds - elastic
    )
    fields: dict[str, Any] = {
        "request": first.request,
        "elastic_seconds": first.elastic_seconds,
        "alone_seconds": first.alone_seconds,
    }
    write_json(path, {"schema": SCHEMA, **fields})
    return first


def _ask(transfer: Transfer, request: SpecializeRequest, *, seconds: float) -> TrainRequest:
    """The request for the elastic epochs."""
    return TrainRequest(
        data=request.data or "",
        init=request.start,
        recipe=RECIPE,
        out=transfer.supernet,
        time=f"{seconds!r}s",
        resume=(transfer.supernet / RUN).exists(),
        seed=request.seed,
        skip_bad_images=request.skip_bad_images,
        fit=request.fit,
        balance=request.balance,
    )


def _plan(
    transfer: Transfer, request: SpecializeRequest, first: _TimeShares, *, progress: Progress
) -> dict[str, int]:
    """What the time for the elastic epochs allows, from a few steps that are timed.

    Raises:
        EdgenasError: the time is not enough for an epoch.
    """
    seconds = first.elastic_seconds
    try:
        return plan_training(_ask(transfer, request, seconds=seconds), progress=progress)
    except TooLittleTimeError as error:
        least = math.ceil(error.least / TRANSFER.elastic_share / 60)
        raise EdgenasError(
            f"{request.time or duration(TRANSFER.first_seconds)} of --time are too short: "
            f"{duration(seconds)} of them are for epochs of all networks; by the steps that were "
            "timed just now, one takes longer here",
            hint=f"give --time {least}min or more; other programs that run make it longer",
        ) from error


def _train(
    transfer: Transfer,
    request: SpecializeRequest,
    first: _TimeShares,
    *,
    planned: dict[str, int] | None,
    progress: Progress,
    say: Say,
) -> None:
    """Train the elastic weights, or go on with it.

    Raises:
        EdgenasError: the training diverges.
    """
    run = transfer.supernet / RUN
    seconds = first.elastic_seconds
    if run.exists():
        seconds = read_run_file(run)["time_budget"]
    say(
        f"{request.start} learns the images: {duration(seconds)} for elastic epochs, which order "
        f"its networks, then {duration(first.alone_seconds)} for the best of them, each alone"
    )
    asked = _ask(transfer, request, seconds=seconds)
    with explain_stop("what was learnt is kept; to go on, run the same command again"):
        train_as_planned(asked, planned, progress=progress, say=say)
