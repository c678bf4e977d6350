"""Fit the estimated device models of the shipped profiles to published latencies.

    python -m tools.device_fits.fit_device_models PUBLISHED [--only tensorrt] [--write]

PUBLISHED is the folder of published measurements, which is not part of this repository. Prints
every row with its fit and the error of a fit that had not seen it. With ``--write`` the prices go
between the ``# fitted:`` lines of ``device_profiles/*.toml``. The same rows give the same files.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from edgenas.basics.files import write_text
from edgenas.latency.profile_text import estimate_text
from tools.device_fits.fit_common import Result
from tools.device_fits.fit_ncnn import ncnn
from tools.device_fits.fit_tensorrt import tensorrt
from tools.device_fits.fit_tflite import tflite

PROFILES = Path(__file__).parents[2] / "device_profiles"
JOBS: dict[str, Callable[[Path, Path], list[Result]]] = {
    "tensorrt": tensorrt,
    "tflite": tflite,
    "ncnn": ncnn,
}


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
            blocks[i] = f"{head}{begin}{estimate_text(result.estimate)}\n{end}{tail}"
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
