"""The rules of stages: what a stage may offer, and no two offers that give the same network."""

import itertools

from edgenas.basics.errors import EdgenasError
from edgenas.space.arch import NOTHING, Block
from edgenas.space.stage import (
    ACTIVATIONS,
    GATES,
    KINDS,
    SQUEEZE_ACTIVATIONS,
    SQUEEZE_RULES,
    StageSpace,
    at_least,
    check_choices,
    join,
    middle_channels,
    squeezed_channels,
)

_PLAIN = ("conv", "rep", "basic", "cell")  # kinds without middle channels


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
    _check_squeezes(stage, path, before)


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
    nothing = NOTHING in stage.options
    for i, block in enumerate(stage.options):
        # Where shapes change, nothing at all is just such a conv.
        alike = (block.kind or stage.kind, block.kernel) == ("conv", 1)
        if nothing and alike and (block.activation or stage.activation) == "none":
            raise EdgenasError(
                f"{path}.blocks[{i}] must have an activation beside none, found {stage.blocks[i]}"
            )
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
    if block.activation == "none" and kind != "conv":
        return "have an activation outside conv"
    if block.squeeze is not None and kind != "mbconv":
        return "name a squeeze in mbconv alone"
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
            ratios = groups.setdefault((kind, block.start, block.kernel), [])
            if block.expand not in ratios:  # blocks may differ in activation or squeeze alone
                ratios.append(block.expand)
    for expands, base in itertools.product(groups.values(), bases):
        mids = [middle_channels(base, ratio) for ratio in expands]
        if len(set(mids)) < len(mids):
            name = "blocks" if stage.blocks else "expands"
            raise EdgenasError(
                f"{path}.{name} must give different middle channels, found "
                f"{join(expands)} of {base} giving {join(mids)}"
            )


def _check_squeezes(stage: StageSpace, path: str, before: tuple[int, ...]) -> None:
    """Equal networks must be equal archs: no two squeezes may have the same channels inside."""
    blocks = [block for block in stage.options if (block.kind or stage.kind) == "mbconv"]
    ratios = {stage.squeeze if block.squeeze is None else block.squeeze for block in blocks}
    expands = {block.expand for block in blocks}
    for expand, base in itertools.product(sorted(expands), (*before, *stage.widths)):
        middle = middle_channels(base, expand)
        inside = [
            squeezed_channels(stage, Block(1, expand, squeeze=ratio), inputs=base, middle=middle)
            for ratio in sorted(ratios)
        ]
        if len(set(inside)) < len(inside):
            raise EdgenasError(
                f"{path}.blocks must give different channels inside the squeeze, found "
                f"{join(sorted(ratios))} of {base} giving {join(inside)}"
            )
