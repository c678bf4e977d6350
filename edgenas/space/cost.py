"""The cost of networks, computed in two ways: layer by layer, and by tables for many rows at once.

``total(space, arch)`` is the way that is easy to read. ``compile_tables`` evaluates the same
function of a layer once for every place of the space. Then an (n, genes) integer matrix is scored
with one gather for each place.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.ranges import Count
from edgenas.space.arch import Arch
from edgenas.space.genes import Codes, layout
from edgenas.space.layer import Layer, divide_size
from edgenas.space.plan import plan, slots
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from edgenas.space.wiring import cell_place

Vector = NDArray[np.float64]
_OF_CELLS = frozenset("preconv avgpool maxpool sum sepconv dilconv factorised concat".split())
_ROWS = 2048  # scored at once: what is gathered for so many stays in the second-level cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a network or a layer for one image.

    Args:
        macs: multiply-accumulates of convs and linears, as torch counts them (half its FLOPs).
        params: trainable parameters.
        weights: constants that ship, once batch norms are folded.
        peak: elements of the largest set of activations that are alive at the same time.
    """

    macs: Count
    params: Count
    weights: Count
    peak: Count


def cost(layer: Layer) -> Cost:
    """The cost of one layer."""
    parts = primitives(layer)
    return Cost(
        macs=sum(p.macs for p in parts),
        params=sum(p.params for p in parts),
        weights=sum(p.folded for p in parts),
        peak=peak_elements(layer),
    )


def total(space: Space, arch: Arch) -> Cost:
    """The cost of an arch: the sums over its layers, and the largest of their peaks."""
    parts = [cost(layer) for _, layer in plan(space, arch)]
    return Cost(
        macs=sum(p.macs for p in parts),
        params=sum(p.params for p in parts),
        weights=sum(p.weights for p in parts),
        peak=max(cells_peak(space, arch.resolution), *(p.peak for p in parts)),
    )


def cells_peak(space: Space, resolution: int) -> int:
    """Elements that a cell can have alive at once, for one image: no fewer than it needs.

    What it takes, all nodes, the operations that wait to be added to one of them, and those inside
    an operation.
    """
    values = [0]
    for i, stage in enumerate(space.stages):
        for j in range(stage.depths[0] if stage.kind == "cell" else 0):
            place = cell_place(space, i, j, resolution)
            before, behind = (place.width * prod(size) for size in (place.size, place.behind))
            nodes = place.cell.nodes
            if place.cell.family == "nas-bench-201":
                values.append(before * 2 * (1 + nodes))
                continue
            taken = sum(channels * prod(size) for channels, size in place.takes)
            values.append(taken + 5 * before + 4 * nodes * behind)
    return max(values)


def memory(
    cost: Cost, *, weight_bytes: float = 4, activation_bytes: float = 4, batch: int = 1
) -> float:
    """Bytes in use while a network runs: all weights and the largest live set of activations."""
    return cost.weights * weight_bytes + cost.peak * activation_bytes * batch


def peak_elements(layer: Layer) -> int:
    """Count the elements that are alive at the busiest moment of a layer, for one image.

    An operator needs its inputs and its output at the same time. Activations work in place. The
    input of a layer stays alive as long as a shortcut needs it.
    """
    pixels, behind = prod(layer.in_size), prod(divide_size(layer.in_size, layer.stride))
    before, after = layer.inputs * pixels, layer.outputs * behind
    wide, narrow = layer.mid * pixels, layer.mid * behind
    if layer.kind == "head":
        final = layer.final * pixels
        pooled = layer.final or layer.inputs
        steps = [before + final, (final or before) + pooled]
        steps += [pooled + layer.mix, (layer.mix or pooled) + layer.outputs]
        return max(steps)
    if layer.kind in _OF_CELLS:
        return before + after  # as `cells_peak` counts all values of a cell
    if layer.kind == "conv":
        steps = [before + after, 3 * after * layer.residual]
    elif layer.kind == "basic":
        steps = [2 * before + after, before + 3 * after]
    elif layer.kind in ("rep", "fused", "uib"):
        parts = [p for p in primitives(layer) if p.weights]
        adds = layer.residual and layer.kind != "rep"
        skip = [0] + [before * adds] * len(parts)  # the first reads what the shortcut keeps
        steps = [
            p.input_elements + p.output_elements + s for p, s in zip(parts, skip, strict=False)
        ]
        steps.append(3 * after * adds)
    elif layer.kind == "mbconv":
        skip = before * layer.residual  # for the shortcut
        expanded = layer.mid != layer.inputs
        steps = [before + wide] if expanded else []
        steps.append(wide + narrow + (skip if expanded else 0))
        if layer.squeeze:
            steps.append(skip + narrow + layer.mid + layer.squeeze)
            steps.append(skip + 2 * narrow + layer.mid)
        steps += [skip + narrow + after, 3 * after * layer.residual]
    else:
        pooled = layer.inputs * behind if layer.stride > 1 else 0
        shortcut = after if layer.downsample else 0
        steps = [before + pooled + shortcut] if layer.downsample else []
        skip = shortcut if layer.downsample else before  # while the three convs run
        steps += [before + wide + shortcut, skip + wide + narrow, skip + narrow + after, 3 * after]
    steps.append(after + layer.outputs * prod(layer.out_size) if layer.pool > 1 else 0)
    return max(steps)


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """A function of layers, compiled over a space.

    Args:
        columns: the columns read, per place.
        values: per place an array with one axis per column read; index 0 (absent) holds 0.
        reduce: how places combine: their ``sum`` or their ``max``.
        constant: added at the end.
    """

    columns: tuple[tuple[int, ...], ...]
    values: tuple[Vector, ...]
    reduce: Literal["sum", "max"]
    constant: float = 0.0

    def __call__(self, rows: Codes) -> Vector:
        """Score canonical rows, shape (n, genes) -> (n,)."""
        columns, steps, offsets, values = _gathers(self)
        combine = np.add if self.reduce == "sum" else np.maximum
        result = np.empty(len(rows))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS].T.astype(steps.dtype, order="C")
            index = np.broadcast_to(offsets, (len(offsets), part.shape[1])).copy()
            for column, step in zip(columns, steps, strict=True):
                index += part.take(column, 0) * step
            # Gather for all places at once; then add them in their order, one after the other.
            parts = values.take(index, mode="clip")
            combine.reduce(parts, axis=0, initial=0.0, out=result[start : start + _ROWS])
        result += self.constant
        return result


@functools.lru_cache(maxsize=64)
def _gathers(tables: Tables) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[Any], Vector]:
    """Join the tables into one array, and compute how rows become indices into it.

    Returns:
        The columns read, shape (most columns of a place, places); by how much a code in each moves
        the index, shape (most columns, places, 1); where each place begins, shape (places, 1); and
        the values, shape (entries,).
    """
    sizes = np.array([values.size for values in tables.values], np.intp)
    depth = max((len(read) for read in tables.columns), default=0)
    columns = np.zeros((depth, len(sizes)), np.intp)
    steps = np.zeros((depth, len(sizes), 1), np.min_scalar_type(max(int(sizes.sum()), 255)))
    for place, (read, values) in enumerate(zip(tables.columns, tables.values, strict=True)):
        for axis, column in enumerate(read):
            columns[axis, place] = column
            steps[axis, place] = np.prod(values.shape[axis + 1 :], dtype=np.intp)
    offsets = (np.cumsum(sizes) - sizes).astype(steps.dtype)[:, None]
    return columns, steps, offsets, np.concatenate([v.ravel() for v in tables.values])


def compile_tables(
    space: Space,
    value: Callable[[Layer], float],
    *,
    reduce: Literal["sum", "max"] = "sum",
    constant: float = 0.0,
) -> Tables:
    """Compile a function of layers over a space.

    Args:
        space: whose rows will be scored.
        value: of one layer, for example its MACs or its latency in seconds; not negative where
            ``reduce`` is ``max``. What it raises (a layer missing in a table) is passed on.
        reduce: how layers combine.
        constant: added at the end, for example the overhead of a run.
    """
    value = functools.lru_cache(maxsize=None)(value)
    columns: list[tuple[int, ...]] = []
    values: list[Vector] = []
    for slot in slots(space):
        shape = tuple(1 + len(space.genes[column].values) for column in slot.columns)
        # Codes that cannot occur are NaN: a row that is not canonical does not pass in silence.
        table = np.full(shape, np.nan)
        for codes, layer in slot.layers.items():
            table[codes] = 0.0 if layer is None else value(layer)
        columns.append(slot.columns)
        values.append(table)
    return Tables(tuple(columns), tuple(values), reduce, constant)


@functools.lru_cache(maxsize=32)
def macs_table(space: Space) -> Tables:
    """Tables that give the MACs of rows."""
    return compile_tables(space, lambda layer: cost(layer).macs)


@functools.lru_cache(maxsize=32)
def params_table(space: Space) -> Tables:
    """Tables that give the trainable parameters of rows."""
    return compile_tables(space, lambda layer: cost(layer).params)


@functools.lru_cache(maxsize=32)
def weights_table(space: Space) -> Tables:
    """Tables that give the constants that ship, for rows."""
    return compile_tables(space, lambda layer: cost(layer).weights)


@functools.lru_cache(maxsize=32)
def peak_table(space: Space) -> Tables:
    """Tables that give the largest number of live activation elements of rows."""
    tables = compile_tables(space, lambda layer: cost(layer).peak, reduce="max")
    if not space.cells:
        return tables
    column = layout(space).resolution
    cells = [float(cells_peak(space, resolution)) for resolution in space.resolutions]
    values = np.array(cells[0]) if column is None else np.array([np.nan, *cells])
    columns = () if column is None else (column,)
    return Tables((*tables.columns, columns), (*tables.values, values), "max")
