"""Inputs that are ones and zeros of genes, and the multi-layer perceptron on them.

The perceptron runs as a graph on ONNX Runtime: its kernels use the widest instructions that a
processor has, where the BLAS inside numpy knows only some processors. And a network gets the same
score, to the last bit, alone and among others.
"""

import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.narrow import Indices, narrow_inputs
from edgenas.space.space import Space

Array = NDArray[np.float32]
CHUNK = 512  # rows at once: their activations stay in the second-level cache
_NEVER = 255  # a code that no gene has
_OPSET = 20
_IR_VERSION = 10  # read by every onnxruntime in use


def one_hot(rows: Codes, columns: Indices, codes: Indices) -> Array:
    """Inputs of rows, shape (n, genes) -> (n, inputs): 1 where the column holds the code.

    A column of -1 is an input that is always its code, 0 or 1.
    """
    decided = columns < 0
    wanted = np.where(decided, _NEVER, codes).astype(np.uint8)
    read = rows if rows.shape[1] else np.zeros((len(rows), 1), np.uint8)
    inputs = (read.take(np.maximum(columns, 0), 1) == wanted).astype(np.float32)
    inputs[:, decided & (codes > 0)] = 1
    return inputs


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
        result, run = np.empty(len(rows)), _session(self).run
        for start in range(0, len(rows), CHUNK):
            part = one_hot(rows[start : start + CHUNK], self.columns, self.codes)
            result[start : start + CHUNK] = run(None, {"inputs": part})[0][:, 0]
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


@functools.lru_cache(maxsize=16)
def _session(mlp: Mlp) -> Any:
    """The perceptron on ONNX Runtime: a Gemm for each layer, with a Relu between them."""
    onnx: Any = importlib.import_module("onnx")
    runtime: Any = importlib.import_module("onnxruntime")
    make = onnx.helper
    nodes, constants, x = list[Any](), list[Any](), "inputs"
    for i, (matrix, vector) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        if i:
            nodes.append(make.make_node("Relu", [x], [f"positive.{i}"]))
            x = f"positive.{i}"
        names = [f"weights.{i}", f"biases.{i}"]
        arrays = zip(names, (matrix, vector), strict=True)
        constants += [onnx.numpy_helper.from_array(array, name) for name, array in arrays]
        nodes.append(make.make_node("Gemm", [x, *names], [f"sums.{i}"]))
        x = f"sums.{i}"
    ends = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", size])
        for name, size in (("inputs", len(mlp.columns)), (x, 1))
    ]
    graph = make.make_graph(nodes, "perceptron", ends[:1], ends[1:], constants)
    opset = make.make_opsetid("", _OPSET)
    model = make.make_model(graph, ir_version=_IR_VERSION, opset_imports=[opset])
    options = runtime.SessionOptions()
    allowed = getattr(os, "sched_getaffinity", None)
    options.intra_op_num_threads = (len(allowed(0)) if allowed else os.cpu_count()) or 1
    # Between two calls the threads sleep: whatever else is timed on this machine is left alone.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    source = model.SerializeToString()
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
