"""Regression of accuracy on a few hundred networks: a Gaussian process, kept as plain arrays.

The kernel is a linear one on the genes (every choice has its own effect) and a squared-exponential
one on summaries of the network (sizes and stage totals, whose effects bend and interact):

    k(a, b) = x_a . x_b / genes + ratio * exp(-|z_a - z_b|^2 / (2 length^2)) + noise [a = b]

Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006: prediction (2.25),
marginal likelihood (2.30), with the overall variance at its optimum. The three hyperparameters
are the best of a grid under that likelihood; nothing is drawn at random.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.accuracy.mlp import one_hot
from edgenas.space.cost import Tables, Vector, macs_table, params_table
from edgenas.space.genes import Codes
from edgenas.space.narrow import Indices, narrow_inputs, narrow_tables
from edgenas.space.space import Space

Matrix = NDArray[np.float64]
_CHUNK = 2048
_RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0)
_LENGTHS = (0.7, 1.0, 1.5, 2.5, 4.0)
_NOISES = tuple(10.0**e for e in np.arange(-3.5, 1.1, 0.25))


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """A fitted Gaussian process.

    Args:
        columns: shape (inputs,): see ``one_hot``.
        codes: shape (inputs,).
        totals: shape (inputs, t): sums of inputs that are summaries.
        macs: of rows; their logarithm is a summary.
        params: of rows; their logarithm is a summary too.
        shift: shape (t + 2,): subtracted from the summaries.
        scale: shape (t + 2,): then multiplied.
        linear: shape (inputs,): weight of each input.
        constant: added.
        centres: shape (k, t + 2): scaled summaries of the training networks; none where the
            fit is linear.
        alphas: shape (k,): weight of each centre.
        length: of the squared-exponential kernel.
        ratio: of the two kernels.
        noise: ratio of the noise to the linear kernel.
    """

    columns: Indices
    codes: Indices
    totals: Matrix
    macs: Tables
    params: Tables
    shift: Vector
    scale: Vector
    linear: Vector
    constant: float
    centres: Matrix
    alphas: Vector
    length: float
    ratio: float
    noise: float

    def __call__(self, rows: Codes) -> Vector:
        """Predict rows, shape (n, genes) -> (n,)."""
        result = np.empty(len(rows))
        linear, totals = self.linear.astype(np.float32), self.totals.astype(np.float32)
        points = self.centres.astype(np.float32) / np.float32(self.length)
        offset = (points * points).sum(1) / 2
        alphas = self.alphas.astype(np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            inputs = one_hot(part, self.columns, self.codes)
            values = (inputs @ linear).astype(np.float64) + self.constant
            if len(points):
                sizes = np.stack([np.log(self.macs(part)), np.log(self.params(part))], 1)
                z = (np.hstack([inputs @ totals, sizes]) - self.shift) * self.scale
                z = (z / self.length).astype(np.float32)
                near = z @ points.T - offset
                near -= ((z * z).sum(1) / 2)[:, None]
                values += np.exp(near, out=near) @ alphas
            result[start : start + _CHUNK] = values
        return result

    def on(self, space: Space, narrow: Space) -> "Gaussian":
        """The same for rows of a narrower space."""
        columns, codes = narrow_inputs(self.columns, self.codes, space=space, narrow=narrow)
        return replace(
            self,
            columns=columns,
            codes=codes,
            macs=narrow_tables(self.macs, space=space, narrow=narrow),
            params=narrow_tables(self.params, space=space, narrow=narrow),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps; the rest follows from the space."""
        numbers = np.array([self.constant, self.length, self.ratio, self.noise])
        return {
            "shift": self.shift,
            "scale": self.scale,
            "linear": self.linear,
            "centres": self.centres,
            "alphas": self.alphas,
            "numbers": numbers,
        }

    @staticmethod
    def from_arrays(space: Space, arrays: Mapping[str, NDArray[Any]]) -> "Gaussian":
        """The inverse of ``arrays``. Raises KeyError where one is missing."""
        constant, length, ratio, noise = arrays["numbers"].tolist()
        columns, codes = inputs_of(space)
        return Gaussian(
            columns,
            codes,
            totals_of(space),
            macs_table(space),
            params_table(space),
            arrays["shift"],
            arrays["scale"],
            arrays["linear"],
            constant,
            arrays["centres"],
            arrays["alphas"],
            length,
            ratio,
            noise,
        )


def inputs_of(space: Space) -> tuple[Indices, Indices]:
    """One input for each value of each gene."""
    pairs = [(i, c) for i, gene in enumerate(space.genes) for c in range(1, len(gene.values) + 1)]
    columns, codes = np.array(pairs, np.intp).reshape(-1, 2).T
    return columns, codes


def totals_of(space: Space) -> Matrix:
    """Sums of inputs, shape (inputs, t): per stage the blocks' kernels and expand ratios ...

    and the values of the genes that a network has once (resolution, widths, depths).
    """
    columns, codes = inputs_of(space)
    keys = [
        g.name if g.block < 0 else f"{g.stage} {g.name.rpartition('.')[2]}" for g in space.genes
    ]
    names = list(dict.fromkeys(keys))
    totals = np.zeros((len(columns), len(names)))
    for i, (column, code) in enumerate(zip(columns, codes, strict=True)):
        totals[i, names.index(keys[int(column)])] = space.genes[int(column)].numbers[int(code) - 1]
    return totals


def fit(space: Space, rows: Codes, *, accuracy: Vector) -> Gaussian:
    """Fit to rows, shape (n, genes), and their accuracies, shape (n,)."""
    columns, codes = inputs_of(space)
    totals = totals_of(space)
    macs, params = macs_table(space), params_table(space)
    inputs = one_hot(rows, columns, codes).astype(np.float64)
    sizes = np.stack([np.log(macs(rows)), np.log(params(rows))], 1)
    z = np.hstack([inputs @ totals, sizes])
    shift, spread = z.mean(0), z.std(0)
    # Summaries that do not vary say nothing; the others share a distance of about 1.
    scale = np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0) / np.sqrt(z.shape[1])
    centres = (z - shift) * scale
    middle = inputs.mean(0)
    x = (inputs - middle) / np.sqrt(len(space.genes))
    mean = float(accuracy.mean())
    ratio, length, noise, weights = _best(x, centres, accuracy - mean)
    linear = x.T @ weights / np.sqrt(len(space.genes))
    keep = len(rows) if ratio else 0
    return Gaussian(
        columns,
        codes,
        totals,
        macs,
        params,
        shift,
        scale,
        linear,
        mean - float(middle @ linear),
        centres[:keep],
        (ratio * weights)[:keep],
        length,
        ratio,
        noise,
    )


def _best(x: Matrix, z: Matrix, y: Vector) -> tuple[float, float, float, Vector]:
    """The hyperparameters with the largest marginal likelihood, and (K + noise)^-1 y."""
    squares = (z * z).sum(1)
    distance = np.maximum(squares[:, None] + squares - 2 * z @ z.T, 0)
    best: tuple[float, float, float, float, Vector] | None = None
    for ratio in _RATIOS:
        for length in _LENGTHS if ratio else _LENGTHS[:1]:
            kernel = x @ x.T
            if ratio:
                kernel += ratio * np.exp(-distance / (2 * length**2))
            values, vectors = np.linalg.eigh(kernel)
            turned = vectors.T @ y
            for noise in _NOISES:
                spectrum = np.maximum(values, 0) + noise
                variance = max(float((turned**2 / spectrum).mean()), 1e-300)
                loss = len(y) * np.log(variance) + float(np.log(spectrum).sum())
                if best is None or loss < best[0]:
                    best = (loss, ratio, length, noise, vectors @ (turned / spectrum))
    assert best is not None
    return best[1:]
