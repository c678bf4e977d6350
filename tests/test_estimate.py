"""Estimated device models: their intervals, what they say, and the shipped ones."""

import dataclasses
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import milliseconds
from edgenas.latency import estimate
from edgenas.latency.device import (
    FORMER,
    MODEL,
    Estimate,
    FamilyEffect,
    PublishedRow,
    Target,
    list_devices,
    load,
    read,
)
from edgenas.latency.estimate import (
    DEGREES,
    DeviceModel,
    NetworkEstimate,
    cautions_of,
    device_model,
    factors,
    quantile,
)
from edgenas.latency.features import AT, NAMES, WORDS, Kernels, Prices
from edgenas.latency.fitting import build_predictor
from edgenas.latency.source import compile_bounds, expand_model
from edgenas.space.cost import compile_tables
from edgenas.space.layer import Layer
from edgenas.space.plan import plan
from edgenas.space.presets import PRESETS
from edgenas.space.primitives import primitives

SMALL = PublishedRow("small", 1e7, 5e-3, "a/b:c@d")
LARGE = PublishedRow("large", 1e9, 8e-2, "a/b:c@d")
CONV = Layer(kind="conv", inputs=3, outputs=16, size=8, kernel=3, stride=2)
SHIPPED = [
    (found, use.target)
    for found in list_devices()
    for use in found.uses
    if use.estimate is not None
]


def model(*, unsure: str = "", noise: float = 0.03, family: float = 0.08, **more) -> DeviceModel:
    """A made-up model; the price ``unsure`` is known to within a factor of e."""
    prices = Prices(**{name: 10.0**-i for i, name in enumerate(NAMES)})
    covariance = np.zeros((len(NAMES), len(NAMES)))
    if unsure:
        covariance[AT[unsure], AT[unsure]] = 1
    evidence = Estimate(
        model=MODEL,
        parameters={},
        fused=(),
        residuals=(0.1,),
        covariance=(),
        method="",
        rows=2,
        smallest=SMALL,
        largest=LARGE,
        sources=(),
        noise=noise,
        family=family,
        **more,
    )
    return DeviceModel(Target("board", "tflite", "fp32"), prices, Kernels(), covariance, evidence)


def operators(space: str, *, seed: int | None = None) -> list:
    """Of the largest network of a space, or of a random one."""
    declared = PRESETS[space]()
    arch = declared.largest()
    if seed is not None:
        (arch,) = declared.decode(declared.sample(1, rng=np.random.default_rng(seed)))
    return [p for _, layer in plan(declared, arch) for p in primitives(layer)]


@given(scale=st.integers(2, 8))
def test_a_larger_image_costs_more(scale: int):
    found = model()
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


def simple(*, seconds: float = 1.0, spread: float, noise: float = 0.01) -> NetworkEstimate:
    """A network whose prices are known, and whose family is not."""
    return NetworkEstimate(
        parts=np.array([seconds]),
        covariance=np.zeros((1, 1)),
        size=0.0,
        family=spread**2 - noise**2,
        noise=noise**2,
        reason="",
    )


@given(spread=st.floats(0.01, 1), low=st.floats(0.5, 0.9), more=st.floats(0, 0.09))
def test_more_confidence_never_narrows_the_interval(spread: float, low: float, more: float):
    network = simple(seconds=1.0, spread=spread, noise=0.01)
    narrow, wide = (network.interval(confidence=c) for c in (low, low + more))
    assert wide[0] <= narrow[0] <= 1 <= narrow[1] <= wide[1]
    assert network.upper(confidence=low) <= network.upper(confidence=low + more)


def test_the_interval_is_the_one_of_students_t():
    network = simple(seconds=2.0, spread=0.1, noise=0.01)
    # 2.0150 is the 95% quantile of Student's t with 5 degrees of freedom, from the tables.
    assert DEGREES == 5
    low, high = network.interval(confidence=0.9)
    assert high == pytest.approx(2 * math.exp(0.20150), rel=1e-4)
    assert low * high == pytest.approx(4)
    assert network.upper(confidence=0.95) == pytest.approx(high)


def test_an_interval_covers_what_it_promises():
    rng = np.random.default_rng(4)
    network = simple(seconds=1.0, spread=0.2, noise=0.01)
    low, high = network.interval(confidence=0.9)
    draws = np.exp(0.2 * rng.standard_t(DEGREES, size=4000))
    # Four standard errors of a share of 0.9 of 4,000 draws.
    assert np.mean((low <= draws) & (draws <= high)) == pytest.approx(0.9, abs=0.019)


def test_a_price_nobody_knows_widens_the_interval_of_what_rests_on_it():
    known, unknown = model(unsure="patch"), model(unsure="run")
    conv = list(primitives(CONV))
    plain = math.hypot(0.03, 0.08)
    # `run` costs a second here and is nearly all of the time; `patch` is nothing.
    assert known.describe(conv).spread == pytest.approx(plain, rel=1e-6)
    share = 1 / (1 + unknown.seconds_of(conv))
    assert unknown.describe(conv).spread == pytest.approx(math.hypot(plain, share), rel=1e-4)
    assert unknown.describe(conv).seconds == known.describe(conv).seconds


def test_the_reason_is_the_largest_part_of_the_doubt():
    conv = list(primitives(CONV))
    # Its MACs are nearly all of the time of this conv.
    assert WORDS["dense"] in model(unsure="dense").describe(conv).reason
    assert model(unsure="dense").describe(conv).reason.startswith("most of the doubt")
    assert "no network of its family" in model().describe(conv).reason
    assert "scatter" in model(noise=0.2).describe(conv).reason
    few = tuple(1e-6 for _ in NAMES)
    outside = model(family=0.01, noise=0.01, least=few, most=few)
    assert "another size" in outside.describe(conv).reason


@given(times=st.floats(1.5, 100))
def test_the_farther_outside_the_published_counts_the_wider(times: float):
    conv = list(primitives(CONV))
    inside = model()
    counts = inside.count(conv)
    near = model(least=tuple(counts / 2), most=tuple(counts * 2))
    far = model(least=tuple(counts / 3 / times), most=tuple(counts / times))
    farther = model(least=tuple(counts / 9 / times), most=tuple(counts / 3 / times))
    assert near.describe(conv).spread == pytest.approx(inside.describe(conv).spread)
    spreads = [m.describe(conv).spread for m in (near, far, farther)]
    assert spreads == sorted(spreads)
    assert spreads[1] > spreads[0]
    # A mean of logarithms: all counts are as far outside.
    expected = estimate.OUTSIDE * math.log(times)
    assert far.describe(conv).distance == pytest.approx(expected, rel=1e-6)
    below = model(least=tuple(counts * times), most=tuple(counts * times * 2))
    assert below.describe(conv).distance == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("confidence", [0.75, 0.9, 0.95])
@pytest.mark.parametrize("unsure", [*NAMES])
def test_a_bound_grows_with_all_work_that_is_added(unsure: str, confidence: float):
    one = model(unsure=unsure)
    convs = [CONV, Layer(kind="conv", inputs=16, outputs=16, size=16, kernel=3)]
    few = list(primitives(convs[0]))
    more = [*few, *primitives(convs[1])]
    small, large = one.describe(few), one.describe(more)
    assert large.upper(confidence=confidence) > small.upper(confidence=confidence)
    for small_end, large_end in zip(small.interval(), large.interval(), strict=True):
        assert large_end > small_end


def test_bounds_hold_where_prices_are_hardly_known():
    # Prices that are Gaussian on the log scale, of which one may be off by a factor of three, under
    # the quantiles of Student's t that bounds are made of.
    rng = np.random.default_rng(6)
    root = np.diag([1.1, 0.3, 0.2, 0.05])
    root[1, 0] = 0.2
    further = 0.01
    for parts in np.exp(rng.normal(size=(6, 4))):
        draws = rng.normal(size=(40_000, 5))
        times = (parts * np.exp(draws[:, :4] @ root.T)).sum(axis=1) / parts.sum()
        times *= np.exp(draws[:, 4] * math.sqrt(further))
        for share in (0.9, 0.95, 0.99):
            low, high = (
                factors(
                    parts[None],
                    covariance=root @ root.T,
                    further=np.array([further]),
                    deviations=sign * quantile(share),
                )[0]
                for sign in (-1, 1)
            )
            # To first order in the prices: within six points of what is promised.
            assert np.mean(times <= high) == pytest.approx(share, abs=0.06)
            assert np.mean(times >= low) >= share


def test_a_known_family_has_its_effect_and_a_narrower_interval():
    effects = {"mobilenet": FamilyEffect(0.2, 0.01)}
    one = model(families=effects, family_own=0.02)
    conv = list(primitives(CONV))
    new, known = one.for_family("new"), one.for_family("mobilenet")
    assert new == one
    assert known.describe(conv).seconds == pytest.approx(one.describe(conv).seconds * math.exp(0.2))
    assert known.describe(conv).spread == pytest.approx(math.sqrt(0.03**2 + 0.01**2 + 0.02**2))
    assert known.describe(conv).spread < one.describe(conv).spread


def test_a_known_family_has_the_covariance_of_its_effect_with_the_prices():
    along = tuple(-0.5 if name == "dense" else 0.0 for name in NAMES)
    one = model(unsure="dense", families={"mine": FamilyEffect(0.1, 0.7, along)})
    mine = one.for_family("mine")
    # log(price * effect) has the variance 1 - 2 * 0.5 + 0.7^2; nearly all time is of that price.
    conv = list(primitives(CONV))
    share = float(one.describe(conv).parts[AT["dense"]]) / one.describe(conv).seconds
    expected = share**2 - 2 * 0.5 * share + 0.7**2 + 0.03**2
    assert mine.describe(conv).spread == pytest.approx(math.sqrt(expected), rel=1e-6)
    assert mine.describe(conv).seconds == pytest.approx(one.describe(conv).seconds * math.exp(0.1))


def test_a_target_without_a_version_pays_for_not_knowing_it():
    conv = list(primitives(CONV))
    unknown = model(other_version=0.07)
    named = dataclasses.replace(unknown, version="2.11.0")
    assert unknown.describe(conv).spread == pytest.approx(
        math.hypot(named.describe(conv).spread, 0.07)
    )
    counts = named.count(conv)[None]
    for confidence in (0.75, 0.95, 0.99):
        (wide,), (narrow,) = (
            m.upper_factors(counts, confidence=confidence) for m in (unknown, named)
        )
        assert wide > narrow
        assert wide == pytest.approx(
            unknown.describe(conv).upper(confidence=confidence) / unknown.describe(conv).seconds
        )
    # A profile of before does not say how far versions are apart, and its intervals stay.
    assert model().describe(conv).spread == pytest.approx(named.describe(conv).spread)


def test_people_read_which_version_an_estimate_holds_for():
    conv = list(primitives(CONV))
    named = dataclasses.replace(model(other_version=0.3), version="2.11.0")
    _, line = cautions_of(named, conv, file="model.onnx")
    assert line.startswith("this holds for tflite 2.11.0; with another version 90% between ")
    unknown = model(other_version=0.3)
    low, high = unknown.describe(conv).interval()
    assert line.endswith(f"{milliseconds(low)} and {milliseconds(high)}")
    first, line = cautions_of(unknown, conv, file="model.onnx")
    assert "most of the doubt is that this target names no version of tflite" in first
    assert line == "this target names no version of tflite; the interval allows for any"
    assert len(cautions_of(model(), conv, file="model.onnx")) == 1


def test_a_shipped_target_whose_version_is_removed_has_a_wider_interval(tmp_path: Path):
    found = load("rpi4")
    text = found.path.read_text()
    path = tmp_path / found.path.name
    path.write_text("\n".join(x for x in text.splitlines() if not x.startswith("version = ")))
    parts = operators("ofa-mbv3-w1.0")
    for use in found.uses:
        named = device_model(found, use.target).describe(parts)
        unknown = device_model(read(path), use.target).describe(parts)
        assert unknown.seconds == named.seconds
        assert unknown.interval()[0] < 0.99 * named.interval()[0]
        assert unknown.interval()[1] > 1.01 * named.interval()[1]


@pytest.mark.parametrize(("space", "confidence"), [("mbv3-cifar", 0.95), ("ofa-mbv3-w1.0", 0.99)])
def test_a_larger_network_of_a_space_has_no_smaller_bound(space: str, confidence: float):
    declared = PRESETS[space]()
    rows = declared.sample(40, rng=np.random.default_rng(7))
    archs = [declared.smallest(), declared.largest(), *declared.decode(rows)]
    parts = [[p for _, layer in plan(declared, arch) for p in primitives(layer)] for arch in archs]
    boards = (("rpi4", None), ("rk3588s", "int8"), ("jetson", None), ("rpi5", None))
    for name, precision in boards:
        device = load(name)
        one = device_model(device, device.target(precision=precision))
        counts = np.array([one.count(p) for p in parts])
        larger = (counts[:, None] >= counts[None]).all(axis=2)
        larger &= (counts[:, None] > counts[None]).any(axis=2)
        seconds = counts @ [getattr(one.prices, price) for price in NAMES]
        bounds = seconds * one.upper_factors(counts, confidence=confidence)
        big, small = np.nonzero(larger)
        assert len(big) > 50
        assert (bounds[big] >= bounds[small]).all()


def test_timing_a_network_leaves_noise_alone():
    sure = simple(seconds=1.0, spread=0.5, noise=0.03)
    after = math.log(sure.factor_once_timed) / quantile(0.95)
    assert 0.03 < after < 0.03 * math.sqrt(2) * 1.001
    known = simple(seconds=1.0, spread=0.03, noise=0.03)
    assert known.factor_once_timed == pytest.approx(known.interval(confidence=0.9)[1])


def test_people_read_the_interval_its_reason_and_what_helps():
    conv = list(primitives(CONV))
    (line,) = cautions_of(model(), conv, file="model.onnx")
    assert line.startswith("estimated ")
    assert "90% between" in line
    assert "no network of its family was published for this target" in line
    assert "timing model.onnx on the board would narrow that to x/÷ 1.0" in line
    few = tuple(1e-6 for _ in NAMES)
    _, far = cautions_of(model(least=few, most=few), conv, file="model.onnx")
    assert far.startswith("extrapolated: ")
    assert "small (10M MACs, 5.00 ms, a/b:c@d)" in far


def test_each_network_of_a_space_has_its_own_bound():
    space = PRESETS["ofa-mbv3-w1.0"]()
    board = device_model(load("rk3588s"), load("rk3588s").target(runtime="tflite"))
    rows = space.sample(12, rng=np.random.default_rng(1))
    bounds = compile_bounds(board, space)(rows, 0.9)
    predictor = build_predictor(space, expand_model(board))
    upper = predictor.upper(rows, confidence=0.9) / predictor.predict(rows)
    for i, arch in enumerate(space.decode(rows)):
        parts = [p for _, layer in plan(space, arch) for p in primitives(layer)]
        network = board.describe(parts)
        assert bounds[i] == pytest.approx(upper[i])
        assert upper[i] == pytest.approx(network.upper(confidence=0.9) / network.seconds)
        assert predictor.predict(rows[i : i + 1])[0] == pytest.approx(network.seconds)
    assert len(set(upper.round(6))) > 6
    narrow = space.restrict(resolution=space.resolutions[:1])
    few = narrow.sample(4, rng=np.random.default_rng(2))
    archs = narrow.decode(few)
    assert predictor.on(narrow).upper(few) == pytest.approx(predictor.upper(space.encode(archs)))


def test_networks_unlike_the_published_ones_have_a_wider_interval():
    board = device_model(load("rpi4"), load("rpi4").target())
    mobile = board.describe(operators("ofa-mbv3-w1.0"))
    dense = board.describe(operators("ofa-resnet50"))
    assert dense.spread > 1.2 * mobile.spread
    assert dense.distance > mobile.distance


def test_an_impossible_confidence_is_refused():
    network = simple(seconds=1.0, spread=0.2, noise=0.01)
    for confidence in (0.4, 1.0):
        with pytest.raises(EdgenasError, match=r"confidence must be from 0\.5 to below 1, found"):
            network.upper(confidence=confidence)


def test_the_nearest_row_is_the_nearer_end():
    one = model()
    assert one.nearest(1e6) == one.nearest(9e7) == SMALL
    assert one.nearest(1.1e8) == one.nearest(1e12) == LARGE


def test_energy_needs_a_published_power():
    assert model().joules(2.0) is None


def test_no_estimate_says_why_and_what_to_do():
    found = load("host")
    with pytest.raises(EdgenasError, match="no estimate for host / onnxruntime fp32") as caught:
        device_model(found, found.target())
    assert "this machine can be measured" in caught.value.message
    assert "edgenas profile --device host --runtime onnxruntime" in caught.value.hint


def test_a_board_without_an_estimate_is_named_as_it_was_given(tmp_path: Path):
    text = load("rk3399").path.read_text(encoding="utf-8").replace('name = "rk3399"', 'name = "b"')
    (tmp_path / "b.toml").write_text(text, encoding="utf-8")
    for name in ("rk3399", str(tmp_path / "b.toml")):
        found = load(name)
        with pytest.raises(EdgenasError, match="no estimate") as caught:
            device_model(found, found.target(runtime="tflite", precision="fp32"))
        assert f"edgenas profile --device {shlex.quote(name)} --runtime tflite" in caught.value.hint
        assert caught.value.hint.endswith("--space SPACE --ssh user@board")


def test_a_foreign_model_is_refused(tmp_path: Path):
    found, target = SHIPPED[0]
    path = tmp_path / found.path.name
    path.write_text(found.path.read_text().replace("prices/2", "roofline/7"))
    with pytest.raises(
        EdgenasError, match="model must be 'prices/2' or 'prices/1', found 'roofline/7'"
    ):
        device_model(read(path), target)


def test_a_missing_price_is_named(tmp_path: Path):
    found, target = SHIPPED[0]
    lines = found.path.read_text().splitlines()
    path = tmp_path / found.path.name
    path.write_text("\n".join(line for line in lines if not line.startswith("winograd = ")))
    with pytest.raises(EdgenasError, match="the field 'winograd' is missing"):
        device_model(read(path), target)


def test_a_profile_of_the_model_before_is_still_read():
    device = read(ROOT / "tests/data/device-1" / "former-board.toml")
    one = device_model(device, device.target())
    assert one.evidence.model == FORMER
    assert one.prices.general == one.prices.plain == 0
    network = one.describe(operators("ofa-mbv3-w1.0"))
    # What prices do not explain of the errors on rows that its fit had not seen is noise.
    errors = np.array(one.evidence.residuals)
    assert one.evidence.noise < np.sqrt(np.mean(errors**2)) < 3 * one.evidence.noise
    low, high = network.interval()
    assert 1.05 < high / network.seconds < 2
    assert low < network.seconds < high


def test_counts_of_another_length_are_refused(tmp_path: Path):
    found, target = SHIPPED[0]
    lines = found.path.read_text().splitlines()
    path = tmp_path / found.path.name
    path.write_text("\n".join(line for line in lines if not line.startswith("least = ")))
    with pytest.raises(EdgenasError, match="least must have 15 numbers"):
        device_model(read(path), target)


@pytest.mark.parametrize(("found", "target"), SHIPPED, ids=[str(target) for _, target in SHIPPED])
def test_shipped_models_are_sane(found, target):
    one = device_model(found, target)
    assert one.evidence.model == MODEL
    assert np.linalg.eigvalsh(one.covariance).min() > -1e-3
    assert 0.005 < one.evidence.noise < 0.3
    assert one.evidence.family_own < one.evidence.family < 0.3
    assert (np.array(one.evidence.least) <= np.array(one.evidence.most)).all()
    for parts in (operators("ofa-mbv3-w1.0"), operators("ofa-mbv3-w1.0", seed=1)):
        network = one.describe(parts)
        low, high = network.interval(confidence=0.9)
        assert low < network.seconds < high
        assert high / low < 40, "an interval this wide says nothing: ship no estimate"
        assert network.seconds == pytest.approx(one.run_overhead + one.seconds_of(parts))
