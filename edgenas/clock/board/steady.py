"""Running units without a pause, for as long as somebody else measures the power that they take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.part import UnitError
from edgenas.clock.board.processors import choose_processors, pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgenas.clock.board.settings import TimingSettings

_WARM_UP = 0.5  # seconds: clocks and voltages rise with the load
_CHECKED = 0.01  # seconds of runs between two looks at the time


def run_steadily(
    units: Sequence[tuple[str, Callable[[], Callable[[], Any]]]],
    *,
    settings: TimingSettings,
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[str, Any]]:
    """Run each unit for ``settings.steady`` seconds without a pause.

    No canary runs meanwhile, and nothing is timed run by run.

    Args:
        units: name and loader of each.
        settings: threads, and how long.
        now: a monotonic clock in seconds.

    Yields:
        Events: ``steady`` when a unit begins (with no runs) and when it is over, or ``error``; then
        ``end``, where all units are ``unvisited``, because none was timed.
    """
    began, processors = now(), choose_processors(settings.threads)
    for name, load in units:
        with pin(processors):
            try:
                run = load()
                size = _warm_up(run, now=now)
            except UnitError as error:
                yield {"event": "error", "id": name, "message": str(error)}
                continue
            start, runs = now(), 0
            yield {"event": "steady", "id": name, "runs": 0, "seconds": 0.0}
            end = start + settings.steady
            while now() < end:
                for _ in range(size):
                    run()
                runs += size
            seconds = now() - start
        yield {"event": "steady", "id": name, "runs": runs, "seconds": seconds}
    yield {
        "event": "end",
        "unvisited": [name for name, _ in units],
        "seconds": now() - began,
        "readings": 0,
        "passes": 0,
    }


def _warm_up(run: Callable[[], Any], *, now: Callable[[], float]) -> int:
    """Run for a while. Returns how many runs there should be between two looks at the time."""
    start, runs = now(), 0
    while runs < 2 or now() - start < _WARM_UP:
        run()
        runs += 1
    return max(1, int(_CHECKED * runs / max(now() - start, 1e-9)))
