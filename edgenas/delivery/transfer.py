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
from pathlib import Path
from typing import Any

import torch

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder, file_lock, read_json, write_json
from edgenas.basics.progress import Progress, Say, explain_stop
from edgenas.basics.ranges import SecondsOrZero, Words
from edgenas.basics.units import duration
from edgenas.delivery.latency import find_or_profile_latency
from edgenas.delivery.limits import check_reachable
from edgenas.delivery.preparing import Resolved
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.shared import SharedInputs
from edgenas.delivery.supernets import train
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import choose_stored_size
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet
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
    _check_budgets(
        resolved, start.supernet.space.with_classes(len(images.classes)), progress=progress
    )
    texts = [_VERSION, repr(start.supernet.space), images.digest, str(TRANSFER)]
    texts += [str(request.seed), str(torch.get_num_threads())]
    name = digest(texts, start.supernet.parameters())[:16]
    folder = cache_folder() / "transfers" / f"{len(images.classes)}-classes-{name}"
    transfer = Transfer(folder=folder, start=start, seconds=0.0)
    with _alone(folder):
        first = _divide_time(transfer, request)
        if not _is_complete(transfer):
            before()
            _train(transfer, request, first, progress=progress, say=say)
    seconds = request.training_seconds
    if first.request == _words_of(request):
        seconds = first.alone_seconds
    elif seconds is None:
        seconds = TRANSFER.further_seconds
    say(f"elastic weights for {len(images)} images of {len(images.classes)} classes: {folder}")
    return replace(transfer, seconds=seconds)


def _check_budgets(resolved: Resolved, space: Space, *, progress: Progress) -> None:
    """Refuse budgets that no network keeps before weights learn for an hour.

    A device that can be timed is profiled now, if it was not yet: nothing else runs meanwhile.

    Raises:
        EdgenasError: says what is least reachable, and which constraint is in the way.
    """
    request, target = resolved.request, resolved.target
    check_reachable(space, resolved.constraints, precision=target.precision, batch=target.batch)
    budgets = [c for c in resolved.constraints if c.metric == "latency" and not c.target]
    if not budgets:
        return
    latency = find_or_profile_latency(
        space,
        device=resolved.device,
        target=target,
        statistic="typical" if request.percentile == "p50" else "wall_p95",
        clock=resolved.clock,
        progress=progress,
        seconds=TRANSFER.profile_seconds,
    )
    bound = latency.predictor.predict if latency.reachable else latency.upper(request.confidence)
    tightest = min(budgets, key=lambda constraint: constraint.limit)
    limit = Limit(constraint=tightest, values=bound, guide=latency.predictor.tables())
    search(space, maximize=macs_table(space), subject_to=[limit], evaluations=1)


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


def _train(
    transfer: Transfer,
    request: SpecializeRequest,
    first: _TimeShares,
    *,
    progress: Progress,
    say: Say,
) -> None:
    """Train the elastic weights, or go on with it.

    Raises:
        EdgenasError: the time is not enough for an epoch, or the training diverges.
    """
    run = transfer.supernet / RUN
    seconds = first.elastic_seconds
    if run.exists():
        seconds = read_run_file(run)["time_budget"]
    say(
        f"{request.start} learns the images: {duration(seconds)} for elastic epochs, which order "
        f"its networks, then {duration(first.alone_seconds)} for the best of them, each alone"
    )
    asked = TrainRequest(
        data=request.data or "",
        init=request.start,
        recipe=RECIPE,
        out=transfer.supernet,
        time=f"{seconds!r}s",
        resume=run.exists(),
        seed=request.seed,
        skip_bad_images=request.skip_bad_images,
        fit=request.fit,
    )
    try:
        with explain_stop("what was learnt is kept; to go on, run the same command again"):
            train(asked, progress=progress, say=say)
    except TooLittleTimeError as error:
        least = math.ceil(error.least / TRANSFER.elastic_share / 60)
        raise EdgenasError(
            f"{request.time or duration(TRANSFER.first_seconds)} of --time are too short: "
            f"{duration(seconds)} of them are for epochs of all networks; one takes longer here",
            hint=f"give --time {least}min or more; other programs that run make it longer",
        ) from error
