"""What a specialisation saw on its way, for the report."""

from collections.abc import Callable

import numpy as np

from edgenas.bundle.trace import (
    Attempt,
    Found,
    Improvement,
    LayerTime,
    Search,
    Trace,
)
from edgenas.latency.predictor import LatencyPredictor
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector, cost
from edgenas.space.plan import plan, slots
from edgenas.space.space import Codes, Space
from edgenas.strategies.dominance import front_of
from edgenas.strategies.result import SearchResult

SAMPLE = 800  # networks drawn in a picture
_FRONT = 60


class Trail:
    """Watches every network that is scored; keeps a uniform sample and the front of all.

    Args:
        space: of the rows.
        accuracy: what scores them.
        latency: of the device.
    """

    def __init__(
        self, space: Space, *, accuracy: Callable[[Codes], Vector], latency: LatencyPredictor
    ) -> None:
        self._space, self._accuracy, self._latency = space, accuracy, latency
        self._rng = np.random.default_rng(0)
        self._seen = 0
        self._sample = np.empty((0, 3))  # a random number, and a point like those of the front
        self._rows = np.empty((0, len(space.genes)), np.uint8)  # of the front
        self._front = np.empty((0, 2))  # latency, what is to be small: minus the accuracy
        self._searches: list[Search] = []
        self._attempts: list[Attempt] = []

    def __call__(self, rows: Codes) -> Vector:
        """The accuracies of rows, shape (n, genes) -> (n,), on record from now on."""
        scores = self._accuracy(rows)
        points = np.stack([self._latency.predict(rows), -scores], axis=1)
        self._seen += len(rows)
        # The smallest of independent random numbers choose a uniform sample of all.
        drawn = np.concatenate([self._rng.random((len(rows), 1)), points], axis=1)
        together = np.concatenate([self._sample, drawn])
        order = np.argsort(together[:, 0], kind="stable")[:SAMPLE]
        self._sample = together[order]
        self._rows = np.concatenate([self._rows, rows])
        self._front = np.concatenate([self._front, points])
        kept = front_of(self._front)
        self._rows, self._front = self._rows[kept], self._front[kept]
        return scores

    def searched(self, name: str, result: SearchResult) -> None:
        """Put a search on record."""
        steps = result.history
        better = [
            step
            for i, step in enumerate(steps)
            if i in (0, len(steps) - 1) or step.best > steps[i - 1].best
        ]
        history = [
            Improvement(phase=step.phase, evaluations=step.evaluations, best=step.best)
            for step in better
        ]
        found = Search(
            name=name,
            strategy=result.strategy,
            evaluations=result.evaluations,
            history=tuple(history),
        )
        self._searches.append(found)

    def judged(self, name: str, strategy: str, accuracies: Vector) -> None:
        """Put networks that were measured on images on record, in their order."""
        best = np.maximum.accumulate(accuracies).tolist()
        history = [
            Improvement(phase="measure", evaluations=1 + i, best=value)
            for i, value in enumerate(best)
            if i in (0, len(best) - 1) or value > best[i - 1]
        ]
        self._searches.append(
            Search(name=name, strategy=strategy, evaluations=len(best), history=tuple(history))
        )

    def timed(self, arch: Arch, *, measured: float, fresh: bool) -> None:
        """Put a measurement on record; ``measured`` is in seconds."""
        row = self._space.encode([arch])
        self._attempts.append(
            Attempt(
                arch_id=arch.id,
                accuracy=float(self._accuracy(row)[0]),
                predicted=float(self._latency.predict(row)[0]),
                measured=measured,
                fresh=fresh,
            )
        )

    def trace(self, arch: Arch) -> Trace:
        """All that is on record, with the layers of the chosen network."""
        layers, overhead = layer_times(self._space, arch, latency=self._latency)
        sample = self._sample[np.argsort(self._sample[:, 1], kind="stable")]
        order = np.argsort(self._front[:, 0])
        few = np.unique(np.linspace(0, len(self._front) - 1, _FRONT).round().astype(int))
        few = order[few[: len(self._front)]]
        archs = self._space.decode(self._rows[few])
        return Trace(
            seen=self._seen,
            accuracies=tuple(_short(-v) for v in sample[:, 2]),
            latencies=tuple(_short(v) for v in sample[:, 1]),
            front=tuple(
                Found(
                    arch_id=found.id,
                    arch_text=str(found),
                    accuracy=float(-loss),
                    latency=float(seconds),
                )
                for found, (seconds, loss) in zip(archs, self._front[few], strict=True)
            ),
            searches=tuple(self._searches),
            attempts=tuple(self._attempts),
            layers=layers,
            overhead=overhead,
        )


def layer_times(
    space: Space, arch: Arch, *, latency: LatencyPredictor
) -> tuple[tuple[LayerTime, ...], float]:
    """The predicted latency of a network, divided among its layers, and what is left of it.

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


def _short(value: float) -> float:
    """Enough digits for a picture."""
    return float(f"{value:.5g}")
