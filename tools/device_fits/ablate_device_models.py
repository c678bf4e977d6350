"""What each term of the estimated device models buys, on families that no fit had seen.

    python -m tools.device_fits.ablate_device_models PUBLISHED

PUBLISHED is the folder of published measurements, which is not part of this repository. Each line
takes one term away and plays the first game of ``bench_device_models`` again: a family of networks
is left out on every board. Printed are the median error, the coverage of the 90% interval and its
interval score, on all logs of the pool; and how far the rows of the RK3588S, whose little cores
hold up depthwise convs most, are from their own fit (root mean square).
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgenas.latency.features import AT
from edgenas.latency.hierarchy import Spreads
from tools.device_fits import fit_ncnn, fit_tflite
from tools.device_fits.bench_device_models import outcomes
from tools.device_fits.fit_common import Pool, Ratio, families_out, median_error, predict, ratios

_ALONE = Spreads(family=1e-3, own=1e-3)


def tflite(folder: Path, precision: str) -> Iterator[tuple[str, Pool]]:
    """The terms of TensorFlow Lite."""
    pool = fit_tflite.pool_of(folder, precision)
    yield "all terms", pool
    even = [replace(log, kernels=replace(log.kernels, rows=1)) for log in pool.logs]
    yield "threads share the rows of depthwise convs evenly", replace(pool, logs=tuple(even))
    if precision == "int8":
        one = [replace(log, kernels=replace(log.kernels, fast3x3=False)) for log in pool.logs]
        used = tuple(i for i in pool.used if i != AT["general"])
        before = ratios(used, known=(*fit_tflite.COMMON, Ratio("depthwise", "pointwise", 1.0, 0.7)))
        yield (
            "one kernel for all depthwise convs",
            replace(pool, logs=tuple(one), used=used, before=before),
        )
    yield "no effects of families", replace(pool, spreads=_ALONE)


def ncnn(folder: Path) -> Iterator[tuple[str, Pool]]:
    """The terms of ncnn."""
    pool = fit_ncnn.pool_of(folder)
    yield "all terms", pool
    kernels = replace(fit_ncnn.KERNELS, plain=frozenset())
    used = tuple(i for i in pool.used if i != AT["plain"])
    known = tuple(r for r in fit_ncnn.KNOWN if r.price != "plain")
    yield (
        "Reduction and LRN priced like other operators",
        replace(fit_ncnn.pool_of(folder, kernels), used=used, before=ratios(used, known=known)),
    )
    loose = tuple(
        Ratio(r.price, r.other, 1.5, 0.7) if r.price == "exponential" else r for r in fit_ncnn.KNOWN
    )
    yield (
        "an exponential may cost anything",
        replace(pool, before=ratios(pool.used, known=loose)),
    )
    yield "no effects of families", replace(pool, spreads=_ALONE)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    folder = parser.parse_args().published
    pools = {
        "TensorFlow Lite fp32": tflite(folder, "fp32"),
        "TensorFlow Lite int8": tflite(folder, "int8"),
        "ncnn": ncnn(folder),
    }
    for name, terms in pools.items():
        print(f"\n{name:54s} rows  error   90%  score rk3588s")
        for title, pool in terms:
            game = outcomes(families_out(pool))
            error = 100 * median_error([o.error for o in game])
            held = 100 * float(np.mean([o.inside(0.9) for o in game]))
            score = float(np.mean([o.score for o in game]))
            line = f"{title:54s} {len(game):4d} {error:5.1f}%  {held:3.0f}% {score:6.3f}"
            print(f"{line} {_own_error(pool, 'rk3588s_firefly')}", flush=True)


def _own_error(pool: Pool, device: str) -> str:
    """How far the rows of a device are from the fit to them."""
    logs = [log for log in pool.logs if log.device == device]
    if len(logs) != 1:
        return ""
    population, fits = pool.fit()
    (log,) = logs
    errors = [p.error for p in predict(pool, log, fits[log.name], population, seen=log.rows)]
    return f"{100 * float(np.sqrt(np.mean(np.square(errors)))):.1f}%"


if __name__ == "__main__":
    main()
