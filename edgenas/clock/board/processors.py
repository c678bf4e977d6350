"""Processors: which ones to time on, and how fast they run right now."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from typing import TYPE_CHECKING

from edgenas.clock.board.system import read_number, read_text

if TYPE_CHECKING:
    from collections.abc import Generator

_BLOCK = bytes(range(256)) * 64


def spin() -> float:
    """Seconds that a fixed piece of arithmetic takes on the processor this thread runs on.

    A checksum of 16 KiB, which the first cache of every processor holds, and compiled code: a
    loop of Python takes up to 20% longer or shorter from one state of the interpreter to the
    next. The shortest of three: one alone varies by as much as the gate lets through.
    """
    best = 1 << 62
    for _ in range(3):
        start = time.perf_counter_ns()
        for _ in range(4):
            zlib.crc32(_BLOCK)
        best = min(best, time.perf_counter_ns() - start)
    return best * 1e-9


def spin_on(processors: tuple[int, ...]) -> tuple[float, ...]:
    """The canary on each processor in turn; without processors, wherever this thread runs."""
    if len(processors) < 2:
        return (spin(),)
    seconds: list[float] = []
    for processor in processors:
        os.sched_setaffinity(0, {processor})  # of this thread only
        seconds.append(spin())
    os.sched_setaffinity(0, processors)
    return tuple(seconds)


def choose_processors(threads: int, *, folder: str = "/sys/devices/system/cpu") -> tuple[int, ...]:
    """The processors to time on: the biggest cores, one per physical core, last numbers first.

    Processor 0 comes last because it serves most interrupts.

    Args:
        threads: how many processors are wanted.
        folder: where Linux describes processors.

    Returns:
        Their numbers; () where a thread cannot be pinned.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))

    def rank(processor: int) -> tuple[bool, float, int]:
        own = f"{folder}/cpu{processor}/"
        size = (
            read_number(own + "cpu_capacity")
            or read_number(own + "cpufreq/cpuinfo_max_freq")
            or 0.0
        )
        siblings = read_text(own + "topology/thread_siblings_list") or str(processor)
        first = int(siblings.replace("-", ",").split(",")[0])
        return (first != processor and first in allowed, -size, -processor)

    chosen = sorted(allowed, key=rank)[:threads]
    return tuple(sorted(chosen)) if len(chosen) == threads else ()


@contextlib.contextmanager
def pin(processors: tuple[int, ...]) -> Generator[None, None, None]:
    """Pin this thread, and the threads it starts, to processors until the block ends.

    Args:
        processors: numbers of processors; () pins nothing.
    """
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
