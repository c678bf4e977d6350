"""Predicting the energy of networks from those whose energy was measured.

What a board draws is power that it draws anyway, for as long as a run takes, and energy for the
work itself: arithmetic and memory traffic (Horowitz, "Computing's energy problem", ISSCC 2014,
figure 1.1.9). So energies are fitted as sums of the predicted latency, multiply-accumulates,
elements moved and weights, with rates of which none is below zero. Shorter lists of these, and the
layer costs that `edgenas.latency.learned` would learn from the energies alone, compete with the
whole one, and so does the mean of the best list and the learned costs, whose errors differ; what
predicts networks best that were left out of the fit wins.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from edgenas.latency.learned import count_features, learn_costs
from edgenas.latency.line import identity_line
from edgenas.latency.linear import (
    combine_tables,
    compile_features,
    fit_non_negative_rates,
    predict_left_out,
)
from edgenas.latency.predictor import LatencyPredictor, LinePredictor, SumPredictor
from edgenas.latency.table import LatencyTable
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.layer import Layer
from edgenas.space.space import Space

FEWEST = 4  # networks: with fewer, nothing can be left out of a fit
_WORK = ("macs", "macs depthwise", "elements", "weights")


def fit_energy(
    space: Space, table: LatencyTable, *, latency: LatencyPredictor
) -> LinePredictor | None:
    """Fit what predicts the joules of one run of a network; its "seconds" are joules.

    Args:
        space: of the networks.
        table: with the energies of some networks.
        latency: of the same target.

    Returns:
        None where fewer than ``FEWEST`` networks of the space have an energy.
    """
    pairs = [
        (network.arch, network.joules)
        for network in table.networks
        if network.belongs_to(space) and network.joules is not None
    ]
    if len(pairs) < FEWEST:
        return None
    rows = space.encode([arch for arch, _ in pairs])
    joules = np.array([value for _, value in pairs], dtype=np.float64)

    def error(fit: tuple[Vector, Tables]) -> float:
        return float(np.abs(fit[0] / joules - 1).mean())

    *lists, learned = _fits(space, rows, joules, guide=latency.tables())
    best = min(lists, key=error)
    mean = (best[0] + learned[0]) / 2, combine_tables([best[1], learned[1]], [0.5, 0.5])
    left_out, sums = min((best, learned, mean), key=error)
    base = SumPredictor(space=space, sums=sums, target=table.target, provenance="measured")
    return LinePredictor(base=base, sums=sums, line=identity_line(left_out, joules))


def _fits(
    space: Space, rows: Codes, joules: Vector, *, guide: Tables
) -> Iterator[tuple[Vector, Tables]]:
    """The energies that are predicted for networks left out, and the fit to all, for each list."""
    work = compile_features(space, _count_work)
    for names in ((), ("macs",), ("macs", "elements"), _WORK):
        tables = [guide, *(work[name] for name in names if name in work)]
        counts = np.stack([table(rows) for table in tables], 1)
        left_out = predict_left_out(counts, joules, fit=fit_non_negative_rates)
        rates = fit_non_negative_rates(counts, joules).tolist()
        yield left_out, combine_tables(tables, rates)
    learned = learn_costs(space, rows, seconds=joules)
    yield learned.left_out, learned.sums


def _count_work(layer: Layer) -> Mapping[str, float]:
    """What a layer does for one image: arithmetic, memory traffic and weights."""
    counts: dict[str, float] = dict.fromkeys(_WORK, 0.0)
    for name, amount in count_features(layer).items():
        what = "macs depthwise" if name.startswith("macs depthwise") else name.partition(" ")[0]
        if what in counts:
            counts[what] += amount
    return counts
