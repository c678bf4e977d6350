"""CPUs with ncnn: twelve networks a log, all boards and numbers of threads one pool.

What starts a kernel is read off the rows: grouped convs run group by group, 3x3 convs as Winograd
F(6,3), concatenations and slices copy. From ncnn's code: ``Reduction`` and ``LRN`` have no kernel
for packed or half-precision elements on Arm, so their tensors are unpacked, cast to fp32 and read
one by one (``plain``); SiLU, sigmoid and softmax have vectorised ones.
"""

from pathlib import Path

import numpy as np

from edgenas.latency.features import AT, NAMES, Kernels
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
    median_error,
    print_population,
    ratios,
    result,
)
from tools.device_fits.fit_tflite import version_spread
from tools.device_fits.published_rows import Row

KERNELS = Kernels(
    fused=frozenset({"relu"}),
    tile=6,
    per_group=True,
    vectors=False,
    plain=frozenset({"reduce", "lrn"}),
)
USED = tuple(i for name, i in AT.items() if name not in ("general", "patch"))
KNOWN = (
    *RATIOS,
    Ratio("depthwise", "pointwise", 1.0, 0.7),
    Ratio("winograd", "dense", -0.5, 0.7),
    Ratio("kernel", "run", -2.5, 1.5),
    Ratio("exponential", "elementwise", 1.2, 0.5),
    Ratio("plain", "elementwise", 1.5, 1.0),
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
_FEWEST = 11  # networks of a log


def before() -> Prior:
    """What is known of the prices without any row."""
    return ratios(USED, known=KNOWN)


def pool_of(folder: Path, kernels: Kernels = KERNELS) -> Pool:
    """All logs with at least eleven networks."""
    logs: dict[str, list[Row]] = {}
    for row in published_rows.ncnn(folder):
        logs.setdefault(row.group, []).append(row)
    return Pool(
        name="ncnn",
        logs=tuple(
            Log(name, tuple(rows), kernels, np.ones(len(NAMES)))
            for name, rows in logs.items()
            if len(rows) >= _FEWEST
        ),
        used=USED,
        before=before(),
    )


def ncnn(folder: Path, profiles: Path) -> list[Result]:
    """All boards one population, from which each departs as far as its rows say."""
    del profiles
    pool = pool_of(folder)
    population, fits = pool.fit()
    print_population(pool, population)
    predictions = families_out(pool)
    for family in pool.families:
        errors = [p.error for p in predictions if p.row.family == family]
        print(f"   {family:20s} left out: median error {100 * median_error(errors):.0f}%, ", end="")
        print(f"bias {100 * np.expm1(np.median(errors)):+.0f}%")
    left_out = by_log(predictions)
    other_version = version_spread(folder)
    results: list[Result] = []
    for log in pool.logs:
        board, way, threads, _ = log.name.split(" / ")
        alike = [o for o in pool.logs if o.name.startswith(f"{board} / {way} / {threads} /")]
        if board not in _PROFILES or len(alike) > 1:
            continue  # several boards of one name
        results.append(
            result(
                pool,
                log,
                profile=_PROFILES[board],
                slug=f"ncnn-{way.split()[1]}-t{threads}-b1",
                fit=fits[log.name],
                population=population,
                residuals=[p.error for p in left_out[log.name]],
                method="each network predicted by a fit that saw it on no board",
                sources=sorted({row.source for row in log.rows}),
                other_version=other_version,
            )
        )
    return results
