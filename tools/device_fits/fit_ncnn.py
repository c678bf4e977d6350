"""CPUs with ncnn: twelve networks a log, all boards and numbers of threads one population.

Which kernels ncnn starts (see ``KERNELS``) is read off the rows: grouped convs run group by group,
3x3 convs as Winograd F(6,3), concatenations and slices copy.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from edgenas.latency.estimate import (
    NAMES,
    Fit,
    Kernels,
    Prior,
    fit_many,
)
from tools.device_fits import published_rows
from tools.device_fits.fit_common import (
    AT,
    Group,
    Ratio,
    Result,
    counted,
    doubts,
    errors,
    pool,
    ratios,
    summary,
)
from tools.device_fits.fit_tflite import ANCHORS, RATIOS
from tools.device_fits.published_rows import Row

KERNELS = Kernels(fused=frozenset({"relu"}), tile=6, per_group=True, vectors=False)
NOISES = (0.05, 0.08, 0.12)  # of which one is chosen
USED = tuple(i for name, i in AT.items() if name != "patch")
_RATIOS = (
    *(ratio for ratio in RATIOS if ratio.price not in ("winograd", "patch")),
    Ratio("winograd", "dense", -0.5, 0.7),
    Ratio("kernel", "run", -2.5, 1.5),
)
_PROFILES = {
    # device of the rows: profile
    "dimensity_9300": "dimensity-9300",
    "jetson_agx_orin": "jetson-agx-orin",
    "jetson_agx_xavier": "jetson-agx-xavier",
    "jetson_nano": "jetson-nano",
    "jetson_orin_nano": "jetson-orin-nano",
    "khadas_vim3_a311d": "khadas-vim3",
    "rk3399": "rk3399",
    "rk3566": "rk3566",
    "rk3568": "rk3568",
    "rk3588s": "rk3588s",
    "rpi3b_plus": "rpi3b-plus",
    "rpi4b": "rpi4",
    "rpi5": "rpi5",
    "rpi_zero2w": "rpi-zero-2w",
    "snapdragon_821": "snapdragon-821",
    "snapdragon_855plus": "snapdragon-855plus",
    "snapdragon_8gen2": "snapdragon-8gen2",
}
SHOTS = (1, 3, 5, 10)

Games = dict[str, list[tuple[float, float]]]  # errors with doubts, by game


@cache
def before() -> Prior:
    """What is known of the prices without any row."""
    names = [NAMES[i] for i in USED]
    return ratios(names, anchors=[ANCHORS[name] for name in names], known=_RATIOS)


def logs_of(folder: Path) -> dict[str, list[Row]]:
    """The logs with at least eleven networks, by name; the name starts with the device."""
    logs: dict[str, list[Row]] = {}
    for row in published_rows.ncnn(folder):
        logs.setdefault(row.group, []).append(row)
    return {name: part for name, part in logs.items() if len(part) >= 11}


def groups_of(logs: Mapping[str, Sequence[Row]], kernels: Kernels = KERNELS) -> dict[str, Group]:
    """Features and seconds of logs."""
    counts = {row.network: counted(row, kernels)[list(USED)] for p in logs.values() for row in p}
    return {
        name: Group(
            np.array([counts[row.network] for row in part]),
            np.array([row.seconds for row in part]),
        )
        for name, part in logs.items()
    }


def device(name: str) -> str:
    """The device of a log or group."""
    return name.split(" / ")[0]


def population(groups: Mapping[str, Group], noise: float) -> Prior:
    """The prices of boards in general, as these say."""
    return pool(list(groups.values()), before=before(), noise=noise)


def fits(groups: Mapping[str, Group], prior: Prior, noise: float) -> dict[str, Fit]:
    """The prices of each."""
    pairs = [(g.counts, g.seconds) for g in groups.values()]
    return dict(zip(groups, fit_many(pairs, prior=prior, noise=noise), strict=True))


def play(groups: Mapping[str, Group], prior: Prior, noise: float, *, seed: int) -> Games:
    """Predict networks of boards that the population has not seen.

    Returns:
        By game: ``all but one`` (each network from the eleven others, for logs of twelve) and the
        numbers of ``SHOTS`` (all others after so many random networks, three times), each with
        the errors and doubts of what was predicted.
    """
    found: Games = {"all but one": []}

    def predict(game: str, seen: dict[str, Group], hidden: dict[str, Group]) -> None:
        for name, without in fits(seen, prior, noise).items():
            off, unsure = errors(hidden[name], without), doubts(hidden[name], without)
            found.setdefault(game, []).extend(zip(off, unsure, strict=True))

    whole = {name: group for name, group in groups.items() if len(group.seconds) == 12}
    for i in range(12):
        one, rest = np.arange(12) == i, np.arange(12) != i
        if whole:
            predict("all but one", _part(whole, rest), _part(whole, one))
    for game, pairs in few(groups, prior, noise, seed=seed, draws=3).items():
        found.setdefault(game, []).extend(pairs)
    return found


def few(groups: Mapping[str, Group], prior: Prior, noise: float, *, seed: int, draws: int) -> Games:
    """Measure so many random networks of each group as ``SHOTS`` says, predict the others."""
    rng = np.random.default_rng(seed)
    found: Games = {str(shots): [] for shots in SHOTS}
    for _ in range(draws):
        orders = {name: rng.permutation(len(group.seconds)) for name, group in groups.items()}
        for shots in SHOTS:
            seen, hidden = {}, {}
            for name, group in groups.items():
                now, later = orders[name][:shots], orders[name][shots:]
                seen[name] = Group(group.counts[now], group.seconds[now])
                hidden[name] = Group(group.counts[later], group.seconds[later])
            for name, without in fits(seen, prior, noise).items():
                off, unsure = errors(hidden[name], without), doubts(hidden[name], without)
                found[str(shots)].extend(zip(off, unsure, strict=True))
    return found


def _part(groups: Mapping[str, Group], mask: np.ndarray) -> dict[str, Group]:
    return {name: Group(g.counts[mask], g.seconds[mask]) for name, g in groups.items()}


def devices_out(groups: Mapping[str, Group], noise: float, *, folds: int) -> Games:
    """``play`` for every device, the population made of the devices of the other folds."""
    devices = sorted({device(name) for name in groups})
    found: Games = {}
    for fold in range(folds):
        out = set(devices[fold::folds])
        prior = population({n: g for n, g in groups.items() if device(n) not in out}, noise)
        new = {n: g for n, g in groups.items() if device(n) in out}
        for game, pairs in play(new, prior, noise, seed=fold).items():
            found.setdefault(game, []).extend(pairs)
    return found


def median_error(off: Sequence[float]) -> float:
    """The median absolute percentage error, as a fraction, of log(measured / predicted)."""
    return float(np.median(np.abs(np.expm1(-np.asarray(off)))))


def choose(groups: Mapping[str, Group]) -> tuple[float, Games]:
    """The noise with the least median error on left-out devices of these, and its games."""
    games = {noise: devices_out(groups, noise, folds=3) for noise in NOISES}

    def error(noise: float) -> float:
        return median_error([off for off, _ in games[noise]["all but one"]])

    best = min(NOISES, key=error)
    return best, games[best]


def networks_out(
    logs: Mapping[str, Sequence[Row]], noise: float
) -> dict[str, dict[str, tuple[float, float]]]:
    """Each network predicted by a fit that saw it on no board: error and doubt by log, network."""
    groups = groups_of(logs)
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in logs}
    for network in sorted({row.family for part in logs.values() for row in part}):
        seen: dict[str, Group] = {}
        hidden: dict[str, Group] = {}
        for name, part in logs.items():
            mask = np.array([row.family == network for row in part])
            if mask.any():
                own = groups[name]
                seen[name] = Group(own.counts[~mask], own.seconds[~mask])
                hidden[name] = Group(own.counts[mask], own.seconds[mask])
        for name, without in fits(seen, population(seen, noise), noise).items():
            (off,), (unsure,) = errors(hidden[name], without), doubts(hidden[name], without)
            found[name][network] = (off, unsure)
    return found


def ncnn(folder: Path, profiles: Path) -> list[Result]:
    """All boards one population, from which each departs as far as its rows say."""
    del profiles
    logs = logs_of(folder)
    groups = groups_of(logs)
    noise, _ = choose(groups)
    prior = population(groups, noise)
    found = fits(groups, prior, noise)
    strict = networks_out(logs, noise)
    print(f"\n== ncnn on CPUs: {len(groups)} logs, each network left out everywhere, noise {noise}")
    for network in sorted({row.family for part in logs.values() for row in part}):
        off = [errors[network][0] for errors in strict.values() if network in errors]
        print(f"   {network}: bias {100 * math.expm1(-float(np.median(off))):+.0f}%")
        summary(off)
    results: list[Result] = []
    for name, part in logs.items():
        board, way, threads, _ = name.split(" / ")
        alike = [other for other in logs if other.startswith(f"{board} / {way} / {threads} /")]
        if board not in _PROFILES or len(alike) > 1:
            continue  # several boards of one name
        off = [strict[name][row.family] for row in part]
        print(f"   {name}: left-out networks")
        summary([error for error, _ in off])
        results.append(
            Result(
                profile=_PROFILES[board],
                slug=f"ncnn-{way.split()[1]}-t{threads}-b1",
                kernels=KERNELS,
                scale=np.ones(len(NAMES)),
                used=USED,
                found=found[name],
                prior=prior,
                rows=tuple(part),
                sources=tuple(sorted({row.source for row in part})),
                residuals=tuple(error for error, _ in off),
                doubts=tuple(unsure for _, unsure in off),
                method="each network predicted by a fit that saw it on no board",
                watts=0.0,
            )
        )
    return results
