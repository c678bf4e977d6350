"""The operators that a layer is made of: its primitives, by kind."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

from edgenas.space.layer import Layer, Primitive, Size, divide_size

_ONE: Size = (1, 1)
Parts = Iterator[Primitive]


@functools.lru_cache(maxsize=65536)
def primitives(layer: Layer) -> tuple[Primitive, ...]:
    """The operators of a layer, in order of execution."""
    return tuple(_primitives(layer))


def _primitives(layer: Layer) -> Parts:
    yield from _KINDS[layer.kind](layer)
    out = _behind(layer)
    if layer.kind in ("conv", "mbconv", "fused", "uib") and layer.residual:
        yield _simple("add", layer.outputs, out, to=out)
    if layer.pool > 1:
        yield _simple("maxpool", layer.outputs, out, to=layer.out_size, kernel=3, stride=layer.pool)


def _conv_layer(layer: Layer) -> Parts:
    yield _spatial(layer, layer.inputs, layer.outputs)
    if layer.activation != "none":
        yield _act(layer.outputs, _behind(layer), layer.activation)


def _rep(layer: Layer) -> Parts:
    """As it ships: its branches are one conv."""
    conv = _spatial(layer, layer.inputs, layer.outputs)
    yield dataclasses.replace(conv, norm=False, bias=True)
    yield _act(layer.outputs, _behind(layer), layer.activation)


def _mbconv(layer: Layer) -> Parts:
    mid, out = layer.mid, _behind(layer)
    if mid != layer.inputs:
        yield _conv(layer.inputs, mid, layer.in_size)
        yield _act(mid, layer.in_size, layer.activation)
    yield _spatial(layer, mid, mid, groups=mid)
    yield _act(mid, out, layer.activation)
    if layer.squeeze:
        yield _simple("globalpool", mid, out, to=_ONE)
        yield dataclasses.replace(_conv(mid, layer.squeeze, _ONE), norm=False, bias=True)
        yield _act(layer.squeeze, _ONE, layer.squeeze_activation)
        yield dataclasses.replace(_conv(layer.squeeze, mid, _ONE), norm=False, bias=True)
        yield _act(mid, _ONE, layer.gate)
        yield _simple("mul", mid, out, to=out)
    yield _conv(mid, layer.outputs, out)


def _fused(layer: Layer) -> Parts:
    expands, out = layer.mid != layer.inputs, _behind(layer)
    wide = layer.mid if expands else layer.outputs
    yield _spatial(layer, layer.inputs, wide)
    yield _act(wide, out, layer.activation)
    if expands:
        yield _conv(layer.mid, layer.outputs, out)


def _uib(layer: Layer) -> Parts:
    mid, out = layer.mid, _behind(layer)
    before = layer.in_size if layer.kernel else out
    if layer.start:
        stride = 1 if layer.kernel else layer.stride
        first = dataclasses.replace(layer, kernel=layer.start, stride=stride)
        yield _spatial(first, layer.inputs, layer.inputs, groups=layer.inputs)
    yield _conv(layer.inputs, mid, before)
    yield _act(mid, before, layer.activation)
    if layer.kernel:
        yield _spatial(layer, mid, mid, groups=mid)
        yield _act(mid, out, layer.activation)
    yield _conv(mid, layer.outputs, out)


def _bottleneck(layer: Layer) -> Parts:
    size, out, mid, outputs = layer.in_size, _behind(layer), layer.mid, layer.outputs
    if layer.downsample:
        if layer.stride > 1:
            stride = layer.stride
            yield _simple("avgpool", layer.inputs, size, to=out, kernel=stride, stride=stride)
        yield _conv(layer.inputs, outputs, out)
    yield _conv(layer.inputs, mid, size)
    yield _act(mid, size, layer.activation)
    yield _spatial(layer, mid, mid)
    yield _act(mid, out, layer.activation)
    yield _conv(mid, outputs, out)
    yield _simple("add", outputs, out, to=out)
    yield _act(outputs, out, layer.activation)


def _preconv(layer: Layer) -> Parts:
    yield _act(layer.inputs, layer.in_size, layer.activation)
    yield _spatial(layer, layer.inputs, layer.outputs)


def _basic(layer: Layer) -> Parts:
    """NAS-Bench-201's residual block (arXiv 2001.00326, section 2.1); its shortcut has no norm."""
    size, out, outputs = layer.in_size, _behind(layer), layer.outputs
    if layer.downsample:
        if layer.stride > 1:
            stride = layer.stride
            yield _simple("avgpool", layer.inputs, size, to=out, kernel=stride, stride=stride)
        yield dataclasses.replace(_conv(layer.inputs, outputs, out), norm=False)
    yield from _preconv(layer)
    behind = dataclasses.replace(layer, inputs=outputs, size=out[0], columns=out[1], stride=1)
    yield from _preconv(behind)
    yield _simple("add", outputs, out, to=out)


def _window(layer: Layer) -> Parts:
    out, kernel = _behind(layer), layer.kernel
    yield _simple(
        layer.kind, layer.inputs, layer.in_size, to=out, kernel=kernel, stride=layer.stride
    )


def _sum(layer: Layer) -> Parts:
    size = _behind(layer)
    if not layer.terms and layer.stride > 1:
        yield _simple("maxpool", layer.inputs, layer.in_size, to=size, stride=layer.stride)
    if not layer.terms:
        yield _simple("mul", layer.outputs, size, to=size)
    for _ in range(layer.terms - 1):
        yield _simple("add", layer.outputs, size, to=size)


def _concat(layer: Layer) -> Parts:
    yield _simple("concat", layer.outputs, layer.in_size, to=layer.in_size)


def _sepconv(layer: Layer) -> Parts:
    """DARTS: a separable conv, applied twice (arXiv 1806.09055, section 3.1.1)."""
    out, inputs = _behind(layer), layer.inputs
    behind = dataclasses.replace(layer, size=out[0], columns=out[1], stride=1)
    for part, outputs in ((layer, inputs), (behind, layer.outputs)):
        yield _act(inputs, part.in_size, layer.activation)
        yield dataclasses.replace(_spatial(part, inputs, inputs, groups=inputs), norm=False)
        yield _conv(inputs, outputs, out)


def _dilconv(layer: Layer) -> Parts:
    inputs = layer.inputs
    yield _act(inputs, layer.in_size, layer.activation)
    spatial = _spatial(layer, inputs, inputs, groups=inputs)
    yield dataclasses.replace(spatial, norm=False, dilation=2)
    yield _conv(inputs, layer.outputs, _behind(layer))


def _factorised(layer: Layer) -> Parts:
    """DARTS: every other pixel, and those between them."""
    inputs, half, out = layer.inputs, layer.outputs // 2, _behind(layer)
    yield _act(inputs, layer.in_size, layer.activation)
    first = dataclasses.replace(_spatial(layer, inputs, half), kernel=(1, 1))
    yield first
    on = (layer.in_size[0] - 1, layer.in_size[1] - 1)
    yield _simple("slice", inputs, on, to=on)
    yield dataclasses.replace(first, in_size=on)
    yield _simple("concat", layer.outputs, out, to=out)


def _head(layer: Layer) -> Parts:
    channels, size = layer.inputs, layer.in_size
    if layer.head_norm:
        yield dataclasses.replace(_simple("scale", channels, size, to=size), norm=True)
        yield _act(channels, size, layer.activation)
    if layer.final:
        yield _conv(channels, layer.final, size)
        yield _act(layer.final, size, layer.activation)
        channels = layer.final
    yield _simple("globalpool", channels, size, to=_ONE)
    if layer.mix:
        mix = _conv(channels, layer.mix, _ONE)
        yield dataclasses.replace(mix, norm=layer.mix_norm, bias=layer.mix_bias)
        yield _act(layer.mix, _ONE, layer.activation)
        channels = layer.mix
    yield Primitive(
        op="linear",
        inputs=channels,
        outputs=layer.outputs,
        in_size=_ONE,
        out_size=_ONE,
        bias=True,
    )


_KINDS: Mapping[str, Callable[[Layer], Parts]] = {
    "conv": _conv_layer,
    "mbconv": _mbconv,
    "bottleneck": _bottleneck,
    "head": _head,
    "fused": _fused,
    "uib": _uib,
    "rep": _rep,
    "basic": _basic,
    "preconv": _preconv,
    "avgpool": _window,
    "maxpool": _window,
    "sum": _sum,
    "sepconv": _sepconv,
    "dilconv": _dilconv,
    "factorised": _factorised,
    "concat": _concat,
}


def _behind(layer: Layer) -> Size:
    """The size behind the conv that has the stride, before a pool."""
    return divide_size(layer.in_size, layer.stride)


def _conv(inputs: int, outputs: int, size: Size) -> Primitive:
    """A 1x1 conv with a batch norm."""
    return Primitive(
        op="conv", inputs=inputs, outputs=outputs, in_size=size, out_size=size, norm=True
    )


def _spatial(layer: Layer, inputs: int, outputs: int, *, groups: int = 1) -> Primitive:
    """The conv of a layer that has its kernel, stride and padding."""
    return dataclasses.replace(
        _conv(inputs, outputs, layer.in_size),
        kernel=(layer.kernel, layer.kernel),
        stride=layer.stride,
        padding=layer.padding,
        groups=groups,
        out_size=divide_size(layer.in_size, layer.stride),
    )


def _act(channels: int, size: Size, activation: str) -> Primitive:
    return dataclasses.replace(_simple("act", channels, size, to=size), activation=activation)


def _simple(
    op: str, channels: int, size: Size, *, to: Size, kernel: int = 1, stride: int = 1
) -> Primitive:
    return Primitive(
        op=op,
        inputs=channels,
        outputs=channels,
        kernel=(kernel, kernel),
        stride=stride,
        in_size=size,
        out_size=to,
    )
