"""Networks that others trained one by one, as problems whose scores are looked up.

The files are not part of this project: ``nb201.npz`` holds the 15,625 cells of NAS-Bench-201 (arXiv
2001.00326, 2009.00437), ``macro.json.xz`` the 6,561 networks of NAS-Bench-Macro (arXiv 2103.11922).
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgenas.accuracy.encoding import Encoding, Matrix, encodings_of
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit, parse_constraint

DEVICES = ("raspi4", "pixel3", "gold_6226", "1080ti_1", "2080ti_1", "eyeriss")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LookUp:
    """A space whose accuracies are known.

    Args:
        space: whose genes stand for the choices of the benchmark, all of them independent.
        rows: all networks, shape (n, genes), in the order of codes.
        accuracy: of a full training, on test images, in percent.
        early: of a short training of its own; None: not known.
        seconds: latencies by device.
        counts: MACs and parameters, as far as the file has them.
    """

    space: Space
    rows: Codes
    accuracy: Vector
    early: Vector | None
    seconds: dict[str, Vector]
    counts: dict[str, Vector]

    def places(self, rows: Codes) -> NDArray[np.intp]:
        """Where rows stand among ``rows``."""
        choices = [len(gene.values) for gene in self.space.genes]
        return np.asarray(np.ravel_multi_index(tuple((rows.astype(np.intp) - 1).T), choices))

    def score(self, rows: Codes) -> Vector:
        """Accuracies of rows."""
        return self.accuracy[self.places(rows)]

    def limit(self, device: str, seconds: float) -> Limit:
        """A limit on the latency of a device."""
        constraint = parse_constraint(f"latency@{device.replace('_', '-')}<={seconds * 1e3!r}ms")
        return Limit(
            constraint=constraint, values=lambda rows: self.seconds[device][self.places(rows)]
        )


def load_cells(folder: Path) -> LookUp:
    """NAS-Bench-201."""
    found = np.load(folder / "nb201.npz", allow_pickle=False)
    space = load_space("nas-bench-201")
    assert tuple(found["op_names"]) == space.cells[0].operations
    rows = found["cells"].astype(np.uint8) + 1
    order = np.lexsort(rows.T[::-1])
    return LookUp(
        space=space,
        rows=rows[order],
        accuracy=found["cifar10_test_200"].astype(float)[order],
        early=found["cifar10_test_12"].astype(float)[order],
        seconds={d: found[f"lat_ms__{d}"].astype(float)[order] / 1e3 for d in DEVICES},
        counts={"macs": found["macs_cifar"].astype(float)[order]},
    )


def load_macro(folder: Path) -> LookUp:
    """NAS-Bench-Macro."""
    with lzma.open(folder / "macro.json.xz") as stream:
        networks = json.load(stream)
    names = sorted(networks)
    facts = [networks[name] for name in names]
    return LookUp(
        space=load_space("nas-bench-macro"),
        rows=np.array([[1 + int(digit) for digit in name] for name in names], np.uint8),
        accuracy=np.array([fact["mean_acc"] for fact in facts], float),
        early=None,
        seconds={},
        counts={
            "macs": np.array([fact["flops"] for fact in facts], float),
            "params": np.array([fact["params"] for fact in facts], float),
        },
    )


def cell_encodings() -> tuple[Encoding, ...]:
    """Of the edges of a cell, and of its paths."""
    return encodings_of(load_space("nas-bench-201"))


def count_operations(rows: Codes) -> Matrix:
    """How often a cell has each operation but ``none``, shape (n, 4)."""
    return np.stack([(rows == code).sum(1) for code in range(2, 6)], 1).astype(float)


def count_used_operations(rows: Codes) -> Matrix:
    """The same of the edges from whose end the output can be reached, shape (n, 4).

    A runtime that drops what no output needs runs these alone.
    """
    there = rows > 1
    second = there[:, 5]
    first = there[:, 4] | (there[:, 2] & second)
    ends = np.stack([first, second, second, *[np.ones(len(rows), bool)] * 3], 1)
    return count_operations(np.where(ends, rows, 1))
