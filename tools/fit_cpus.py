"""CPUs.

TensorFlow Lite: about forty networks a target, fitted on their own. ncnn: twelve networks a target
on many boards and phones, one population.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import published_rows
from fit_common import (
    AT,
    Group,
    Ratio,
    Result,
    counted,
    doubts,
    errors,
    pool,
    print_rows,
    ratios,
    summary,
)
from published_rows import Row

from edgenas.estimate import NAMES, Fit, Prior, fit, fit_many

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
    "window": 1e-9,
    "exponential": 3e-9,
    "patch": 1e-9,
}
# An element costs about the same wherever it moves; a MAC of one kind about as much as of another
# (three times as much where it finds no reuse: depthwise); unfolding runs on one thread.
_RATIOS = (
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

    def fitted(part: Sequence[Row]) -> Fit:
        own = _group(part, _TFLITE_FUSED)
        return fit(own.counts, own.seconds, prior=prior, noise=_TFLITE_NOISE)

    for profile, device, runtime, threads in _SWEEPS:
        for precision in ("fp32", "int8"):
            if (profile, precision) == ("rk3399", "fp32"):
                continue  # its rows contradict each other: larger images that take half the time
            rows = published_rows.sweeps(
                folder, device=device, runtime=runtime, precision=precision
            )
            found = fitted(rows)
            print(f"\n== {profile} {runtime} {precision}: fit")
            print_rows(rows, errors(_group(rows, _TFLITE_FUSED), found))
            print("   each family predicted by a fit without it:")
            off, unsure = _left_out(rows, fitted)
            for family, values in off.items():
                print_rows([row for row in rows if row.family == family], values)
            residuals = [error for values in off.values() for error in values]
            summary(residuals)
            inner = {f: _left_out([r for r in rows if r.family != f], fitted)[0] for f in off}
            _coverage(off, inner)
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
                    doubts=tuple(unsure),
                    method="each family of networks predicted by a fit without it",
                    watts=float(np.mean(watts)) if watts else 0.0,
                )
            )
    return results


def _group(part: Sequence[Row], fused: frozenset[str]) -> Group:
    counts = np.array([counted(row, fused) for row in part])
    return Group(counts, np.array([row.seconds for row in part]))


def _left_out(
    part: Sequence[Row], fitted: Callable[[Sequence[Row]], Fit]
) -> tuple[dict[str, list[float]], list[float]]:
    """Errors and doubts on each family of a fit without it."""
    off: dict[str, list[float]] = {}
    unsure: list[float] = []
    for family in sorted({row.family for row in part}):
        found = fitted([row for row in part if row.family != family])
        hidden = _group([row for row in part if row.family == family], _TFLITE_FUSED)
        off[family] = errors(hidden, found)
        unsure.extend(doubts(hidden, found))
    return off, unsure


def _submission(source: str) -> str:
    """The system's folder, for the log of one run: repository:path@commit."""
    path, commit = source.rsplit("@", 1)
    return f"{'/'.join(path.split('/')[:5])}@{commit}"


def _coverage(off: dict[str, list[float]], inner: dict[str, dict[str, list[float]]]) -> None:
    """How many left-out rows lie in the 90% interval that the rest of the rows alone gives."""
    inside, total = 0, 0
    for family, values in off.items():
        spread = sorted(abs(e) for part in inner[family].values() for e in part)
        bound = spread[min(len(spread), math.ceil((len(spread) + 1) * 0.9)) - 1]
        inside += sum(abs(value) <= bound for value in values)
        total += len(values)
    print(f"   90% intervals made without a family hold {inside} of its rows, of {total}")


# -- ncnn -----------------------------------------------------------------------------------------

_NCNN_FUSED = frozenset({"relu", "concat"})
_NCNN_NOISE = 0.08
_NCNN_RATIOS = (
    *(ratio for ratio in _RATIOS if ratio.price not in ("winograd", "patch")),
    Ratio("winograd", "dense", -0.5, 0.7),
    Ratio("kernel", "run", -2.5, 1.5),
)
_NCNN = {
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


def ncnn(folder: Path, profiles: Path) -> list[Result]:
    """CPUs with ncnn: twelve networks a board and number of threads, all boards one population."""
    del profiles
    used = tuple(i for name, i in AT.items() if name != "patch")
    before = ratios(
        [NAMES[i] for i in used],
        anchors=[_ANCHORS[NAMES[i]] for i in used],
        known=_NCNN_RATIOS,
    )
    boards: dict[str, list[Row]] = {}
    for row in published_rows.ncnn(folder):
        boards.setdefault(row.group, []).append(row)
    # More than twelve rows are several boards of one name.
    boards = {name: part for name, part in boards.items() if 11 <= len(part) <= 12}
    whole = {name: _group(part, _NCNN_FUSED) for name, part in boards.items()}
    groups = {name: Group(g.counts[:, used], g.seconds) for name, g in whole.items()}

    def fits(parts: dict[str, Group], prior: Prior) -> dict[str, Fit]:
        pairs = [(g.counts, g.seconds) for g in parts.values()]
        return dict(zip(parts, fit_many(pairs, prior=prior, noise=_NCNN_NOISE), strict=True))

    prior = pool(list(groups.values()), before=before, noise=_NCNN_NOISE)
    found = fits(groups, prior)
    strict: dict[str, list[float]] = {name: [] for name in groups}
    unsure: dict[str, list[float]] = {name: [] for name in groups}
    known: list[float] = []
    print(f"\n== ncnn on CPUs: {len(groups)} boards x threads, each network left out")
    for network in sorted({row.family for part in boards.values() for row in part}):
        seen: dict[str, Group] = {}
        hidden: dict[str, Group] = {}
        for name, part in boards.items():
            mask = np.array([row.family == network for row in part])
            if not mask.any():
                continue
            own = groups[name]
            seen[name] = Group(own.counts[~mask], own.seconds[~mask])
            hidden[name] = Group(own.counts[mask], own.seconds[mask])
        elsewhere = pool(list(seen.values()), before=before, noise=_NCNN_NOISE)
        off: list[float] = []
        for name, without in fits(seen, elsewhere).items():
            off.extend(errors(hidden[name], without))
            strict[name].extend(errors(hidden[name], without))
            unsure[name].extend(doubts(hidden[name], without))
        for name, without in fits(seen, prior).items():
            known.extend(errors(hidden[name], without))
        print(f"   {network}: bias {100 * math.expm1(-float(np.median(off))):+.0f}%")
        summary(off)
    print("   all, the network unknown everywhere:")
    summary([error for part in strict.values() for error in part])
    print("   all, the network unknown on this board only:")
    summary(known)
    _unseen_boards(groups, before)

    results: list[Result] = []
    for name, part in boards.items():
        device, way, threads = name.split(" / ")
        if device in _NCNN:
            print(f"   {name}: left-out networks")
            summary(strict[name])
            results.append(
                Result(
                    profile=_NCNN[device],
                    slug=f"ncnn-{way.split()[1]}-t{threads}-b1",
                    fused=_NCNN_FUSED,
                    scale=np.ones(len(NAMES)),
                    used=used,
                    found=found[name],
                    prior=prior,
                    rows=tuple(part),
                    sources=tuple(sorted({row.source for row in part})),
                    residuals=tuple(strict[name]),
                    doubts=tuple(unsure[name]),
                    method="each network predicted by a fit that saw it on no board",
                    watts=0.0,
                )
            )
    return results


def _unseen_boards(groups: dict[str, Group], before: Prior) -> None:
    """A board that nobody measured: how far off after a few networks are measured on it."""
    rng = np.random.default_rng(0)
    boards = sorted({name.split(" / ")[0] for name in groups})
    off: dict[int, list[float]] = {3: [], 10: []}
    for fold in range(5):
        out = set(boards[fold::5])
        inside = [group for name, group in groups.items() if name.split(" / ")[0] not in out]
        prior = pool(inside, before=before, noise=_NCNN_NOISE)
        new = [group for name, group in groups.items() if name.split(" / ")[0] in out]
        for measured, errors_of in off.items():
            orders = [rng.permutation(len(group.seconds)) for group in new]
            pairs = [
                (g.counts[o[:measured]], g.seconds[o[:measured]])
                for g, o in zip(new, orders, strict=True)
            ]
            after = fit_many(pairs, prior=prior, noise=_NCNN_NOISE)
            for g, o, f in zip(new, orders, after, strict=True):
                rest = Group(g.counts[o[measured:]], g.seconds[o[measured:]])
                errors_of.extend(errors(rest, f))
    for measured, errors_of in off.items():
        print(f"   boards never seen, {measured} networks measured:")
        summary(errors_of)
