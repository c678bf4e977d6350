"""One layer of a network with all its shapes, and what an operator of it is."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal, get_args

from edgenas.basics.errors import EdgenasError, quote

Size = tuple[int, int]
_ONE: Size = (1, 1)
PADDINGS = ("symmetric", "same")
Kind = Literal[
    "conv",
    "mbconv",
    "bottleneck",
    "head",
    "fused",
    "uib",
    "rep",
    "basic",
    "preconv",
    "avgpool",
    "maxpool",
    "sum",
    "sepconv",
    "dilconv",
    "factorised",
    "concat",
]
# Fields of a layer that are words, with those that there are; () where any will do.
_WORDS = {
    "activation": (),
    "padding": PADDINGS,
    "squeeze_activation": ("relu", "silu"),
    "gate": ("hsigmoid", "sigmoid"),
}
_FLAGS = ("residual", "downsample", "mix_bias", "mix_norm", "head_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One unit of a planned arch that is profiled as a whole, with all its shapes.

    Args:
        kind: ``head``, or that of a block: ``conv``, ``mbconv``, ``bottleneck``, ``fused``,
            ``uib``, ``rep`` or ``basic`` (`edgenas.space.stage.StageSpace`); or of a part of a
            cell: ``preconv`` (activation-conv-BN), ``avgpool``, ``maxpool`` or ``sum``;
            ``sepconv`` (twice activation, depthwise conv, 1x1 conv, BN), ``dilconv`` (the same
            once, its kernel spread to every other pixel), ``factorised`` (activation and two 1x1
            convs with a stride, side by side, the second one pixel on) or ``concat``.
        inputs: input channels.
        outputs: output channels; for the head, the number of classes.
        size: height of the input in pixels; also its width, unless ``columns`` says otherwise.
        kernel: kernel size (of the depthwise conv in ``mbconv``, of the middle one in
            ``bottleneck`` and in ``uib``, which may have none: 0).
        stride: of that conv.
        mid: middle channels (all kinds but ``conv``, ``rep`` and ``head``).
        activation: ``relu``, ``relu6``, ``hswish``, ``silu`` or, of a ``conv``, ``none``.
        squeeze: channels inside squeeze-and-excitation; 0: none.
        residual: whether the input is added to the output.
        downsample: whether the shortcut of a ``bottleneck`` has its own pool and conv.
        pool: stride of a 3x3 max-pool at the end; 1: none.
        final: head only: channels of the 1x1 conv before global pooling; 0: none.
        mix: head only: channels of the 1x1 conv behind global pooling; 0: none.
        columns: width of the input in pixels; 0: the same as its height.
        padding: of the conv with the kernel: ``symmetric`` or ``same``, see ``pads``.
        squeeze_activation: inside the squeeze: ``relu`` or ``silu``.
        gate: behind the squeeze: ``hsigmoid`` or ``sigmoid``.
        mix_bias: head only: whether ``mix`` has a bias.
        start: kernel size of the depthwise conv at the start of a ``uib``; 0: none.
        mix_norm: head only: whether ``mix`` has a batch norm.
        head_norm: head only: whether it begins with a batch norm and an activation.
        terms: ``sum``: values that are added; 0: a value of zeros. ``concat``: values that are
            put side by side, each with the input channels.
    """

    kind: Kind
    inputs: int
    outputs: int
    size: int
    kernel: int = 1
    stride: int = 1
    mid: int = 0
    activation: str = "relu"
    squeeze: int = 0
    residual: bool = False
    downsample: bool = False
    pool: int = 1
    final: int = 0
    mix: int = 0
    columns: int = 0
    padding: str = "symmetric"
    squeeze_activation: str = "relu"
    gate: str = "hsigmoid"
    mix_bias: bool = False
    start: int = 0
    mix_norm: bool = False
    head_norm: bool = False
    terms: int = 0

    @property
    def in_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.size, self.columns or self.size

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output in pixels; 1 for the head."""
        if self.kind == "head":
            return _ONE
        return divide_size(divide_size(self.in_size, self.stride), self.pool)

    def __str__(self) -> str:
        """The key of the layer in a latency table: ``mbconv(inputs=24,outputs=40,size=16,...)``.

        It holds only fields that differ from their default, so that old tables stay valid when a
        field is added.
        """
        fields = (
            f"{f.name}={int(v) if isinstance(v, bool) else v}"
            for f in dataclasses.fields(self)
            if f.name != "kind" and (v := getattr(self, f.name)) != f.default
        )
        return f"{self.kind}({','.join(fields)})"

    @staticmethod
    def parse(text: str) -> "Layer":
        """Read the text form of a layer.

        Raises:
            EdgenasError: the text does not describe a layer; names the part that is wrong.
        """
        match = re.fullmatch(r"(\w+)\((.*)\)", text)
        if match is None or match[1] not in get_args(Kind):
            raise EdgenasError(f"layer must read like conv(inputs=3,...), found {quote(text)}")
        names = {f.name for f in dataclasses.fields(Layer)}
        values: dict[str, int | str | bool] = {}
        for part in match[2].split(","):
            name, _, value = part.partition("=")
            if name not in names or name == "kind" or not value:
                raise EdgenasError(f"layer {quote(text)}: unknown part {quote(part)}")
            if name in _WORDS:
                if (words := _WORDS[name]) and value not in words:
                    raise EdgenasError(
                        f"layer {quote(text)}: {name} must be one of {', '.join(words)}, found "
                        f"{quote(value)}"
                    )
                values[name] = value
            elif not value.isdecimal() or len(value) > 9:
                raise EdgenasError(
                    f"layer {quote(text)}: {name} must be a number below 10^9, found {quote(value)}"
                )
            else:
                values[name] = bool(int(value)) if name in _FLAGS else int(value)
        try:
            return Layer(kind=match[1], **values)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise EdgenasError(f"layer {quote(text)} is incomplete: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """One operator of a layer. A batch norm is folded into the conv before it.

    Args:
        op: ``conv``, ``linear``, ``globalpool``, ``avgpool``, ``maxpool``, ``add``, ``mul``,
            ``act``, ``scale`` (a factor and a summand for each channel), ``slice`` (all but the
            first row and column) or ``concat``.
        inputs: input channels.
        outputs: output channels.
        kernel: height and width.
        stride: in both directions.
        padding: of a conv: ``symmetric`` or ``same``, see ``pads``.
        groups: of a conv; equal to ``inputs`` in a depthwise one.
        in_size: height and width of the input.
        out_size: height and width of the output.
        bias: whether it has a bias of its own.
        norm: whether a batch norm follows (and is folded in for deployment).
        activation: of an ``act``: ``relu``, ``relu6``, ``hswish``, ``hsigmoid``, ...
        dilation: pixels from one element of the kernel to the next, in both directions.
    """

    op: str
    inputs: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "symmetric"
    groups: int = 1
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    bias: bool = False
    norm: bool = False
    activation: str = ""
    dilation: int = 1

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Rows and columns of zeros around the input: top, left, bottom, right."""
        spans = ((k - 1) * self.dilation + 1 for k in self.kernel)
        sides = [
            pad_side(n, kernel=span, stride=self.stride, padding=self.padding)
            for n, span in zip(self.in_size, spans, strict=True)
        ]
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image; 0 for every operator but conv and linear."""
        return self.weights * self.out_size[0] * self.out_size[1]

    @property
    def weights(self) -> int:
        """The number of weights, without bias and batch norm."""
        if self.op not in ("conv", "linear"):
            return 0
        return self.outputs * (self.inputs // self.groups) * self.kernel[0] * self.kernel[1]

    @property
    def params(self) -> int:
        """Trainable parameters: weights, bias, and two per channel of a batch norm."""
        return self.weights + self.outputs * (self.bias + 2 * self.norm)

    @property
    def folded(self) -> int:
        """The number of constants that ship: the weights and one bias per channel."""
        alone = self.op == "scale"  # a batch norm without a conv: its factors ship too
        return self.weights + self.outputs * ((self.bias or self.norm) + alone)

    @property
    def input_elements(self) -> int:
        """Elements of the input for one image. For add and mul: of one of their two inputs."""
        return self.inputs * self.in_size[0] * self.in_size[1]

    @property
    def output_elements(self) -> int:
        """Elements of the output of one image."""
        return self.outputs * self.out_size[0] * self.out_size[1]


def pad_side(size: int, *, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and behind one side of the input of a conv.

    ``symmetric``: half the kernel at both ends. ``same``: TensorFlow's rule, as few as give
    ``ceil(size / stride)`` outputs, the smaller half first: max((ceil(n / s) - 1) * s + k - n, 0)
    (tensorflow.org, ``tf.nn``, "Notes on padding"). They differ where the stride is above 1.
    """
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return zeros // 2, zeros - zeros // 2


def divide_size(size: Size, stride: int) -> Size:
    """Divide height and width by a stride; the results are rounded up."""
    return -(-size[0] // stride), -(-size[1] // stride)
