"""Random spaces, archs and rows for hypothesis."""

import numpy as np
from hypothesis import strategies as st

from edgenas.space.arch import Arch
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

seeds = st.integers(0, 2**32 - 1)


def some(*values: float) -> st.SearchStrategy[tuple]:
    """A non-empty choice of values, ascending."""
    return st.sets(st.sampled_from(values), min_size=1, max_size=3).map(lambda s: tuple(sorted(s)))


# Blocks of all kinds that may stand beside each other in one stage.
BLOCKS = (
    *("none", "conv:3x1", "rep:3x1", "rep:5x1", "mbconv:3x2", "mbconv:5x3", "bottleneck:3x0.5"),
    *("fused:3x2", "fused:5x2", "fused:3x3"),
    *("uib:3x2", "uib:5+3x2", "uib:3+0x3", "uib:3+0x2", "uib:7+5x3"),
    *("mbconv:3x2-se4", "mbconv:3x2-hswish-se2", "conv:3x1-none", "fused:7x2-silu", "uib:5x2-relu"),
)


@st.composite
def stages(draw: st.DrawFn) -> StageSpace:
    kind = draw(st.sampled_from(("conv", "mbconv", "mbconv", "bottleneck", "fused", "uib", "rep")))
    one, above = st.just((1.0,)), some(1.5, 2.0, 3.0)
    expands = {
        "conv": one,
        "rep": one,
        "bottleneck": some(0.5, 1.0, 1.5),
        "uib": one | above,
    }.get(kind, one | above)
    kernels = {"bottleneck": st.just((3,)), "uib": some(3, 5, 7)}.get(kind, some(1, 3, 5, 7))
    blocks = draw(st.just(()) | st.just(()) | st.permutations(BLOCKS).map(lambda b: tuple(b[:3])))
    return StageSpace(
        kind=kind,
        widths=draw(some(16, 24, 40)),
        depths=draw(some(1, 2, 3).filter(lambda d: len(d) == 1 or "none" not in blocks)),
        kernels=(3,) if blocks else draw(kernels),
        expands=(1.0,) if blocks else draw(expands),
        blocks=blocks,
        stride=draw(st.sampled_from((1, 2))),
        activation=draw(st.sampled_from(("relu", "relu6", "hswish", "silu"))),
        squeeze=draw(st.sampled_from((0, 4))) if kind == "mbconv" and not blocks else 0,
        squeeze_of=draw(st.sampled_from(("middle", "middle", "inputs"))),
        squeeze_activation=draw(st.sampled_from(("relu", "silu"))),
        gate=draw(st.sampled_from(("hsigmoid", "sigmoid"))),
        shortcut=draw(st.booleans()),
        pool=1 if blocks else draw(st.sampled_from((1, 1, 2))),
    )


@st.composite
def spaces(draw: st.DrawFn, most: int = 3) -> Space:
    chain = tuple(draw(st.lists(stages(), min_size=1, max_size=most)))
    # Three channels times two ratios would round to the same middle channels.
    expanding = {"mbconv", "fused", "uib"} & {*chain[0].kinds}
    inputs = 16 if expanding else draw(st.sampled_from((1, 3)))
    shapes = [((1, 1), (9, 12, 16)), ((3, 5), (9, 12, 15)), ((2, 1), (16, 18, 24))]
    aspect, heights = draw(st.sampled_from(shapes))
    mix = draw(st.sampled_from((0, 40)))
    mix_form = draw(st.sampled_from(("", "bias", "norm"))) if mix else ""
    plain = all("bottleneck" not in stage.kinds and stage.pool == 1 for stage in chain)
    return Space(
        name="random",
        resolutions=draw(some(*heights)),
        aspect=aspect,
        stages=chain,
        final=draw(st.sampled_from((0, 24))),
        mix=mix,
        mix_bias=mix_form == "bias",
        mix_norm=mix_form == "norm",
        activation=draw(st.sampled_from(("relu", "hswish"))),
        classes=draw(st.integers(2, 5)),
        inputs=inputs,
        kernel_transform=draw(st.sampled_from(("linear", "crop"))),
        kept_in_float=draw(st.sampled_from(((), ("depthwise", "first")))),
        padding=draw(st.sampled_from(("symmetric", "same"))) if plain else "symmetric",
    )


def rows_of(space: Space, *, seed: int, n: int = 8) -> Codes:
    return space.sample(n, rng=np.random.default_rng(seed), by="gene")


def archs_of(space: Space, *, seed: int, n: int = 8) -> list[Arch]:
    return space.decode(rows_of(space, seed=seed, n=n))
