"""Fronts of any metrics: the fronts of brute force, and what every form tells of them."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_fronts import everything, fronts

from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.delivery.front_request import METRICS, Metric, parse_metrics
from edgenas.delivery.fronts import DeviceFront, FrontMetric, FrontPoint, write_fronts
from edgenas.delivery.latency import find_latency
from edgenas.latency.device import load as load_device
from edgenas.model.saved import ACCURACY_FILE, load_supernet
from edgenas.pages.front_charts import draw_fronts
from edgenas.pages.fronts import fronts_page
from edgenas.space.cost import macs_table, params_table, peak_table, weights_table
from edgenas.space.genes import Codes
from edgenas.space.presets import tiny as tiny_space
from edgenas.space.space import Space

ALL = "accuracy,latency,latency@jetson,params,macs,memory,energy"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def costs_of(tiny: Path, space: Space, rows: Codes, names: list[str]) -> np.ndarray:
    """All metrics of rows as costs, from the readable sources, shape (n, metrics)."""
    found: dict[str, np.ndarray] = {
        "accuracy": -load_accuracy(tiny / ACCURACY_FILE)(rows),
        "params": params_table(space)(rows),
        "macs": macs_table(space)(rows),
        "memory": 4 * (weights_table(space)(rows) + peak_table(space)(rows)),
    }
    for name, device in (("latency", "rpi4"), ("latency@jetson", "jetson")):
        profile = load_device(device)
        times = find_latency(space, device=profile, target=profile.target())
        found[name] = times.predictor.predict(rows)
        if name == "latency":
            assert times.model is not None
            watts = times.model.joules(1.0)
            assert watts is not None
            found["energy"] = watts * found[name]
    return np.stack([found[name] for name in names], 1)


def undominated(costs: np.ndarray) -> np.ndarray:
    """By the definition, one by one."""
    return np.array(
        [not ((costs <= c).all(1) & (costs < c).any(1)).any() for c in costs],
        bool,
    )


@pytest.mark.parametrize(
    "metrics", ["latency@jetson,params", "accuracy,latency,latency@jetson,memory", ALL]
)
def test_the_front_of_any_metrics_is_that_of_brute_force(tiny: Path, metrics: str):
    space, names = load_supernet(tiny).supernet.space, metrics.split(",")
    found = fronts(("rpi4",), supernet=str(tiny), metrics=metrics, precision="fp32").devices[0]
    assert found.exact
    rows = everything(space)
    costs = costs_of(tiny, space, rows, names)
    expected = np.unique(costs[undominated(costs)], axis=0)
    signs = [-1 if METRICS[Metric(*n.split("@")).metric] == "max" else 1 for n in names]
    told = np.array([[p.values[n] for n in names] for p in found.points]) * signs
    assert found.evaluations == len(rows)
    # The last digit of an accuracy depends on which networks were predicted together.
    assert abs(len(told) - len(expected)) <= 0.01 * len(expected)
    again = costs_of(tiny, space, space.encode([p.arch for p in found.points]), names)
    np.testing.assert_allclose(told, again, rtol=1e-6)
    assert (costs[:, None] <= again[None] * (1 - 1e-6 * np.sign(again[None]))).all(2).sum() == 0
    first = found.first_cost.name
    listed = [p.values[first] for p in found.points]
    assert listed == sorted(listed)


def test_a_budget_may_be_of_what_is_no_metric(tiny: Path):
    words = {"supernet": str(tiny), "metrics": "accuracy,params"}
    whole = fronts(("rpi4",), **words).devices[0]
    rpi4 = load_device("rpi4")
    space = load_supernet(tiny).supernet.space
    latency = find_latency(space, device=rpi4, target=rpi4.target())

    def uppers(front: DeviceFront) -> np.ndarray:
        return latency.upper(0.95)(space.encode([p.arch for p in front.points]))

    at = float(np.median(uppers(whole)))
    limit = f"latency<={at * 1e3!r}ms"
    kept = fronts(("rpi4",), constraint=(limit,), **words).devices[0]
    assert uppers(kept).max() <= at < uppers(whole).max()
    named = fronts((), constraint=(limit.replace("<", "@rpi4<"),), **words).devices[0]
    assert [p.arch for p in named.points] == [p.arch for p in kept.points]
    assert named.target is None
    energy = fronts(("rpi4",), constraint=("energy<=1J",), **words).devices[0]
    assert [p.arch for p in energy.points] == [p.arch for p in whole.points]


def toy_front(values: list[tuple[float, float, float]]) -> DeviceFront:
    space = tiny_space()
    rows = np.unique(space.sample(2000, rng=np.random.default_rng(0)), axis=0)[: len(values)]
    metrics = tuple(
        FrontMetric(metric=Metric(name), provenance="counted", source="")
        for name in ("accuracy", "params", "macs")
    )
    points = [
        FrontPoint(
            arch=arch,
            values=dict(zip(("accuracy", "params", "macs"), of, strict=True)),
            uppers={},
        )
        for arch, of in zip(space.decode(rows), values, strict=True)
    ]
    return DeviceFront(
        target=None,
        title="",
        metrics=metrics,
        exact=True,
        evaluations=len(points),
        notes=(),
        points=tuple(sorted(points, key=lambda p: p.values["params"])),
    )


number = st.integers(0, 20).map(float)


@given(st.lists(st.tuples(number, number, number), min_size=1, max_size=30), st.integers(2, 12))
def test_few_networks_of_many_metrics_hold_the_ends_and_leave_no_larger_gap(values, count: int):
    front = toy_front(values)
    few = front.few(count)
    assert len(few) <= count
    assert len({id(p) for p in few}) == len(few)
    assert [p for p in front.points if p in few] == few
    names = ("accuracy", "params", "macs")
    if count >= 3:
        for name, best in zip(names, (max, min, min), strict=True):
            assert best(p.values[name] for p in few) == best(p.values[name] for p in front.points)
    table = np.array([[p.values[n] for n in names] for p in front.points])
    table = (table - table.min(0)) / np.where(np.ptp(table, axis=0) > 0, np.ptp(table, axis=0), 1)
    places = [front.points.index(p) for p in few]
    apart = ((table[:, None] - table[None, places]) ** 2).sum(2).min(1).max()
    if len(few) < count:
        assert apart == 0


def test_every_form_of_many_metrics_tells_the_same(tiny: Path, tmp_path: Path):
    found = fronts(("rpi4",), supernet=str(tiny), metrics=ALL, evaluations=400)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    points = told["devices"][0]["points"]
    columns = [m["column"] for m in told["devices"][0]["metrics"]]
    assert columns == [
        "accuracy",
        "latency_ms",
        "latency_ms@jetson",
        "params",
        "macs",
        "memory_bytes",
        "energy_mj",
    ]
    uppers = [m["upper"] for m in told["devices"][0]["metrics"] if m["upper"]]
    assert uppers == ["latency_upper_ms", "latency_upper_ms@jetson", "energy_upper_mj"]
    table = list(csv.DictReader(found.to_csv().splitlines()))
    for name in (*columns, *uppers, "arch_id"):
        assert [row[name] for row in table] == [str(p[name]) for p in points]
    first = found.devices[0].points[0]
    assert points[0]["latency_ms"] == pytest.approx(1e3 * first.values["latency"])
    assert points[0]["energy_mj"] == pytest.approx(1e3 * first.values["energy"])
    assert points[0]["memory_bytes"] == first.values["memory"]
    html = fronts_page(told)
    assert all(p["arch_id"] in html for p in points)
    for axes, charts in ((None, 21), (("params", "accuracy"), 1)):
        write_fronts(found, tmp_path / "f.svg", axes=axes)
        drawn = ElementTree.fromstring((tmp_path / "f.svg").read_text())
        assert len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == charts
        assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) == charts * len(points)
    draw_fronts(told, tmp_path / "f.png", axes=("latency", "params"))
    with Image.open(tmp_path / "f.png") as image:
        assert image.width > image.height > 400
    with pytest.raises(EdgenasError, match="--axes must name metrics of the front, found 'depth'"):
        draw_fronts(told, tmp_path / "g.png", axes=("depth", "params"))


def test_notes_of_several_devices_say_of_which(tiny: Path):
    found = fronts(("rpi4",), supernet=str(tiny), metrics="latency,latency@jetson")
    notes = found.devices[0].notes
    ends = {note.rpartition(" (of ")[2] for note in notes}
    assert ends == {"rpi4)", "jetson-orin-nano)"}
    assert found.error is None
    assert found.to_json()["accuracy"] is None
    assert "accuracy" not in found.to_csv().splitlines()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy", "a front has at least two metrics, found 1"),
        ("", "a front has at least two metrics, found 0"),
        ("accuracy,speed", "unknown metric 'speed'"),
        ("accuracy,latency<2", "metrics must read like accuracy,latency@rpi4,params, found 'late"),
        ("accuracy,params@rpi4", "metrics: params is the same on every device, found params@rpi4"),
        ("accuracy,latency,latency", "metrics: latency stands there twice"),
    ],
)
def test_what_are_no_metrics_is_told_in_a_line(text: str, message: str):
    with pytest.raises(EdgenasError, match=message) as caught:
        parse_metrics(text)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ((), {"metrics": "accuracy,energy"}, "no device is named, and energy is of one"),
        ((), {"constraint": ("latency<=2ms",), "metrics": "accuracy,params"}, "and latency is of"),
        (("rpi4",), {"metrics": "latency,latency@rpi4"}, "@rpi4 is that of --device"),
        ((), {"metrics": "latency@jetson,energy@jetson-orin-nano"}, "is also @jetson"),
        (("jetson",), {"metrics": "accuracy,energy"}, "no energy is known for jetson-orin-nano"),
    ],
)
def test_metrics_without_a_device_are_told_in_a_line(tiny: Path, names, changes, message: str):
    with pytest.raises(EdgenasError, match=message):
        fronts(names, supernet=str(tiny), **changes)


# The verb


def test_the_table_of_many_metrics_fits_a_hundred_columns(edgenas, tiny: Path):
    metrics = ALL.replace("jetson", "jetson-orin-nano") + ",latency@odroid-n2plus"
    done = edgenas(
        "pareto", "--device", "rpi4", "--supernet", tiny, "--metrics", metrics,
        "--evaluations", 300, "--strategy", "hypervolume", "--rows", 5,
    )  # fmt: skip
    assert done.code == 0, done.log
    # A word that cannot be folded, such as an address of a note, stands alone in its line.
    lines = [line for line in done.out.splitlines() if " " in line.strip()]
    assert max(map(len, lines)) <= 100
    assert "latency@1" in done.out
    assert "jetson-orin-nano / tensorrt fp16" in " ".join(done.out.split())
    assert "the upper bounds do not fit here: --json and --out have them" in done.out
    lines = done.out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("network "))
    assert all(len(line.split()[0]) == 10 for line in lines[header + 1 : header + 6])


def test_a_front_of_no_device_needs_none(edgenas, tiny: Path):
    words = ("pareto", "--supernet", tiny, "--metrics", "accuracy,params,memory")
    done = edgenas(*words, "--axes", "params,accuracy", "--out", "f.csv", "--out", "f.html")
    assert done.code == 0, done.log
    assert done.out.startswith("any device: ")
    assert "memory  of fp32, batch 1" in done.out
    table = pd.read_csv("f.csv")
    assert table.provenance.eq("predicted").all()
    assert Path("f.html").read_text(encoding="utf-8").count("<svg") == 1
    bad = edgenas(*words, "--axes", "params,latency", "--out", "g.svg")
    assert bad.code == 2
    assert "--axes must name two metrics of the front, found 'params,latency'" in bad.log


def test_a_history_of_any_metrics_is_gone_on_with(edgenas, tiny: Path):
    words = [
        "pareto", "--device", "jetson", "--supernet", tiny, "--evaluations", 400,
        "--metrics", "accuracy,latency,latency@rpi4,params", "--strategy", "hypervolume", "--json",
    ]  # fmt: skip
    plain = edgenas(*words)
    assert plain.code == 0, plain.log
    assert edgenas(*words, "--history", "h.csv").out == plain.out
    data = Path("h.csv").read_bytes()
    table = pd.read_csv("h.csv", comment="#")
    assert list(table.columns[4:]) == ["accuracy", "latency", "latency@rpi4", "params"]
    Path("h.csv").write_bytes(data[: 2 * len(data) // 3])
    assert edgenas(*words, "--history", "h.csv").out == plain.out
    assert Path("h.csv").read_bytes() == data
    other = edgenas(*words[:-3], "--json", "--history", "h.csv")
    assert other.code == 2
    assert "its strategy is 'hypervolume', asked for is 'nsga2'" in other.log
