"""``search``: the most accurate network within budgets, by a table and a predictor alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgenas.accuracy.predictor import AccuracyPredictor, load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Say, say_nothing
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.table import LatencyTable
from edgenas.latency.table_file import load_table
from edgenas.profiling.tables import predictor_for
from edgenas.space.arch import Arch
from edgenas.space.cost import Cost, macs_table, params_table, total
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.strategies.compare import StrategyComparison, compare_strategies
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.request import CompareRequest, SearchRequest
from edgenas.strategies.run import EVALUATIONS, EXPENSIVE, FRUGAL
from edgenas.strategies.run import search as search_space

CONFIDENCE = 0.95  # of the upper bound that is shown beside a latency
_COUNTED = ("macs", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAnswer:
    """The best network of a search.

    Args:
        space: that was searched.
        arch: the network.
        accuracy: predicted, a fraction of 1.
        predictor: of accuracies.
        costs: of the network.
        latency: its predicted seconds; None without a table.
        upper: seconds that it does not exceed; None where the table gives no bound.
        table: of latencies.
        provenance: of the latencies; empty without a table.
        strategy: that searched.
        seed: of the search.
        evaluations: networks scored.
        seconds: that the search took.
    """

    space: Space
    arch: Arch
    accuracy: float
    predictor: AccuracyPredictor
    costs: Cost
    latency: float | None
    upper: float | None
    table: LatencyTable | None
    provenance: str
    strategy: str
    seed: int
    evaluations: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first; latencies in milliseconds."""
        best: dict[str, Any] = {"arch": self.arch.to_json(), "arch_id": self.arch.id}
        if self.latency is not None:
            best |= {
                "latency_ms": self.latency * 1e3,
                "latency_upper_ms": None if self.upper is None else self.upper * 1e3,
                "provenance": self.provenance,
            }
        best |= {"macs": self.costs.macs, "params": self.costs.params, "accuracy": self.accuracy}
        return {
            "schema": "edgenas.search/1",
            "space": self.space.name,
            "best": best,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "strategy": self.strategy,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchComparison:
    """What several strategies reach on one problem.

    Args:
        space: that was searched.
        predictor: of accuracies.
        evaluations: networks that each strategy scored at most.
        seeds: how many seeds each strategy got.
        strategies: the results, random search among them.
    """

    space: Space
    predictor: AccuracyPredictor
    evaluations: int
    seeds: int
    strategies: tuple[StrategyComparison, ...]

    @property
    def random(self) -> StrategyComparison:
        """The result of random search."""
        return next(result for result in self.strategies if result.strategy == "random")

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.comparison/1",
            "space": self.space.name,
            "evaluations": self.evaluations,
            "seeds": self.seeds,
            "strategies": [
                {
                    "strategy": result.strategy,
                    "scores": list(result.scores),
                    "mean": result.mean,
                    "spread": result.spread,
                    "against_random": result.mean - self.random.mean,
                    "wins": result.wins,
                    "seconds": result.seconds,
                    "evaluations": result.evaluations,
                }
                for result in self.strategies
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a search works on: the space, both predictors, the table and the limits."""

    space: Space
    accuracy: AccuracyPredictor
    table: LatencyTable | None
    latency: LatencyPredictor | None
    limits: tuple[Limit, ...]


def search(request: SearchRequest, *, say: Say = say_nothing) -> SearchAnswer:
    """Find the most accurate network within budgets, by a table and a predictor alone.

    Latencies are predictions, without a margin for their error: ``specialize`` keeps one, or
    measures.

    Raises:
        EdgenasError: a file or a budget cannot be read, a budget needs a table, or no network
            keeps all budgets.
    """
    inputs = _read(request, say=say)
    space = inputs.space
    result = search_space(
        space,
        maximize=inputs.accuracy,
        subject_to=inputs.limits,
        strategy=request.strategy,
        seed=request.seed,
        evaluations=request.evaluations,
        history=request.history,
    )
    arch, latency = result.best.arch, inputs.latency
    rows = space.encode([arch])
    bounded = latency is not None and latency.bound_kind(CONFIDENCE) != "none"
    return SearchAnswer(
        space=space,
        arch=arch,
        accuracy=result.best.score,
        predictor=inputs.accuracy,
        costs=total(space, arch),
        latency=None if latency is None else float(latency.predict(rows)[0]),
        upper=float(latency.upper(rows, confidence=CONFIDENCE)[0]) if latency and bounded else None,
        table=inputs.table,
        provenance="" if latency is None else latency.provenance,
        strategy=result.strategy,
        seed=request.seed,
        evaluations=result.evaluations,
        seconds=result.seconds,
    )


def compare(
    request: SearchRequest, comparison: CompareRequest, *, say: Say = say_nothing
) -> SearchComparison:
    """Find out what strategies reach on the problem of a search, against random search.

    Raises:
        EdgenasError: as ``search``, or a strategy is unknown.
    """
    comparison.check_with(request)
    inputs = _read(request, say=say)
    names = comparison.strategies
    evaluations = request.evaluations or (EXPENSIVE if set(names) & set(FRUGAL) else EVALUATIONS)
    results = compare_strategies(
        inputs.space,
        maximize=inputs.accuracy,
        subject_to=inputs.limits,
        strategies=names,
        evaluations=evaluations,
        seeds=comparison.seeds,
    )
    return SearchComparison(
        space=inputs.space,
        predictor=inputs.accuracy,
        evaluations=evaluations,
        seeds=comparison.seeds,
        strategies=tuple(results),
    )


def _read(request: SearchRequest, *, say: Say) -> _Inputs:
    request.check()
    space = load_space(request.space)
    accuracy = load_accuracy(request.accuracy)
    space = space.with_classes(request.classes or accuracy.space.classes)
    table = None if request.table is None else load_table(request.table)
    if table is not None:
        space = _restrict_to_table(space, table, say=say)
    latency = None if table is None else predictor_for(table, space)
    return _Inputs(
        space=space,
        accuracy=accuracy.on(space),
        table=table,
        latency=latency,
        limits=_limits(request.constraints, space, latency),
    )


def _restrict_to_table(space: Space, table: LatencyTable, *, say: Say) -> Space:
    """The part of a space that a published table covers.

    A table of our own can be completed by measuring, so it does not restrict the space.
    """
    resolutions = table.covered_resolutions(space)
    if table.provenance != "published" or not resolutions or resolutions == space.resolutions:
        return space
    names = ", ".join(map(str, resolutions))
    say(f"only resolutions {names} are searched: the published table covers no others")
    return space.restrict(resolution=resolutions)


def _limits(
    constraints: Sequence[Constraint], space: Space, latency: LatencyPredictor | None
) -> tuple[Limit, ...]:
    return tuple(_limit(constraint, space, latency) for constraint in constraints)


def _limit(constraint: Constraint, space: Space, latency: LatencyPredictor | None) -> Limit:
    """The constraint with the function that counts what it is about."""
    if constraint.target:
        raise EdgenasError(
            f"--constraint {constraint} names a device, a search has the one of its table",
            hint=f"write {constraint.metric}<={constraint.text} and give the table of that device",
        )
    if constraint.metric in _COUNTED:
        tables = macs_table(space) if constraint.metric == "macs" else params_table(space)
        return Limit(constraint=constraint, values=tables)
    if constraint.metric != "latency":
        raise EdgenasError(
            f"--constraint must be of latency, macs or params here, found {constraint}",
            hint="memory and energy depend on the device: edgenas specialize",
        )
    if latency is None:
        raise EdgenasError(
            f"--constraint {constraint} needs a latency table",
            hint="pass --table FILE, for example one that edgenas profile wrote",
        )
    return Limit(constraint=constraint, values=latency.predict, guide=latency.tables())
