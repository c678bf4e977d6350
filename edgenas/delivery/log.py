"""What a specialisation saw on its way, for the report."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgenas.bundle.trace import Attempt, FrontNetwork, Improvement, LayerTime, SearchSummary, Trace
from edgenas.latency.predictor import LatencyPredictor
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector, cost
from edgenas.space.genes import Codes
from edgenas.space.plan import plan, slots
from edgenas.space.space import Space
from edgenas.strategies.dominance import find_front
from edgenas.strategies.result import SearchResult

SAMPLE = 800  # networks drawn in a picture
_FRONT = 60

Score = Callable[[Codes], Vector]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The networks that searches scored: their number, a uniform sample, and the front of all.

    Args:
        count: networks scored.
        sample: random number, latency and minus the accuracy of each, shape (n, 3). The smallest
            of independent random numbers choose a uniform sample of all.
        rows: the networks of the front, canonical rows, shape (n, genes).
        front: latency and minus the accuracy of each, shape (n, 2).
    """

    count: int
    sample: Vector
    rows: Codes
    front: Vector

    def join(self, other: "Seen") -> "Seen":
        """Both together."""
        sample = np.concatenate([self.sample, other.sample])
        order = np.argsort(sample[:, 0], kind="stable")[:SAMPLE]
        rows = np.concatenate([self.rows, other.rows])
        front = np.concatenate([self.front, other.front])
        best = find_front(front)
        return Seen(self.count + other.count, sample[order], rows[best], front[best])


class Watch:
    """Scores rows by predicted accuracy, and remembers what it has scored.

    Args:
        space: of the rows.
        accuracy: what scores them.
        latency: of the device.
        seed: of the sample.
    """

    def __init__(
        self, space: Space, *, accuracy: Score, latency: LatencyPredictor, seed: int
    ) -> None:
        self._accuracy, self._latency = accuracy, latency
        self._rng = np.random.default_rng(seed)
        no_rows = np.empty((0, len(space.genes)), np.uint8)
        self.seen = Seen(0, np.empty((0, 3)), no_rows, np.empty((0, 2)))

    def __call__(self, rows: Codes) -> Vector:
        """The accuracies of rows, shape (n, genes) -> (n,)."""
        scores = self._accuracy(rows)
        points = np.stack([self._latency.predict(rows), -scores], axis=1)
        sample = np.concatenate([self._rng.random((len(rows), 1)), points], axis=1)
        self.seen = self.seen.join(Seen(len(rows), sample, rows, points))
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class SearchLog:
    """What was searched for, seen and measured, in this order.

    Args:
        seen: the networks that searches scored; None before the first search.
        searches: one for each search.
        attempts: one for each measurement on the device.
    """

    seen: Seen | None = None
    searches: tuple[SearchSummary, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    def join(self, later: "SearchLog") -> "SearchLog":
        """This log and a later one together."""
        seen = later.seen if self.seen is None else self.seen
        if self.seen is not None and later.seen is not None:
            seen = self.seen.join(later.seen)
        return SearchLog(seen, self.searches + later.searches, self.attempts + later.attempts)

    def add_attempt(self, attempt: Attempt) -> "SearchLog":
        """This log with one more measurement."""
        return replace(self, attempts=(*self.attempts, attempt))


NOTHING_SEEN = SearchLog()


def describe_search(name: str, result: SearchResult) -> SearchSummary:
    """A search for the log: where the best became better, and the end."""
    steps = result.history
    turns = [
        step
        for i, step in enumerate(steps)
        if i in (0, len(steps) - 1) or step.best > steps[i - 1].best
    ]
    history = [
        Improvement(phase=step.phase, evaluations=step.evaluations, best=step.best)
        for step in turns
    ]
    return SearchSummary(
        name=name,
        strategy=result.strategy,
        evaluations=result.evaluations,
        history=tuple(history),
    )


def describe_measured_search(name: str, strategy: str, accuracies: Vector) -> SearchSummary:
    """Networks that were measured on images, in their order, for the log."""
    best = np.maximum.accumulate(accuracies).tolist()
    history = [
        Improvement(phase="measure", evaluations=1 + i, best=value)
        for i, value in enumerate(best)
        if i in (0, len(best) - 1) or value > best[i - 1]
    ]
    return SearchSummary(
        name=name, strategy=strategy, evaluations=len(best), history=tuple(history)
    )


def trace_of(log: SearchLog, space: Space, arch: Arch, *, latency: LatencyPredictor) -> Trace:
    """All that is on record, with the layers of the chosen network.

    Args:
        log: what was seen and measured.
        space: of the networks.
        arch: the chosen network.
        latency: of the device.
    """
    layers, overhead = layer_times(space, arch, latency=latency)
    seen = log.seen
    if seen is None:
        seen = Watch(space, accuracy=lambda rows: np.zeros(len(rows)), latency=latency, seed=0).seen
    sample = seen.sample[np.argsort(seen.sample[:, 1], kind="stable")]
    order = np.argsort(seen.front[:, 0])
    few = np.unique(np.linspace(0, len(seen.front) - 1, _FRONT).round().astype(int))
    few = order[few[: len(seen.front)]]
    archs = space.decode(seen.rows[few])
    return Trace(
        seen=seen.count,
        accuracies=tuple(_shorten(-value) for value in sample[:, 2]),
        latencies=tuple(_shorten(value) for value in sample[:, 1]),
        front=tuple(
            FrontNetwork(
                arch_id=front_arch.id,
                arch_text=str(front_arch),
                accuracy=float(-loss),
                latency=float(seconds),
            )
            for front_arch, (seconds, loss) in zip(archs, seen.front[few], strict=True)
        ),
        searches=log.searches,
        attempts=log.attempts,
        layers=layers,
        overhead=overhead,
    )


def layer_times(
    space: Space, arch: Arch, *, latency: LatencyPredictor
) -> tuple[tuple[LayerTime, ...], float]:
    """Divide the predicted latency of a network among its layers.

    Args:
        space: of the network.
        arch: the network.
        latency: whose prediction is divided.

    Returns:
        The layers in order, and the overhead of a run in seconds.
    """
    tables = latency.tables()
    (row,) = space.encode([arch])
    seconds = {
        slot.name: float(values[tuple(row[list(columns)])])
        for slot, columns, values in zip(slots(space), tables.columns, tables.values, strict=True)
    }
    layers = tuple(
        LayerTime(name=name, layer=str(layer), seconds=seconds[name], macs=cost(layer).macs)
        for name, layer in plan(space, arch)
    )
    return layers, tables.constant


def _shorten(value: float) -> float:
    """Enough digits for a picture."""
    return float(f"{value:.5g}")
