"""The Jetsons with TensorRT FP16: few rows a board, one population, scaled by the data sheets."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import published_rows
from fit_common import AT, Group, Result, counted, doubts, errors, pool, print_rows, summary
from published_rows import Row

from edgenas.device import Device, read
from edgenas.estimate import NAMES, Array, Fit, Prior, fit

_FUSED = frozenset({"relu", "relu6", "add", "concat"})
_NOISE = 0.08
# What a price is before any row is seen, as a multiple of what the data sheet allows, and the
# standard deviation of its logarithm. `run` and `kernel` are seconds: copies and a synchronised
# launch; a launch of a kernel. Wide enough that ten rows outweigh each.
_PRIOR = {
    "run": (3e-4, 0.7),
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
_JETSONS = {
    "jetson_orin_nano_super": "jetson-orin-nano",
    "jetson_orin_nx": "jetson-orin-nx",
    "jetson_nano": "jetson-nano",
    "jetson_nano_2gb": "jetson-nano",
    "jetson_agx_xavier": "jetson-agx-xavier",
    "jetson_tx2": "jetson-tx2",
}
_MAIN_HARNESS = {
    "jetson-orin-nano": "ultralytics",
    "jetson-orin-nx": "ultralytics",
    "jetson-nano": "torch2trt",
    "jetson-agx-xavier": "torch2trt",
    "jetson-tx2": "TensorRT 3",
}
_LARGE = 3e9  # MACs: what the Orins have rows of


def tensorrt(folder: Path, profiles: Path) -> list[Result]:
    """FP16 on the Jetsons: one population, scaled by the data sheets."""
    rows = published_rows.tensorrt(folder, precision="fp16")
    names = [name for name in NAMES if name != "patch"]
    used = tuple(AT[name] for name in names)
    before = Prior(
        np.log([_PRIOR[name][0] for name in names]),
        np.diag([_PRIOR[name][1] ** 2 for name in names]),
    )
    boards = {profile: read(profiles / f"{profile}.toml") for profile in _MAIN_HARNESS}
    scales = {profile: _sheet(board, element_bytes=2) for profile, board in boards.items()}

    def group(part: Sequence[Row]) -> Group:
        scale = scales[_profile(part[0])]
        counts = np.array([counted(row, _FUSED) for row in part]) * scale
        return Group(counts[:, used], np.array([row.seconds for row in part]))

    def fitted(part: Sequence[Row], relatives: Iterable[list[Row]]) -> tuple[Fit, Prior]:
        groups = [group(part), *(group(other) for other in relatives)]
        prior = pool(groups, before=before, noise=_NOISE)
        own = group(part)
        return fit(own.counts, own.seconds, prior=prior, noise=_NOISE), prior

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)

    def relatives_of(profile: str) -> list[list[Row]]:
        return [part for part in groups.values() if _profile(part[0]) != profile]

    # The game that gives the Orins their interval: know only the large networks of a relative
    # (and everything about the other devices), predict its small ones.
    game: list[float] = []
    game_doubts: list[float] = []
    print("\n== TensorRT FP16: large networks known, small ones predicted, on the relatives")
    for part in groups.values():
        large = [row for row in part if row.macs >= _LARGE]
        small = [row for row in part if row.macs < _LARGE]
        if large and small:
            found, _ = fitted(large, relatives_of(_profile(part[0])))
            off = errors(group(small), found)
            print_rows(small, off)
            game.extend(off)
            game_doubts.extend(doubts(group(small), found))
    summary(game)

    results: list[Result] = []
    for profile, harness in _MAIN_HARNESS.items():
        (part,) = (p for p in groups.values() if _is(p[0], profile, harness))
        found, prior = fitted(part, relatives_of(profile))
        print(f"\n== {profile} TensorRT FP16 ({harness}): fit")
        print_rows(part, errors(group(part), found))
        left_out: list[float] = []
        left_doubts: list[float] = []
        print("   each family predicted without it:")
        for family in dict.fromkeys(row.family for row in part):
            seen = [row for row in part if row.family != family]
            if seen:
                hidden = [row for row in part if row.family == family]
                without, _ = fitted(seen, relatives_of(profile))
                off = errors(group(hidden), without)
                print_rows(hidden, off)
                left_out.extend(off)
                left_doubts.extend(doubts(group(hidden), without))
        depthwise = any(row.family.startswith(("mobilenet", "mnasnet")) for row in part)
        if depthwise:
            summary(left_out)
        results.append(
            Result(
                profile=profile,
                slug="tensorrt-fp16-t1-b1",
                fused=_FUSED,
                scale=scales[profile],
                used=used,
                found=found,
                prior=prior,
                rows=tuple(part),
                sources=tuple(sorted({row.source for row in rows})),
                residuals=tuple(left_out if depthwise else game),
                doubts=tuple(left_doubts if depthwise else game_doubts),
                method="each family of networks predicted by a fit without it"
                if depthwise
                else "relatives: their networks below 3 GMACs predicted by a fit that knew only "
                "their larger ones and the other devices",
                watts=0.0,
            )
        )
    return results


def _profile(row: Row) -> str:
    return _JETSONS[row.group.split(" / ")[0]]


def _is(row: Row, profile: str, harness: str) -> bool:
    return row.group.split(" / ")[1] == harness and _profile(row) == profile


def _sheet(board: Device, *, element_bytes: int) -> Array:
    """Seconds per unit of each price that the data sheet allows at best; 1 for overheads."""
    fact = {name: fact.value * 1e9 for name, fact in board.facts.items()}
    scale = np.ones(len(NAMES))
    for name in ("dense", "winograd", "pointwise"):
        scale[AT[name]] = 1 / fact["fp16_peak"]
    # Tensor cores have no use for depthwise convs: they run on the CUDA cores.
    scale[AT["depthwise"]] = 1 / fact["fp32_peak"]
    for name in ("activation", "weight", "vector_weight", "elementwise", "window", "exponential"):
        scale[AT[name]] = element_bytes / fact["bandwidth"]
    return scale
