"""A drawing of a network, stage by stage, among the choices of its space."""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from edgenas.basics.units import count, milliseconds, pixels
from edgenas.pages.charts import WIDTH, drawing
from edgenas.pages.markup import node, short
from edgenas.space.arch import CELL, Arch, Block
from edgenas.space.cost import cost
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.space.sizes import size_before
from edgenas.space.space import Space

_LEFT = 84  # of the blocks; stages are named before
_STEP, _HIGH = 50, 36
_HEAD = 190  # pixels of its box


def draw_network(space: Space, arch: Arch, *, seconds: Mapping[str, float]) -> Element:
    """Draw a network: every stage is a row, every block is a box.

    A wider box expands more, and a darker one has a larger kernel. The stripe at its foot is its
    latency, relative to the slowest layer. A dashed box is a block that the space allows and the
    network does not have, or that is nothing at all.

    Args:
        space: of the arch.
        arch: the network.
        seconds: predicted latency of its layers by their name in ``plan``; may be empty.
    """
    layers = dict(plan(space, arch))
    scales = _Scales(
        cell=(WIDTH - _LEFT) / max(max(stage.depths) for stage in space.stages),
        expand=max(block.expand for stage in space.stages for block in stage.options),
        kernels=kernel_sizes(space),
        seconds=max(seconds.values(), default=0.0) or 1.0,
    )
    input_size = f"{pixels(space.input_size(arch.resolution))} pixels"
    parts: list[Element] = [_row_name(0, "input", input_size)]
    top = 34
    for i, (stage, options) in enumerate(zip(arch.stages, space.stages, strict=True)):
        row = [_arrow(top)]
        for j in range(max(options.depths)):
            name, left = f"stages.{i}.{j}", _LEFT + j * scales.cell
            block = stage.blocks[j] if j < len(stage.blocks) else None
            if layer := layers.get(name):
                assert block is not None
                row += _draw_block(name, layer, block, seconds.get(name), scales, (left, top))
            elif block == CELL:
                row += _draw_cell(name, options.cell, seconds, scales, (left, top))
            else:
                ghost = node("title", "not used: the space allows another block here")
                row.append(_box(ghost, left, top, scales.cell * 0.55, class_="ghost"))
        size = size_before(space, i + 1, arch.resolution)
        shape = f"{stage.width} x {pixels(size, by=' x ')}"
        parts += [*row[:1], _row_name(top, f"stage {i}", shape), *row[1:]]
        top += _STEP
    parts += _draw_head(layers["head"], seconds.get("head"), scales, top)
    return drawing(
        *parts,
        height=top + _HIGH + 4,
        title="The network, stage by stage",
        words=f"{arch}: input resolution, then the width of each stage and its blocks as kernel x "
        "expansion.",
    )


def kernel_sizes(space: Space) -> tuple[int, ...]:
    """All kernel sizes of the blocks of a space, in order."""
    blocks = [block for stage in space.stages for block in stage.options]
    return tuple(sorted({max(block.kernel, block.start) for block in blocks}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scales:
    """What the sizes and colours of boxes are relative to.

    Args:
        cell: pixels from one block to the next.
        expand: the largest expansion ratio of the space.
        kernels: all kernel sizes of the space, in order.
        seconds: the time of the slowest layer.
    """

    cell: float
    expand: float
    kernels: tuple[int, ...]
    seconds: float


def _draw_block(
    name: str,
    layer: Layer,
    block: Block,
    seconds: float | None,
    scales: _Scales,
    corner: tuple[float, float],
) -> list[Element]:
    """The box of a block with its words and the stripe of its time."""
    left, top = corner
    share = 0.5 + 0.5 * block.expand / scales.expand if layer.mid else 0.55
    width = max(min(scales.cell - 6, 36.0), (scales.cell - 6) * share)
    kernel = max(block.kernel, block.start)
    shade = round(2 * scales.kernels.index(kernel) / max(1, len(scales.kernels) - 1))
    named = block.activation or ""
    title = node("title", _describe_fully(name, layer, seconds, named=named))
    parts = [_box(title, left, top, width, class_=f"box k{shade}")]
    sizes = f"{block.start}+{block.kernel}" if layer.kind == "uib" else f"{kernel}x{kernel}"
    if block.squeeze is not None:
        sizes += " se" if layer.squeeze else " no se"
    parts.append(_words(sizes, left + width / 2, top + 15, class_="strong"))
    if layer.mid:
        expand = f"{block.kind or ''} e{block.expand:g} {named}".strip()
        parts.append(_words(expand, left + width / 2, top + 27, class_="plain small"))
    if seconds is not None:
        parts.append(_stripe(left, top, width, seconds / scales.seconds))
    return parts


def _draw_cell(
    name: str,
    number: int,
    seconds: Mapping[str, float],
    scales: _Scales,
    corner: tuple[float, float],
) -> list[Element]:
    """The box of a cell, whose parts a drawing of its own shows, and the stripe of their time."""
    left, top = corner
    width = max(min(scales.cell - 6, 36.0), (scales.cell - 6) * 0.55)
    spent = [value for part, value in seconds.items() if part.startswith(f"{name}.")]
    title = node("title", f"{name.removeprefix('stages.')} cell {number}")
    parts = [_box(title, left, top, width, class_="box k0")]
    parts.append(_words("cell", left + width / 2, top + 15, class_="strong"))
    parts.append(_words(f"{number}", left + width / 2, top + 27, class_="plain small"))
    if spent:
        parts.append(_stripe(left, top, width, min(1.0, sum(spent) / scales.seconds)))
    return parts


def _draw_head(head: Layer, seconds: float | None, scales: _Scales, top: float) -> list[Element]:
    channels = [head.inputs, head.final, head.mix, head.outputs]
    words = " to ".join(str(c) for c in channels if c)
    title = node("title", _describe_fully("head", head, seconds))
    parts = [_arrow(top), _row_name(top, "head", f"{head.outputs} classes")]
    parts.append(_box(title, _LEFT, top, _HEAD, class_="box k0"))
    parts.append(_words(words, _LEFT + _HEAD / 2, top + 20, class_="strong"))
    if seconds is not None:
        parts.append(_stripe(_LEFT, top, _HEAD, seconds / scales.seconds))
    return parts


def describe_layer(name: str, layer: Layer) -> str:
    """Describe a layer in a few words: ``2.1 mbconv 5x5, 24 to 40, stride 2``."""
    place = name.removeprefix("stages.")
    if layer.kind == "head":
        return f"head, {layer.inputs} to {layer.outputs}"
    wide = f" over {layer.mid}" if layer.mid and layer.mid != layer.inputs else ""
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    size = f"{layer.kernel}x{layer.kernel}"
    if layer.kind == "uib":
        size = f"{layer.start}+{layer.kernel}"
    if layer.kind == "sum":
        size = f"of {layer.terms}" if layer.terms else "of nothing"
    return f"{place} {layer.kind} {size}, {layer.inputs}{wide} to {layer.outputs}{stride}"


def _describe_fully(name: str, layer: Layer, seconds: float | None, *, named: str = "") -> str:
    """What shows when a box is pointed at: the layer, its MACs and its time.

    Args:
        name: of the layer.
        layer: the layer.
        seconds: its predicted latency.
        named: its activation, where the block names one.
    """
    extras = [named] if named else list[str]()
    if layer.squeeze:
        extras.append("squeeze-and-excitation")
    if layer.residual:
        extras.append("shortcut")
    more = f", {' and '.join(extras)}" if extras else ""
    macs = f"{count(cost(layer).macs)} MACs"
    spent = "" if seconds is None else f", {milliseconds(seconds)} predicted"
    return f"{describe_layer(name, layer)}{more}: {macs}{spent}"


def _row_name(top: float, name: str, shape: str) -> Element:
    return node(
        "g",
        node("text", name, x=0, y=top + 15, class_="strong"),
        node("text", shape, x=0, y=top + 28, class_="small"),
    )


def _box(title: Element, left: float, top: float, width: float, *, class_: str) -> Element:
    return node("rect", title, x=left, y=top, width=width, height=_HIGH, rx=5, class_=class_)


def _words(text: str, x: float, y: float, *, class_: str) -> Element:
    return node("text", text, x=x, y=y, text_anchor="middle", class_=class_, pointer_events="none")


def _arrow(top: float) -> Element:
    """A small arrow from the row above."""
    x, y = _LEFT + 12, short(top - 12)
    return node("path", d=f"M{x} {y}v8m-3 -3l3 3l3 -3", class_="flow")


def _stripe(left: float, top: float, width: float, share: float) -> Element:
    """The stripe at the foot of a box: a share of its width."""
    long = max(0.0, share) * (width - 4)
    return node("rect", x=left + 2, y=top + _HIGH - 5, width=long, height=3, class_="share")
