"""A link that drops is made anew, until all units are timed or it drops again and again."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from typing import Protocol, TypeVar

from edgenas.clock.measure import ClockStoppedError
from edgenas.clock.ssh import LinkError

_Result = TypeVar("_Result")


class TimingJob(Protocol):
    """Units that are timed in as many sessions as it takes."""

    @property
    def missing(self) -> Sized:
        """The units that have no result yet."""
        ...

    @property
    def begun(self) -> bool:
        """Whether a session was open once; a link that never was is not tried again."""
        ...

    def left(self) -> float:
        """Seconds that are left of the time given; infinite: nobody limits it."""
        ...

    def late(self) -> bool:
        """Whether there is no time for a further unit."""
        ...


def attempt_until_done(
    job: TimingJob,
    attempt: Callable[[int], Iterator[_Result]],
    *,
    where: str,
    pauses: Sequence[float],
    say: Callable[[str], None],
) -> Generator[_Result]:
    """Yield what sessions give, one session after the other, while units are missing.

    Args:
        job: its units.
        attempt: opens a session and gives its results; it gets the number of links that dropped
            since the latest result.
        where: the board, for people.
        pauses: seconds before each further attempt, counted from the latest result.
        say: called with lines that a person should read.

    Raises:
        LinkError: there never was a link.
        ClockStoppedError: the link drops again and again.
    """
    failures, total = 0, len(job.missing)
    while job.missing and not job.late():
        before = len(job.missing)
        try:
            yield from attempt(failures)
        except LinkError as error:
            if not job.begun:
                raise
            failures = 0 if len(job.missing) < before else failures
            if failures == len(pauses):
                raise ClockStoppedError(
                    f"gave up on {where} after {failures + 1} attempts: {error.message}",
                    hint="run the same command again: it goes on with what is missing",
                ) from None
            pause = pauses[failures]
            failures += 1
            say(
                f"{error.message}; {len(job.missing)} of {total} units are missing, trying again "
                f"in {pause:g} s"
            )
            time.sleep(min(pause, max(0.0, job.left())))
