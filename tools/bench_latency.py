"""How far latency predictions are off, and how often their bounds hold.

On networks that others published (5,000 networks of the once-for-all MobileNetV3 on two GPUs; no
clock is needed)::

    python tools/bench_latency.py --published ../shared/data/published/ofa_gpu_latency.npz
"""

import argparse
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.arch import Arch, Block, Stage
from edgenas.cost import macs_table
from edgenas.predict import LatencyPredictor, held_out
from edgenas.predict.line import fit_line
from edgenas.space import Codes, Space
from edgenas.spaces import load_space

Vector = NDArray[np.float64]
TRAINED, SEEDS = 100, 5

print = functools.partial(print, flush=True)


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", type=Path, required=True, metavar="NPZ")
    given = parser.parse_args()
    published(given.published)


# --- published networks --------------------------------------------------------------------------


def read_published(path: Path) -> tuple[Space, Codes, dict[str, Vector]]:
    """The space, the canonical rows, and seconds by GPU and batch of the published networks."""
    data: Mapping[str, Any] = np.load(path, allow_pickle=False)
    # Released in steps of 16 pixels, measured in steps of 4.
    space = replace(load_space("ofa-mbv3-w1.0"), resolutions=tuple(range(128, 225, 4)))
    fixed = [Stage(16, (Block(3, 1.0),))] * 2
    archs: list[Arch] = []
    columns = (data[name].tolist() for name in ("ks", "expand", "depth", "resolution"))
    for kernels, expands, depths, resolution in zip(*columns, strict=True):
        stages = list(fixed)
        for i, depth in enumerate(depths):
            at = slice(4 * i, 4 * i + depth)
            pairs = zip(kernels[at], expands[at], strict=True)
            blocks = tuple(Block(kernel, float(expand)) for kernel, expand in pairs)
            stages.append(Stage(space.stages[i + 2].widths[0], blocks))
        archs.append(Arch(resolution, tuple(stages)))
    rows = space.encode(archs)
    assert (macs_table(space)(rows) == data["macs"]).all(), "other networks than those published"
    prefix = "lat_ms__"
    seconds = {
        name.removeprefix(prefix): data[name].astype(np.float64) / 1e3
        for name in data
        if name.startswith(prefix)
    }
    return space, rows, seconds


def published(path: Path) -> None:
    """Train on a hundred random networks, test on all others; means over seeds."""
    space, rows, every = read_published(path)
    macs = macs_table(space)(rows)
    print(f"{len(rows)} networks of {space.name}, {path.name}")
    print(f"trained on {TRAINED} random ones, tested on the other {len(rows) - TRAINED}:")
    print(
        f"means over {SEEDS} seeds. 'half': fitted to half of the {TRAINED}, the other half gives"
    )
    print("the bound, as LatencyPredictor.fit does on its own; 'all': fitted to all, no bound\n")
    head = ("error", "Spearman", "error", "Spearman", "held", "error", "Spearman")
    print(f"{'':16}{'learned, all':>18}{'learned, half':>26}{'MACs, a line':>18}")
    print(f"{'GPU, batch':16}" + "".join(f"{word:>9}" for word in head[:4]), end="")
    print(f"{head[4]:>8}" + "".join(f"{word:>9}" for word in head[5:]))
    for name, seconds in every.items():
        found: list[tuple[float, ...]] = []
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(len(rows))
            train, test = order[:TRAINED], order[TRAINED:]
            line = fit_line(macs[train], seconds[train], spare=False)
            predictor = LatencyPredictor(space).fit(rows[train], seconds[train])
            whole = LatencyPredictor(space).fit(
                rows[train], seconds[train], spared=(rows[:0], seconds[:0])
            )
            held = float((seconds[test] <= predictor.upper(rows[test])).mean())
            scores = [
                held_out(predicted, seconds[test], relative=True, method="")
                for predicted in (
                    whole.predict(rows[test]),
                    predictor.predict(rows[test]),
                    line(macs[test]),
                )
            ]
            numbers = [(score.error, score.spearman) for score in scores]
            found.append((*numbers[0], *numbers[1], held, *numbers[2]))
        mean = np.mean(found, axis=0)
        print(
            f"{name:16}{mean[0]:>9.2%}{mean[1]:>9.4f}{mean[2]:>9.2%}{mean[3]:>9.4f}{mean[4]:>8.1%}"
            f"{mean[5]:>9.2%}{mean[6]:>9.4f}"
        )


if __name__ == "__main__":
    main()
