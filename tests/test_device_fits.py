"""The numbers by which estimates are judged: how far versions are apart, and the interval score."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.latency.estimate import NetworkEstimate
from tools.device_fits.bench_device_models import outcomes
from tools.device_fits.fit_common import Prediction
from tools.device_fits.fit_tflite import spread_of
from tools.device_fits.published_rows import Row


def test_the_spread_of_versions_is_found_and_one_board_does_not_speak_for_all():
    rng = np.random.default_rng(3)
    boards = {(f"board {i}", "fp32"): rng.normal(scale=0.1, size=200) for i in range(40)}
    # Forty boards outweigh the four that 0.06 counts for; rows of one board hardly scatter.
    assert spread_of(boards) == pytest.approx(0.1, rel=0.1)
    ordinary = {key: boards[key] for key in list(boards)[:8]}
    odd = ordinary | {("odd", "int8"): np.full(40, 0.5)}
    mean = math.sqrt(np.mean([np.mean(ratios**2) for ratios in odd.values()]))
    assert mean > 0.18
    assert spread_of(ordinary) < spread_of(odd) < 0.13


@given(error=st.floats(-1, 1), spread=st.floats(0.02, 0.2))
def test_an_outcome_is_scored_as_the_paper_says(error: float, spread: float):
    # Bracher et al., arXiv 2005.12881, section 2: (u - l) + 2 / alpha * what lies outside.
    network = NetworkEstimate(
        parts=np.array([2.0]),
        covariance=np.zeros((1, 1)),
        size=0.0,
        family=0.0,
        noise=spread**2,
        reason="",
    )
    row = Row("log", "net@224", "net", (), 2.0 * math.exp(error), 0.0, "a/b:c@d")
    (outcome,) = outcomes([Prediction("log", row, network)])
    low, high = (math.log(end) for end in network.interval(confidence=0.9))
    seen = math.log(row.seconds)
    outside = max(low - seen, seen - high, 0)
    assert outcome.score == pytest.approx(high - low + 2 / 0.1 * outside)
    assert outcome.inside(0.9) == (outside == 0) or outside < 1e-9  # rounding at an end
    (without,) = outcomes([Prediction("log", row, network)], version=0.3)
    assert without.width > outcome.width
