"""A network that the user names: built, held to the budgets and measured, without a search.

Prepared -> deliver_given -> Chosen
"""

from edgenas.basics.errors import EdgenasError
from edgenas.delivery.building import build
from edgenas.delivery.choosing import Chosen, DeviceBench, inherit_from
from edgenas.delivery.limits import limits_for
from edgenas.delivery.log import SearchLog
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.ranking import Learnt
from edgenas.space.arch import Arch
from edgenas.strategies.constraint import Constraint


def deliver_given(prepared: Prepared, arch: Arch) -> Chosen:
    """A network that the user names, built and, where possible, measured.

    Raises:
        EdgenasError: it does not keep a budget, by its bound or when measured.
    """
    clock, budget = prepared.latency.clock, prepared.budget
    bound = prepared.latency.upper(prepared.request.confidence) if clock is None else None
    row = prepared.space.encode([arch])
    for limit in limits_for(prepared, own=bound):
        _require_kept(arch, limit.constraint, float(limit.of(row)[0]))
    learnt = Learnt(inherited=prepared.trained)
    built = build(prepared, arch, network=inherit_from(learnt, arch))
    if clock is None:
        return Chosen(built=built, learnt=learnt, timed=(), log=SearchLog())
    prepared.progress("measuring", 0, 1, str(arch))
    bench, built = DeviceBench(prepared=prepared, clock=clock).measure_final(built)
    prepared.progress("measuring", 1, 1, str(arch))
    if budget is not None:
        _require_kept(arch, prepared.budgets[0], bench.seconds(built))
    log = SearchLog() if prepared.accuracy is None else bench.log
    return Chosen(built=built, learnt=learnt, timed=bench.timed, log=log)


def _require_kept(arch: Arch, constraint: Constraint, value: float) -> None:
    if value > constraint.limit:
        raise EdgenasError(
            f"the network {arch.id} does not keep {constraint}: it needs "
            f"{constraint.quantity(value)}",
            hint=f"allow {constraint.name}<={constraint.quantity(value)}, or leave out --arch to "
            "search",
        )
