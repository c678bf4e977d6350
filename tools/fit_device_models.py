"""Fit the estimated device models of the shipped profiles to published latencies.

    python tools/fit_device_models.py PUBLISHED [--only tensorrt] [--write]

PUBLISHED is the folder of published measurements, which is not part of this repository. Prints
every row with its fit and the error of a fit that had not seen it. With ``--write`` the prices go
between the ``# fitted:`` lines of ``device_profiles/*.toml``. The same rows give the same files.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fit_common import Result
from fit_ncnn import ncnn
from fit_tensorrt import tensorrt
from fit_tflite import tflite

from edgenas.estimate import MODEL, NAMES, Kernels
from edgenas.files import write_text

PROFILES = Path(__file__).parents[1] / "device_profiles"
JOBS: dict[str, Callable[[Path, Path], list[Result]]] = {
    "tensorrt": tensorrt,
    "tflite": tflite,
    "ncnn": ncnn,
}


def text(result: Result) -> str:
    """The TOML lines of one target."""
    values = np.zeros(len(NAMES))
    values[list(result.used)] = np.exp(result.found.logs)
    values *= result.scale
    covariance = np.zeros((len(NAMES), len(NAMES)))
    covariance[np.ix_(result.used, result.used)] = result.found.covariance
    halved = np.diag(result.found.covariance) < np.diag(result.prior.covariance) / 4
    origin = dict(zip(result.used, halved, strict=True))
    lines = [
        "[targets.estimate]",
        f'model = "{MODEL}"',
        f"fused = [{', '.join(_quoted(name) for name in sorted(result.kernels.fused))}]",
        *_kernels(result.kernels),
        f"rows = {len(result.rows)}",
        f"method = {_quoted(result.method)}",
        f"residuals = [{', '.join(f'{r:.3f}' for r in sorted(result.residuals))}]",
        f"doubt = {np.sqrt(np.mean(np.square(result.doubts))):.3g}",
        "covariance = [",
        *(f"  [{', '.join(f'{c:.3g}' for c in row)}]," for row in covariance),
        "]",
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


def _kernels(kernels: Kernels) -> list[str]:
    """What is not the default."""
    plain = Kernels()
    lines = [f"tile = {kernels.tile}"] if kernels.tile != plain.tile else []
    for name in ("per_group", "vectors"):
        if getattr(kernels, name) != getattr(plain, name):
            lines.append(f"{name} = {str(getattr(kernels, name)).lower()}")
    return lines


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--only", choices=list(JOBS))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for name, job in JOBS.items():
        if arguments.only in (None, name):
            for result in job(arguments.published, PROFILES):
                if arguments.write:
                    write(result)


if __name__ == "__main__":
    main()
