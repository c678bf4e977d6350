"""The best networks of a search and the published one, each fine-tuned alone; the best is taken.

    Prepared, Chosen, Transfer -> fine_tune_best -> Chosen

Networks start from the elastic weights, from those that the same network has at another resolution
after a fine-tuning, or from the published ones. Rounds of successive halving divide the time. The
validation images choose, among what was fine-tuned for other budgets too, as far as it fits.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

from edgenas.basics.progress import Say
from edgenas.bundle.record import RetrainedNetwork
from edgenas.delivery.choosing import Chosen, DeviceBench, find_candidates
from edgenas.delivery.contenders import (
    Contender,
    best_start,
    find_earlier,
    find_fitting,
    find_original,
    start_from_original,
    with_score,
)
from edgenas.delivery.log import SearchLog
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.retraining import build_best, describe_training, inherit, measure
from edgenas.delivery.rounds import read_agenda, run_rounds
from edgenas.delivery.transfer import Transfer
from edgenas.space.arch import Arch
from edgenas.training.memory import keep_memory

_CLEARLY = 0.03  # of accuracy: a loss beyond what few validation images show by chance
_EARLIER = 2  # networks that were fine-tuned for other budgets, at most


def fine_tune_best(prepared: Prepared, chosen: Chosen, transfer: Transfer, *, say: Say) -> Chosen:
    """Fine-tune the best networks that keep the budget, and build the one that is best then.

    Args:
        prepared: the images and the target.
        chosen: the best network of the search by its elastic weights; it keeps every budget.
        transfer: the folder, the weights at the start and the time.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: a training diverges, or no network keeps the budget when measured again.
    """
    keep_memory()
    archs, bench, log = _find_archs(prepared, chosen, transfer)
    original, bench = find_original(prepared, transfer, bench)
    agenda = read_agenda(prepared, transfer)
    earlier = find_earlier(prepared, transfer, agenda.earlier)
    fitting, bench = find_fitting(prepared, earlier, bench, most=_EARLIER)
    contenders = _lay_out(prepared, transfer, archs, original=original, earlier=earlier)
    final = {contender.key: contender for contender in [*contenders, *fitting] if contender.trained}
    if transfer.seconds > 0:
        tuned = run_rounds(prepared, transfer, contenders, agenda=agenda, say=say)
        final |= {contender.key: contender for contender in tuned}
    else:
        say("time 0: no network is fine-tuned for this budget")
    return _take_best(prepared, chosen, list(final.values()), bench=bench, log=log)


def _find_archs(
    prepared: Prepared, chosen: Chosen, transfer: Transfer
) -> tuple[list[Arch], DeviceBench | None, SearchLog]:
    """The networks of the search to fine-tune, the device with its measurements, and the log."""
    if transfer.seconds > 0:
        candidates, bench, log = find_candidates(prepared, chosen, count=2)
        return [built.arch for built in candidates], bench, log
    clock = prepared.latency.clock
    bench = None
    if clock is not None:
        bench = DeviceBench(prepared=prepared, clock=clock, timed=chosen.timed)
    return [chosen.built.arch], bench, SearchLog()


def _lay_out(
    prepared: Prepared,
    transfer: Transfer,
    archs: Sequence[Arch],
    *,
    original: Arch | None,
    earlier: Sequence[Contender],
) -> list[Contender]:
    """The networks that may be fine-tuned, each with weights, the most promising first.

    Args:
        prepared: the images and the elastic weights.
        transfer: the weights at the start.
        archs: of the search, the best first.
        original: the published network at the largest resolution that fits; None: none fits.
        earlier: networks that were fine-tuned before.
    """
    wanted = list(dict.fromkeys([archs[0], original or archs[0], *archs[1:]]))
    contenders = [best_start(prepared, arch, earlier) for arch in wanted]
    if original is not None:
        contenders.append(start_from_original(prepared, transfer, original))
    return contenders


def _take_best(
    prepared: Prepared,
    chosen: Chosen,
    final: Sequence[Contender],
    *,
    bench: DeviceBench | None,
    log: SearchLog,
) -> Chosen:
    """The choice with the network that is best on the validation images and keeps the budget."""
    final = leave_out_beginnings([with_score(prepared, contender) for contender in final])
    final.sort(key=lambda contender: (-(contender.score or 0.0), -contender.epochs))
    best, built, bench = build_best(
        prepared,
        [contender.arch for contender in final],
        [contender.network for contender in final],
        order=range(len(final)),
        bench=bench,
    )
    if bench is not None:
        chosen = replace(chosen, timed=bench.timed)
        log = log.join(bench.log)
    chosen = replace(chosen, built=built, log=chosen.log.join(log))
    return _record(prepared, chosen, [final[best], *final[:best], *final[best + 1 :]])


def leave_out_beginnings(contenders: Sequence[Contender]) -> list[Contender]:
    """The contenders that were not fine-tuned further, and those that it made clearly worse.

    Few validation images cannot tell small gains, and the best of many numbers is a lucky one. So
    what was trained longer counts.
    """
    scores = {contender.key: contender.score or 0.0 for contender in contenders}
    left: set[str] = set()
    for contender in contenders:
        before = scores.get(contender.before)
        if before is not None:
            worse = before - scores[contender.key] > _CLEARLY
            left.add(contender.key if worse else contender.before)
    return [contender for contender in contenders if contender.key not in left]


def _record(prepared: Prepared, chosen: Chosen, final: Sequence[Contender]) -> Chosen:
    """The choice with how its network came by its weights; the first contender is the one."""
    best, validation = final[0], prepared.images.require_validation()
    if best.recipe is None:
        note = "the delivered network has the elastic weights: it was not fine-tuned alone"
        return replace(chosen, notes=(*chosen.notes, note))
    rows: dict[str, RetrainedNetwork] = {}
    for contender in final:
        if contender.recipe is not None and contender.arch.id not in rows:
            inherited = inherit(prepared, contender.arch)
            before = measure(prepared, inherited, validation, "validation").value
            rows[contender.arch.id] = RetrainedNetwork(
                arch_id=contender.arch.id,
                arch_text=str(contender.arch),
                before=before,
                after=contender.score or 0.0,
            )
    retraining = describe_training(
        prepared,
        copy.deepcopy(best.network),
        arch=best.arch,
        start=best.start,
        recipe=replace(best.recipe, epochs=max(1, round(best.epochs))),
        candidates=tuple(rows.values()),
    )
    return replace(chosen, retraining=retraining)
