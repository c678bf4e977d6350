"""A network drawn stage by stage, among the choices its space had."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from edgenas.basics.units import count, milliseconds, pixels
from edgenas.pages.charts import WIDTH, drawing
from edgenas.pages.markup import node, short
from edgenas.space.arch import Arch
from edgenas.space.cost import cost
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.space.space import Space

_LEFT = 84  # of the blocks; stages are named before
_STEP, _HIGH = 50, 36


def draw_network(space: Space, arch: Arch, *, seconds: Mapping[str, float]) -> Element:
    """Every stage a row, every block a box.

    A box is as wide as the block expands, as dark as its kernel is large, and the stripe at its
    foot is its part of the latency, relative to the slowest layer. Dashed boxes are blocks that the
    space would have allowed.

    Args:
        space: of the arch.
        arch: the network.
        seconds: predicted latency of its layers by their name in ``plan``; may be empty.
    """
    layers = dict(plan(space, arch))
    slowest = max(seconds.values(), default=0.0) or 1.0
    deepest = max(max(stage.depths) for stage in space.stages)
    cell = (WIDTH - _LEFT) / deepest
    widest = max(e for stage in space.stages for e in stage.expands)
    kernels = sorted({k for stage in space.stages for k in stage.kernels})
    parts: list[Element | None] = [
        _row_name(0, "input", f"{pixels(space.input_size(arch.resolution))} pixels")
    ]
    top = 34
    for i, (stage, options) in enumerate(zip(arch.stages, space.stages, strict=True)):
        first = layers[f"stages.{i}.0"]
        last = layers[f"stages.{i}.{len(stage.blocks) - 1}"]
        stride = f", stride {first.stride}" if first.stride > 1 else ""
        shape = f"{stage.width} x {pixels(last.out_size, by=' x ')}"
        parts.append(_flow(top))
        parts.append(_row_name(top, f"stage {i}", shape))
        for j in range(max(options.depths)):
            left = _LEFT + j * cell
            if j >= len(stage.blocks):
                width = cell * 0.55
                ghost = node("title", "not used: the space allows another block here")
                parts.append(_box(ghost, left, top, width, class_="ghost"))
                continue
            block, name = stage.blocks[j], f"stages.{i}.{j}"
            layer = layers[name]
            share = 0.5 + 0.5 * block.expand / widest if layer.mid else 0.55
            width = max(min(cell - 6, 36.0), (cell - 6) * share)
            dark = round(2 * kernels.index(block.kernel) / max(1, len(kernels) - 1))
            spent = seconds.get(name)
            told = node("title", _told(name, layer, spent) + (stride if j == 0 else ""))
            parts.append(_box(told, left, top, width, class_=f"box k{dark}"))
            label = f"{block.kernel}x{block.kernel}"
            parts.append(_words(label, left + width / 2, top + 15, class_="strong"))
            if layer.mid:
                expand = f"e{block.expand:g}"
                parts.append(_words(expand, left + width / 2, top + 27, class_="plain small"))
            if spent is not None:
                long = max(0.0, spent) / slowest * (width - 4)
                foot = top + _HIGH - 5
                parts.append(node("rect", x=left + 2, y=foot, width=long, height=3, class_="share"))
        top += _STEP
    head, spent = layers["head"], seconds.get("head")
    channels = [head.inputs, head.final, head.mix, head.outputs]
    words = " to ".join(str(c) for c in channels if c)
    parts.append(_flow(top))
    parts.append(_row_name(top, "head", f"{head.outputs} classes"))
    parts.append(_box(node("title", _told("head", head, spent)), _LEFT, top, 190, class_="box k0"))
    parts.append(_words(words, _LEFT + 95, top + 20, class_="strong"))
    if spent is not None:
        long = max(0.0, spent) / slowest * 186
        parts.append(
            node("rect", x=_LEFT + 2, y=top + _HIGH - 5, width=long, height=3, class_="share")
        )
    return drawing(
        *parts,
        height=top + _HIGH + 4,
        title="The network, stage by stage",
        words=f"{arch}: input resolution, then the width of each stage and its blocks as kernel x "
        "expansion.",
    )


def describe_layer(name: str, layer: Layer) -> str:
    """A layer in a few words: ``2.1 mbconv 5x5, 24 to 40, stride 2``."""
    place = name.removeprefix("stages.")
    if layer.kind == "head":
        return f"head, {layer.inputs} to {layer.outputs}"
    wide = f" over {layer.mid}" if layer.mid and layer.mid != layer.inputs else ""
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    size = f"{layer.kernel}x{layer.kernel}"
    return f"{place} {layer.kind} {size}, {layer.inputs}{wide} to {layer.outputs}{stride}"


def _told(name: str, layer: Layer, seconds: float | None) -> str:

    macs = f"{count(cost(layer).macs)} MACs"
    spent = "" if seconds is None else f", {milliseconds(seconds)} predicted"
    extras = [
        words
        for words, there in (
            ("squeeze-and-excitation", layer.squeeze),
            ("shortcut", layer.residual),
        )
        if there
    ]
    more = f", {' and '.join(extras)}" if extras else ""
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


def _flow(top: float) -> Element:
    """A small arrow from the row above."""
    x, y = _LEFT + 12, short(top - 12)
    return node("path", d=f"M{x} {y}v8m-3 -3l3 3l3 -3", class_="flow")
