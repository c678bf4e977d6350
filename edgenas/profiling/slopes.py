"""Layers by slope: what further copies of a layer in one engine take longer.

An engine has a floor, and converts its input and output to other layouts. Both are in a row of one
copy and in a row of five, so they cancel in (T(5) - T(1)) / 4. Only a layer whose output has the
shape of its input can follow itself. Any other one stands between neighbours, 1x1 convs that keep
their shape, of which slopes are known; the floor of an engine is what is left of rows of one copy.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgenas.latency.table import Timing
from edgenas.onnx_graph.build import row_graph
from edgenas.onnx_graph.forms import Form, convert_to_form
from edgenas.profiling.units import Unit
from edgenas.space.layer import Layer
from edgenas.space.plan import layers
from edgenas.space.space import Space

SHORT, LONG = 1, 5
_IMAGE = 4  # up to so many channels, an input is an image: nothing stands before what reads it


def follows_itself(layer: Layer) -> bool:
    """Whether the output of a layer has the shape of its input."""
    same = layer.inputs == layer.outputs and layer.in_size == layer.out_size
    return layer.kind != "head" and same


def neighbours(layer: Layer) -> tuple[Layer | None, Layer | None]:
    """The layers that stand before and behind one that cannot follow itself."""
    before = behind = None
    if layer.inputs > _IMAGE:
        before = _neighbour(layer.inputs, layer.in_size)
    if layer.kind != "head":
        behind = _neighbour(layer.outputs, layer.out_size)
    return before, behind


def _neighbour(channels: int, size: tuple[int, int]) -> Layer:
    columns = 0 if size[0] == size[1] else size[1]
    return Layer(kind="conv", inputs=channels, outputs=channels, size=size[0], columns=columns)


def slope_units(space: Space, *, batch: int, form: Form) -> list[Unit]:
    """The graphs that slopes of all layers of a space come from.

    Args:
        space: the space.
        batch: images a run.
        form: of the graphs.
    """
    own = layers(space)
    alone = [layer for layer in own if not follows_itself(layer)]
    others = [each for layer in alone for each in neighbours(layer) if each is not None]
    rows = dict.fromkeys([*filter(follows_itself, own), *others])
    units = [
        _unit([layer] * copies, layer, copies=copies, batch=batch, form=form)
        for layer in rows
        for copies in (SHORT, LONG)
    ]
    for layer in alone:
        before, behind = neighbours(layer)
        row = [each for each in (before, layer, behind) if each is not None]
        units.append(_unit(row, layer, copies=0, batch=batch, form=form))
    return units


def _unit(row: Sequence[Layer], layer: Layer, *, copies: int, batch: int, form: Form) -> Unit:
    where = f"{copies} in a row" if copies else "between neighbours"

    def build() -> bytes:
        return convert_to_form(row_graph(row, batch=batch), form=form)

    return Unit(name=f"{layer} {where}", of=layer, build=build, copies=copies)


def solve_slopes(timings: Sequence[tuple[Unit, Timing]], space: Space) -> dict[Layer, Timing]:
    """The timing of each layer of a space whose graphs were all timed.

    Args:
        timings: of units; those of networks are passed over.
        space: of the layers.
    """
    rows: dict[Layer, dict[int, Timing]] = {}
    for unit, timing in timings:
        if isinstance(unit.of, Layer):
            rows.setdefault(unit.of, {})[unit.copies] = timing
    slopes = {
        layer: _slope(pair[LONG], pair[SHORT])
        for layer, pair in rows.items()
        if {SHORT, LONG} <= set(pair)
    }
    if not slopes:
        return {}
    floors = [rows[layer][SHORT].seconds - slopes[layer].seconds for layer in slopes]
    floor = max(0.0, statistics.median(floors))
    solved: dict[Layer, Timing] = {}
    for layer in layers(space):
        if follows_itself(layer) and layer in slopes:
            solved[layer] = slopes[layer]
        elif 0 in rows.get(layer, {}):
            between = _between(rows[layer][0], layer, floor=floor, slopes=slopes)
            if between is not None:
                solved[layer] = between
    return solved


def _slope(longer: Timing, shorter: Timing) -> Timing:
    return _part(longer, (longer.seconds - shorter.seconds) / (LONG - SHORT), share=1 / LONG)


def _between(
    timing: Timing, layer: Layer, *, floor: float, slopes: Mapping[Layer, Timing]
) -> Timing | None:
    around = [each for each in neighbours(layer) if each is not None]
    if any(each not in slopes for each in around):
        return None
    rest = timing.seconds - floor - sum(slopes[each].seconds for each in around)
    return _part(timing, rest, share=1 / (1 + len(around)))


def _part(whole: Timing, seconds: float, *, share: float) -> Timing:
    """A part of a timing; where nothing is left of it, its share, which is noisy."""
    sound = seconds > 0
    seconds = seconds if sound else whole.seconds * share
    ratio = seconds / whole.seconds
    return replace(
        whole,
        median=seconds,
        p10=whole.p10 and whole.p10 * ratio,
        p90=whole.p90 and whole.p90 * ratio,
        wall_p50=whole.wall_p50 and whole.wall_p50 * ratio,
        wall_p95=whole.wall_p95 and whole.wall_p95 * ratio,
        noisy=whole.noisy or not sound,
    )
