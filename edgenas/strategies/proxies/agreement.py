"""How far proxies rank networks as measured accuracies do.

How well they do so differs from space to space, and the number of parameters or MACs is often as
good (Abdelfattah et al. 2021, arXiv 2101.08134, section 4; Ning et al. 2021, arXiv 2008.03064). So
nothing here gives a score without its rank correlation to measured accuracies, or the words that
it is not known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import rank_correlation
from edgenas.basics.progress import Progress, no_progress
from edgenas.space.cost import Vector, macs_table, params_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.proxies.batch import ProxyBatch
from edgenas.strategies.proxies.score import PROXIES, ProxyScore

_DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two rankings of networks are.

    Args:
        n: networks.
        spearman: rank correlation.
        low: of its 95% bootstrap interval over networks.
        high: of that.
        kendall: tau-b, which counts pairs in the right order.
        of: what the scores were held against, in words.
    """

    n: int
    spearman: float
    low: float
    high: float
    kendall: float
    of: str

    def __str__(self) -> str:
        return (
            f"Spearman {self.spearman:.2f} [{self.low:.2f}, {self.high:.2f}], Kendall "
            f"{self.kendall:.2f} to {self.of} on {self.n} networks"
        )


def measure_agreement(scores: Vector, accuracy: Vector, *, of: str, seed: int = 0) -> Agreement:
    """How alike scores and accuracies rank networks, both of shape (n,).

    Args:
        scores: the higher, the better.
        accuracy: measured.
        of: what the accuracies are, in words.
        seed: of the bootstrap.

    Raises:
        EdgenasError: fewer than 10 networks.
    """
    if len(scores) < 10:
        raise EdgenasError(f"at least 10 networks are needed for an agreement, found {len(scores)}")
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(scores), size=len(scores)) for _ in range(_DRAWS)]
    again = [rank_correlation(scores[draw], accuracy[draw]) for draw in draws]
    low, high = np.quantile(again, (0.025, 0.975))
    from scipy import stats

    kendall = float(stats.kendalltau(scores, accuracy).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return Agreement(
        n=len(scores),
        spearman=rank_correlation(scores, accuracy),
        low=float(low),
        high=float(high),
        kendall=0.0 if np.isnan(kendall) else kendall,
        of=of,
    )


def count_tables(space: Space) -> Mapping[str, Callable[[Codes], Vector]]:
    """What every proxy has to beat: the numbers of parameters and of MACs."""
    return {"params": params_table(space), "macs": macs_table(space)}


def draw_measured_networks(
    predictor: AccuracyPredictor, *, count: int, seed: int = 0
) -> tuple[Codes, Vector, str]:
    """Networks whose accuracy was measured with the weights of a supernet.

    Args:
        predictor: fitted to them.
        count: how many are drawn; all, where there are fewer.
        seed: of the draw.

    Returns:
        Canonical rows, their accuracies, and what these are.

    Raises:
        EdgenasError: the predictor does not hold what it was fitted to.
    """
    if predictor.rows is None or predictor.accuracies is None:
        raise EdgenasError(
            "this accuracy predictor does not hold the networks it was fitted to",
            hint="fit one: edgenas fit-accuracy SUPERNET --data PATH",
        )
    drawn = np.random.default_rng(seed).permutation(len(predictor.rows))[:count]
    return (
        predictor.rows[drawn],
        predictor.accuracies[drawn],
        f"supernet accuracy ({predictor.source})",
    )


def compare_proxies(
    space: Space,
    *,
    batch: ProxyBatch,
    rows: Codes,
    accuracies: Vector,
    of: str,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Agreement]:
    """The agreement of every proxy, and of the numbers of parameters and MACs, with accuracies.

    Args:
        space: of the networks.
        batch: the images that proxies look at.
        rows: canonical rows, shape (n, genes), n at least 10.
        accuracies: measured, shape (n,).
        of: what they are, in words.
        seed: of the weights.
        progress: called with ("scoring", scorers done, scorers in all, name).
    """
    scorers: dict[str, Callable[[Codes], Vector]] = {
        name: ProxyScore(space, proxy=name, batch=batch, seed=seed) for name in PROXIES
    }
    scorers |= count_tables(space)
    agreements: dict[str, Agreement] = {}
    for done, (name, scorer) in enumerate(scorers.items()):
        progress("scoring", done, len(scorers), name)
        agreements[name] = measure_agreement(scorer(rows), accuracies, of=of)
    progress("scoring", len(scorers), len(scorers), "")
    return agreements
