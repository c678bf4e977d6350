"""How long the engines of a profile take to build: guessed first, told anew as builds are measured.

A build takes from seconds to minutes, depending on the board and the networks. Before the first one
nobody knows; after a few of them the median of their seconds tells the rest.
"""

import math
import statistics
from typing import TYPE_CHECKING

from edgenas.basics.progress import Say
from edgenas.basics.units import duration
from edgenas.profiling.networks import BUILDS
from edgenas.space.arch import Arch

if TYPE_CHECKING:
    from edgenas.profiling.run import PlannedProfile
    from edgenas.profiling.work import Work

# Seconds of a build before any was seen, from public logs of small networks on Jetsons.
_FIRST_GUESS = (20, 120)
_FEW = 3  # builds after which the rest is told anew
_CHANGED = 1.25  # by which factor a later estimate must differ to be told too


class Minutes:
    """The minutes that the engines of a profile still take.

    Args:
        builds: how many are planned.
        say: called with lines that a person should read.
    """

    def __init__(self, builds: int, *, say: Say) -> None:
        self._builds, self._say = builds, say
        self._seconds: list[float] = []
        self._told = 0.0  # seconds of a build, as they were told last

    def add(self, seconds: float) -> None:
        """Count an engine that was built and timed; tell the rest where that is news."""
        self._seconds.append(seconds)
        done = len(self._seconds)
        left, each = self._builds - done, statistics.median(self._seconds)
        if left <= 0 or done < _FEW:
            return
        if self._told and max(each / self._told, self._told / each) < _CHANGED:
            return
        self._told = each
        self._say(
            f"the first {done} engines took {each:.3g} s each (median): about "
            f"{duration(left * each)} for the other {left}"
        )


def say_how_long(work: "Work", planned: "PlannedProfile", *, say: Say) -> None:
    """Name the minutes before the first build, and again after the first ones."""
    waiting = work.waiting()
    networks = [unit for unit in waiting if isinstance(unit.of, Arch)]
    builds = len(networks) + (BUILDS - 1) * len(planned.rebuilt)
    more = len(waiting) - len(networks)
    if not builds:
        return
    low, high = (math.ceil(builds * seconds / 60) for seconds in _FIRST_GUESS)
    budget = planned.time_budget
    allowed = "" if budget is None else f", of which {duration(budget)} are allowed"
    say(
        f"{builds} engines are built on the device, {_FIRST_GUESS[0]} to {_FIRST_GUESS[1]} s each: "
        f"{low} to {high} minutes{allowed}; kernels that were timed once are not timed again"
        + (f"; where time is left, {more} more of layers" if more else "")
    )
    work.tell_builds(Minutes(builds, say=say).add)
