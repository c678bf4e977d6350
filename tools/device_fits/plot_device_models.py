"""Plot predicted against published latencies, every row left out of the fit that predicts it.

python -m tools.device_fits.plot_device_models PUBLISHED --out docs/results/device_models.png
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from tools.device_fits import fit_ncnn, fit_tflite
from tools.device_fits.fit_common import families_out
from tools.device_fits.fit_tensorrt import boards_out, pool_of, profile_of

mpl.use("Agg")
import matplotlib.pyplot as plt

PROFILES = Path(__file__).parents[2] / "device_profiles"
_BOARDS = {
    "rpi3b_plus": "Raspberry Pi 3B+",
    "rpi4b": "Raspberry Pi 4",
    "rpi5": "Raspberry Pi 5",
    "rk3399": "RK3399",
    "jetson_orin_nano": "Jetson Orin Nano (CPU)",
    "snapdragon_8gen2": "Snapdragon 8 Gen 2",
}
Points = dict[str, list[tuple[float, float]]]  # by label: published and predicted, milliseconds


def tflite(folder: Path) -> Points:
    """Families left out."""
    profiles = {f"{d} / {runtime}": profile for profile, d, runtime, _ in fit_tflite.TARGETS}
    points: Points = {}
    for precision in ("fp32", "int8"):
        for p in families_out(fit_tflite.pool_of(folder, precision)):
            label = profiles.get(p.log.rsplit(" / ", 1)[0])
            if label:
                points.setdefault(label, []).append(_point(p.row.seconds, p.error))
    return points


def ncnn(folder: Path) -> Points:
    """Networks left out everywhere, on some of the boards."""
    points: Points = {}
    for p in families_out(fit_ncnn.pool_of(folder)):
        label = _BOARDS.get(p.log.split(" / ")[0])
        if label:
            points.setdefault(label, []).append(_point(p.row.seconds, p.error))
    return points


def tensorrt(folder: Path) -> Points:
    """Boards left out."""
    points: Points = {}
    for p in boards_out(pool_of(folder, PROFILES)):
        points.setdefault(profile_of(p.log), []).append(_point(p.row.seconds, p.error))
    return points


def _point(seconds: float, off: float) -> tuple[float, float]:
    return seconds * 1e3, seconds * 1e3 * math.exp(-off)


def _panel(axes: Any, points: Points, title: str) -> None:
    every = [value for pairs in points.values() for pair in pairs for value in pair]
    ends = np.array([min(every) * 0.8, max(every) * 1.25])
    axes.fill_between(ends, ends / 1.2, ends * 1.2, color="0.92", linewidth=0)
    axes.plot(ends, ends, color="0.5", linewidth=0.8)
    for label, pairs in points.items():
        x, y = zip(*pairs, strict=True)
        axes.plot(x, y, ".", markersize=4, alpha=0.7, label=label)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=title)
    axes.set_xlabel("published, ms")
    axes.set_aspect("equal")
    axes.legend(fontsize=7, frameon=False, loc="upper left", handletextpad=0.1)


def plot(panels: Iterable[tuple[Points, str]], out: Path) -> None:
    """Write the figure."""
    listed = list(panels)
    figure, axes = plt.subplots(1, len(listed), figsize=(4.2 * len(listed), 4.4))
    for part, (points, title) in zip(axes, listed, strict=True):
        _panel(part, points, title)
    axes[0].set_ylabel("predicted, ms (grey band: within a factor of 1.2)")
    figure.tight_layout()
    figure.savefig(out, dpi=100, metadata={"Software": None})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    panels = (
        (tflite(arguments.published), "TensorFlow Lite, its family left out of all boards"),
        (ncnn(arguments.published), "ncnn CPU, its network left out of all boards"),
        (tensorrt(arguments.published), "TensorRT FP16, its board left out"),
    )
    plot(panels, arguments.out)


if __name__ == "__main__":
    main()
