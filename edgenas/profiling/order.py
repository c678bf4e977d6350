"""The order of a profile that may have no time for everything.

Networks come first: ten of them give a line, and from twenty on layer costs are learned from them
alone. A table of layers is better, but only when it is complete. So layers are timed where all of
them fit into the time that is left. Otherwise further networks are timed, the most informative
first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edgenas.latency.learned import LearnedCosts, learn_costs
from edgenas.profiling.units import Unit, network_unit
from edgenas.profiling.work import Work
from edgenas.space.arch import Arch
from edgenas.space.cost import cost, total
from edgenas.space.space import Space

OPENING = 20  # random networks beside those of the line: enough to say how far off predictions are

# Of one visit: seconds at least, seconds for each weight that is written and loaded, and runs until
# the median is certain.
_VISIT, _WEIGHT, _RUNS = 0.03, 5e-8, 40.0
_EVICTED = 1e-10  # seconds for each byte that is read before a run
_AGAIN = "once more, while there is time"
_SHARE = 0.9  # of the time left that is planned at once


class TimingOrder:
    """The order in which a profile with limited time visits its units.

    Args:
        space: of the networks.
        units: all that may be timed, by name.
        work: their visits so far.
        lines: networks for fits, the most informative first.
        further: random networks, for errors and bounds.
        batch: images a run.
        left: returns the seconds that are left.
    """

    def __init__(
        self,
        space: Space,
        *,
        units: Mapping[str, Unit],
        work: Work,
        lines: Sequence[Arch],
        further: Sequence[Arch],
        batch: int,
        left: Callable[[], float],
    ) -> None:
        self._space, self._units, self._work, self._left = space, units, work, left
        self._archs = {network_unit(space, a, batch=batch).name: a for a in (*lines, *further)}
        names = list(self._archs)
        self._lines, self._further = names[: len(lines)], names[len(lines) :]

    def iterate_parts(self, *, fewest: int, visits: int) -> Iterator[tuple[list[str], int, str]]:
        """Yield what to visit next: names of units, the visits that each needs, and a few words.

        Args:
            fewest: how many networks of the line come first.
            visits: that each unit needs in the end.
        """
        chosen = [*self._lines[:fewest], *self._further[:OPENING]]
        yield chosen, 1, f"the first {len(chosen)}, then as many as fit into the time"
        while more := self._choose_next(set(chosen)):
            chosen += more
            yield chosen, 1, "as many as fit into the time"
        yield chosen, visits, _AGAIN
        # Beside a whole table of layers, more networks would say nothing new.
        layers = any(not isinstance(unit.of, Arch) for unit in self._units.values())
        others = set(self._lines[fewest:] if layers else ()) - set(chosen)
        yield [name for name in self._units if name not in others], visits, _AGAIN

    def _choose_next(self, chosen: set[str]) -> list[str]:
        """The units that fit into the time left; empty where it is short, or all are chosen."""
        costs = self._learn_costs()
        if costs is None:
            return []
        layers = [name for name, unit in self._units.items() if not isinstance(unit.of, Arch)]
        rest = [name for name in layers if name not in chosen]
        time = _SHARE * self._left()
        if rest and sum(self._visit_seconds(name, costs) for name in rest) <= time:
            return rest
        more: list[str] = []
        # A random one for each informative one: errors matter as much as rates.
        for pair in zip(
            [n for n in self._lines if n not in chosen] + [""] * len(self._further),
            [n for n in self._further if n not in chosen] + [""] * len(self._lines),
            strict=False,
        ):
            for name in filter(None, pair):
                time -= self._visit_seconds(name, costs)
                if time < 0:
                    return more
                more.append(name)
        return more

    def _learn_costs(self) -> LearnedCosts | None:
        """Layer costs from the networks timed so far."""
        timings = self._work.timings()
        names = [name for name in self._archs if name in timings]
        if not names:
            return None
        rows = self._space.encode([self._archs[name] for name in names])
        seconds = np.array([timings[name].seconds for name in names])
        return learn_costs(self._space, rows, seconds=seconds)

    def _visit_seconds(self, name: str, costs: LearnedCosts) -> float:
        """About how many seconds a visit takes."""
        unit = self._units[name]
        if isinstance(unit.of, Arch):
            run = float(costs.sums(self._space.encode([unit.of]))[0])
            weights = total(self._space, unit.of).weights
        else:
            copies = max(unit.copies, 1)
            run = costs.layer(unit.of) * copies + _EVICTED * unit.evict
            weights = cost(unit.of).weights * copies
        building = self._work.build_seconds + self._work.engine_seconds
        return building + _VISIT + _WEIGHT * weights + _RUNS * run
