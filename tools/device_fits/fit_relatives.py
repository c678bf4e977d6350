"""Fit what is known of boards in general, for boards that nobody published rows of.

    python -m tools.device_fits.fit_relatives PUBLISHED [--write]

PUBLISHED is the folder of published measurements, which is not part of this repository. Prints how
far off predictions of a board never seen are after a few networks were measured on it; with
``--write`` the populations go to ``device_profiles/relatives/*.json``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.files import write_json
from edgenas.latency.estimate import quantile
from edgenas.latency.features import NAMES, Kernels
from edgenas.latency.hierarchy import Population
from edgenas.latency.relatives import ANY_CPU, Relatives
from tools.device_fits import fit_ncnn, fit_tflite
from tools.device_fits.fit_common import Log, Pool, Prediction, median_error, predict
from tools.device_fits.published_rows import Row

FOLDER = Path(__file__).parents[2] / "device_profiles" / "relatives"
SHOTS = (1, 3, 5, 10)
DRAWS = 3  # of the networks that are measured
FOLDS = 5  # of devices
KEPT = 199  # order statistics of the errors: enough for a confidence of 98%
# What runtimes on CPUs have in common: activations are fused, small vectors start no threads.
ANY = Kernels(fused=frozenset({"relu", "relu6"}), vectors=False)

Games = dict[int, list[Prediction]]  # by the number of networks measured


def few(
    pool: Pool, population: Population, *, seed: int, draws: int = DRAWS, out: str = ""
) -> Games:
    """Measure so many random networks of each log as ``SHOTS`` says, predict the others.

    Args:
        pool: of boards that the population had not seen.
        population: of the others.
        seed: of the draws.
        draws: for each log.
        out: a family that is predicted and never measured; empty: any network may be measured.
    """
    rng = np.random.default_rng(seed)
    games: Games = {shots: [] for shots in SHOTS}
    for log in pool.logs:
        hidden_family = np.array([row.family == out for row in log.rows])
        for _ in range(draws):
            order = rng.permutation(len(log.rows))
            if out:
                order = order[~hidden_family[order]]
            for shots in SHOTS:
                if shots < len(order):
                    later = np.flatnonzero(hidden_family) if out else order[shots:]
                    games[shots] += _play(pool, log, population, order[:shots], later)
    return games


def _play(
    pool: Pool,
    log: Log,
    population: Population,
    now: NDArray[np.int64],
    later: NDArray[np.int64],
) -> list[Prediction]:
    if not len(later):
        return []
    seen = replace(log, rows=tuple(log.rows[i] for i in now))
    hidden = replace(log, rows=tuple(log.rows[i] for i in later))
    fit = population.fit_board(pool.rows(seen))
    return predict(pool, hidden, fit, population, seen=seen.rows, measured=True)


def merge(games: Sequence[Games]) -> Games:
    """All predictions of several games."""
    merged: Games = {shots: [] for shots in SHOTS}
    for each in games:
        for shots, predictions in each.items():
            merged[shots] += predictions
    return merged


def devices_out(
    pool: Pool, *, folds: int = FOLDS, rounds: int = 6, family: str = "", draws: int = DRAWS
) -> Games:
    """``few`` for every device, the population made of the devices of the other folds.

    Args:
        pool: of all boards.
        folds: of devices.
        rounds: of the fit.
        family: left out of the population and never measured, then predicted; empty: none.
        draws: for each log.
    """
    devices = sorted({log.device for log in pool.logs})
    found: list[Games] = []
    for fold in range(min(folds, len(devices))):
        out = set(devices[fold :: min(folds, len(devices))])
        seen = pool.select(lambda log, row, out=out: log.device not in out and row.family != family)
        population, _ = seen.fit(rounds=rounds)
        new = pool.select(lambda log, row, out=out: log.device in out)
        found.append(few(new, population, seed=fold, draws=draws, out=family))
    return merge(found)


def across(folder: Path) -> tuple[Pool, Population, Games]:
    """The ncnn boards as relatives of boards with TensorFlow Lite: pool, population, errors."""
    pool = fit_ncnn.pool_of(folder, ANY)
    prior = fit_ncnn.before()
    used = tuple(i for i in pool.used if NAMES[i] != "plain")
    keep = [pool.used.index(i) for i in used]
    before = replace(prior, mean=prior.mean[keep], covariance=prior.covariance[np.ix_(keep, keep)])
    pool = replace(pool, used=used, before=before)
    population, _ = pool.fit()
    found: list[Games] = []
    for seed, precision in enumerate(("fp32", "int8")):
        lite = fit_tflite.pool_of(folder, precision)
        logs = [Log(log.name, log.rows, ANY, np.ones(len(NAMES))) for log in lite.logs]
        found.append(few(replace(pool, logs=tuple(logs)), population, seed=seed))
    return pool, population, merge(found)


def scale_of(games: Games) -> float:
    """The factor on standard deviations with which 90% of the errors lie in the 90% interval."""
    factors = [
        float(np.quantile([abs(p.error) / (quantile(0.95) * p.spread) for p in games[shots]], 0.9))
        for shots in SHOTS
        if shots > 1
    ]
    return max(1.0, float(np.mean(factors)))


def _relatives(
    name: str,
    pool: Pool,
    population: Population,
    games: Games,
    *,
    shared_rows: bool,
    scale: float,
    method: str,
) -> Relatives:
    print(f"\n== {name}: {len(pool.logs)} logs, scale {scale:.2f}, {method}")
    steps = np.arange(1, KEPT + 1) / (KEPT + 1)
    errors: dict[int, tuple[float, ...]] = {}
    for shots, predictions in games.items():
        if not predictions:
            continue
        off = [p.error for p in predictions]
        inside = [abs(p.error) <= scale * quantile(0.95) * p.spread for p in predictions]
        errors[shots] = tuple(map(float, np.quantile(off, steps)))
        print(
            f"   {shots:2d} measured: median error {100 * median_error(off):.1f}%, "
            f"{len(off)} predictions, {np.mean(inside):.0%} in the 90% interval"
        )
    typical = population.new_board
    speeds = [-p.error for log in pool.logs for p in predict(pool, log, typical, population)]
    rows = [row for log in pool.logs for row in log.rows]
    return Relatives(
        name=name,
        kernels=replace(pool.logs[0].kernels, rows=1),
        shared_rows=shared_rows,
        used=pool.used,
        population=population,
        scale=scale,
        speeds=(float(np.exp(min(speeds))), float(np.exp(max(speeds)))),
        boards=len({log.device for log in pool.logs}),
        networks=len(rows),
        sources=tuple(sorted({_repository(row) for row in rows})),
        method=method,
        errors=errors,
    )


def _repository(row: Row) -> str:
    path, commit = row.source.rsplit("@", 1)
    return f"{path.split(':')[0]}@{commit}"


def populations(folder: Path) -> list[Relatives]:
    """All that ship."""
    ncnn = fit_ncnn.pool_of(folder)
    found = [
        _relatives(
            "ncnn",
            ncnn,
            ncnn.fit()[0],
            devices_out(ncnn),
            shared_rows=False,
            scale=1.0,
            method="boards with ncnn that the population had not seen",
        )
    ]
    for precision in ("fp32", "int8"):
        lite = fit_tflite.pool_of(folder, precision)
        found.append(
            _relatives(
                f"tflite-{precision}",
                lite,
                lite.fit()[0],
                devices_out(lite, folds=len({log.device for log in lite.logs})),
                shared_rows=True,
                scale=1.0,
                method="boards with TensorFlow Lite that the population had not seen",
            )
        )
    pool, population, games = across(folder)
    found.append(
        _relatives(
            ANY_CPU,
            pool,
            population,
            games,
            shared_rows=False,
            scale=scale_of(games),
            method="boards with TensorFlow Lite, their relatives boards with ncnn",
        )
    )
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for relatives in populations(arguments.published):
        if arguments.write:
            write_json(FOLDER / f"{relatives.name}.json", relatives.to_json())


if __name__ == "__main__":
    main()
