"""The choices of one stage of a space, and the rules for them."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, TypeVar, get_args

from edgenas.basics.errors import EdgenasError
from edgenas.basics.ranges import (
    Channels,
    Depth,
    Id,
    Kernel,
    Length,
    Range,
    Ratio,
)
from edgenas.space.arch import CELL, NOTHING, Block

StageKind = Literal["conv", "mbconv", "bottleneck", "fused", "uib", "rep", "basic", "cell"]
KINDS: tuple[str, ...] = get_args(StageKind)
ACTIVATIONS = ("relu", "relu6", "hswish", "silu")
SQUEEZE_RULES = ("middle", "inputs")
SQUEEZE_ACTIVATIONS = ("relu", "silu")
GATES = ("hsigmoid", "sigmoid")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpace:
    """The choices of one stage.

    Args:
        kind: ``conv`` (conv-BN-activation), ``mbconv`` (expand, depthwise, project; MobileNetV2,
            arXiv 1801.04381), ``bottleneck`` (ResNet-D, arXiv 1812.01187), ``fused`` (one conv in
            place of expand and depthwise; EfficientNetV2, arXiv 2104.00298), ``uib`` (universal
            inverted bottleneck: an optional depthwise conv before the expansion and one behind it;
            MobileNetV4, arXiv 2404.10518), ``rep`` (conv-BN-activation that is trained as
            parallel branches and ships as one conv; RepVGG, arXiv 2101.03697), ``basic`` (two times
            activation-conv-BN and a shortcut with an average pool; the reductions of
            NAS-Bench-201) or ``cell`` (`edgenas.space.cells`).
        widths: output channels to choose from.
        depths: numbers of blocks to choose from; a stage of depth d runs its first d blocks.
        kernels: odd kernel sizes to choose from, per block (of the depthwise conv in ``mbconv``,
            of the middle one in ``bottleneck``).
        expands: ratios of middle channels to choose from, per block: to the input channels in
            ``mbconv``, to the output channels in ``bottleneck``.
        stride: of the first block.
        activation: ``relu``, ``relu6``, ``hswish``, ``silu`` or, in ``conv``, ``none``.
        squeeze: squeeze-and-excitation of ``mbconv`` blocks, with so many times fewer channels
            inside; 0: none.
        shortcut: add the input where stride is 1 and channels stay (all kinds but ``bottleneck``;
            in ``rep`` it is one of the branches).
        pool: stride of a 3x3 max-pool behind the last block; 1: none.
        squeeze_of: fewer than what: ``middle`` channels, made divisible by 8 (MobileNetV3, arXiv
            1905.02244), or ``inputs`` of the block, not rounded (EfficientNet, arXiv 1905.11946).
        squeeze_activation: inside the squeeze: ``relu`` or ``silu``.
        gate: behind the squeeze: ``hsigmoid`` or ``sigmoid``.
        blocks: whole blocks to choose from, per block, in place of kernels times expands: their
            text forms (`edgenas.space.arch.Block`), from the lightest to the heaviest. They may
            name an activation and a squeeze of their own in place of those of the stage.
        cell: of a stage of kind ``cell``: which of the cells of the space its blocks are.
    """

    kind: StageKind
    widths: tuple[Channels, ...]
    depths: tuple[Depth, ...] = (1,)
    kernels: tuple[Kernel, ...] = (3,)
    expands: tuple[Ratio, ...] = (1.0,)
    stride: Kernel = 1
    activation: Id = "relu"
    squeeze: Annotated[int, Range(0, 1000, "count")] = 0
    shortcut: bool = True
    pool: Kernel = 1
    squeeze_of: Literal["middle", "inputs"] = "middle"
    squeeze_activation: Literal["relu", "silu"] = "relu"
    gate: Literal["hsigmoid", "sigmoid"] = "hsigmoid"
    blocks: Annotated[tuple[Id, ...], Length(0, 200)] = ()
    cell: Annotated[int, Range(0, 99, "count")] = 0

    @property
    def options(self) -> tuple[Block, ...]:
        """All blocks that a place of this stage may hold, as archs have them."""
        if self.lists_blocks:
            return _listed(self)
        return _products(self.kernels, self.expands)

    @property
    def lists_blocks(self) -> bool:
        """Whether the choice is among whole blocks, and not among kernels and expands."""
        return bool(self.blocks) or self.kind == "cell"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of these blocks, each once."""
        return tuple(dict.fromkeys(block.kind or self.kind for block in self.options))

    def __repr__(self) -> str:
        """As of any dataclass, without newer fields at their default: old digests contain it."""
        names = [f.name for f in fields(self) if not has_usual(self, f.name, NEWER_OF_STAGES)]
        return f"StageSpace({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


# Fields that stages of older versions lack, see `edgenas.space.space.NEWER`.
NEWER_OF_STAGES: Mapping[str, object] = {
    "squeeze_of": "middle",
    "squeeze_activation": "relu",
    "gate": "hsigmoid",
    "blocks": (),
    "cell": 0,
}


@functools.lru_cache(maxsize=1024)
def _products(kernels: tuple[int, ...], expands: tuple[float, ...]) -> tuple[Block, ...]:
    return tuple(Block(k, e) for k, e in itertools.product(kernels, expands))


@functools.lru_cache(maxsize=1024)
def _listed(stage: StageSpace) -> tuple[Block, ...]:
    if stage.kind == "cell":
        return (CELL,)
    return tuple(_as_archs_have_it(Block.parse(text), stage) for text in stage.blocks)


def _as_archs_have_it(block: Block, stage: StageSpace) -> Block:
    """What is as in the stage goes without saying, so that equal blocks are equal values."""
    kind = None if block.kind == stage.kind else block.kind
    activation = None if block.activation == stage.activation else block.activation
    own = block.squeeze == stage.squeeze and (kind or stage.kind) == "mbconv"
    squeeze = None if own else block.squeeze
    return replace(block, kind=kind, activation=activation, squeeze=squeeze)


def has_usual(value: object, name: str, usual: Mapping[str, object]) -> bool:
    """Whether a field is one of the newer ones, and holds what it usually does."""
    return name in usual and getattr(value, name) == usual[name]


def squeezed_channels(stage: StageSpace, block: Block, *, inputs: int, middle: int) -> int:
    """Compute the channels inside the squeeze of a block; 0: it has none."""
    ratio = stage.squeeze if block.squeeze is None else block.squeeze
    if not ratio:
        return 0
    if stage.squeeze_of == "inputs":
        return max(1, inputs // ratio)
    return make_divisible(middle / ratio)


def middle_channels(channels: int, ratio: float) -> int:
    """Compute middle channels: ``channels * ratio``, made divisible by 8 (MobileNetV2's rule).

    That is ``max(8, floor((v + 4) / 8) * 8)``, plus 8 if the result is below 0.9 v. A ratio of 1
    leaves the channels as they are.
    """
    return channels if ratio == 1 else make_divisible(round(channels * ratio))


def make_divisible(value: float) -> int:
    """Round a value to a multiple of 8 that is at least 8 and at least 0.9 of the value."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def check_choices(
    values: tuple[float, ...], rule: str, path: str, ok: Callable[[float], bool]
) -> None:
    """Refuse choices that do not ascend, or that are not all ``ok``; ``rule`` names that rule."""
    ascending = all(a < b for a, b in itertools.pairwise(values))
    if not values or not ascending or not all(ok(v) for v in values):
        raise EdgenasError(f"{path} must be {rule}, in ascending order, each once, found {values}")


def at_least(least: int) -> Callable[[float], bool]:
    """A test for integers that are at least ``least``."""
    return lambda v: isinstance(v, int) and v >= least


def join(values: Iterable[float]) -> str:
    """Join numbers for people to read: ``3, 5, 7``."""
    return ", ".join(f"{v:g}" for v in values)


def check_inputs(resolutions: tuple[int, ...], aspect: tuple[int, ...]) -> None:
    """Refuse heights, or a ratio of height to width, that make no inputs of whole pixels."""
    check_choices(resolutions, "pixels of at least 8", "resolutions", at_least(8))
    terms = [*aspect]
    if len(terms) != 2 or not all(map(at_least(1), terms)) or math.gcd(*terms) != 1:
        raise EdgenasError(
            f"aspect must be height to width in lowest terms, like [3, 5], found {terms}"
        )
    for resolution in resolutions:
        if resolution % terms[0]:
            raise EdgenasError(
                f"resolutions must be multiples of {terms[0]} for the aspect {terms}, "
                f"found {resolution}"
            )
        if resolution * terms[1] // terms[0] < 8:
            raise EdgenasError(
                f"resolutions must give widths of at least 8 pixels for the aspect {terms}, "
                f"found {resolution}"
            )


def require_choice(value: float, values: Sequence[float], path: str, space: str) -> None:
    """Refuse a value that is not among those of a space."""
    if value not in values:
        raise EdgenasError(
            f"{path} must be one of {join(values)} in space {space}, found {value:g}"
        )


def require_block(block: Block, stage: StageSpace, path: str, space: str) -> None:
    """Refuse a block that is not among those of a stage."""
    if not stage.lists_blocks and (block.kind, block.start) == (None, 0):
        require_choice(block.kernel, stage.kernels, f"{path}.kernel", space)
        require_choice(block.expand, stage.expands, f"{path}.expand", space)
    if block not in stage.options:
        listed = ", ".join(map(str, stage.options))
        raise EdgenasError(f"{path} must be one of {listed} in space {space}, found {block}")


def corner_block(stage: StageSpace, pick: Callable[[Sequence[float]], float]) -> Block:
    """The block of the largest or smallest networks; ``pick`` is ``max`` or ``min``."""
    if stage.lists_blocks:
        return stage.options[int(pick(range(len(stage.options))))]
    return Block(int(pick(stage.kernels)), pick(stage.expands))


def narrow_blocks(
    stage: StageSpace,
    kernel: Iterable[float] | None,
    expand: Iterable[float] | None,
    path: str,
) -> tuple[str, ...]:
    """Narrow the blocks that a stage lists to those with the wanted kernels and ratios.

    None means all of them. Nothing at all has neither, and stays; so does a single block.

    Raises:
        EdgenasError: no block would be left.
    """
    kernels, expands = (None if only is None else {*only} for only in (kernel, expand))
    left = tuple(
        text
        for text, block in zip(stage.blocks, stage.options, strict=False)
        if block == NOTHING
        or (
            (kernels is None or block.kernel in kernels)
            and (expands is None or block.expand in expands)
        )
    )
    if len(stage.blocks) > 1 and not left:
        raise EdgenasError(f"{path} must keep one of {', '.join(stage.blocks)}")
    return left if len(stage.blocks) > 1 else stage.blocks


def narrow_choice(
    values: tuple[Number, ...], only: Iterable[float] | None, path: str
) -> tuple[Number, ...]:
    """Narrow a choice to the wanted values. None means all of them; a choice of one value stays.

    Raises:
        EdgenasError: no value would be left.
    """
    if only is None or len(values) == 1:
        return values
    wanted = tuple(only)
    narrower = tuple(v for v in values if v in wanted)
    if not narrower:
        raise EdgenasError(f"{path} must keep one of {join(values)}, found {join(wanted)}")
    return narrower
