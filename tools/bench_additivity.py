"""How well times of layers add up to times of networks on this machine.

Profiles a space (what is measured already is taken from the user's cache), then compares sums of
layers, and a line through a few networks, with the networks that the line has not seen::

    python tools/bench_additivity.py --space mbv3-cifar
    python tools/bench_additivity.py --space mbv3-cifar --further 200 --seed 1
"""

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from edgenas.cost import macs_table
from edgenas.device import load
from edgenas.predict.line import fit_line
from edgenas.profiling import calibration_archs, predictor_for, profile
from edgenas.profiling.networks import FURTHER
from edgenas.spaces import load_space
from edgenas.table import LatencyTable

Vector = NDArray[np.float64]


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--device", default="host")
    parser.add_argument("--further", type=int, default=FURTHER, help="random networks")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    space, target = load_space(given.space), load(given.device).target()
    started = time.monotonic()
    table = profile(
        space,
        target=target,
        further=given.further,
        seed=given.seed,
        say=print,
        tell=lambda done, total, name, note: print(f"\r{done}/{total}", end="", flush=True),
    )
    print(f"\r{target}, {table.environment['cpu']}; {time.monotonic() - started:.0f} s")
    print(spread(table))

    found = table.network_sums(space)
    chosen = set(calibration_archs(space))
    fitted = np.array([network.arch in chosen for network, _, _ in found])
    sums, seconds = np.array([(total, measured) for _, total, measured in found]).T
    macs = macs_table(space)(space.encode([network.arch for network, _, _ in found]))
    tested = ~fitted
    print(f"\n{'':42}{'bias':>8}{'error':>8}{'worst':>8}{'tau':>7}   n")
    for words, predicted in (
        ("sums of layers", sums),
        (f"a line through {fitted.sum()} networks", fit_line(sums[fitted], seconds[fitted])(sums)),
        (f"MACs, a line through {fitted.sum()}", fit_line(macs[fitted], seconds[fitted])(macs)),
    ):
        print(row(words, predicted[tested], seconds[tested]))
    left_out = fit_line(sums, seconds).error
    assert left_out is not None
    words = "a line through all, each left out once"
    print(f"{words:42}{left_out.bias:>8.1%}{left_out.error:>8.1%}{'':15}{left_out.n:>4}")

    predictor = predictor_for(table, space)
    if predictor.line is not None:
        rows = space.encode([network.arch for network, _, _ in found])
        ratio = (predictor.upper(rows) / predictor.predict(rows)).max()
        print(f"\nbound of 95% ({predictor.bound_kind()}): predicted x {ratio:.3f}")


def row(words: str, predicted: Vector, true: Vector) -> str:
    """One line of the comparison."""
    off = predicted / true - 1
    tau: Any = kendalltau(predicted, true)[0]
    numbers = (off.mean(), np.abs(off).mean(), np.abs(off).max())
    return f"{words:42}{''.join(f'{x:>8.1%}' for x in numbers)}{tau:>7.2f}{len(true):>4}"


def spread(table: LatencyTable) -> str:
    """What is in the table, and how sound it is."""
    layers = list(table.layers.values())
    every = [*layers, *(network.timing for network in table.networks)]
    noisy = sum(timing.noisy for timing in every)
    runs = np.median([timing.n for timing in every])
    return (
        f"{len(layers)} layers, {len(table.networks)} networks; "
        f"{noisy} noisy; {runs:.0f} runs behind a median"
    )


if __name__ == "__main__":
    main()
