"""What to time first when there may be no time for everything.

Networks come first: ten of them are a line, and from twenty on layer costs are learned from them
alone. A table of layers is better, but only when it is whole; so layers are timed where all of
them fit into the time that is left, and else further networks, those that say most first.
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
# the median is known.
_VISIT, _WEIGHT, _RUNS = 0.03, 5e-8, 40.0
_EVICTED = 1e-10  # seconds for each byte that is read before a run
_SHARE = 0.9  # of the time left that is given away at once


class Choice:
    """The order of a profile whose time is limited.

    Args:
        space: of the networks.
        units: all that may be timed, by name.
        work: what is known of them.
        lines: networks for fits, the most informative first.
        further: random networks, for errors and bounds.
        batch: images a run.
        left: the seconds that are left.
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

    def parts(self, *, fewest: int, visits: int) -> Iterator[tuple[list[str], int]]:
        """What to time next: names of units, and how often each of them is to have been timed.

        Args:
            fewest: networks of the line that come first.
            visits: of each unit in the end.
        """
        chosen = [*self._lines[:fewest], *self._further[:OPENING]]
        yield chosen, 1
        while more := self._following(set(chosen)):
            chosen += more
            yield chosen, 1
        yield chosen, visits
        # Beside a whole table of layers, more networks would say nothing new.
        layers = any(not isinstance(unit.of, Arch) for unit in self._units.values())
        others = set(self._lines[fewest:] if layers else ()) - set(chosen)
        yield [name for name in self._units if name not in others], visits

    def _following(self, chosen: set[str]) -> list[str]:
        """The units that are worth the time left; none where it is short, or all are chosen."""
        learned = self._learned()
        if learned is None:
            return []
        layers = [name for name, unit in self._units.items() if not isinstance(unit.of, Arch)]
        rest = [name for name in layers if name not in chosen]
        time = _SHARE * self._left()
        if rest and sum(self._cost(name, learned) for name in rest) <= time:
            return rest
        found: list[str] = []
        # A random one for each informative one: errors must be known as well as rates.
        for pair in zip(
            [n for n in self._lines if n not in chosen] + [""] * len(self._further),
            [n for n in self._further if n not in chosen] + [""] * len(self._lines),
            strict=False,
        ):
            for name in filter(None, pair):
                time -= self._cost(name, learned)
                if time < 0:
                    return found
                found.append(name)
        return found

    def _learned(self) -> LearnedCosts | None:
        """Rates from the networks timed so far."""
        timings = self._work.timings()
        known = [name for name in self._archs if name in timings]
        if not known:
            return None
        rows = self._space.encode([self._archs[name] for name in known])
        seconds = np.array([timings[name].seconds for name in known])
        return learn_costs(self._space, rows, seconds=seconds)

    def _cost(self, name: str, learned: LearnedCosts) -> float:
        """The seconds that a visit takes, about."""
        unit = self._units[name]
        if isinstance(unit.of, Arch):
            run = float(learned.sums(self._space.encode([unit.of]))[0])
            weights = total(self._space, unit.of).weights
        else:
            copies = max(unit.copies, 1)
            run = learned.layer(unit.of) * copies + _EVICTED * unit.evict
            weights = cost(unit.of).weights * copies
        return self._work.making + _VISIT + _WEIGHT * weights + _RUNS * run
