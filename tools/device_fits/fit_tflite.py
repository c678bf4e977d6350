"""CPUs with TensorFlow Lite (Ruy) on all cores: about forty MobileNets a target.

All boards and versions of one precision are one pool, from which each departs as far as its rows
say. Two things are read from the runtime's own code (``integer_ops/depthwise_conv.h``,
``depthwiseconv_3x3_filter_common.h`` and ``depthwiseconv_multithread.h`` of TensorFlow):

* Integers have a fast kernel for 3x3 depthwise convs that are padded alike on all sides. All
  others (5x5; stride 2 on an even size, which TensorFlow pads on one side) run in a general one
  that keeps its sums in memory. Floats have the general kernel only.
* Depthwise convs give each thread the same number of whole rows of the output. The slowest thread
  has the most rows and, on big.LITTLE chips, a little core.

It is also the only runtime here whose rows name several versions on one board: from them
``version_spread`` tells how far a version is from another.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgenas.latency.device import Fact
from edgenas.latency.features import AT, NAMES, Array, Kernels
from edgenas.latency.hierarchy import Prior
from tools.device_fits import published_rows
from tools.device_fits.fit_common import (
    RATIOS,
    Log,
    Pool,
    Ratio,
    Result,
    by_log,
    families_out,
    print_population,
    print_predictions,
    ratios,
    result,
)
from tools.device_fits.published_rows import Row

FUSED = frozenset({"relu", "relu6", "concat"})
TARGETS = (
    # profile, device of the rows, runtime, threads
    ("rpi4", "rpi4b", "TFLite v2.7.1 (ruy)", 4),
    ("odroid-n2plus", "odroid_n2plus_s922x", "TFLite v2.11.0 (ruy)", 6),
    ("jetson-agx-xavier", "jetson_agx_xavier", "TFLite v2.11.0 (ruy)", 8),
    ("rk3588s", "rk3588s_firefly", "TFLite v2.11.0 (ruy)", 8),
    ("rk3399", "rk3399_firefly", "TFLite v2.5.0 (ruy)", 6),
    ("jetson-agx-orin", "jetson_agx_orin", "TFLite v2.11.0 (ruy)", 12),
)
_THREADS = {device: threads for _, device, _, threads in TARGETS}
_OLDER = "TFLite v2.7.1 (ruy)"  # its rows have wall power where later ones lack it
_FEWEST = 20  # rows of a log
COMMON = (
    *RATIOS,
    Ratio("exponential", "elementwise", 1.5, 0.7),
    Ratio("patch", "activation", 1.5, 1.0),
    Ratio("winograd", "dense", 0.0, 0.7),
)
# The general kernel takes ten or so instructions for eight MACs, a matrix product two.
_KNOWN = {
    "fp32": (*COMMON, Ratio("depthwise", "pointwise", 1.2, 0.5)),
    "int8": (
        *COMMON,
        Ratio("general", "pointwise", 1.9, 1.0),
        Ratio("depthwise", "general", -1.2, 0.5),
    ),
}
_ABSENT = {"fp32": {"general", "plain"}, "int8": {"plain"}}


def kernels_of(precision: str, threads: int) -> Kernels:
    """How TensorFlow Lite cuts networks into kernels."""
    return Kernels(fused=FUSED, fast3x3=precision == "int8", rows=threads)


def used_in(precision: str) -> tuple[int, ...]:
    """The prices that exist in a precision."""
    return tuple(i for name, i in AT.items() if name not in _ABSENT[precision])


def before(precision: str) -> Prior:
    """What is known of the prices before any row."""
    return ratios(used_in(precision), known=_KNOWN[precision])


def pool_of(folder: Path, precision: str) -> Pool:
    """All logs of a precision: every board in every version that was published."""
    logs: dict[str, list[Row]] = {}
    for row in published_rows.sweeps(folder, precision=precision):
        device, runtime, _ = row.group.split(" / ")
        if "(ruy)" in runtime and device in _THREADS:
            logs.setdefault(row.group, []).append(row)
    return Pool(
        name=f"TensorFlow Lite {precision}",
        logs=tuple(
            Log(
                name,
                tuple(rows),
                kernels_of(precision, _THREADS[name.split(" / ")[0]]),
                np.ones(len(NAMES)),
            )
            for name, rows in sorted(logs.items())
            if len(rows) >= _FEWEST and not published_rows.contradictory(rows)
        ),
        used=used_in(precision),
        before=before(precision),
    )


Versions = Mapping[tuple[str, str], Array]
_TAIL = 4.0  # degrees of freedom of versions over boards, as of the noise
_BEFORE = (0.06, 4.0)  # a spread that is known before any row, and the boards that it counts for


def versions(pools: Sequence[Pool]) -> Versions:
    """How much longer networks took with one version than with another, in log seconds.

    Returns:
        By device and pool: all pairs of versions and all networks that both have.
    """
    found: dict[tuple[str, str], Array] = {}
    for pool in pools:
        for device in sorted({log.device for log in pool.logs}):
            logs = [log for log in pool.logs if log.device == device]
            ratios = [
                np.log(row.seconds / other.seconds)
                for one, two in itertools.combinations(logs, 2)
                for row, other in itertools.product(one.rows, two.rows)
                if row.network == other.network
            ]
            if ratios:
                found[device, pool.name] = np.array(ratios)
    return found


def spread_of(found: Versions) -> float:
    """The standard deviation of log seconds between two versions.

    The mean squares of the boards are those of Student's t distribution with four degrees of
    freedom, so that one board where a version is half as fast again (the Orin, integers) does not
    speak for all (Lange, Little & Taylor 1989).
    """
    squares = np.array([np.mean(ratios**2) for ratios in found.values()])
    before, boards = _BEFORE
    square = before**2
    for _ in range(100):
        weights = (_TAIL + 1) / (_TAIL + squares / square)
        total = (weights * squares).sum() + boards * before**2
        square = total / (len(squares) + boards)
    return float(np.sqrt(square))


def version_spread(folder: Path) -> float:
    """``spread_of`` the published rows, both precisions."""
    return spread_of(versions([pool_of(folder, precision) for precision in ("fp32", "int8")]))


def tflite(folder: Path, profiles: Path) -> list[Result]:
    """The MLPerf sweeps of MobileNet v1, v2 and v3."""
    del profiles
    results: list[Result] = []
    other_version = version_spread(folder)
    for precision in ("fp32", "int8"):
        pool = pool_of(folder, precision)
        population, fits = pool.fit()
        print_population(pool, population)
        left_out = by_log(families_out(pool))
        for profile, device, runtime, threads in TARGETS:
            name = f"{device} / {runtime} / {precision}"
            log = next((log for log in pool.logs if log.name == name), None)
            if log is None:
                continue  # its rows contradict each other
            print(f"\n== {profile} {runtime} {precision}: each family predicted without it")
            print_predictions(left_out[name])
            results.append(
                result(
                    pool,
                    log,
                    profile=profile,
                    slug=f"tflite-{precision}-t{threads}-b1",
                    fit=fits[name],
                    population=population,
                    residuals=[p.error for p in left_out[name]],
                    method="each family of networks predicted by a fit that saw it on no board",
                    sources=sorted({_submission(row.source) for row in log.rows}),
                    power=_power(folder, log.rows, device=device, precision=precision),
                    other_version=other_version,
                )
            )
    return results


def _power(folder: Path, rows: Sequence[Row], *, device: str, precision: str) -> Fact | None:
    """The mean wall power, of an earlier version's rows where these have none."""
    source = "mean wall power of the same rows"
    watts = [row.watts for row in rows if row.watts]
    if not watts:
        source = f"mean wall power of {_OLDER}, the same networks"
        older = published_rows.sweeps(folder, precision=precision)
        group = f"{device} / {_OLDER} / {precision}"
        watts = [row.watts for row in older if row.group == group and row.watts]
    return Fact(float(np.mean(watts)), "W", source) if watts else None


def _submission(source: str) -> str:
    """The system's folder, for the log of one run: repository:path@commit."""
    path, commit = source.rsplit("@", 1)
    return f"{'/'.join(path.split('/')[:5])}@{commit}"
