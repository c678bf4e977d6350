"""Fit the estimated device models of the shipped profiles to published latencies.

    python tools/fit_device_models.py PUBLISHED [--only tensorrt] [--write]

PUBLISHED is the folder of published measurements, which is not part of this repository. Prints
every row with its fit and the error of a fit that had not seen it. With ``--write`` the prices go
between the ``# fitted:`` lines of ``device_profiles/*.toml``. The same rows give the same files.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import published_rows
from fit_pooling import Group, pool
from published_rows import Row

from edgenas.device import Device, read
from edgenas.estimate import MODEL, NAMES, Array, Fit, Prior, features, fit
from edgenas.files import write_text

PROFILES = Path(__file__).parents[1] / "device_profiles"
AT = {name: i for i, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What goes into the profile of one target."""

    profile: str
    slug: str
    fused: frozenset[str]
    scale: Array  # seconds per unit of each price at exp(log price) = 1
    used: tuple[int, ...]  # indices of the prices that exist in this runtime
    found: Fit
    prior: Prior
    rows: tuple[Row, ...]
    sources: tuple[str, ...]  # of all rows, the relatives' included
    residuals: tuple[float, ...]
    method: str
    watts: float


# -- TensorRT on Jetson ---------------------------------------------------------------------------

TENSORRT_FUSED = frozenset({"relu", "relu6", "add", "concat"})
TENSORRT_NOISE = 0.08
# What a price is before any row is seen, as a multiple of what the data sheet allows, and the
# standard deviation of its logarithm. `run` and `kernel` are seconds: copies and a synchronised
# launch; a launch of a kernel. Wide enough that ten rows outweigh each.
TENSORRT_PRIOR = {
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


def tensorrt(folder: Path) -> list[Result]:
    """FP16 on the Jetsons: one population, scaled by the data sheets."""
    rows = published_rows.tensorrt(folder, precision="fp16")
    names = [name for name in NAMES if name != "patch"]
    used = tuple(AT[name] for name in names)
    before = Prior(
        np.log([TENSORRT_PRIOR[name][0] for name in names]),
        np.diag([TENSORRT_PRIOR[name][1] ** 2 for name in names]),
    )
    boards = {profile: read(PROFILES / f"{profile}.toml") for profile in _MAIN_HARNESS}
    scales = {profile: _sheet(board, element_bytes=2) for profile, board in boards.items()}

    def group(part: Sequence[Row]) -> Group:
        scale = scales[_profile(part[0])]
        counts = np.array([counted(row, TENSORRT_FUSED) for row in part]) * scale
        return Group(counts[:, used], np.array([row.seconds for row in part]))

    def fitted(part: Sequence[Row], relatives: Iterable[list[Row]]) -> tuple[Fit, Prior]:
        groups = [group(part), *(group(other) for other in relatives)]
        prior = pool(groups, before=before, noise=TENSORRT_NOISE)
        own = group(part)
        return fit(own.counts, own.seconds, prior=prior, noise=TENSORRT_NOISE), prior

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)

    def relatives_of(profile: str) -> list[list[Row]]:
        return [part for part in groups.values() if _profile(part[0]) != profile]

    # The game that gives the Orins their interval: know only the large networks of a relative
    # (and everything about the other devices), predict its small ones.
    game: list[float] = []
    print("\n== TensorRT FP16: large networks known, small ones predicted, on the relatives")
    for part in groups.values():
        large = [row for row in part if row.macs >= _LARGE]
        small = [row for row in part if row.macs < _LARGE]
        if large and small:
            found, _ = fitted(large, relatives_of(_profile(part[0])))
            errors = _errors(group(small), found)
            _print_rows(small, errors)
            game.extend(errors)
    _summary(game)

    results: list[Result] = []
    for profile, harness in _MAIN_HARNESS.items():
        (part,) = (p for p in groups.values() if _is(p[0], profile, harness))
        found, prior = fitted(part, relatives_of(profile))
        print(f"\n== {profile} TensorRT FP16 ({harness}): fit")
        _print_rows(part, _errors(group(part), found))
        left_out: list[float] = []
        print("   each family predicted without it:")
        for family in dict.fromkeys(row.family for row in part):
            seen = [row for row in part if row.family != family]
            if seen:
                hidden = [row for row in part if row.family == family]
                errors = _errors(group(hidden), fitted(seen, relatives_of(profile))[0])
                _print_rows(hidden, errors)
                left_out.extend(errors)
        depthwise = any(row.family.startswith(("mobilenet", "mnasnet")) for row in part)
        if depthwise:
            _summary(left_out)
        results.append(
            Result(
                profile=profile,
                slug="tensorrt-fp16-t1-b1",
                fused=TENSORRT_FUSED,
                scale=scales[profile],
                used=used,
                found=found,
                prior=prior,
                rows=tuple(part),
                sources=tuple(sorted({row.source for row in rows})),
                residuals=tuple(left_out if depthwise else game),
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
    for name in ("activation", "weight", "vector_weight", "elementwise"):
        scale[AT[name]] = element_bytes / fact["bandwidth"]
    return scale


# -- common ---------------------------------------------------------------------------------------


def counted(row: Row, fused: frozenset[str]) -> Array:
    """The features of a row, with one run."""
    counts = features(row.operators, fused=fused)
    counts[AT["run"]] = 1
    return counts


def _errors(group: Group, found: Fit) -> list[float]:
    predicted = group.counts @ np.exp(found.logs)
    return [float(error) for error in np.log(group.seconds / predicted)]


def _print_rows(rows: Sequence[Row], errors: Sequence[float]) -> None:
    for row, error in zip(rows, errors, strict=True):
        ms = row.seconds * 1e3
        print(
            f"   {row.group:44s} {row.network:26s} {ms:8.2f} ms, predicted "
            f"{ms * math.exp(-error):8.2f} ({100 * math.expm1(-error):+.0f}%)"
        )


def _summary(errors: Sequence[float]) -> None:
    off = [abs(math.expm1(-error)) for error in errors]
    print(
        f"   {len(off)} rows: mean error {100 * np.mean(off):.1f}%, "
        f"median {100 * np.median(off):.1f}%"
    )


def text(result: Result) -> str:
    """The TOML lines of one target."""
    values = np.zeros(len(NAMES))
    values[list(result.used)] = np.exp(result.found.logs)
    values *= result.scale
    halved = np.diag(result.found.covariance) < np.diag(result.prior.covariance) / 4
    origin = dict(zip(result.used, halved, strict=True))
    lines = [
        "[targets.estimate]",
        f'model = "{MODEL}"',
        f"fused = [{', '.join(_quoted(name) for name in sorted(result.fused))}]",
        f"rows = {len(result.rows)}",
        f"method = {_quoted(result.method)}",
        f"residuals = [{', '.join(f'{r:.3f}' for r in sorted(result.residuals))}]",
        "sources = [",
        *(f"  {_quoted(source)}," for source in result.sources),
        "]",
    ]
    by_size = sorted(result.rows, key=lambda row: row.macs)
    for name, row in (("smallest", by_size[0]), ("largest", by_size[-1])):
        lines.append(
            f"{name} = {{ network = {_quoted(row.network)}, macs = {row.macs}, "
            f"latency_ms = {row.seconds * 1e3:.6g}, source = {_quoted(row.source)} }}"
        )
    if result.watts:
        lines.append(
            f'power = {{ value = {result.watts:.2f}, unit = "W", '
            f'source = "mean wall power of the same rows" }}'
        )
    lines.append("[targets.estimate.parameters]")
    for i, name in enumerate(NAMES):
        kind = "formula" if i not in origin else "fit" if origin[i] else "pooled"
        lines.append(f'{name} = {{ value = {values[i]:.3g}, origin = "{kind}" }}')
    return "\n".join(lines)


def _quoted(value: str) -> str:
    assert '"' not in value
    assert "\\" not in value
    return f'"{value}"'


def write(result: Result) -> None:
    """Put the lines of a target between the marks of its profile."""
    path = PROFILES / f"{result.profile}.toml"
    runtime, precision, threads, _ = result.slug.rsplit("-", 3)
    blocks = path.read_text().split("[[targets]]\n")
    wanted = [f'runtime = "{runtime}"', f'precision = "{precision}"', f"threads = {threads[1:]}"]
    begin, end = "# fitted: begin\n", "# fitted: end\n"
    for i, block in enumerate(blocks):
        if begin in block and all(f"{line}\n" in block for line in wanted):
            head, tail = block.split(begin)[0], block.split(end)[1]
            blocks[i] = f"{head}{begin}{text(result)}\n{end}{tail}"
            write_text(path, "[[targets]]\n".join(blocks))
            return
    raise SystemExit(f"{path} has no place for {result.slug}")


def main() -> None:
    """The command."""
    jobs = {"tensorrt": tensorrt}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--only", choices=list(jobs))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for name, job in jobs.items():
        if arguments.only in (None, name):
            for result in job(arguments.published):
                if arguments.write:
                    write(result)


if __name__ == "__main__":
    main()
