"""From a trained network to the ONNX file that ships, and what can be counted and checked in it.

The graph comes from the same builder as the graphs that are timed (`edgenas.onnx_graph.build`), so
what was profiled is what is shipped; only the weights differ.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.basics.version import version
from edgenas.onnx_graph.build import INPUT, network_graph
from edgenas.onnx_graph.model import loads
from edgenas.runtime import registry as runtimes

if TYPE_CHECKING:  # counting and running need no torch
    from torch import Tensor

    from edgenas.model.network import Network

Array = NDArray[np.float32]

TOLERANCE = 1e-4
# Of lower precisions: largest difference as a part of the largest logit, and least share of inputs
# that keep their class. What is farther off is broken, not coarse; accuracy is the real gate.
LOWER = {"fp16": (0.02, 0.98), "bf16": (0.1, 0.9), "int8": (1.0, 0.8)}
_CHUNK = 64  # images a run, where the model leaves it open

# Operators without multiply-accumulates, as `edgenas.space.cost` counts.
_FREE = frozenset(
    "Add AveragePool Cast Clip Concat Constant DequantizeLinear Flatten GlobalAveragePool "
    "GlobalMaxPool HardSigmoid HardSwish Identity MaxPool Mul QuantizeLinear Relu Reshape Sigmoid "
    "Slice".split()
)


def to_onnx(
    network: "Network",
    *,
    preprocessing: Mapping[str, Any],
    batch: int | None = 1,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The ONNX file of a network: IR 10, opset 20, batch norms folded into convs in float64.

    Its input is ``image`` (batch, inputs, height, width), its output ``logits``
    (batch, classes), both float32.

    Args:
        network: with calibrated batch norms; stays as it is.
        preprocessing: of its images, as JSON values; goes into the metadata.
        batch: images a run; None: left open, as the dimension ``batch``.
        metadata: more of it, on top of the version, space, arch and preprocessing.

    Raises:
        EdgenasError: a weight is not finite.
    """
    space, arch = network.space, network.arch
    source = folded(network)
    model = onnx.load_from_string(
        network_graph(space, arch, batch=batch or "batch", weights=lambda part, gain: next(source))
    )
    assert next(source, None) is None, "the graph has fewer weights than the network"
    entries = {
        "edgenas": version(),
        "space": space.name,
        "arch_id": arch.id,
        "arch": json.dumps(arch.to_json()),
        "classes": str(space.classes),
        "preprocessing": json.dumps(preprocessing),
        **(metadata or {}),
    }
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def folded(network: "Network") -> Iterator[list[Array]]:
    """The weights that ship, conv by conv and linear by linear in the order of the plan.

    Yields:
        The weight, and the bias where there is one; a batch norm is part of its conv.

    Raises:
        EdgenasError: a weight is not finite.
    """
    from edgenas.model.folding import fold_network

    for where, weight, bias in fold_network(network):
        values = [part.detach().numpy() for part in (weight, bias) if part is not None]
        for value in values:
            if not np.isfinite(value).all():
                raise EdgenasError(
                    f"weights must be finite, found {float(value.sum())} in {where}",
                    hint="the supernet is damaged or was not calibrated: train or import it again",
                )
        yield [_single(value) for value in values]


def _single(value: Any) -> Array:
    """float32; numbers too small for its full precision, which slow some processors, become 0."""
    single = value.astype(np.float32)
    single[np.abs(single) < np.finfo(np.float32).tiny] = 0
    return single


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far an ONNX file is from the network it was made of.

    Args:
        max_abs_difference: of any logit of any input.
        same_top1: inputs for which the likeliest class is the same.
        n: inputs.
        tolerance: of the difference.
        share: of the inputs that must keep their class; below 1 for quantised models.
    """

    max_abs_difference: float
    same_top1: int
    n: int
    tolerance: float = TOLERANCE
    share: float = 1.0

    def require(self) -> None:
        """The gate that every exported model passes.

        Raises:
            EdgenasError: a difference above the tolerance, or another top-1.
        """
        if not self.max_abs_difference <= self.tolerance:  # NaN does not pass either
            raise EdgenasError(
                f"the ONNX model's logits must be within {self.tolerance:g} of PyTorch's, found "
                f"a difference of {self.max_abs_difference:.2g} on {self.n} inputs",
                hint="do not ship it: please report the arch and the versions of torch and "
                "onnxruntime",
            )
        if self.same_top1 < self.share * self.n:
            least = "all" if self.share == 1 else f"{self.share:.0%} of"
            raise EdgenasError(
                f"the ONNX model must choose PyTorch's class on {least} {self.n} inputs, found "
                f"{self.n - self.same_top1} others",
                hint="logits within the tolerance: those inputs lie between two classes; try "
                "other images",
            )

    def to_json(self) -> dict[str, Any]:
        """The JSON object; ``share`` where it is not 1."""
        values = {
            "max_abs_difference": self.max_abs_difference,
            "same_top1": self.same_top1,
            "n": self.n,
            "tolerance": self.tolerance,
        }
        return values if self.share == 1 else values | {"share": self.share}


def parity(
    network: "Network", onnx_bytes: bytes, *, images: "Tensor", precision: str = "fp32"
) -> Parity:
    """Compare an ONNX file with the network it was made of.

    Args:
        network: run in evaluation mode, and left in the mode it is in.
        onnx_bytes: the file.
        images: float32 inputs, shape (n, inputs, height, width), n >= 1.
        precision: of the file. One that ONNX Runtime lacks here is a matter of the graph alone.

    Raises:
        EdgenasError: ONNX Runtime refuses the file.
    """
    import torch

    mode, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        parts = [network(part.to(device)).cpu() for part in images.split(_CHUNK)]
    network.train(mode)
    wanted = torch.cat(parts).numpy()
    asked = precision if precision in runtimes.get(runtimes.DEFAULT).precisions else None
    logits = run_onnx(onnx_bytes, images.contiguous().numpy(), precision=asked)
    return compared(logits, wanted, precision=precision)


def compared(logits: Array, wanted: Array, *, precision: str = "fp32") -> Parity:
    """How far logits are from those that are wanted, with the gate of a precision.

    Args:
        logits: shape (n, classes).
        wanted: shape (n, classes).
        precision: ``fp32`` must agree; lower ones nearly so.
    """
    relative, share = LOWER.get(precision, (0.0, 1.0))
    return Parity(
        max_abs_difference=float(np.abs(logits - wanted).max()),
        same_top1=int((logits.argmax(1) == wanted.argmax(1)).sum()),
        n=len(wanted),
        tolerance=relative * float(np.abs(wanted).max()) or TOLERANCE,
        share=share,
    )


def run_onnx(
    onnx_bytes: bytes,
    images: NDArray[np.float32],
    *,
    runtime: str = "onnxruntime",
    precision: str | None = None,
) -> Array:
    """The logits of an ONNX file, one thread.

    Args:
        onnx_bytes: a model made by ``to_onnx``, of any batch, in any form.
        images: shape (n, inputs, height, width), n >= 1.
        runtime: what runs it.
        precision: None: that of the file.

    Returns:
        Shape (n, classes).

    Raises:
        EdgenasError: the runtime refuses the file, or images have another size.
    """
    batch = loads(onnx_bytes).batch or min(len(images), _CHUNK)
    session = runtimes.get(runtime).compile(onnx_bytes, precision=precision, threads=1, batch=batch)
    # The last run is filled up with copies of the last image.
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
    runs = [
        session.run({INPUT: np.ascontiguousarray(padded[i : i + batch])})[0]
        for i in range(0, len(padded), batch)
    ]
    return np.concatenate(runs)[: len(images)]


@dataclass(frozen=True, slots=True)
class OperatorCount:
    """MACs of one image, and constants, of one conv or matrix product in a graph."""

    macs: int
    weights: int


def count(onnx_bytes: bytes) -> OperatorCount:
    """MACs of one image and weights of a whole ONNX file, see ``operator_counts``."""
    parts = operator_counts(onnx_bytes)
    return OperatorCount(sum(p.macs for p in parts), sum(p.weights for p in parts))


def operator_counts(onnx_bytes: bytes) -> list[OperatorCount]:
    """MACs and weights of each Conv, Gemm and MatMul, see ``node_counts``."""
    return list(node_counts(onnx_bytes).values())


def node_counts(onnx_bytes: bytes) -> dict[str, OperatorCount]:
    """MACs and weights of each Conv, Gemm and MatMul by name, from the graph's own shapes alone.

    Nothing is taken from edgenas's plan: this is the second opinion on what it says.

    Raises:
        EdgenasError: the file is no ONNX model, its shapes cannot be inferred, or it has an
            operator whose cost is not known.
    """
    model = loads(onnx_bytes)
    try:
        graph = onnx.shape_inference.infer_shapes(
            model.proto, strict_mode=True, data_prop=True
        ).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise EdgenasError(
            f"the shapes of the ONNX model do not fit together: {str(error).splitlines()[0]}"
        ) from error
    batch = model.batch or 1
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    # Quantised constants are read through an operator, or two.
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    shapes = dict(constants)
    for value in (*graph.input, *graph.value_info, *graph.output):
        # An open batch counts as one image.
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    counts: dict[str, OperatorCount] = {}
    for node in graph.node:
        # A batch norm without a conv before it is a factor and a summand for each channel.
        if node.op_type in ("Add", "Mul") and (held := _channels_held(node, constants)):
            counts[node.name] = OperatorCount(0, held)
        if node.op_type in _FREE:
            continue
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            raise EdgenasError(
                f"cannot count the MACs of the operator {node.op_type} ({node.name})",
                hint="only models exported by edgenas are counted",
            )
        missing = [name for name in (*node.input, *node.output) if name not in shapes]
        if missing:
            raise EdgenasError(f"the ONNX model does not tell the shape of {missing[0]}")
        # Each element of the output takes as many MACs as the weight has elements per output.
        weight, out = shapes[node.input[1]], shapes[node.output[0]]
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        outputs_first = node.op_type == "Conv" or transposed
        each = math.prod(weight[1:]) if outputs_first else weight[-2]
        held = sum(math.prod(constants[name]) for name in node.input[1:] if name in constants)
        name = node.name or f"{node.op_type}_{len(counts)}"
        counts[name] = OperatorCount(math.prod(out) * each // batch, held)
    return counts


def _channels_held(node: onnx.NodeProto, constants: Mapping[str, list[int]]) -> int:
    """The elements of a constant with a value for each channel; 0: the node has none."""
    shapes = [constants[name] for name in node.input if name in constants]
    return sum(math.prod(shape) for shape in shapes if len(shape) == 4)


def integer_share(onnx_bytes: bytes, *, runtime: str) -> float:
    """The part of a model's MACs that a runtime computes in integer kernels, by its own profile.

    Args:
        onnx_bytes: an int8 model.
        runtime: whose profile is asked.

    Raises:
        EdgenasError: the runtime refuses the model.
    """
    batch = loads(onnx_bytes).batch or 1
    session = runtimes.get(runtime).compile(onnx_bytes, precision=None, threads=1, batch=batch)
    macs = {name: count.macs for name, count in node_counts(onnx_bytes).items()}
    integers = {n for k in session.kernels() if k.precision == "int8" for n in k.nodes}
    return sum(macs[name] for name in integers & set(macs)) / max(sum(macs.values()), 1)


def with_open_batch(onnx_bytes: bytes) -> bytes:
    """The same model for any number of images a run; the dimension is called ``batch``.

    Args:
        onnx_bytes: a model made by ``to_onnx``: no operator of it knows the batch.
    """
    model = loads(onnx_bytes).proto
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def read_metadata(onnx_bytes: bytes) -> dict[str, str]:
    """The metadata of an ONNX file. Raises EdgenasError where it is no ONNX model."""
    return {entry.key: entry.value for entry in loads(onnx_bytes).proto.metadata_props}
