"""From an arch to its layers. Strides, channels and sizes are decided here and nowhere else."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from edgenas.space.arch import CELL, Arch, Block
from edgenas.space.cells import parse_cell
from edgenas.space.genes import layout
from edgenas.space.layer import Kind, Layer, Size, divide_size, pad_side
from edgenas.space.sizes import columns_of, size_before
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace, middle_channels, squeezed_channels
from edgenas.space.wiring import CellPlace, cell_place

Value = TypeVar("Value")


def plan(space: Space, arch: Arch) -> tuple[tuple[str, Layer], ...]:
    """Walk through an arch and name its layers, in order.

    Names are ``stages.<i>.<j>`` and ``head``, and inside of cells ``stages.<i>.<j>.edge<n>from<s>``
    and ``stages.<i>.<j>.node<n>``. A block that is nothing at all has no layer. The arch must be in
    the space (``space.check``).
    """
    return tuple((step.name, step.layer) for step in walk(space, arch))


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One layer of an arch and what it takes.

    Args:
        name: of the layer.
        layer: the layer.
        sources: the names of the layers whose outputs it takes; empty text: the image.
    """

    name: str
    layer: Layer
    sources: tuple[str, ...]


def walk(space: Space, arch: Arch) -> tuple[PlannedLayer, ...]:
    """The layers of an arch as ``plan`` names them, with the values that each takes."""
    steps: list[PlannedLayer] = []
    before, value, outputs = space.inputs, "", list[str]()
    for i, stage in enumerate(arch.stages):
        for j, block in enumerate(stage.blocks):
            outputs.append(value)
            if block == CELL:
                place = cell_place(space, i, j, arch.resolution)
                # The image is no output of a block.
                two = (outputs[-2:][0] or value, value)
                nodes = parse_cell(arch.cells[space.stages[i].cell])
                cell, value = place.walk(nodes, two[-place.cell.inputs :])
                steps += itertools.starmap(PlannedLayer, cell)
                continue
            inputs = before if j == 0 else stage.width
            last = j == len(stage.blocks) - 1
            layer = _block(space, i, j, arch.resolution, inputs, stage.width, block, last)
            if layer is not None:
                steps.append(PlannedLayer(f"stages.{i}.{j}", layer, (value,)))
                value = steps[-1].name
        before = stage.width
    steps.append(PlannedLayer("head", _head(space, arch.resolution, before), (value,)))
    return tuple(steps)


def follow(steps: Sequence[PlannedLayer], x: Value, apply: Callable[..., Value]) -> Value:
    """Send a value through the steps of an arch.

    Args:
        steps: as ``walk`` gives them.
        x: the image.
        apply: called with a step and the values that it takes; gives its output.

    Returns:
        What the last step gives. Values are forgotten after their last use.
    """
    last = {source: i for i, step in enumerate(steps) for source in step.sources}
    values = {"": x}
    for i, step in enumerate(steps):
        x = apply(step, *(values[source] for source in step.sources))
        for source in {*step.sources}:
            if last[source] == i:
                del values[source]
        if step.name in last:
            values[step.name] = x
    return x


@dataclass(frozen=True, slots=True)
class Slot:
    """A place of the space that a layer can fill.

    Args:
        name: as in ``plan``.
        columns: the genes that it reads, as columns of the space's rows.
        layers: the layer for each combination of their codes in canonical rows; None where the
            block is absent or is nothing.
    """

    name: str
    columns: tuple[int, ...]
    layers: dict[tuple[int, ...], Layer | None]


@functools.lru_cache(maxsize=16)
def slots(space: Space) -> tuple[Slot, ...]:
    """All places of a space, with the layers that can fill each."""
    blocks = ((i, j) for i, stage in enumerate(space.stages) for j in range(max(stage.depths)))
    places: list[Slot] = []
    for i, j in blocks:
        cell = space.stages[i].kind == "cell"
        places += _cell_slots(space, i, j) if cell else [_slot(space, i, j)]
    return (*places, _slot(space, len(space.stages), 0))


def layers(space: Space) -> list[Layer]:
    """The distinct layers of all archs of a space, in order of first appearance."""
    every = (layer for slot in slots(space) for layer in slot.layers.values())
    return list(dict.fromkeys(layer for layer in every if layer is not None))


def _cell_slots(space: Space, i: int, j: int) -> list[Slot]:
    """The places of one cell: its inputs, edges, nodes and output, as far as it has them."""
    lay, number = layout(space), space.stages[i].cell
    cell = space.cells[number]
    at = {r: cell_place(space, i, j, r) for r in space.resolutions}
    every = (lay.resolution, space.resolutions)

    def slot(name: str, taken: Sequence[int], make: Callable[..., Layer | None]) -> Slot:
        """The place of a layer that depends on the resolution and on some choices of the cell."""
        chosen = ((lay.cells.get((number, k)), cell.choices[k].values) for k in taken)
        choices = [every, *chosen]
        columns = tuple(column for column, _ in choices if column is not None)
        table: dict[tuple[int, ...], Layer | None] = {}
        for picks in itertools.product(*(enumerate(values, 1) for _, values in choices)):
            pairs = zip(choices, picks, strict=True)
            codes = tuple(code for (column, _), (code, _) in pairs if column is not None)
            table[codes] = make(at[picks[0][1]], *(value for _, value in picks[1:]))
        return Slot(f"stages.{i}.{j}.{name}", columns, table)

    darts, first, places = cell.family == "darts", 0, list[Slot]()
    for k in range(cell.inputs if darts else 0):
        places.append(slot(f"input{k}", (), functools.partial(_enter, k)))
    for node, among in enumerate(cell.sources, cell.inputs):
        count = len(among[0])
        operations = range(first + darts, first + darts + count)
        for source in range(node):
            made = functools.cache(functools.partial(_edge, source))
            name = f"edge{node}from{source}"
            if darts:
                make = functools.partial(_chosen_edge, made, source)
                places.append(slot(name, (first, *operations), make))
            else:
                places.append(slot(name, (operations[source],), made))
        places.append(slot(f"node{node}", operations, functools.cache(_join)))
        first += darts + count
    if darts:
        places.append(slot("output", (), CellPlace.leave))
    return places


def _enter(k: int, place: CellPlace) -> Layer:
    return place.enter(k)


def _edge(source: int, place: CellPlace, operation: str) -> Layer | None:
    return place.edge(source, operation)


def _chosen_edge(
    make: Callable[..., Layer | None],
    source: int,
    place: CellPlace,
    sources: tuple[int, ...],
    *operations: str,
) -> Layer | None:
    """The layer on an edge that is there where a node chooses its source."""
    return make(place, operations[sources.index(source)]) if source in sources else None


def _join(place: CellPlace, *operations: str) -> Layer | None:
    return place.join(sum(name != "none" for name in operations))


def _slot(space: Space, i: int, j: int) -> Slot:
    lay, head = layout(space), i == len(space.stages)
    stage = space.stages[-1] if head else space.stages[i]
    before = space.stages[i - 1].widths if i else (space.inputs,)
    # (column, values, whether 0 may occur) of each choice this place depends on
    choices: dict[str, tuple[int | None, tuple[Any, ...], bool]] = {
        "resolution": (lay.resolution, space.resolutions, False),
    }
    if j == 0:
        choices["inputs"] = (lay.widths.get(i - 1), before, False)
    if not head:
        optional = j >= min(stage.depths)
        choices["width"] = (lay.widths.get(i), stage.widths, False)
        if stage.blocks:
            choices["block"] = (lay.blocks.get((i, j)), stage.options, optional)
        else:
            choices["kernel"] = (lay.kernels.get((i, j)), stage.kernels, optional)
            choices["expand"] = (lay.expands.get((i, j)), stage.expands, optional)
        if stage.pool > 1:
            # The pool belongs to the last block, so the depth decides which block has it.
            choices["depth"] = (lay.depths.get(i), stage.depths, False)
    read = {name: c for name, c in choices.items() if c[0] is not None}
    table: dict[tuple[int, ...], Layer | None] = {}
    spans = [range(0 if c[2] else 1, len(c[1]) + 1) for c in read.values()]
    for codes in itertools.product(*spans):
        values = {name: c[1][0] for name, c in choices.items()}
        values |= {n: c[1][code - 1] for (n, c), code in zip(read.items(), codes, strict=True)}
        resolution, inputs = int(values["resolution"]), int(values.get("inputs", 0))
        absent = 0 in codes
        if absent and any(code for c, code in zip(read.values(), codes, strict=True) if c[2]):
            continue  # either all genes of a block are present or none is
        if "depth" in read and absent != (values["depth"] <= j):
            continue
        if head:
            table[codes] = _head(space, resolution, inputs)
        elif absent:
            table[codes] = None
        else:
            width = int(values["width"])
            block = values.get("block") or Block(int(values["kernel"]), values["expand"])
            last = values.get("depth", 0) == j + 1
            table[codes] = _block(
                space, i, j, resolution, inputs if j == 0 else width, width, block, last
            )
    name = "head" if head else f"stages.{i}.{j}"
    columns = tuple(c[0] for c in read.values() if c[0] is not None)
    return Slot(name, columns, table)


def _block(
    space: Space,
    i: int,
    j: int,
    resolution: int,
    inputs: int,
    width: int,
    block: Block,
    last: bool,
) -> Layer | None:
    stage, kind = space.stages[i], block.kind or space.stages[i].kind
    stride = stage.stride if j == 0 else 1
    size = size_before(space, i, resolution)
    if j > 0:
        size = divide_size(size, stage.stride)
    if kind == "none" and stride == 1 and inputs == width:
        return None
    assert kind != "cell", "cells have layers of their own"
    plain: Kind = "conv" if kind == "none" else kind  # a 1x1 conv where shapes change
    mid, squeeze = 0, 0
    if plain in ("mbconv", "fused", "uib"):
        mid = middle_channels(inputs, block.expand)
    elif plain == "bottleneck":
        mid = middle_channels(width, block.expand)
    if plain == "mbconv":
        squeeze = squeezed_channels(stage, block, inputs=inputs, middle=mid)
    return Layer(
        kind=plain,
        inputs=inputs,
        outputs=width,
        size=size[0],
        columns=columns_of(size),
        kernel=block.kernel,
        stride=stride,
        mid=mid,
        activation="none" if kind == "none" else block.activation or stage.activation,
        squeeze=squeeze,
        residual=kind not in ("none", "basic") and _residual(stage, plain, stride, inputs, width),
        downsample=(plain == "bottleneck" and j == 0)
        or (plain == "basic" and (stride > 1 or inputs != width)),
        pool=stage.pool if last else 1,
        padding=_padding(space, size, kernel=block.kernel or block.start, stride=stride),
        squeeze_activation=stage.squeeze_activation if squeeze else "relu",
        gate=stage.gate if squeeze else "hsigmoid",
        start=block.start,
    )


def _padding(space: Space, size: Size, *, kernel: int, stride: int) -> str:
    """The padding of a layer; ``symmetric`` wherever that is the same, so that equal layers are."""

    def pads(padding: str) -> list[tuple[int, int]]:
        return [pad_side(n, kernel=kernel, stride=stride, padding=padding) for n in size]

    return space.padding if pads(space.padding) != pads("symmetric") else "symmetric"


def _residual(stage: StageSpace, kind: Kind, stride: int, inputs: int, width: int) -> bool:
    if kind == "bottleneck":
        return True
    return stage.shortcut and stride == 1 and inputs == width


def _head(space: Space, resolution: int, inputs: int) -> Layer:
    size = size_before(space, len(space.stages), resolution)
    return Layer(
        kind="head",
        inputs=inputs,
        outputs=space.classes,
        size=size[0],
        columns=columns_of(size),
        activation=space.activation,
        final=space.final,
        mix=space.mix,
        mix_bias=space.mix_bias,
        mix_norm=space.mix_norm,
        head_norm=space.head_norm,
    )
