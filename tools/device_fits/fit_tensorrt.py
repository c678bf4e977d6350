"""The Jetsons with TensorRT FP16: few rows a board, one population, scaled by the data sheets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenas.latency.device import Device, read
from edgenas.latency.estimate import (
    NAMES,
    Array,
    Fit,
    Kernels,
    Prior,
    fit,
)
from tools.device_fits import published_rows
from tools.device_fits.fit_common import (
    AT,
    Group,
    Result,
    counted,
    doubts,
    errors,
    pool,
    print_rows,
    summary,
)
from tools.device_fits.published_rows import Row

KERNELS = Kernels(fused=frozenset({"relu", "relu6", "add", "concat", "slice"}))
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
MAIN_HARNESS = {
    "jetson-orin-nano": "ultralytics",
    "jetson-orin-nx": "ultralytics",
    "jetson-nano": "torch2trt",
    "jetson-agx-xavier": "torch2trt",
    "jetson-tx2": "TensorRT 3",
}
USED = tuple(i for name, i in AT.items() if name != "patch")
# Without rows of their own, but inside what the data sheets of the others span.
UNSEEN = ("jetson-xavier-nx",)
SMALL = 3e9  # MACs: the rows of the Orins are of larger networks


@dataclass(frozen=True, slots=True)
class Jetsons:
    """The published rows of the Jetsons in one precision, one population.

    Args:
        groups: rows by device and harness.
        scales: what the data sheet allows, by profile.
    """

    groups: Mapping[str, list[Row]]
    scales: Mapping[str, Array]

    def group(self, part: Sequence[Row], *, batch: int = 1) -> Group:
        """Features in units of the data sheet."""
        counts = np.array([counted(row, KERNELS, batch=batch) for row in part])
        counts = counts * self.scales[_profile(part[0])]
        return Group(counts[:, USED], np.array([row.seconds for row in part]))

    def fitted(self, part: Sequence[Row], *, without: str) -> tuple[Fit, Prior]:
        """A fit to rows, all rows of profiles other than ``without`` its relatives."""
        others = [rows for rows in self.groups.values() if _profile(rows[0]) != without]
        own = self.group(part)
        prior = pool([own, *map(self.group, others)], before=before(), noise=_NOISE)
        return fit(own.counts, own.seconds, prior=prior, noise=_NOISE), prior

    def rows_of(self, profile: str) -> list[Row]:
        """The rows of a profile's main harness."""
        (part,) = (p for p in self.groups.values() if _is(p[0], profile, MAIN_HARNESS[profile]))
        return part

    def families_out(self, profile: str) -> list[tuple[Row, float, float]]:
        """Each family of a board predicted without it: rows with error and doubt."""
        part = self.rows_of(profile)
        found: list[tuple[Row, float, float]] = []
        for family in dict.fromkeys(row.family for row in part):
            seen = [row for row in part if row.family != family]
            if seen:
                hidden = [row for row in part if row.family == family]
                without, _ = self.fitted(seen, without=profile)
                off = errors(self.group(hidden), without)
                unsure = doubts(self.group(hidden), without)
                found.extend(zip(hidden, off, unsure, strict=True))
        return found

    def unseen(self, profile: str, *, without: str = "") -> list[tuple[Row, float, float]]:
        """A board predicted from the data sheets and the other boards alone.

        Args:
            profile: the board.
            without: another profile whose rows are left out as well.
        """
        out = (profile, without)
        others = [rows for rows in self.groups.values() if _profile(rows[0]) not in out]
        prior = pool(list(map(self.group, others)), before=before(), noise=_NOISE)
        nothing = Fit(prior.mean, prior.covariance)
        found: list[tuple[Row, float, float]] = []
        for part in self.groups.values():
            if _profile(part[0]) == profile:
                own = self.group(part)
                off, unsure = errors(own, nothing), doubts(own, nothing)
                found.extend(zip(part, off, unsure, strict=True))
        return found

    def large_to_small(self) -> list[tuple[Row, float, float]]:
        """The game that gives the Orins their interval.

        Know only the large networks of a relative (and everything about the other devices),
        predict its small ones.
        """
        found: list[tuple[Row, float, float]] = []
        for part in self.groups.values():
            large = [row for row in part if row.macs >= SMALL]
            small = [row for row in part if row.macs < SMALL]
            if large and small:
                seen, _ = self.fitted(large, without=_profile(part[0]))
                off, unsure = errors(self.group(small), seen), doubts(self.group(small), seen)
                found.extend(zip(small, off, unsure, strict=True))
        return found


def before() -> Prior:
    """What is known of the prices without any row."""
    means = [_PRIOR[NAMES[i]][0] for i in USED]
    return Prior(np.log(means), np.diag([_PRIOR[NAMES[i]][1] ** 2 for i in USED]))


def jetsons(
    folder: Path, profiles: Path, *, precision: str = "fp16", foreign: bool = False
) -> Jetsons:
    """The published rows; ``foreign`` networks as well, see ``published_rows.tensorrt``."""
    groups: dict[str, list[Row]] = {}
    for row in published_rows.tensorrt(folder, precision=precision, foreign=foreign):
        groups.setdefault(row.group, []).append(row)
    boards = {profile: read(profiles / f"{profile}.toml") for profile in (*MAIN_HARNESS, *UNSEEN)}
    scales = {profile: sheet(board, precision=precision) for profile, board in boards.items()}
    return Jetsons(groups, scales)


def tensorrt(folder: Path, profiles: Path) -> list[Result]:
    """FP16 on the Jetsons."""
    every = jetsons(folder, profiles)
    print("\n== TensorRT FP16: large networks known, small ones predicted, on the relatives")
    game = every.large_to_small()
    print_rows([row for row, _, _ in game], [off for _, off, _ in game])
    summary([off for _, off, _ in game])
    results: list[Result] = []
    for profile, harness in MAIN_HARNESS.items():
        part = every.rows_of(profile)
        found, prior = every.fitted(part, without=profile)
        print(f"\n== {profile} TensorRT FP16 ({harness}): fit")
        print_rows(part, errors(every.group(part), found))
        print("   each family predicted without it:")
        left_out = every.families_out(profile)
        print_rows([row for row, _, _ in left_out], [off for _, off, _ in left_out])
        depthwise = any(row.family.startswith(("mobilenet", "mnasnet")) for row in part)
        if depthwise:
            summary([off for _, off, _ in left_out])
        held = left_out if depthwise else game
        results.append(
            Result(
                profile=profile,
                slug="tensorrt-fp16-t1-b1",
                kernels=KERNELS,
                scale=every.scales[profile],
                used=USED,
                found=found,
                prior=prior,
                rows=tuple(part),
                sources=tuple(
                    sorted({row.source for rows in every.groups.values() for row in rows})
                ),
                residuals=tuple(off for _, off, _ in held),
                doubts=tuple(unsure for _, _, unsure in held),
                method="each family of networks predicted by a fit without it"
                if depthwise
                else "relatives: their networks below 3 GMACs predicted by a fit that knew only "
                "their larger ones and the other devices",
                watts=0.0,
            )
        )
    print("\n== TensorRT FP16: each board from the others")
    held = [found for profile in MAIN_HARNESS for found in every.unseen(profile)]
    print_rows([row for row, _, _ in held], [off for _, off, _ in held])
    summary([off for _, off, _ in held])
    # Networks for small devices: the depthwise ones among them are predicted worst.
    held = [found for found in held if found[0].macs < SMALL]
    print("   those below 3 GMACs:")
    summary([off for _, off, _ in held])
    parts = list(every.groups.values())
    prior = pool(list(map(every.group, parts)), before=before(), noise=_NOISE)
    results.extend(
        Result(
            profile=profile,
            slug="tensorrt-fp16-t1-b1",
            kernels=KERNELS,
            scale=every.scales[profile],
            used=USED,
            found=Fit(prior.mean, prior.covariance),
            prior=prior,
            rows=(),
            relatives=tuple(row for part in parts for row in part),
            sources=tuple(sorted({row.source for part in parts for row in part})),
            residuals=tuple(off for _, off, _ in held),
            doubts=tuple(unsure for _, _, unsure in held),
            method="relatives: their networks below 3 GMACs predicted from the data sheets and "
            "the other boards",
            watts=0.0,
        )
        for profile in UNSEEN
    )
    return results


def _profile(row: Row) -> str:
    return _JETSONS[row.group.split(" / ")[0]]


def _is(row: Row, profile: str, harness: str) -> bool:
    return row.group.split(" / ")[1] == harness and _profile(row) == profile


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
