"""The Jetsons with TensorRT FP16: few rows a board, one pool, scaled by the data sheets.

TensorRT 3, which the TX2 was published with, is a runtime of its own: its depthwise kernels took
four times as long as those of its successors. It learns from the others, they do not from it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgenas.latency.device import Device, PublishedRow, read
from edgenas.latency.features import AT, NAMES, Array, Kernels
from edgenas.latency.hierarchy import Prior
from tools.device_fits import published_rows
from tools.device_fits.fit_common import (
    Log,
    Pool,
    Prediction,
    Result,
    families_out,
    predict,
    print_population,
    print_predictions,
    result,
)
from tools.device_fits.fit_tflite import version_spread
from tools.device_fits.published_rows import Row

KERNELS = Kernels(fused=frozenset({"relu", "relu6", "add", "concat", "slice"}))
# What a price is before any row is seen, as a multiple of what the data sheet allows, and the
# standard deviation of its logarithm. `run` and `kernel` are seconds: copies and a synchronised
# launch; a launch of a kernel. Wide enough that ten rows outweigh each.
_PRIOR = {
    "run": (3e-4, 0.5),
    "kernel": (1.2e-5, 0.5),
    "dense": (2.0, 0.7),
    "winograd": (1.5, 0.7),
    "pointwise": (2.0, 0.7),
    "depthwise": (6.0, 1.0),
    "activation": (1.3, 0.5),
    "weight": (1.5, 0.7),
    "vector_weight": (1.5, 0.5),
    "elementwise": (1.5, 0.5),
    "window": (1.5, 0.5),
    "exponential": (1.5, 0.5),
}
PROFILES = {
    "jetson_orin_nano_super": "jetson-orin-nano",
    "jetson_orin_nx": "jetson-orin-nx",
    "jetson_nano": "jetson-nano",
    "jetson_nano_2gb": "jetson-nano",
    "jetson_agx_xavier": "jetson-agx-xavier",
    "jetson_tx2": "jetson-tx2",
}
MAIN_HARNESS = {
    "jetson-orin-nano": "ultralytics",
    "jetson-orin-nx": "ultralytics",
    "jetson-nano": "torch2trt",
    "jetson-agx-xavier": "torch2trt",
    "jetson-tx2": "TensorRT 3",
}
USED = tuple(AT[name] for name in _PRIOR)
# Without rows of their own, but inside what the data sheets of the others span.
UNSEEN = ("jetson-xavier-nx",)


def before() -> Prior:
    """What is known of the prices without any row."""
    means = [mean for mean, _ in _PRIOR.values()]
    return Prior(np.log(means), np.diag([spread**2 for _, spread in _PRIOR.values()]))


def sheet(board: Device, *, precision: str) -> Array:
    """Seconds per unit of each price that the data sheet allows at best; 1 for overheads."""
    fact = {name: fact.value * 1e9 for name, fact in board.facts.items()}
    element_bytes = 2 if precision == "fp16" else 4
    scale = np.ones(len(NAMES))
    for name in ("dense", "winograd", "pointwise"):
        scale[AT[name]] = 1 / fact[f"{precision}_peak"]
    # Tensor cores have no use for depthwise convs: they run on the CUDA cores.
    scale[AT["depthwise"]] = 1 / fact["fp32_peak"]
    for name in ("activation", "weight", "vector_weight", "elementwise", "window", "exponential"):
        scale[AT[name]] = element_bytes / fact["bandwidth"]
    return scale


def sheets(profiles: Path) -> Mapping[str, Array]:
    """What the data sheets allow in FP16, by profile."""
    boards = {profile: read(profiles / f"{profile}.toml") for profile in (*MAIN_HARNESS, *UNSEEN)}
    return {profile: sheet(board, precision="fp16") for profile, board in boards.items()}


def pool_of(folder: Path, profiles: Path, *, foreign: bool = False) -> Pool:
    """The published rows; ``foreign`` networks as well, see ``published_rows.tensorrt``."""
    scales = sheets(profiles)
    logs: dict[str, list[Row]] = {}
    for row in published_rows.tensorrt(folder, precision="fp16", foreign=foreign):
        logs.setdefault(row.group, []).append(row)
    return Pool(
        name="TensorRT fp16",
        logs=tuple(
            Log(name, tuple(rows), KERNELS, scales[profile_of(name)]) for name, rows in logs.items()
        ),
        used=USED,
        before=before(),
    )


OLD = "TensorRT 3"


def without_old(pool: Pool) -> Pool:
    """The pool without TensorRT 3."""
    return pool.select(lambda log, row: OLD not in log.name)


def left_out(pool: Pool) -> list[Prediction]:
    """Each family predicted by a fit that saw it on no board; TensorRT 3 in a pool of all."""
    whole = families_out(pool, rounds=8)
    newer = families_out(without_old(pool), rounds=8)
    return [p for p in whole if OLD in p.log] + newer


def profile_of(log: str) -> str:
    """The profile of a log, by its name."""
    return PROFILES[log.split(" / ")[0]]


def main_log(pool: Pool, profile: str) -> Log:
    """The log of a profile's main harness."""
    (log,) = (
        log
        for log in pool.logs
        if profile_of(log.name) == profile and log.name.split(" / ")[1] == MAIN_HARNESS[profile]
    )
    return log


def boards_out(pool: Pool) -> list[Prediction]:
    """Each board predicted from the data sheets and the other boards alone."""
    predictions: list[Prediction] = []
    for profile in MAIN_HARNESS:
        relatives = without_old(pool)
        seen = relatives.select(lambda log, row, out=profile: profile_of(log.name) != out)
        population, _ = seen.fit()
        for log in pool.logs:
            if profile_of(log.name) == profile:
                predictions += predict(seen, log, population.new_board, population)
    return predictions


def tensorrt(folder: Path, profiles: Path) -> list[Result]:
    """FP16 on the Jetsons."""
    pool = pool_of(folder, profiles)
    population, fits = without_old(pool).fit()
    print_population(pool, population)
    whole, old = pool.fit()
    fits |= {name: fit for name, fit in old.items() if OLD in name}
    sources = sorted({row.source for log in pool.logs for row in log.rows})
    predictions = left_out(pool)
    other_version = version_spread(folder)
    results: list[Result] = []
    for profile in MAIN_HARNESS:
        log = main_log(pool, profile)
        rows = [p for p in predictions if p.log == log.name]
        print(f"\n== {profile} TensorRT FP16: each family predicted by a fit without it")
        print_predictions(rows)
        results.append(
            result(
                pool,
                log,
                profile=profile,
                slug="tensorrt-fp16-t1-b1",
                fit=fits[log.name],
                population=whole if OLD in log.name else population,
                residuals=[p.error for p in rows],
                method="each family of networks predicted by a fit that saw it on no board",
                sources=sources,
                other_version=other_version,
            )
        )
    print("\n== TensorRT FP16: each board from the others")
    unseen = boards_out(pool)
    print_predictions(unseen)
    newer = without_old(pool)
    every = Log("", tuple(r for log in newer.logs for r in log.rows), KERNELS, np.empty(0))
    for profile in UNSEEN:
        log = Log(profile, every.rows, KERNELS, sheets(profiles)[profile])
        results.append(
            result(
                pool,
                log,
                profile=profile,
                slug="tensorrt-fp16-t1-b1",
                fit=population.new_board,
                population=population,
                residuals=[p.error for p in unseen],
                method="each relative predicted from the data sheets and the other boards",
                sources=sources,
                networks=_named(every.rows),
                other_version=other_version,
            )
        )
    return results


def _named(rows: Sequence[Row]) -> list[PublishedRow]:
    """Networks with the names of their boards."""
    return [
        PublishedRow(f"{r.network} on {r.group.split(' / ')[0]}", r.macs, r.seconds, r.source)
        for r in rows
    ]
