"""What the time of a network is made of: counts of kernels, MACs and elements, each with a price.

A network is a list of kernels: convs and linears with the operators that a runtime fuses into
them, and the operators that it runs alone. Its time is the sum of counts times prices, so it is a
sum over layers plus a constant.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.space.layer import Primitive

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Seconds for one unit of each thing that a network is made of.

    Args:
        run: one run: input and output copies, synchronising, the caller's own code.
        kernel: starting one kernel.
        dense: one MAC of a conv with a kernel above 1x1 and no groups.
        winograd: one MAC of a 3x3 conv with stride 1, which fast algorithms exist for.
        pointwise: one MAC of a 1x1 conv or a linear layer.
        depthwise: one MAC of a conv with fewer than 16 channels in a group.
        general: one MAC of a depthwise conv that the fast kernel of the runtime does not take.
        activation: one element that a conv reads or writes.
        weight: one weight of a conv that is read.
        vector_weight: one weight of a linear layer or of a conv on a single pixel.
        elementwise: one element that any other operator reads or writes.
        window: one element that a pooling window reads.
        exponential: one element that goes through an exponential (sigmoid, SiLU, softmax).
        plain: one element of an operator that the runtime runs in plain code, one by one.
        patch: one element of the unfolded input of a dense conv (im2col).
    """

    run: float
    kernel: float
    dense: float
    winograd: float
    pointwise: float
    depthwise: float
    general: float
    activation: float
    weight: float
    vector_weight: float
    elementwise: float
    window: float
    exponential: float
    plain: float
    patch: float


NAMES = tuple(field.name for field in dataclasses.fields(Prices))
AT = {name: i for i, name in enumerate(NAMES)}
# The prices of networks in words, for people who read what an interval is wide for.
WORDS = {
    "run": "the fixed time of each run",
    "kernel": "the start of each operator",
    "dense": "convs with a kernel above 1x1",
    "winograd": "3x3 convs with stride 1",
    "pointwise": "1x1 convs",
    "depthwise": "depthwise convs",
    "general": "depthwise convs other than 3x3 with stride 1",
    "activation": "the images that convs read and write",
    "weight": "the weights that convs read",
    "vector_weight": "linear layers and squeeze-and-excitation",
    "elementwise": "additions, products and activations",
    "window": "pooling",
    "exponential": "SiLU and sigmoid",
    "plain": "operators without a fast kernel",
    "patch": "the unfolding of convs above 1x1",
}
_EXPONENTIAL = frozenset("sigmoid silu swish softmax lrn tanh gelu erf exp".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """How a runtime cuts a network into kernels.

    Args:
        fused: what it folds into the kernel before: names of activations, ``add``, or any other
            operator that costs nothing there (``concat``).
        tile: side of the output tiles of its fast 3x3 convs (Winograd), which compute whole
            tiles; 1: it has none.
        per_group: whether a grouped conv that is not depthwise is a kernel for each group.
        vectors: whether operators on a single pixel start a kernel: on a CPU they are over before
            threads would be.
        fast3x3: whether depthwise convs have two kernels: a fast one for 3x3 that is padded alike
            on all sides, and a general one for all others.
        rows: threads that share the rows of a depthwise conv's output, each the same number of
            whole rows; 1: the work is shared evenly.
        plain: operators and activations that run in plain code, element by element.
    """

    fused: frozenset[str] = frozenset()
    tile: int = 1
    per_group: bool = False
    vectors: bool = True
    fast3x3: bool = False
    rows: int = 1
    plain: frozenset[str] = frozenset()


def features(operators: Iterable[Primitive], *, kernels: Kernels) -> Array:
    """How many of each thing a list of operators has, in the order of ``Prices``; ``run`` is 0.

    Args:
        operators: in order of execution.
        kernels: of the runtime.

    Returns:
        Shape (15,): counts of kernels, MACs and elements of one image.
    """
    counts = np.zeros(len(NAMES))
    started = False
    for p in operators:
        starts = int(kernels.vectors or p.in_size != (1, 1) or p.out_size != (1, 1))
        name = p.activation if p.op == "act" else p.op
        if p.op in ("conv", "linear"):
            if kernels.per_group and 1 < p.groups < p.inputs:
                starts *= p.groups
            _count_conv(p, counts, kernels)
        elif started and name in kernels.fused:
            if p.op == "add":
                counts[AT["activation"]] += p.output_elements  # the second input is still read
            continue
        elif name in kernels.plain:
            counts[AT["plain"]] += p.input_elements + p.output_elements
        elif p.kernel != (1, 1):
            counts[AT["window"]] += p.output_elements * p.kernel[0] * p.kernel[1]
        elif p.activation in _EXPONENTIAL:
            counts[AT["exponential"]] += p.output_elements
        else:
            reads = 2 * p.input_elements if p.op == "add" else p.input_elements
            counts[AT["elementwise"]] += reads + p.output_elements
        counts[AT["kernel"]] += starts
        started = True
    return counts


def _count_conv(p: Primitive, counts: Array, kernels: Kernels) -> None:
    pixels = p.out_size[0] * p.out_size[1]
    taps = p.kernel[0] * p.kernel[1]
    each = p.inputs // p.groups
    if pixels == 1:
        counts[AT["pointwise"]] += p.macs
        counts[AT["vector_weight"]] += p.weights
        return
    counts[AT["weight"]] += p.weights
    counts[AT["activation"]] += p.input_elements + p.output_elements
    depthwise = each == 1 if kernels.per_group else each < 16
    if depthwise and p.groups > 1:
        fast = not kernels.fast3x3 or _padded_alike(p)
        counts[AT["depthwise" if fast else "general"]] += p.macs * _waste(p, kernels)
    elif taps == 1:
        counts[AT["pointwise"]] += p.macs
    else:
        if p.kernel == (3, 3) and p.stride == 1:
            tiles = [-(-size // kernels.tile) * kernels.tile for size in p.out_size]
            counts[AT["winograd"]] += p.macs * (tiles[0] * tiles[1] / pixels)
        else:
            counts[AT["dense"]] += p.macs
        counts[AT["patch"]] += pixels * p.inputs * taps


def _padded_alike(p: Primitive) -> bool:
    """Whether a depthwise conv is 3x3 and TensorFlow's SAME padding is even on it."""
    padding = (p.out_size[0] - 1) * p.stride + 3 - p.in_size[0]
    return p.kernel == (3, 3) and padding % 2 == 0


_MACS_OF_A_THREAD = 8192  # TensorFlow Lite starts a thread for so many at least


def _waste(p: Primitive, kernels: Kernels) -> float:
    """How much longer the thread with the most rows of the output works than an even share."""
    height = p.out_size[0]
    threads = min(kernels.rows, max(1, p.macs // _MACS_OF_A_THREAD))
    return -(-height // threads) * threads / height


def vector(prices: Prices) -> Array:
    """The prices in the order of ``NAMES``, shape (15,)."""
    return np.array([getattr(prices, name) for name in NAMES])
