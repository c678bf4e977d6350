"""Fit what is known of boards in general, for boards that nobody published rows of.

    python -m tools.device_fits.fit_relatives PUBLISHED [--write]

PUBLISHED is the folder of published measurements, which is not part of this repository. Prints how
far off predictions of a board never seen are after a few networks were measured on it; with
``--write`` the populations go to ``device_profiles/relatives/*.json``.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgenas.basics.files import write_json
from edgenas.latency.estimate import Kernels, Prior
from edgenas.latency.relatives import ANY_CPU, Relatives
from tools.device_fits import fit_ncnn, fit_tflite, published_rows
from tools.device_fits.fit_common import AT, Group, counted, pool
from tools.device_fits.fit_ncnn import SHOTS, Games
from tools.device_fits.published_rows import Row

FOLDER = Path(__file__).parents[2] / "device_profiles" / "relatives"
DRAWS = 5  # of the networks that are measured, where boards are few
KEPT = 199  # order statistics of the errors: enough for a confidence of 98%
# What runtimes on CPUs have in common: activations are fused, small vectors start no threads.
ANY = Kernels(fused=frozenset({"relu", "relu6"}), vectors=False)
NOISE = 0.08  # of a runtime that the population is not of


def tflite_rows(folder: Path) -> dict[str, list[Row]]:
    """Rows by profile and precision, of those that ship."""
    return {
        f"{profile} / {precision}": published_rows.sweeps(
            folder, device=device, runtime=runtime, precision=precision
        )
        for profile, device, runtime, _ in fit_tflite.TARGETS
        for precision in ("fp32", "int8")
        if (profile, precision) != ("rk3399", "fp32")
    }


def tflite_population(groups: Mapping[str, Group]) -> Prior:
    """The prices of boards with TensorFlow Lite, as these say."""
    choice = fit_tflite.GRID[4]  # the middle one: six boards are too few to choose by
    return pool(list(groups.values()), before=fit_tflite.prior_of(choice), noise=choice.noise)


def tflite_out(groups: Mapping[str, Group]) -> dict[str, Games]:
    """By device: the errors on it, the population made of the others."""
    found: dict[str, Games] = {}
    for seed, device in enumerate(sorted({fit_ncnn.device(name) for name in groups})):
        others = {n: g for n, g in groups.items() if fit_ncnn.device(n) != device}
        own = {n: g for n, g in groups.items() if fit_ncnn.device(n) == device}
        prior, noise = tflite_population(others), fit_tflite.GRID[4].noise
        found[device] = fit_ncnn.few(own, prior, noise, seed=seed, draws=DRAWS)
    return found


def across(folder: Path) -> tuple[Prior, dict[str, Games]]:
    """The ncnn boards as relatives of boards with another runtime: errors by TFLite device."""
    logs = fit_ncnn.groups_of(fit_ncnn.logs_of(folder), ANY)
    prior = fit_ncnn.population(logs, NOISE)
    found: dict[str, Games] = {}
    for seed, (name, rows) in enumerate(tflite_rows(folder).items()):
        counts = np.array([counted(row, ANY)[list(fit_ncnn.USED)] for row in rows])
        group = Group(counts, np.array([row.seconds for row in rows]))
        games = fit_ncnn.few({name: group}, prior, NOISE, seed=seed, draws=DRAWS)
        device = fit_ncnn.device(name)
        found[device] = merged([found.get(device, {}), games])
    return prior, found


def merged(games: Sequence[Games]) -> Games:
    """All pairs of several games."""
    found: Games = {}
    for each in games:
        for name, pairs in each.items():
            found.setdefault(name, []).extend(pairs)
    return found


def _relatives(
    name: str,
    *,
    kernels: Kernels,
    used: tuple[int, ...],
    prior: Prior,
    noise: float,
    rows: Mapping[str, Sequence[Row]],
    games: Games,
    method: str,
) -> Relatives:
    steps = np.arange(1, KEPT + 1) / (KEPT + 1)
    print(f"\n== {name}: {len(rows)} logs, {method}")
    errors: dict[int, tuple[float, ...]] = {}
    doubts: dict[int, float] = {}
    for shots in SHOTS:
        off = [error for error, _ in games[str(shots)]]
        errors[shots] = tuple(map(float, np.quantile(off, steps)))
        doubts[shots] = float(np.sqrt(np.mean([unsure**2 for _, unsure in games[str(shots)]])))
        print(
            f"   {shots:2d} measured: median error {100 * fit_ncnn.median_error(off):.1f}%, "
            f"{len(off)} predictions"
        )
    return Relatives(
        name=name,
        kernels=kernels,
        used=used,
        prior=prior,
        noise=noise,
        boards=len({fit_ncnn.device(log) for log in rows}),
        networks=sum(map(len, rows.values())),
        sources=tuple(sorted({_repository(row) for part in rows.values() for row in part})),
        method=method,
        errors=errors,
        doubts=doubts,
    )


def _repository(row: Row) -> str:
    path, commit = row.source.rsplit("@", 1)
    return f"{path.split(':')[0]}@{commit}"


def populations(folder: Path) -> list[Relatives]:
    """All that ship."""
    logs = fit_ncnn.logs_of(folder)
    groups = fit_ncnn.groups_of(logs)
    noise, _ = fit_ncnn.choose(groups)
    sweeps = tflite_rows(folder)
    lite = {name: fit_tflite.group_of(rows) for name, rows in sweeps.items()}
    prior, crossed = across(folder)
    return [
        _relatives(
            "ncnn",
            kernels=fit_ncnn.KERNELS,
            used=fit_ncnn.USED,
            prior=fit_ncnn.population(groups, noise),
            noise=noise,
            rows=logs,
            games=fit_ncnn.devices_out(groups, noise, folds=5),
            method="boards with ncnn that the population had not seen",
        ),
        _relatives(
            "tflite",
            kernels=fit_tflite.KERNELS,
            used=tuple(AT.values()),
            prior=tflite_population(lite),
            noise=fit_tflite.GRID[4].noise,
            rows=sweeps,
            games=merged(list(tflite_out(lite).values())),
            method="boards with TensorFlow Lite that the population had not seen",
        ),
        _relatives(
            ANY_CPU,
            kernels=ANY,
            used=fit_ncnn.USED,
            prior=prior,
            noise=NOISE,
            rows=logs,
            games=merged(list(crossed.values())),
            method="boards with TensorFlow Lite, their relatives boards with ncnn",
        ),
    ]


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
