"""Draw the results of ``tools/benchmarks/bench_specialize.py`` as the picture of README.md.

python -m tools.benchmarks.plot_specialize RESULTS.json docs/results/specialised.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from edgenas.basics.files import read_json


def main() -> int:
    """Draw the picture."""
    results, picture = Path(sys.argv[1]), Path(sys.argv[2])
    rows = read_json(results, schema="edgenas.bench-specialize/1")
    colours = {"specialised": "#0b6e4f", "uniform": "#c84c09", "random": "#8d99ae"}
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for row in rows["rows"]:
        axes.axvline(row["budget_ms"], color="#dddddd", linewidth=1, zorder=0)
        drawn = row["random"]
        axes.scatter(
            drawn["measured_ms"],
            100 * np.array(drawn["test"]),
            s=14,
            color=colours["random"],
            label="random networks of that latency" if row is rows["rows"][0] else None,
        )
    for name, words in (
        ("uniform", "best with one kernel, one expand, one depth"),
        ("specialised", "edgenas specialize"),
    ):
        found = [row[name] for row in rows["rows"]]
        axes.plot(
            [f["measured_ms"] for f in found],
            [100 * f["test"] for f in found],
            "o-",
            color=colours[name],
            label=words,
        )
    axes.set_xlabel("median latency measured on the device, ms")
    axes.set_ylabel(f"CIFAR-10 test accuracy, % (n={rows['rows'][0]['test_images']:,})")
    axes.set_title(
        f"Networks of one supernet at three budgets (grey lines)\n{rows['environment']['cpu']}, "
        f"ONNX Runtime fp32, 1 thread, {rows['date']}",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(picture, dpi=150)
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
