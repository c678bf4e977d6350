"""What networks are made of, counted: by hand, and laws of the counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.latency.features import AT, NAMES, WORDS, Kernels, features
from edgenas.space.layer import Layer, Primitive
from edgenas.space.primitives import primitives

RELU = Kernels(fused=frozenset({"relu"}))
CONV = Layer(kind="conv", inputs=3, outputs=16, size=8, kernel=3, stride=2)
BLOCK = Layer(
    kind="mbconv",
    inputs=16,
    outputs=16,
    size=4,
    kernel=5,
    mid=32,
    activation="hswish",
    squeeze=8,
    residual=True,
)


def test_features_of_a_conv_by_hand():
    counts = dict(zip(NAMES, features(primitives(CONV), kernels=RELU), strict=True))
    # 8x8x3 -> 4x4x16 with 3x3: 16 pixels of 16 outputs from 27 inputs each.
    assert counts == {
        "run": 0,
        "kernel": 1,
        "dense": 16 * 16 * 27,
        "winograd": 0,
        "pointwise": 0,
        "depthwise": 0,
        "general": 0,
        "activation": 8 * 8 * 3 + 4 * 4 * 16,
        "weight": 16 * 27,
        "vector_weight": 0,
        "elementwise": 0,
        "window": 0,
        "exponential": 0,
        "plain": 0,
        "patch": 16 * 27,
    }


def test_features_of_a_block_by_hand():
    counts = dict(zip(NAMES, features(primitives(BLOCK), kernels=RELU), strict=True))
    pixels = 16
    # expand, act, depthwise, act, pool, squeeze (+relu), excite, hsigmoid, mul, project, add
    assert counts["kernel"] == 11
    assert counts["pointwise"] == pixels * (16 * 32 + 32 * 16) + 2 * 32 * 8
    assert counts["depthwise"] == pixels * 32 * 25
    assert counts["activation"] == pixels * (16 + 32 + 32 + 32 + 32 + 16)
    assert counts["weight"] == 16 * 32 + 32 * 25 + 32 * 16
    assert counts["vector_weight"] == 2 * 32 * 8
    acts, pool, gate, mul, add = 4 * pixels * 32, pixels * 32 + 32, 2 * 32, 2 * pixels * 32, 3 * 256
    assert counts["elementwise"] == acts + pool + gate + mul + add


def test_what_is_fused_starts_no_kernel():
    apart = features(primitives(BLOCK), kernels=Kernels())
    fused = features(primitives(BLOCK), kernels=Kernels(fused=frozenset({"relu", "hswish", "add"})))
    at = {name: i for i, name in enumerate(NAMES)}
    assert apart[at["kernel"]] - fused[at["kernel"]] == 4
    assert fused[at["elementwise"]] < apart[at["elementwise"]]
    assert fused[at["dense"]] == apart[at["dense"]]


def test_a_runtime_with_tiles_computes_whole_ones():
    at = {name: i for i, name in enumerate(NAMES)}
    conv = Layer(kind="conv", inputs=16, outputs=16, size=7, kernel=3)
    plain, tiled = (features(primitives(conv), kernels=Kernels(tile=tile)) for tile in (1, 6))
    assert plain[at["winograd"]] == 7 * 7 * 16 * 16 * 9
    assert tiled[at["winograd"]] == 12 * 12 * 16 * 16 * 9
    different = [name for name in NAMES if plain[at[name]] != tiled[at[name]]]
    assert different == ["winograd"]


def test_a_runtime_that_runs_groups_one_by_one_starts_a_kernel_for_each():
    at = {name: i for i, name in enumerate(NAMES)}
    grouped = Primitive(
        op="conv", inputs=48, outputs=48, kernel=(3, 3), groups=6, in_size=(8, 8), out_size=(8, 8)
    )
    whole = features([grouped], kernels=Kernels())
    apart = features([grouped], kernels=Kernels(per_group=True))
    assert (whole[at["kernel"]], apart[at["kernel"]]) == (1, 6)
    assert whole[at["depthwise"]] == apart[at["winograd"]] == grouped.macs
    depthwise = list(primitives(BLOCK))[2]
    assert features([depthwise], kernels=Kernels(per_group=True))[at["kernel"]] == 1


def test_operators_on_one_pixel_can_be_free_of_starts():
    at = {name: i for i, name in enumerate(NAMES)}
    every = features(primitives(BLOCK), kernels=RELU)
    fewer = features(primitives(BLOCK), kernels=Kernels(fused=RELU.fused, vectors=False))
    # squeeze, excite and hsigmoid work on single pixels
    assert every[at["kernel"]] - fewer[at["kernel"]] == 3
    assert every[at["vector_weight"]] == fewer[at["vector_weight"]]


def test_pools_and_exponentials_have_their_own_prices():
    at = {name: i for i, name in enumerate(NAMES)}
    pooled = Layer(kind="conv", inputs=3, outputs=16, size=8, kernel=3, stride=2, pool=2)
    counts = features(primitives(pooled), kernels=RELU)
    assert counts[at["window"]] == 2 * 2 * 16 * 9
    assert counts[at["elementwise"]] == 0
    sigmoid = Primitive(
        op="act", inputs=8, outputs=8, in_size=(2, 2), out_size=(2, 2), activation="sigmoid"
    )
    assert features([sigmoid], kernels=Kernels())[at["exponential"]] == 32


def depthwise(kernel: int, *, stride: int, size: int, channels: int = 64) -> Primitive:
    """A depthwise conv padded as TensorFlow pads."""
    out = -(-size // stride)
    return Primitive(
        op="conv",
        inputs=channels,
        outputs=channels,
        kernel=(kernel, kernel),
        stride=stride,
        groups=channels,
        in_size=(size, size),
        out_size=(out, out),
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "price"),
    [
        (3, 1, 14, "depthwise"),
        (3, 2, 15, "depthwise"),  # a pixel of padding on each side
        (3, 2, 14, "general"),  # a pixel on one side only
        (5, 1, 14, "general"),
        (5, 2, 15, "general"),
    ],
)
def test_a_fast_depthwise_kernel_takes_3x3_that_is_padded_alike(
    kernel: int, stride: int, size: int, price: str
):
    conv = depthwise(kernel, stride=stride, size=size)
    counts = features([conv], kernels=Kernels(fast3x3=True))
    assert counts[AT[price]] == conv.macs
    assert counts[AT["depthwise"]] + counts[AT["general"]] == conv.macs
    assert features([conv], kernels=Kernels())[AT["depthwise"]] == conv.macs


@pytest.mark.parametrize(
    ("rows", "threads", "most"), [(14, 8, 2), (7, 8, 1), (7, 6, 2), (56, 4, 14)]
)
def test_the_slowest_thread_has_the_most_rows(rows: int, threads: int, most: int):
    conv = depthwise(3, stride=1, size=rows, channels=512)
    counts = features([conv], kernels=Kernels(rows=threads))
    assert counts[AT["depthwise"]] == pytest.approx(conv.macs * most * threads / rows)


def test_a_small_depthwise_conv_starts_few_threads():
    conv = depthwise(3, stride=1, size=7, channels=16)  # fewer MACs than one thread is started for
    assert features([conv], kernels=Kernels(rows=6))[AT["depthwise"]] == conv.macs


@given(threads=st.integers(1, 16), size=st.integers(1, 64))
def test_sharing_rows_never_saves_work(threads: int, size: int):
    conv = depthwise(3, stride=1, size=max(size, 2))
    shared = features([conv], kernels=Kernels(rows=threads))[AT["depthwise"]]
    assert conv.macs <= shared <= conv.macs * threads


def test_operators_without_a_fast_kernel_have_a_price_of_their_own():
    mean = Primitive(op="reduce", inputs=8, outputs=8, in_size=(4, 4), out_size=(1, 1))
    norm = Primitive(
        op="act", inputs=8, outputs=8, in_size=(4, 4), out_size=(4, 4), activation="lrn"
    )
    plain = features([mean, norm], kernels=Kernels(plain=frozenset({"reduce", "lrn"})))
    assert plain[AT["plain"]] == (128 + 8) + (128 + 128)
    assert plain[AT["elementwise"]] == plain[AT["exponential"]] == 0
    usual = features([mean, norm], kernels=Kernels())
    assert (usual[AT["elementwise"]], usual[AT["exponential"]]) == (128 + 8, 128)


def test_every_price_has_words():
    assert tuple(WORDS) == NAMES
