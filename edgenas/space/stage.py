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
_PLAIN = ("conv", "rep", "basic", "cell")  # kinds without middle channels
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
            text forms (`edgenas.space.arch.Block`), from the lightest to the heaviest.
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
        return _options(self.kind, self.kernels, self.expands, self.blocks)

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
def _options(
    kind: str, kernels: tuple[int, ...], expands: tuple[float, ...], blocks: tuple[str, ...]
) -> tuple[Block, ...]:
    if kind == "cell":
        return (CELL,)
    if not blocks:
        return tuple(Block(k, e) for k, e in itertools.product(kernels, expands))
    # The stage's own kind goes without saying, so that equal blocks are equal values.
    read = map(Block.parse, blocks)
    return tuple(replace(b, kind=None) if b.kind == kind else b for b in read)


def has_usual(value: object, name: str, usual: Mapping[str, object]) -> bool:
    """Whether a field is one of the newer ones, and holds what it usually does."""
    return name in usual and getattr(value, name) == usual[name]


def squeezed_channels(stage: StageSpace, *, inputs: int, middle: int) -> int:
    """Compute the channels inside the squeeze of a block; 0: it has none."""
    if not stage.squeeze:
        return 0
    if stage.squeeze_of == "inputs":
        return max(1, inputs // stage.squeeze)
    return make_divisible(middle / stage.squeeze)


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


def check_stage(stage: StageSpace, path: str, before: tuple[int, ...]) -> None:
    """Refuse a stage that breaks a rule, or two choices of which give the same network.

    Args:
        stage: the stage.
        path: where it stands, for the error.
        before: the widths that its input may have.

    Raises:
        EdgenasError: names the path, the rule and the value found.
    """
    if stage.kind not in KINDS:
        raise EdgenasError(f"{path}.kind must be one of {', '.join(KINDS)}, found {stage.kind!r}")
    for name, words in (
        ("activation", ACTIVATIONS if stage.kind != "conv" else (*ACTIVATIONS, "none")),
        ("squeeze_of", SQUEEZE_RULES),
        ("squeeze_activation", SQUEEZE_ACTIVATIONS),
        ("gate", GATES),
    ):
        if (value := getattr(stage, name)) not in words:
            raise EdgenasError(f"{path}.{name} must be one of {', '.join(words)}, found {value!r}")
    check_choices(stage.widths, "positive integers", f"{path}.widths", at_least(1))
    check_choices(stage.depths, "positive integers", f"{path}.depths", at_least(1))
    check_choices(
        stage.kernels,
        "odd integers",
        f"{path}.kernels",
        lambda v: isinstance(v, int) and v >= 1 and v % 2 == 1,
    )
    check_choices(stage.expands, "positive numbers", f"{path}.expands", lambda v: v > 0)
    for name, value, least in (
        ("stride", stage.stride, 1),
        ("pool", stage.pool, 1),
        ("squeeze", stage.squeeze, 0),
    ):
        if not at_least(least)(value):
            raise EdgenasError(f"{path}.{name} must be an integer >= {least}, found {value}")
    if stage.kind in _PLAIN and len(stage.expands) > 1:
        raise EdgenasError(
            f"{path}.expands must be one value in a {stage.kind}, found {stage.expands}"
        )
    if stage.kind in ("mbconv", "fused") and len(stage.expands) > 1 and min(stage.expands) <= 1:
        raise EdgenasError(
            f"{path}.expands must be above 1 where there is a choice, found {stage.expands}",
            hint="expand 1 has no expanding conv; give it a stage of its own",
        )
    _check_blocks(stage, path)
    if "mbconv" not in stage.kinds and stage.squeeze:
        raise EdgenasError(f"{path}.squeeze must be 0 outside mbconv, found {stage.squeeze}")
    if stage.kind == "bottleneck" and stage.kernels != (3,):
        raise EdgenasError(f"{path}.kernels must be (3,) in a bottleneck, found {stage.kernels}")
    _check_middles(stage, path, before)


def _check_blocks(stage: StageSpace, path: str) -> None:
    """Refuse whole blocks that break a rule of their kind, or that are listed twice."""
    if not stage.blocks:
        return
    if (stage.kernels, stage.expands) != ((3,), (1.0,)):
        raise EdgenasError(f"{path} must have either blocks or kernels and expands, not both")
    if stage.pool > 1:
        raise EdgenasError(f"{path}.pool must be 1 where blocks are listed, found {stage.pool}")
    # Equal networks must be equal archs, and nothing at the end is what fewer blocks are.
    if NOTHING in stage.options and len(stage.depths) > 1:
        raise EdgenasError(
            f"{path}.depths must be one value where a block may be none, found {stage.depths}"
        )
    if len(set(stage.options)) < len(stage.options):
        raise EdgenasError(f"{path}.blocks must be listed once each, found {[*stage.blocks]}")
    for i, block in enumerate(stage.options):
        kind = block.kind or stage.kind
        if rule := _rule_broken_by(block, kind, stride=stage.stride):
            raise EdgenasError(f"{path}.blocks[{i}] must {rule}, found {stage.blocks[i]}")
    for kind in ("mbconv", "fused"):
        ones = {b.expand == 1 for b in stage.options if (b.kind or stage.kind) == kind}
        if len(ones) > 1:
            raise EdgenasError(
                f"{path}.blocks must all expand by more than 1, or none, in {kind}, found "
                f"{[*stage.blocks]}",
                hint="expand 1 has no expanding conv; give it a stage of its own",
            )


def _rule_broken_by(block: Block, kind: str, *, stride: int) -> str:
    """The rule of its kind that a block breaks, in words that follow "must". Empty: none."""
    sizes = [k for k in (block.kernel, block.start) if k]
    if kind != "uib" and (block.start or not block.kernel):
        return "have one kernel size outside uib"
    if any(k % 2 == 0 for k in sizes):
        return "have odd kernel sizes"
    if kind == "uib" and stride > 1 and not sizes:
        return "have a depthwise conv for the stride"
    if kind in _PLAIN and block.expand != 1:
        return f"have the expansion 1 in {kind}"
    if kind == "cell":
        return "be no cell"
    if kind == "bottleneck" and block.kernel != 3:
        return "have the kernel 3 in a bottleneck"
    return ""


def _check_middles(stage: StageSpace, path: str, before: tuple[int, ...]) -> None:
    """Equal networks must be equal archs: no two ratios may round to the same channels."""
    bases = stage.widths if stage.kind == "bottleneck" else (*before, *stage.widths)
    groups: dict[object, list[float]] = {}
    for block in stage.options:
        kind = block.kind or stage.kind
        if kind not in _PLAIN and block != NOTHING:
            groups.setdefault((kind, block.start, block.kernel), []).append(block.expand)
    for expands, base in itertools.product(groups.values(), bases):
        mids = [middle_channels(base, ratio) for ratio in expands]
        if len(set(mids)) < len(mids):
            name = "blocks" if stage.blocks else "expands"
            raise EdgenasError(
                f"{path}.{name} must give different middle channels, found "
                f"{join(expands)} of {base} giving {join(mids)}"
            )


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
