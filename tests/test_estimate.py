import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics.errors import EdgenasError
from edgenas.latency import estimate
from edgenas.latency.device import (
    Estimate,
    PublishedRow,
    Target,
    list_devices,
    load,
    read,
)
from edgenas.latency.estimate import (
    NAMES,
    DeviceModel,
    Kernels,
    Prices,
    Prior,
    device_model,
    features,
    fit,
)
from edgenas.space.cost import compile_tables
from edgenas.space.plan import Layer, Primitive, plan, primitives
from edgenas.space.presets import PRESETS

RELU = Kernels(fused=frozenset({"relu"}))
SMALL = PublishedRow("small", 1e7, 5e-3, "a/b:c@d")
LARGE = PublishedRow("large", 1e9, 8e-2, "a/b:c@d")
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
SHIPPED = [
    (found, use.target)
    for found in list_devices()
    for use in found.uses
    if use.estimate is not None
]


def model(residuals: tuple[float, ...], *, unsure: str = "run") -> DeviceModel:
    """A made-up model; the price ``unsure`` is known to within a factor of e."""
    prices = Prices(**{name: 10.0**-i for i, name in enumerate(NAMES)})
    evidence = Estimate(
        model=estimate.MODEL,
        parameters={},
        fused=(),
        residuals=tuple(sorted(residuals)),
        doubt=0.0,
        covariance=tuple(tuple(float(a == b == unsure) for a in NAMES) for b in NAMES),
        method="",
        rows=2,
        smallest=SMALL,
        largest=LARGE,
        sources=(),
    )
    return DeviceModel(Target("board", "tflite", "fp32"), prices, Kernels(), evidence)


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
        "activation": 8 * 8 * 3 + 4 * 4 * 16,
        "weight": 16 * 27,
        "vector_weight": 0,
        "elementwise": 0,
        "window": 0,
        "exponential": 0,
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


@given(scale=st.integers(2, 8))
def test_a_larger_image_costs_more(scale: int):
    found = model((0.1, -0.1))
    layer = Layer(kind="conv", inputs=8, outputs=8, size=8, kernel=3)
    larger = Layer(kind="conv", inputs=8, outputs=8, size=8 * scale, kernel=3)
    assert found.seconds(larger) > found.seconds(layer)


def test_a_network_is_the_sum_of_its_layers_on_both_paths():
    space = PRESETS["tiny"]()
    found = device_model(*SHIPPED[0])
    tables = compile_tables(space, found.seconds, constant=found.run_overhead)
    rows = space.sample(20, rng=np.random.default_rng(0))
    archs = space.decode(rows)
    walked = [
        found.run_overhead + sum(found.seconds(layer) for _, layer in plan(space, arch))
        for arch in archs
    ]
    assert tables(rows) == pytest.approx(walked)
    whole = [p for _, layer in plan(space, archs[1]) for p in primitives(layer)]
    assert found.run_overhead + found.seconds_of(whole) == pytest.approx(walked[1])


def test_a_fit_finds_the_prices_that_made_the_rows():
    rng = np.random.default_rng(1)
    truth = np.array([-7.0, -20.0, -22.0])
    counts = np.exp(rng.normal(size=(40, 3)) * 1.5) * np.array([1, 3e5, 3e6])
    counts[:, 0] = 1
    seconds = counts @ np.exp(truth)
    prior = Prior(truth + np.array([1.0, -1.0, 0.5]), np.eye(3) * 4)
    found = fit(counts, seconds, prior=prior, noise=0.01)
    assert found.logs == pytest.approx(truth, abs=0.01)


def test_a_slip_does_not_bend_a_fit():
    rng = np.random.default_rng(2)
    truth = np.array([-7.0, -20.0])
    counts = np.column_stack([np.ones(30), rng.uniform(1e5, 1e7, 30)])
    seconds = counts @ np.exp(truth) * np.exp(rng.normal(size=30) * 0.02)
    seconds[3] *= 10
    prior = Prior(truth * 0.9, np.eye(2) * 9)
    found = fit(counts, seconds, prior=prior, noise=0.02)
    assert found.logs == pytest.approx(truth, abs=0.1)


def test_without_information_a_fit_is_the_prior():
    prior = Prior(np.array([-7.0, -20.0]), np.diag([1.0, 1.0]))
    counts = np.array([[1.0, 0.0]])
    found = fit(counts, np.array([math.exp(-7.0)]), prior=prior, noise=0.05)
    assert found.logs == pytest.approx(prior.mean)
    assert found.covariance[1, 1] == pytest.approx(1.0)
    assert found.covariance[0, 0] < 0.01


def test_a_fit_is_where_the_slope_of_the_posterior_is_zero():
    rng = np.random.default_rng(3)
    counts = np.column_stack([np.ones(6), rng.uniform(1e5, 1e7, 6)])
    seconds = counts @ np.exp([-7.0, -20.0]) * np.exp(rng.normal(size=6) * 0.1)
    prior = Prior(np.array([-6.0, -21.0]), np.array([[1.0, 0.5], [0.5, 2.0]]))

    def loss(logs: np.ndarray) -> float:
        z = (np.log(counts @ np.exp(logs)) - np.log(seconds)) / 0.05
        apart = logs - prior.mean
        return float(
            2.5 * np.log1p(z**2 / 4).sum() + apart @ np.linalg.solve(prior.covariance, apart) / 2
        )

    found = fit(counts, seconds, prior=prior, noise=0.05).logs
    for step in np.eye(2) * 1e-3:
        assert loss(found) <= loss(found + step)
        assert loss(found) <= loss(found - step)


@given(
    residuals=st.lists(st.floats(-1, 1), min_size=2, max_size=60),
    low=st.floats(0.5, 0.9),
    more=st.floats(0, 0.09),
)
def test_more_confidence_never_narrows_the_interval(
    residuals: list[float], low: float, more: float
):
    # Student's t may cross the conformal quantile where one takes over from the other.
    found = model(tuple(residuals))
    narrow, wide = (found.interval(1.0, confidence=c) for c in (low, low + more))
    assert narrow[0] <= 1 <= narrow[1]
    same_rule = math.ceil((len(residuals) + 1) * (low + more)) <= len(residuals) - 3 or (
        math.ceil((len(residuals) + 1) * low) > len(residuals) - 3
    )
    if same_rule:
        assert wide[0] <= narrow[0]
        assert wide[1] >= narrow[1]


def test_few_errors_make_a_student_interval():
    found = model((-0.1, 0.1, 0.2, -0.2))
    spread = math.sqrt((0.01 + 0.01 + 0.04 + 0.04) / 4) * math.sqrt(1.25)
    # 2.1318 is the 95% quantile of Student's t with 4 degrees of freedom, from the tables.
    assert found.interval(2.0, confidence=0.9)[1] == pytest.approx(
        2 * math.exp(2.1318 * spread), rel=1e-4
    )
    assert found.interval(2.0, confidence=0.9)[0] * found.interval(2.0, confidence=0.9)[
        1
    ] == pytest.approx(4)


def test_many_errors_make_a_conformal_interval():
    found = model(tuple(i / 100 for i in range(-49, 50)))  # 99 errors, |r| up to 0.49
    assert found.interval(1.0, confidence=0.9)[1] == pytest.approx(math.exp(0.45))
    assert found.upper(1.0, confidence=0.9) == pytest.approx(math.exp(0.40))


def test_an_interval_covers_what_it_promises():
    rng = np.random.default_rng(4)
    for count in (8, 60):
        covered = []
        for _ in range(400):
            draws = rng.normal(size=count + 1) * 0.2
            low, high = model(tuple(draws[:-1])).interval(1.0, confidence=0.9)
            covered.append(low <= math.exp(draws[-1]) <= high)
        assert 0.86 <= np.mean(covered) <= 0.94, count


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


def test_a_price_nobody_knows_widens_the_interval_of_what_rests_on_it():
    known, unknown = model((0.1, -0.1, 0.1), unsure="patch"), model((0.1, -0.1, 0.1), unsure="run")
    conv = list(primitives(CONV))
    plain = known.interval(1.0)[1]
    # `run` costs a second here and is nearly all of the time; `patch` is nothing.
    assert known.for_network(conv).interval(1.0)[1] == pytest.approx(plain)
    share = 1 / (1 + unknown.seconds_of(conv))
    expected = math.hypot(math.log(plain), 1.6449 * share)
    assert unknown.for_network(conv).interval(1.0, confidence=0.9)[1] == pytest.approx(
        math.exp(expected), rel=1e-4
    )
    assert unknown.for_network(conv).seconds(CONV) == unknown.seconds(CONV)


def test_a_space_unlike_the_published_networks_has_a_wider_interval():
    board = device_model(load("rpi4"), load("rpi4").target())
    plain = board.upper(1.0)
    mobile = board.for_space(PRESETS["ofa-mbv3-w1.0"]()).upper(1.0)
    dense = board.for_space(PRESETS["ofa-resnet50"]()).upper(1.0)
    assert plain <= mobile < 1.5 * plain
    assert dense > 1.2 * mobile


def test_an_impossible_confidence_is_refused():
    with pytest.raises(EdgenasError, match=r"confidence must lie between 0.5 and 0.999, found 1"):
        model((0.1,)).upper(1.0, confidence=1.0)


def test_far_from_every_row_is_extrapolated():
    found = model((0.1,))
    assert found.extrapolated(1e7) is None
    assert found.extrapolated(3.9e9) is None
    assert found.extrapolated(2.4e6) == SMALL
    assert found.extrapolated(4.1e9) == LARGE


def test_energy_needs_a_published_power():
    assert model((0.1,)).joules(2.0) is None


def test_no_estimate_says_why_and_what_to_do():
    found = load("host")
    with pytest.raises(EdgenasError, match="no estimate for host / onnxruntime fp32") as caught:
        device_model(found, found.target())
    assert "this machine can be measured" in caught.value.message
    assert "edgenas profile --device host --runtime onnxruntime" in caught.value.hint


def test_a_foreign_model_is_refused(tmp_path: Path):
    found, target = SHIPPED[0]
    path = tmp_path / found.path.name
    path.write_text(found.path.read_text().replace("prices/1", "roofline/7"))
    with pytest.raises(EdgenasError, match="model must be 'prices/1', found 'roofline/7'"):
        device_model(read(path), target)


def test_a_missing_price_is_named(tmp_path: Path):
    found, target = SHIPPED[0]
    lines = found.path.read_text().splitlines()
    path = tmp_path / found.path.name
    path.write_text("\n".join(line for line in lines if not line.startswith("winograd = ")))
    with pytest.raises(EdgenasError, match="the field 'winograd' is missing"):
        device_model(read(path), target)


@pytest.mark.parametrize(("found", "target"), SHIPPED, ids=[str(target) for _, target in SHIPPED])
def test_shipped_models_are_sane(found, target):
    one = device_model(found, target)
    space = PRESETS["ofa-mbv3-w1.0"]()
    times = []
    for arch in (space.smallest(), space.largest()):
        seconds = one.run_overhead + sum(one.seconds(layer) for _, layer in plan(space, arch))
        low, high = one.interval(seconds, confidence=0.9)
        assert low < seconds < high
        assert high / low < 30, "an interval this wide says nothing: ship no estimate"
        assert one.upper(seconds, confidence=0.9) <= high * 1.001
        times.append(seconds)
    assert 2e-4 < times[0] < times[1] < 2.0
    assert one.evidence.smallest.macs <= one.evidence.largest.macs
    # No device beats 30 TMAC/s, or moves an element faster than 500 GB/s.
    assert min(one.prices.dense, one.prices.pointwise, one.prices.winograd) > 3e-14
    assert one.prices.activation > 2e-12
