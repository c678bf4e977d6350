"""CPUs. TensorFlow Lite: about forty networks a target, fitted on their own."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import published_rows
from fit_common import AT, Group, Ratio, Result, counted, errors, print_rows, ratios, summary
from published_rows import Row

from edgenas.estimate import NAMES, Fit, fit

_TFLITE_FUSED = frozenset({"relu", "relu6", "concat"})
_TFLITE_NOISE = 0.05
# Typical values of a small CPU, seconds each: only the order of magnitude matters.
_ANCHORS = {
    "run": 1e-4,
    "kernel": 1e-5,
    "dense": 1.5e-10,
    "winograd": 1.5e-10,
    "pointwise": 1.5e-10,
    "depthwise": 3e-10,
    "activation": 5e-10,
    "weight": 1e-9,
    "vector_weight": 1e-9,
    "elementwise": 1e-9,
    "patch": 1e-9,
}
# An element costs about the same wherever it moves; a MAC of one kind about as much as of another
# (three times as much where it finds no reuse: depthwise); unfolding runs on one thread.
_RATIOS = (
    Ratio("elementwise", "activation", 0.0, 0.5),
    Ratio("vector_weight", "weight", 0.0, 0.7),
    Ratio("weight", "activation", 0.0, 1.0),
    Ratio("patch", "activation", 1.5, 1.0),
    Ratio("dense", "pointwise", 0.0, 0.7),
    Ratio("winograd", "dense", 0.0, 0.7),
    Ratio("depthwise", "pointwise", 1.0, 0.7),
)
_SWEEPS = (
    # profile, device of the rows, runtime, threads
    ("rpi4", "rpi4b", "TFLite v2.7.1 (ruy)", 4),
    ("odroid-n2plus", "odroid_n2plus_s922x", "TFLite v2.11.0 (ruy)", 6),
    ("rk3588s", "rk3588s_firefly", "TFLite v2.11.0 (ruy)", 8),
    ("rk3399", "rk3399_firefly", "TFLite v2.5.0 (ruy)", 6),
    ("jetson-agx-xavier", "jetson_agx_xavier", "TFLite v2.11.0 (ruy)", 8),
    ("jetson-agx-orin", "jetson_agx_orin", "TFLite v2.11.0 (ruy)", 12),
)


def sweeps(folder: Path, profiles: Path) -> list[Result]:
    """TensorFlow Lite on all cores: the MLPerf sweeps of MobileNet v1, v2 and v3."""
    del profiles
    results: list[Result] = []
    prior = ratios(NAMES, anchors=[_ANCHORS[name] for name in NAMES], known=_RATIOS)

    def group(part: Sequence[Row]) -> Group:
        counts = np.array([counted(row, _TFLITE_FUSED) for row in part])
        return Group(counts, np.array([row.seconds for row in part]))

    def fitted(part: Sequence[Row]) -> Fit:
        own = group(part)
        return fit(own.counts, own.seconds, prior=prior, noise=_TFLITE_NOISE)

    def left_out(part: Sequence[Row]) -> dict[str, list[float]]:
        """Errors on each family of a fit without it."""
        off: dict[str, list[float]] = {}
        for family in sorted({row.family for row in part}):
            seen = [row for row in part if row.family != family]
            hidden = [row for row in part if row.family == family]
            off[family] = errors(group(hidden), fitted(seen))
        return off

    for profile, device, runtime, threads in _SWEEPS:
        for precision in ("fp32", "int8"):
            if (profile, precision) == ("rk3399", "fp32"):
                continue  # its rows contradict each other: larger images that take half the time
            rows = published_rows.sweeps(
                folder, device=device, runtime=runtime, precision=precision
            )
            found = fitted(rows)
            print(f"\n== {profile} {runtime} {precision}: fit")
            print_rows(rows, errors(group(rows), found))
            print("   each family predicted by a fit without it:")
            off = left_out(rows)
            for family, values in off.items():
                print_rows([row for row in rows if row.family == family], values)
            residuals = [error for values in off.values() for error in values]
            summary(residuals)
            _coverage(rows, off, {f: left_out([r for r in rows if r.family != f]) for f in off})
            watts = [row.watts for row in rows if row.watts]
            results.append(
                Result(
                    profile=profile,
                    slug=f"tflite-{precision}-t{threads}-b1",
                    fused=_TFLITE_FUSED,
                    scale=np.ones(len(NAMES)),
                    used=tuple(AT.values()),
                    found=found,
                    prior=prior,
                    rows=tuple(rows),
                    sources=tuple(sorted({_submission(row.source) for row in rows})),
                    residuals=tuple(residuals),
                    method="each family of networks predicted by a fit without it",
                    watts=float(np.mean(watts)) if watts else 0.0,
                )
            )
    return results


def _submission(source: str) -> str:
    """The system's folder, for the log of one run: repository:path@commit."""
    path, commit = source.rsplit("@", 1)
    return f"{'/'.join(path.split('/')[:5])}@{commit}"


def _coverage(
    rows: Sequence[Row], off: dict[str, list[float]], inner: dict[str, dict[str, list[float]]]
) -> None:
    """How many left-out rows lie in the 90% interval that the rest of the rows alone gives."""
    inside, total = 0, 0
    for family, values in off.items():
        spread = sorted(abs(e) for part in inner[family].values() for e in part)
        bound = spread[min(len(spread), math.ceil((len(spread) + 1) * 0.9)) - 1]
        inside += sum(abs(value) <= bound for value in values)
        total += len(values)
    print(f"   90% intervals made without a family hold {inside} of its rows, of {total}")
