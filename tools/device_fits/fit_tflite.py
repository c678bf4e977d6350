"""CPUs with TensorFlow Lite on all cores: about forty MobileNets a target, each fitted on its own.

What the fit itself leaves open (the noise, how tightly prices are held together) is chosen from a
small grid by leaving out families of the rows at hand, so a family that is left out for its error
has no say in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from edgenas.latency.estimate import (
    NAMES,
    Fit,
    Kernels,
    Prior,
    fit,
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
    held,
    print_rows,
    ratios,
    relative_error,
    summary,
)
from tools.device_fits.published_rows import Row

KERNELS = Kernels(fused=frozenset({"relu", "relu6", "concat"}))
# Typical values of a small CPU, seconds each: only the order of magnitude matters.
ANCHORS = {
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
    "window": 1e-9,
    "exponential": 3e-9,
    "patch": 1e-9,
}
# An element costs about the same wherever it moves; a MAC of one kind about as much as of another
# (three times as much where it finds no reuse: depthwise); unfolding runs on one thread.
RATIOS = (
    Ratio("elementwise", "activation", 0.0, 0.5),
    Ratio("window", "elementwise", 0.0, 0.7),
    Ratio("exponential", "elementwise", 1.5, 0.7),
    Ratio("vector_weight", "weight", 0.0, 0.7),
    Ratio("weight", "activation", 0.0, 1.0),
    Ratio("patch", "activation", 1.5, 1.0),
    Ratio("dense", "pointwise", 0.0, 0.7),
    Ratio("winograd", "dense", 0.0, 0.7),
    Ratio("depthwise", "pointwise", 1.0, 0.7),
)
TARGETS = (
    # profile, device of the rows, runtime, threads
    ("rpi4", "rpi4b", "TFLite v2.7.1 (ruy)", 4),
    ("odroid-n2plus", "odroid_n2plus_s922x", "TFLite v2.11.0 (ruy)", 6),
    ("jetson-agx-xavier", "jetson_agx_xavier", "TFLite v2.11.0 (ruy)", 8),
    ("rk3588s", "rk3588s_firefly", "TFLite v2.11.0 (ruy)", 8),
    ("rk3399", "rk3399_firefly", "TFLite v2.5.0 (ruy)", 6),
    ("jetson-agx-orin", "jetson_agx_orin", "TFLite v2.11.0 (ruy)", 12),
)
_OLDER = "TFLite v2.7.1 (ruy)"  # its rows have wall power where later ones lack it


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen for a fit.

    Args:
        noise: standard deviation of log(seconds) about a perfect fit.
        loose: factor on the spreads of ``RATIOS``.
    """

    noise: float
    loose: float


GRID = tuple(Choice(noise, loose) for noise in (0.025, 0.05, 0.1) for loose in (0.5, 1.0, 2.0))


@cache
def prior_of(choice: Choice) -> Prior:
    """What is known of the prices before any row."""
    known = [Ratio(r.price, r.other, r.mean, r.spread * choice.loose) for r in RATIOS]
    return ratios(NAMES, anchors=[ANCHORS[name] for name in NAMES], known=known)


def group_of(rows: Sequence[Row]) -> Group:
    """The features and seconds of rows."""
    counts = np.array([counted(row, KERNELS) for row in rows])
    return Group(counts, np.array([row.seconds for row in rows]))


def fitted(rows: Sequence[Row], choice: Choice) -> Fit:
    """The prices that rows say."""
    own = group_of(rows)
    return fit(own.counts, own.seconds, prior=prior_of(choice), noise=choice.noise)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A family that a fit had not seen: errors and doubts of its rows (see ``fit_common``)."""

    family: str
    rows: tuple[Row, ...]
    errors: tuple[float, ...]
    doubts: tuple[float, ...]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Errors with doubts."""
        return list(zip(self.errors, self.doubts, strict=True))


def families_out(rows: Sequence[Row], choice: Choice) -> list[LeftOut]:
    """Each family of rows predicted by a fit to the others."""
    found: list[LeftOut] = []
    for family in sorted({row.family for row in rows}):
        seen = fitted([row for row in rows if row.family != family], choice)
        hidden = tuple(row for row in rows if row.family == family)
        own = group_of(hidden)
        found.append(LeftOut(family, hidden, tuple(errors(own, seen)), tuple(doubts(own, seen))))
    return found


def mean_error(parts: Sequence[LeftOut]) -> float:
    """The mean over families of the mean absolute percentage error."""
    return float(np.mean([relative_error(part.errors) for part in parts]))


def choose(rows: Sequence[Row]) -> Choice:
    """The choice with the least mean error on left-out families of these very rows."""
    return min(GRID, key=lambda choice: mean_error(families_out(rows, choice)))


def nested(rows: Sequence[Row]) -> tuple[list[LeftOut], int]:
    """Each family predicted by a fit that neither saw it nor was chosen with it.

    Returns:
        The families, and how many of their rows lie in the 90% interval that was made of the
        errors of the same game on the rest of the rows alone.
    """
    found: list[LeftOut] = []
    inside = 0
    for family in sorted({row.family for row in rows}):
        rest = [row for row in rows if row.family != family]
        choice = choose(rest)
        inner = [pair for part in families_out(rest, choice) for pair in part.pairs]
        (part,) = (p for p in families_out(rows, choice) if p.family == family)
        inside += held(part.pairs, inner)
        found.append(part)
    return found, inside


def tflite(folder: Path, profiles: Path) -> list[Result]:
    """The MLPerf sweeps of MobileNet v1, v2 and v3."""
    del profiles
    results: list[Result] = []
    for profile, device, runtime, threads in TARGETS:
        for precision in ("fp32", "int8"):
            if (profile, precision) == ("rk3399", "fp32"):
                continue  # its rows contradict each other: larger images that take half the time
            rows = published_rows.sweeps(
                folder, device=device, runtime=runtime, precision=precision
            )
            choice = choose(rows)
            found = fitted(rows, choice)
            print(f"\n== {profile} {runtime} {precision}: fit with {choice}")
            print_rows(rows, errors(group_of(rows), found))
            print("   each family predicted by a fit without it:")
            parts, _ = nested(rows)
            for part in parts:
                print_rows(part.rows, part.errors)
            residuals = [error for part in parts for error in part.errors]
            summary(residuals)
            watts, said = _power(folder, rows, device=device, precision=precision)
            results.append(
                Result(
                    profile=profile,
                    slug=f"tflite-{precision}-t{threads}-b1",
                    kernels=KERNELS,
                    scale=np.ones(len(NAMES)),
                    used=tuple(AT.values()),
                    found=found,
                    prior=prior_of(choice),
                    rows=tuple(rows),
                    sources=tuple(sorted({_submission(row.source) for row in rows})),
                    residuals=tuple(residuals),
                    doubts=tuple(doubt for part in parts for doubt in part.doubts),
                    method="each family of networks predicted by a fit without it",
                    watts=watts,
                    watts_source=said,
                )
            )
    return results


def _power(folder: Path, rows: Sequence[Row], *, device: str, precision: str) -> tuple[float, str]:
    """The mean wall power, of an earlier version's rows where these have none; 0: none there."""
    if any(row.watts for row in rows):
        return float(np.mean([row.watts for row in rows if row.watts])), "of the same rows"
    older = published_rows.sweeps(folder, device=device, runtime=_OLDER, precision=precision)
    found = [row.watts for row in older if row.watts]
    return (float(np.mean(found)), f"of {_OLDER}, the same networks") if found else (0.0, "")


def _submission(source: str) -> str:
    """The system's folder, for the log of one run: repository:path@commit."""
    path, commit = source.rsplit("@", 1)
    return f"{'/'.join(path.split('/')[:5])}@{commit}"
