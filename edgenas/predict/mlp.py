"""Inputs that are ones and zeros of genes, and the multi-layer perceptron on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgenas.cost import Vector
from edgenas.errors import EdgenasError
from edgenas.predict.narrow import Indices, narrow_inputs
from edgenas.space import Codes, Space

Array = NDArray[np.float32]
CHUNK = 512  # rows at once: their activations stay in the second-level cache


def one_hot(rows: Codes, columns: Indices, codes: Indices) -> Array:
    """Inputs of rows, shape (n, genes) -> (n, inputs): 1 where the column holds the code.

    A column of -1 is an input that is always its code, 0 or 1.
    """
    decided = columns < 0
    if not decided.any():
        return (rows[:, columns] == codes.astype(np.uint8)).astype(np.float32)
    found = np.empty((len(rows), len(columns)), np.float32)
    found[:, decided] = codes[decided]
    found[:, ~decided] = rows[:, columns[~decided]] == codes[~decided].astype(np.uint8)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Mlp:
    """A perceptron with ReLUs over inputs that are 1 where a gene has a value, else 0.

    Args:
        columns: shape (inputs,): the column of the space's rows that an input looks at; -1 for an
            input that is always 0 or always 1.
        codes: shape (inputs,): the code at which it is 1 (for -1: its value, 0 or 1).
        weights: of each layer, shape (inputs, outputs); the last has one output.
        biases: of each layer, shape (outputs,).
    """

    columns: Indices
    codes: Indices
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    @staticmethod
    def make(
        *,
        columns: Sequence[int],
        codes: Sequence[int],
        weights: Sequence[ArrayLike],
        biases: Sequence[ArrayLike],
    ) -> "Mlp":
        """A perceptron from lists and arrays of any kind, for example a released predictor.

        For a gene in column g whose code c (from 1) is input i of the released network, give
        ``columns[i] = g`` and ``codes[i] = c``; for an input that no network of the space sets,
        ``columns[i] = -1`` and ``codes[i] = 0``. Weights of ``torch.nn.Linear`` are (outputs,
        inputs): transpose them. A constant that is added at the end belongs to the last bias.

        Raises:
            EdgenasError: the shapes do not fit each other.
        """
        matrices = tuple(np.ascontiguousarray(w, np.float32) for w in weights)
        vectors = tuple(np.ascontiguousarray(b, np.float32) for b in biases)
        made = Mlp(np.array(columns, np.intp), np.array(codes, np.intp), matrices, vectors)
        made.check("mlp")
        return made

    def check(self, where: str, *, genes: int | None = None) -> None:
        """Refuse shapes that do not fit each other.

        Raises:
            EdgenasError: names the layer.
        """
        size = len(self.columns)
        if self.codes.shape != (size,) or len(self.weights) != len(self.biases):
            raise EdgenasError(f"{where}: columns and codes, weights and biases must be as many")
        if genes is not None and self.columns.max(initial=-1) >= genes:
            raise EdgenasError(f"{where}: columns must be below {genes}")
        for i, (matrix, vector) in enumerate(zip(self.weights, self.biases, strict=True)):
            if matrix.ndim != 2 or matrix.shape[0] != size or vector.shape != matrix.shape[1:]:
                raise EdgenasError(
                    f"{where}: layer {i} must take {size} inputs, found weights of shape "
                    f"{matrix.shape} and biases of shape {vector.shape}"
                )
            size = matrix.shape[1]
        if size != 1:
            raise EdgenasError(f"{where}: the last layer must have one output, found {size}")

    def __call__(self, rows: Codes) -> Vector:
        """Score rows, shape (n, genes) -> (n,), in single precision."""
        result = np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = one_hot(rows[start : start + CHUNK], self.columns, self.codes)
            last = len(self.weights) - 1
            for i, (matrix, vector) in enumerate(zip(self.weights, self.biases, strict=True)):
                part = part @ matrix
                part += vector
                if i < last:
                    np.maximum(part, 0, out=part)
            result[start : start + CHUNK] = part[:, 0]
        return result

    def on(self, space: Space, narrow: Space) -> "Mlp":
        """The same for rows of a narrower space."""
        columns, codes = narrow_inputs(self.columns, self.codes, space=space, narrow=narrow)
        return replace(self, columns=columns, codes=codes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps."""
        return {
            "columns": self.columns.astype(np.int32),
            "codes": self.codes.astype(np.int32),
            **{f"weights.{i}": w for i, w in enumerate(self.weights)},
            **{f"biases.{i}": b for i, b in enumerate(self.biases)},
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> "Mlp":
        """The inverse of ``arrays``. Raises KeyError where one is missing."""
        layers = range(sum(name.startswith("weights.") for name in arrays))
        return Mlp.make(
            columns=arrays["columns"].tolist(),
            codes=arrays["codes"].tolist(),
            weights=[arrays[f"weights.{i}"] for i in layers],
            biases=[arrays[f"biases.{i}"] for i in layers],
        )
