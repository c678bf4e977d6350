"""Levels of runs: what a machine's slower and faster minutes do to all units alike."""

import numpy as np
import pytest

from edgenas.profiling.levels import estimate_run_levels

TRUE = {0: 1.0, 1: 1.05, 2: 0.97, 5: 1.02, 7: 0.99}


def visits(*, units=60, noise=0.0, outliers=0.0, seed=0, runs=TRUE):
    rng = np.random.default_rng(seed)
    usual = np.exp(rng.uniform(-9, -3, units))
    found = []
    for run, level in runs.items():
        for unit in range(units):
            factor = level * np.exp(noise * rng.standard_normal())
            factor *= 1.6 if rng.random() < outliers else 1.0
            found.append((f"u{unit}", run, usual[unit] * factor))
    return found


def test_levels_are_found_exactly_where_nothing_else_varies():
    found = estimate_run_levels(visits())
    assert found == pytest.approx({run: level / 1.0 for run, level in TRUE.items()})


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_hardly_matter(seed: int):
    found = estimate_run_levels(visits(noise=0.01, outliers=0.1, seed=seed))
    off = [found[run] / level for run, level in TRUE.items()]
    assert np.ptp(np.log(off)) < 0.01


def test_units_of_one_run_say_nothing():
    alone = [(f"only{run}-{i}", run, 1e-3 * (1 + run)) for run in TRUE for i in range(30)]
    assert estimate_run_levels([*visits(), *alone]) == pytest.approx(estimate_run_levels(visits()))
    assert estimate_run_levels(alone) == dict.fromkeys(TRUE, 1.0)


def test_a_run_with_few_units_of_others_is_taken_as_usual():
    few = [(unit, 9, 2 * seconds) for unit, run, seconds in visits() if run == 0][:7]
    assert estimate_run_levels([*visits(), *few])[9] == 1.0
    more = [(unit, 9, 2 * seconds) for unit, run, seconds in visits() if run == 0][:8]
    assert estimate_run_levels([*visits(), *more])[9] == pytest.approx(2.0)


def test_chunks_that_share_some_units_are_linked():
    # Each run visits a third of the units, as a clock does whose graphs fill the disk.
    rng = np.random.default_rng(1)
    every = visits(noise=0.003, runs={run: 1 + 0.03 * np.sin(run) for run in range(12)})
    third = {run: set(rng.permutation(60)[:20].tolist()) for run in range(12)}
    found = estimate_run_levels([v for v in every if int(v[0][1:]) in third[v[1]]])
    off = [found[run] / (1 + 0.03 * np.sin(run)) for run in range(12)]
    assert np.ptp(np.log(off)) < 0.01


def test_nothing_has_no_levels():
    assert estimate_run_levels([]) == {}
