"""A measured time beside what others published for the device."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.delivery.predicting import predict
from edgenas.latency.device import Device, Target, load
from edgenas.latency.request import PredictRequest
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.price import read_network
from edgenas.profiling.published import PublishedTimes, find_published
from edgenas.space import presets as spaces


@pytest.fixture
def model(tmp_path: Path) -> Path:
    space = spaces.load_space("mbv3-cifar")
    path = tmp_path / "mine.onnx"
    path.write_bytes(network_graph(space, space.largest()))
    return path


def found(model: Path, name: str, precision: str = "fp16", device: Device | None = None):
    target = Target(name, "tensorrt", precision)
    return find_published(model, device=device or load(name), target=target)


@pytest.mark.parametrize("name", ["jetson-nano", "jetson-agx-xavier", "jetson-tx2"])
def test_it_is_the_estimate_of_predict_with_its_sources(name, model):
    told = found(model, name)
    assert isinstance(told, PublishedTimes)
    prediction = predict(PredictRequest(device=name, model=model, runtime="tensorrt"))
    assert told.seconds == pytest.approx(prediction.seconds, rel=1e-12)
    assert told.low < told.seconds < told.high
    words = told.compare(2 * told.seconds)
    assert "measured is 2.00 of it" in words
    assert "published networks of its own" in words
    assert f"nearest in MACs: {told.nearest.network}" in words
    assert words.endswith(told.nearest.source)
    assert not told.same
    assert "within its 90% interval" in told.compare(told.seconds)
    assert "outside of its 90% interval" in told.compare(1.01 * told.high)
    assert "outside of its 90% interval" in told.compare(0.99 * told.low)


def test_a_network_with_as_many_macs_is_the_published_one(model):
    device = load("jetson-nano")
    macs = read_network(model).macs
    uses = [
        replace(use, estimate=replace(use.estimate, smallest=replace(row, macs=macs)))
        for use in device.uses
        if use.estimate is not None and (row := use.estimate.smallest)
    ]
    told = found(model, "jetson-nano", device=replace(device, uses=tuple(uses)))
    assert isinstance(told, PublishedTimes)
    assert told.same
    words = told.compare(1.5 * told.nearest.seconds)
    assert "the published network with as many MACs: squeezenet1_1@224" in words
    assert "4.34 ms (1.50 of it)" in words


def test_where_nothing_is_published_the_reason_is_told(model):
    told = found(model, "jetson-orin-nano", "int8")
    assert isinstance(told, str)
    assert told.startswith("nothing to compare with: no estimate for jetson-orin-nano")
    assert "only detectors are published" in told
