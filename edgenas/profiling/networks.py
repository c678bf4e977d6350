"""Which whole networks to time: a few that carry the line, and random ones for its bound."""

import functools

import numpy as np
from numpy.typing import NDArray

from edgenas.latency.learned import sum_features
from edgenas.space.arch import Arch
from edgenas.space.cost import macs_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space

# On mbv3-cifar a line through ten was off by 1.7% on other networks, through all others by 1.6%.
CALIBRATION = 10
# Split-conformal bounds of 95% need 19 networks, and are steady from forty on.
FURTHER = 48
# With little time, more networks take the place of layers.
MOST = 100

# Where each network is an engine that takes a minute to build: on the stand-in for a board in the
# tests, 60 networks predict others within 2.2%, and 150 within 1.9%.
BUILT_LINES, BUILT_FURTHER = 20, 40
# Engines are built anew so often, to see how builds of one network differ.
REBUILT, BUILDS = 4, 3

_CANDIDATES = 1000
_RIDGE = 1e-6


def calibration_archs(space: Space, n: int = CALIBRATION) -> list[Arch]:
    """Choose networks spread over a space: always the same ones, the most useful first.

    The smallest and the largest network come first. Each next one has the MACs that are farthest
    (as a ratio) from those chosen before; every resolution has its turn first. From the eleventh
    on, each network is the one that says most about the rates of `edgenas.latency.learned` that
    the networks before it leave open: D-optimal design, one at a time (Fedorov, "Theory of Optimal
    Experiments", 1972).

    Args:
        space: of the networks.
        n: how many at most; small spaces may have fewer.
    """
    archs = _calibration(space, n) if n <= CALIBRATION else _informative(space, n)
    return list(archs)


@functools.lru_cache(maxsize=8)
def _calibration(space: Space, n: int) -> tuple[Arch, ...]:
    rows = _candidates(space)
    archs = space.decode(rows)
    sizes = np.log(macs_table(space)(rows))
    resolutions = np.array([arch.resolution for arch in archs])
    chosen = list(range(min(2, n, len(archs))))
    while len(chosen) < min(n, len(archs)):
        gaps = np.abs(sizes[:, None] - sizes[chosen]).min(axis=1)
        gaps[chosen] = -1.0
        unseen = ~np.isin(resolutions, resolutions[chosen])
        chosen.append(int(np.argmax(gaps + np.where(unseen, np.ptp(sizes) + 1, 0.0))))
    return tuple(archs[i] for i in chosen)


@functools.lru_cache(maxsize=8)
def _informative(space: Space, n: int) -> tuple[Arch, ...]:
    rows = _candidates(space)
    archs = space.decode(rows)
    work = sum_features(space, rows)
    work = work[:, work.max(axis=0) > 0]
    work /= work.mean(axis=0)
    work /= work.sum(axis=1, keepdims=True)  # errors are parts of the whole
    order = {arch: i for i, arch in enumerate(archs)}
    chosen = [order[arch] for arch in _calibration(space, CALIBRATION)]
    precision = _RIDGE * np.eye(work.shape[1]) + work[chosen].T @ work[chosen]
    covariance = np.linalg.inv(precision)
    while len(chosen) < min(n, len(archs)):
        directions = work @ covariance
        doubt = (directions * work).sum(axis=1)
        doubt[chosen] = -1.0
        best = int(np.argmax(doubt))
        covariance -= np.outer(directions[best], directions[best]) / (1 + doubt[best])
        chosen.append(best)
    return tuple(archs[i] for i in chosen)


def _candidates(space: Space) -> Codes:
    rng = np.random.default_rng(0)
    corners = space.encode([space.smallest(), space.largest()])
    return _drop_copies(np.concatenate([corners, space.sample(_CANDIDATES, rng=rng, by="gene")]))


def random_archs(space: Space, n: int, *, seed: int) -> list[Arch]:
    """Draw different random networks, none of ``calibration_archs``; all depths are equally likely.

    Args:
        space: of the networks.
        n: how many at most; small spaces may have fewer.
        seed: of the draw.
    """
    rows = _drop_copies(space.sample(4 * n, rng=np.random.default_rng(seed), by="gene"))
    taken = set(calibration_archs(space))
    return [arch for arch in space.decode(rows) if arch not in taken][:n]


def _drop_copies(rows: Codes) -> Codes:
    """The rows without repetitions, in order of first appearance."""
    first: NDArray[np.intp] = np.unique(rows, axis=0, return_index=True)[1]
    return rows[np.sort(first)]
