"""Draw accuracy against epochs from the record of a supernet.

python -m tools.benchmarks.plot_training mbv3-cifar10 docs/results/trained.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from edgenas.model.saved import find_supernet, load_supernet


def main() -> int:
    """Draw the picture."""
    supernet, picture = sys.argv[1], Path(sys.argv[2])
    record = load_supernet(find_supernet(supernet)).training
    epochs = np.array([point["epoch"] for point in record["curve"]])
    accuracies = 100 * np.array([point["validation"] for point in record["curve"]])
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for i, (name, colour) in enumerate({"largest": "#0b6e4f", "smallest": "#c84c09"}.items()):
        axes.plot(epochs, accuracies[:, i], color=colour, linewidth=1.2)
        words = f"{name} {accuracies[-1, i]:.1f}%"
        axes.annotate(
            words,
            (epochs[-1], accuracies[-1, i]),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    axes.set_xlabel("epochs")
    axes.set_ylabel(f"validation accuracy, % (n={record['validation_images']:,})")
    axes.set_ylim(bottom=70)
    axes.set_xlim(0, epochs[-1] * 1.16)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    figure.savefig(picture, dpi=150)
    print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
