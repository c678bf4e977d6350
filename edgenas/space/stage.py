"""The choices of one stage of a space, and the rules for them."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, TypeVar

from edgenas.basics.errors import EdgenasError
from edgenas.basics.ranges import (
    Channels,
    Depth,
    Id,
    Kernel,
    Range,
    Ratio,
)

KINDS = ("conv", "mbconv", "bottleneck")
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
            arXiv 1801.04381) or ``bottleneck`` (ResNet-D, arXiv 1812.01187).
        widths: output channels to choose from.
        depths: numbers of blocks to choose from; a stage of depth d runs its first d blocks.
        kernels: odd kernel sizes to choose from, per block (of the depthwise conv in ``mbconv``,
            of the middle one in ``bottleneck``).
        expands: ratios of middle channels to choose from, per block: to the input channels in
            ``mbconv``, to the output channels in ``bottleneck``.
        stride: of the first block.
        activation: ``relu``, ``relu6``, ``hswish`` or ``silu``.
        squeeze: squeeze-and-excitation, with so many times fewer channels inside; 0: none.
        shortcut: add the input where stride is 1 and channels stay (``conv``, ``mbconv``).
        pool: stride of a 3x3 max-pool behind the last block; 1: none.
        squeeze_of: fewer than what: ``middle`` channels, made divisible by 8 (MobileNetV3, arXiv
            1905.02244), or ``inputs`` of the block, not rounded (EfficientNet, arXiv 1905.11946).
        squeeze_activation: inside the squeeze: ``relu`` or ``silu``.
        gate: behind the squeeze: ``hsigmoid`` or ``sigmoid``.
    """

    kind: Literal["conv", "mbconv", "bottleneck"]
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

    def __repr__(self) -> str:
        """As of any dataclass, without newer fields at their default: old digests contain it."""
        names = [f.name for f in fields(self) if not has_usual(self, f.name, NEWER_OF_STAGES)]
        return f"StageSpace({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


# Fields that stages of older versions lack, see `edgenas.space.space.NEWER`.
NEWER_OF_STAGES: Mapping[str, object] = {
    "squeeze_of": "middle",
    "squeeze_activation": "relu",
    "gate": "hsigmoid",
}


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
        ("activation", ACTIVATIONS),
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
    if stage.kind == "conv" and len(stage.expands) > 1:
        raise EdgenasError(f"{path}.expands must be one value in a conv, found {stage.expands}")
    if stage.kind == "mbconv" and len(stage.expands) > 1 and min(stage.expands) <= 1:
        raise EdgenasError(
            f"{path}.expands must be above 1 where there is a choice, found {stage.expands}",
            hint="expand 1 has no expanding conv; give it a stage of its own",
        )
    if stage.kind != "mbconv" and stage.squeeze:
        raise EdgenasError(f"{path}.squeeze must be 0 outside mbconv, found {stage.squeeze}")
    if stage.kind == "bottleneck" and stage.kernels != (3,):
        raise EdgenasError(f"{path}.kernels must be (3,) in a bottleneck, found {stage.kernels}")
    # Equal networks must be equal archs: no two ratios may round to the same channels.
    bases = stage.widths if stage.kind == "bottleneck" else (*before, *stage.widths)
    if stage.kind != "conv":
        for base in bases:
            mids = [middle_channels(base, ratio) for ratio in stage.expands]
            if len(set(mids)) < len(mids):
                raise EdgenasError(
                    f"{path}.expands must give different middle channels, found "
                    f"{join(stage.expands)} of {base} giving {join(mids)}"
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
