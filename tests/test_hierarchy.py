"""The fit of prices, families and boards: laws, and an independent oracle for the algebra."""

import math

import numpy as np
import pytest

from edgenas.latency.hierarchy import (
    Population,
    Prior,
    Rows,
    Spreads,
    fit_population,
)

SPREADS = Spreads(family=0.1, own=0.05, noise=0.02)


def nobody(mean: list[float], variance: float, *, spreads: Spreads = SPREADS) -> Population:
    """A population that knows no family."""
    return Population(np.array(mean), np.eye(len(mean)) * variance, (), spreads)


def rows(
    truth: np.ndarray, *, seed: int, n: int = 30, noise: float = 0.0, families: int = 1
) -> Rows:
    """Networks of a run, MACs and elements on a board of given log prices."""
    rng = np.random.default_rng(seed)
    counts = np.exp(rng.normal(size=(n, 3)) * 1.2) * np.array([1, 3e7, 3e6])
    counts[:, 0] = 1
    seconds = counts @ np.exp(truth) * np.exp(rng.normal(size=n) * noise)
    return Rows(counts, seconds, tuple(f"family {i % families}" for i in range(n)))


def test_a_fit_finds_the_prices_that_made_the_rows():
    truth = np.array([-7.0, -22.0, -20.0])
    measured = rows(truth, seed=1, families=30)
    start = (truth + np.array([1.0, -1.0, 0.5])).tolist()
    small = Spreads(family=1e-3, own=1e-3, noise=0.01)
    fit = nobody(start, 4.0, spreads=small).fit_board(measured)
    assert np.log(fit.prices) == pytest.approx(truth, abs=0.01)


def test_a_slip_does_not_bend_a_fit():
    truth = np.array([-7.0, -22.0, -20.0])
    measured = rows(truth, seed=2, noise=0.02, families=30)
    seconds = measured.seconds.copy()
    seconds[3] *= 10
    slip = Rows(measured.counts, seconds, measured.families)
    small = Spreads(family=1e-3, own=1e-3, noise=0.02)
    fit = nobody((truth * 0.95).tolist(), 9.0, spreads=small).fit_board(slip)
    assert np.log(fit.prices) == pytest.approx(truth, abs=0.1)


def test_without_information_a_fit_is_the_population():
    population = nobody([-7.0, -20.0], 1.0)
    measured = Rows(np.array([[1.0, 0.0]]), np.array([math.exp(-7.0)]), ("new",))
    fit = population.fit_board(measured)
    assert np.log(fit.prices) == pytest.approx(population.mean, abs=1e-4)
    assert fit.covariance[1, 1] == pytest.approx(1.0)
    assert fit.covariance[0, 0] < 0.05


def test_the_algebra_is_that_of_one_large_gaussian():
    # With one price a network has the same share of it, so the model is exactly linear in the log
    # price, the effects and the noise. Then all boards and families together are one Gaussian,
    # whose conditional mean and covariance need none of the rounds of the fit.
    rng = np.random.default_rng(3)
    boards, families = 4, ("a", "b", "c")
    names = tuple(family for family in families for _ in range(5))
    measured = [
        Rows(np.ones((15, 1)), np.exp(-5 + 0.3 * rng.normal(size=15)), names) for _ in range(boards)
    ]
    spreads = Spreads(family=0.2, own=0.1, noise=0.3)
    before = Prior(np.array([-5.0]), np.array([[0.5]]))
    _, fits = fit_population(measured, before=before, spreads=spreads, rounds=1)
    # Unknowns: mean, board prices, shared effects, effects on boards.
    width = 1 + boards + 3 + 3 * boards
    prior = np.zeros((width, width))
    prior[0, 0] = 0.5
    for b in range(boards):
        prior[0, 1 + b] = prior[1 + b, 0] = 0.5
        for other in range(boards):
            prior[1 + b, 1 + other] = 0.5 + (0.5 if other == b else 0)
    for f in range(3):
        at = 1 + boards + f
        prior[at, at] = 0.04
        for b in range(boards):
            own = 1 + boards + 3 + 3 * b + f
            prior[own, at] = prior[at, own] = 0.04
            for other in range(boards):
                there = 1 + boards + 3 + 3 * other + f
                prior[own, there] = 0.04 + (0.01 if other == b else 0)
    design, weight = [], []
    for b, board in enumerate(measured):
        effects = fits[b].logs[1:]
        for family, seconds in zip(board.families, board.seconds, strict=True):
            line = np.zeros(width)
            line[1 + b] = 1
            line[1 + boards + 3 + 3 * b + families.index(family)] = 1
            design.append(line)
            error = (fits[b].logs[0] + effects[families.index(family)] - math.log(seconds)) / 0.3
            weight.append(5 / (4 + error**2) / 0.09)  # of Student's t, at the solution
    a, w = np.array(design), np.array(weight)
    # Semi-definite priors have no inverse: the conditional covariance by the matrix identity.
    gain = prior @ a.T @ np.linalg.inv(a @ prior @ a.T + np.diag(1 / w))
    covariance = prior - gain @ a @ prior
    for b, fit in enumerate(fits):
        at = [1 + b, *(1 + boards + 3 + 3 * b + f for f in range(3))]
        np.testing.assert_allclose(fit.covariance, covariance[np.ix_(at, at)], atol=1e-6)


def test_effects_of_families_are_found_and_shared():
    rng = np.random.default_rng(4)
    effects = {"family 0": 0.3, "family 1": -0.2, "family 2": 0.0, "family 3": -0.1}
    boards = []
    for board in range(12):
        truth = np.array([-7.0, -22.0, -20.0]) + rng.normal(size=3) * 0.3
        plain = rows(truth, seed=10 + board, noise=0.02, families=4)
        factors = np.exp([effects[family] for family in plain.families])
        boards.append(Rows(plain.counts, plain.seconds * factors, plain.families))
    before = Prior(np.array([-7.0, -22.0, -20.0]), np.eye(3))
    population, fits = fit_population(boards, before=before, spreads=SPREADS)
    shared = dict(zip(population.families, population.mean[3:], strict=True))
    # A shift of all families together is a shift of all prices: only differences are known.
    middle = np.mean(list(shared.values()))
    for family, effect in effects.items():
        assert shared[family] - middle == pytest.approx(effect, abs=0.03)
    assert population.spreads.family > 0.1 > population.spreads.own
    assert population.spreads.noise == pytest.approx(0.02, rel=0.5)
    assert len(fits) == 12


def test_a_family_that_was_not_measured_pays_for_it():
    boards = [rows(np.array([-7.0, -22.0, -20.0]), seed=s, noise=0.02) for s in range(5)]
    before = Prior(np.array([-7.0, -22.0, -20.0]), np.eye(3))
    population, fits = fit_population(boards, before=before)
    counts = boards[0].counts[:2]
    _, known = fits[0].predict(counts, ["family 0"] * 2, spreads=population.spreads)
    mean, unknown = fits[0].predict(counts, ["new"] * 2, spreads=population.spreads)
    assert (unknown > known).all()
    assert (unknown**2 >= population.spreads.unseen**2 + fits[0].noise ** 2).all()
    assert np.exp(mean) == pytest.approx(counts @ fits[0].prices)


def test_a_noisy_board_has_wider_intervals_than_a_quiet_one():
    truth = np.array([-7.0, -22.0, -20.0])
    boards = [
        rows(truth, seed=s, noise=0.15 if s == 0 else 0.02, n=40, families=4) for s in range(6)
    ]
    _, fits = fit_population(boards, before=Prior(truth, np.eye(3)))
    assert fits[0].noise > 0.08 > 0.04 > max(fit.noise for fit in fits[1:])


def test_intervals_of_new_boards_and_families_cover_what_they_promise():
    # Boards, families and noise drawn from the model itself: 90% of what it predicts for a new
    # board and a new family after five measurements must lie within 1.645 deviations.
    rng = np.random.default_rng(5)
    mean = np.array([-7.0, -22.0, -20.0])

    def board(seed: int, shared: dict[str, float]) -> Rows:
        truth = mean + rng.normal(size=3) * 0.4
        plain = rows(truth, seed=seed, n=24, families=8)
        own = {family: shared[family] + 0.05 * rng.normal() for family in shared}
        effect = np.array([own[family] for family in plain.families])
        noise = 0.03 * rng.normal(size=24)
        return Rows(plain.counts, plain.seconds * np.exp(effect + noise), plain.families)

    inside = []
    for world in range(8):
        shared = {f"family {i}": 0.08 * rng.normal() for i in range(8)}
        boards = [board(100 * world + b, shared) for b in range(14)]
        known = [
            Rows(
                b.counts[mask],
                b.seconds[mask],
                tuple(f for f in b.families if f != "family 0"),
            )
            for b in boards
            for mask in [np.array([f != "family 0" for f in b.families])]
        ]
        population, _ = fit_population(known[:10], before=Prior(mean, np.eye(3)))
        for new, seen in zip(boards[10:], known[10:], strict=True):
            first = Rows(seen.counts[:5], seen.seconds[:5], seen.families[:5])
            fit = population.fit_board(first)
            hidden = np.array([f == "family 0" for f in new.families])
            guess, spread = fit.predict(
                new.counts[hidden], ["family 0"] * hidden.sum(), spreads=population.spreads
            )
            inside += (np.abs(np.log(new.seconds[hidden]) - guess) < 1.645 * spread).tolist()
    # 32 clusters that hold or fail together: three standard errors of 0.9 are 0.16.
    assert 0.74 <= np.mean(inside) <= 1.0
