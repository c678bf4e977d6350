"""A few times of a new device, with others known: against scikit-learn, and laws."""

from typing import Any

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

from edgenas.basics.errors import EdgenasError
from edgenas.latency.few_shots import (
    FewShots,
    Groups,
    Shots,
    choose_networks,
    fit_few_shots,
    learn_variances,
    scale_groups,
)

RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 5, (300, 4)).astype(float)
KNOWN = np.abs(RNG.normal(1, 0.2, (3, 4)))  # prices of three devices
NEW = KNOWN.mean(0) * [1, 1.2, 0.9, 1]


def times(prices: np.ndarray, *, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    exact = 2 + COUNTS @ prices
    return exact * (1 + noise * np.random.default_rng(seed).standard_normal(300))


def groups(*others: np.ndarray) -> Groups:
    return scale_groups([np.stack(others, 1), COUNTS])


def rows(groups: Groups, at: np.ndarray) -> Groups:
    return tuple(group[at] for group in groups)


def known_variances() -> np.ndarray:
    seconds = [times(prices, seed=i) for i, prices in enumerate(KNOWN)]
    shots = list[Shots]()
    for i in range(3):
        rest = [one for j, one in enumerate(seconds) if j != i]
        at = np.random.default_rng(i).permutation(300)[:40]
        shots.append(Shots(groups=rows(groups(*rest), at), seconds=seconds[i][at]))
    return learn_variances(shots)


def test_it_agrees_with_scikit_learn():
    features = groups(times(KNOWN[0]))
    at, asked = np.arange(12), np.arange(50, 80)
    logs = np.array([0.4, -0.7, -6.0])
    seconds = times(NEW)[at]
    ours = FewShots(
        unit=float(seconds.mean()),
        logs=logs,
        shots=Shots(groups=rows(features, at), seconds=seconds),
    )
    weighed = np.hstack([np.exp(log / 2) * g for log, g in zip(logs, features, strict=False)])
    without: Any = None
    theirs: Any = GaussianProcessRegressor(
        DotProduct(sigma_0=10.0), alpha=np.exp(-6.0) + 1e-5, optimizer=without
    ).fit(weighed[at], seconds / ours.unit)
    mean, deviation = theirs.predict(weighed[asked], return_std=True)
    predicted, spread = ours.predict(rows(features, asked))
    np.testing.assert_allclose(predicted / ours.unit, mean, rtol=1e-6)
    expected = np.sqrt(deviation**2 + np.exp(-6.0))
    np.testing.assert_allclose(spread / ours.unit, expected, rtol=1e-4)


def test_ten_times_are_enough_where_devices_are_alike_and_intervals_hold():
    features, logs = groups(*(times(p, seed=i) for i, p in enumerate(KNOWN))), known_variances()
    at, held = choose_networks(features, logs, count=10), list[float]()
    assert len(set(at.tolist())) == 10
    for seed in range(9, 15):
        true = times(NEW, seed=seed)
        fit = fit_few_shots(Shots(groups=rows(features, at), seconds=true[at]), logs)
        mean, _ = fit.predict(features)
        assert np.median(np.abs(mean / true - 1)) < 0.02
        low, high = fit.interval(features, confidence=0.9)
        held.append(float(((low <= true) & (true <= high)).mean()))
    # Six devices of ten times each: their mean is known to about 0.04.
    assert np.mean(held) >= 0.78


def test_chosen_networks_leave_less_doubt_than_networks_of_chance():
    features, logs = groups(times(KNOWN[0])), np.array([0.0, 0.0, -4.0])

    def doubt(at: np.ndarray) -> float:
        shots = Shots(groups=rows(features, at), seconds=np.ones(len(at)))
        _, deviation = FewShots(unit=1.0, logs=logs, shots=shots).predict(features)
        return float((deviation**2).mean())

    chosen = doubt(choose_networks(features, logs, count=8))
    assert all(chosen < doubt(np.random.default_rng(i).permutation(300)[:8]) for i in range(20))


def test_the_unit_of_time_changes_nothing():
    features, logs = groups(times(KNOWN[0])), np.array([0.0, 0.0, -4.0])
    at = np.arange(15)
    one, many = (
        fit_few_shots(Shots(groups=rows(features, at), seconds=k * times(NEW)[at]), logs)
        for k in (1.0, 1024.0)
    )
    for a, b in zip(one.predict(features), many.predict(features), strict=True):
        # A power of two changes no digit.
        np.testing.assert_allclose(1024 * a, b, rtol=1e-12)


def test_what_cannot_be_fitted_is_refused():
    features = groups(times(KNOWN[0]))
    shots = Shots(groups=rows(features, np.arange(2)), seconds=np.ones(2))
    with pytest.raises(EdgenasError, match="at least 3 times above 0 are needed, found 2"):
        fit_few_shots(shots, np.zeros(3))
    with pytest.raises(EdgenasError, match="count must be from 1 to 300, found 301"):
        choose_networks(features, np.zeros(3), count=301)
    with pytest.raises(EdgenasError, match="at least one known device is needed"):
        learn_variances([])
