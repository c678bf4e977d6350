"""How many threads torch takes for a piece of work."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

SMALL = 60e9  # multiply-accumulates that one core does in about a second


@contextmanager
def limit_threads(macs: float) -> Generator[None]:
    """Let torch compute with one thread inside the block where the work is small.

    The threads of OpenMP spin between operators, so many small operators take several times the
    processor time with two threads, and are hardly done sooner.

    Args:
        macs: multiply-accumulates of the work; one thread does up to `SMALL` of them.
    """
    threads = torch.get_num_threads()
    if macs <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
