"""Fronts hold what nothing beats; every form of them tells the same."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from pages import Tree
from PIL import Image

from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.errors import EdgenasError
from edgenas.delivery.front_request import ParetoRequest
from edgenas.delivery.front_search import search_fronts
from edgenas.delivery.fronts import Fronts
from edgenas.delivery.latency import find_latency
from edgenas.latency.device import load as load_device
from edgenas.model.saved import ACCURACY_FILE, load_supernet
from edgenas.pages.front_charts import draw_fronts
from edgenas.pages.fronts import fronts_page
from edgenas.space.cost import macs_table, params_table
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import parse_constraint


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fronts(names: tuple[str, ...], **options) -> Fronts:
    return search_fronts(ParetoRequest(device=names, **options))


def everything(space: Space) -> Codes:
    rows = np.unique(space.sample(40_000, rng=np.random.default_rng(0), by="arch"), axis=0)
    assert len(rows) == space.size
    return rows


def undominated(accuracy: np.ndarray, seconds: np.ndarray) -> set[int]:
    """By the definition, one by one."""
    better = (accuracy[:, None] >= accuracy) & (seconds[:, None] <= seconds)
    strictly = (accuracy[:, None] > accuracy) | (seconds[:, None] < seconds)
    return set(np.flatnonzero(~(better & strictly).any(axis=0)).tolist())


@pytest.fixture(scope="module")
def found(tiny: Path) -> Fronts:
    return fronts(("jetson", "rpi4"), supernet=str(tiny))


def test_the_front_of_a_small_space_is_exact(tiny: Path, found: Fronts):
    space = load_supernet(tiny).supernet.space
    rows, accuracy = everything(space), load_accuracy(tiny / ACCURACY_FILE)
    told = [front.target.device for front in found.devices if front.target]
    assert told == ["jetson-orin-nano", "rpi4"]
    for name, front in zip(told, found.devices, strict=True):
        device = load_device(name)
        predictor = find_latency(space, device=device, target=device.target()).predictor
        scores, seconds = accuracy(rows), predictor.predict(rows)
        best = undominated(scores, seconds)
        assert front.exact
        # The last digit of an accuracy depends on which networks were predicted together.
        expected = sorted((seconds[i], scores[i]) for i in best)
        told = [(p.values["latency"], p.values["accuracy"]) for p in front.points]
        np.testing.assert_allclose(told, expected, rtol=1e-6)
        assert told == sorted(told)
        again = space.encode([p.arch for p in front.points])
        for name, count in (("macs", macs_table), ("params", params_table)):
            found_here = [p.values[name] for p in front.points]
            np.testing.assert_array_equal(found_here, count(space)(again))
        assert [p.uppers["latency"] for p in front.points] == predictor.upper(again).tolist()


def test_a_front_keeps_what_it_must(tiny: Path):
    limit = parse_constraint("params<=3K")
    whole = fronts(("rpi4",), supernet=str(tiny)).devices[0]
    assert max(p.values["params"] for p in whole.points) > limit.limit
    kept = fronts(("rpi4",), supernet=str(tiny), constraint=("params<=3K",)).devices[0]
    assert max(p.values["params"] for p in kept.points) <= limit.limit
    inside = {p.arch for p in whole.points if p.values["params"] <= limit.limit}
    assert inside <= {p.arch for p in kept.points}


def test_few_networks_of_a_front_are_the_best_of_even_budgets(found: Fronts):
    front = found.devices[0]
    few = front.few(4)
    assert few[0] == front.points[0]
    assert few[-1] == front.points[-1]
    assert len(few) <= 4
    ends = front.points[0].values["latency"], front.points[-1].values["latency"]
    best = [
        max(
            (p for p in front.points if p.values["latency"] <= b * (1 + 1e-9)),
            key=lambda p: p.values["accuracy"],
        )
        for b in np.linspace(*ends, 4)
    ]
    assert few == [p for i, p in enumerate(best) if p not in best[:i]]


def test_every_form_of_a_front_tells_the_same(found: Fronts, tmp_path: Path):
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    points = [p for device in told["devices"] for p in device["points"]]
    assert len(table) == len(points) == sum(len(f.points) for f in found.devices)
    for name in ("arch_id", "accuracy", "latency_ms", "latency_upper_ms", "macs", "params"):
        assert [row[name] for row in table] == [str(p[name]) for p in points]
    html = fronts_page(told)
    assert html == fronts_page(found.to_json())
    assert all(p["arch_id"] in html for p in points)
    for suffix in ("svg", "png"):
        one, other = tmp_path / f"one.{suffix}", tmp_path / f"other.{suffix}"
        draw_fronts(told, one)
        draw_fronts(told, other)
        assert one.read_bytes() == other.read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.width > image.height > 400
    drawn = ElementTree.fromstring((tmp_path / "one.svg").read_text())
    charts = drawn.findall("{http://www.w3.org/2000/svg}svg")
    marks = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(charts) == len(told["devices"])
    assert len(marks) == len(points)


def test_no_name_can_break_a_front(found: Fronts, tmp_path: Path):
    bad = "$\\frac{</script><script>alert(1)</script>"
    told = json.loads(
        json.dumps(found.to_json()).replace("jetson-orin-nano", json.dumps(bad)[1:-1])
    )
    told |= {"supernet": bad, "constraints": [bad]}
    html = fronts_page(told)
    tree = Tree(html)
    assert not tree.named("script")
    assert sum(bad in text for text in tree.texts) >= 4
    draw_fronts(told, tmp_path / "front.svg")
    drawn = ElementTree.fromstring((tmp_path / "front.svg").read_text())
    assert not list(drawn.iter("{http://www.w3.org/2000/svg}script"))
    assert sum(bad in text for text in drawn.itertext()) >= 1
    assert "<script" not in (tmp_path / "front.svg").read_text()


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ((), {}, "no device is named"),
        (("jetson", "jetson-orin-nano"), {}, "jetson-orin-nano was given twice"),
        (("jetsom",), {}, "unknown device 'jetsom'"),
        (("jetson",), {"confidence": 1.0}, "confidence must be at most 0.999, found 1.0"),
        (("jetson",), {"runtime": "nothing"}, "unknown runtime 'nothing'"),
        (
            ("jetson",),
            {"constraint": ("latency<=2ms",)},
            "latency is in the front, so it is not cut",
        ),
        (("jetson",), {"constraint": ("macs<=1",)}, "no network of space tiny"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(tiny: Path, names, changes: dict, message: str):
    with pytest.raises(EdgenasError, match=message) as caught:
        fronts(names, supernet=str(tiny), **changes)
    assert "\n" not in caught.value.message


def test_a_page_names_agreement_where_a_teacher_gave_the_labels(tiny: Path):
    found = fronts(("jetson",), supernet=str(tiny), evaluations=100)
    for teacher, word, other in (("", "accuracy", "agreement"), ("t", "agreement", "accuracy")):
        told = replace(found, teacher=teacher).to_json()
        body = fronts_page(told).partition("<body>")[2].lower()
        assert f">{word}</th>" in body
        assert f"predicted {word}, %" in body
        assert other not in body


# The verbs


def test_pareto_prints_a_table_and_writes_files(edgenas, tiny: Path):
    names = ["f.csv", "f.json", "f.html", "f.svg", "f.png", "f.pdf"]
    files = [word for name in names for word in ("--out", name)]
    words = ("pareto", "--device", "jetson", "--device", "rpi4", "--supernet", tiny)
    done = edgenas(*words, "--rows", 3, *files)
    assert done.code == 0, done.log
    lines = [line for line in done.out.splitlines() if line.startswith(("jetson-orin", "rpi4"))]
    assert len(lines) == 2
    assert "estimated from device model of" in " ".join(done.out.split())
    assert "mean error" in done.out
    told = json.loads(edgenas(*words, "--json").out)
    assert told == json.loads(Path("f.json").read_text())
    listed = [row["arch_id"] for row in csv.DictReader(Path("f.csv").read_text().splitlines())]
    assert listed == [p["arch_id"] for device in told["devices"] for p in device["points"]]
    assert sorted(path.name for path in Path().iterdir()) == sorted(names)
    again = edgenas(*words, "--out", "f.csv")
    assert again.code == 2
    assert "error: --out f.csv is there already" in again.log
    assert edgenas(*words, "--out", "f.csv", "--force").code == 0


def test_pareto_keeps_a_history_and_goes_on_from_it(edgenas, tiny: Path):
    words = ["pareto", "--device", "jetson", "--supernet", tiny, "--evaluations", 300, "--json"]
    plain = edgenas(*words)
    assert plain.code == 0, plain.log
    assert edgenas(*words, "--history", "h.csv").out == plain.out
    data = Path("h.csv").read_bytes()
    table = pd.read_csv("h.csv", comment="#")
    assert len(table) == json.loads(plain.out)["devices"][0]["evaluations"] == 300
    Path("h.csv").write_bytes(data[: len(data) // 2])
    assert edgenas(*words, "--history", "h.csv").out == plain.out
    assert Path("h.csv").read_bytes() == data
    best = max(p["accuracy"] for p in json.loads(plain.out)["devices"][0]["points"])
    assert best == table.accuracy.max()
    other = edgenas(*words, "--seed", 1, "--history", "h.csv")
    assert other.code == 2
    assert "its seed is 0, asked for is 1" in other.log
    two = edgenas(*words, "--device", "rpi4", "--history", "h.csv")
    assert two.code == 2
    assert "a history is of one search, 2 devices" in two.log


@pytest.mark.parametrize("name", ["front", "front.xlsx", "front.svg.gz"])
def test_an_unknown_kind_of_file_is_refused(edgenas, name: str):
    done = edgenas("pareto", "--device", "jetson", "--out", name)
    assert done.code == 2
    assert f"error: --out must end in one of .csv .json .html .svg .png .pdf, found '{name}'" in (
        done.log
    )


def test_a_report_is_written_anew(edgenas, tiny: Path):
    words = ("specialize", "--device", "jetson", "--supernet", tiny, "--latency", "20ms")
    assert edgenas(*words, "--out", "bundle").code == 0
    done = edgenas("report", "bundle", "--out", "page.html")
    assert done.code == 0, done.log
    assert Path("page.html").read_bytes() == Path("bundle/report.html").read_bytes()
    assert "is there already" in edgenas("report", "bundle", "--out", "page.html").log
    assert "is a folder" in edgenas("report", "bundle", "--out", "bundle", "--force").log
    path = Path("bundle/search.json")
    path.write_text(path.read_text().replace('"seen"', '"Seen"'))
    done = edgenas("report", "bundle", "--out", "page.html", "--force")
    assert done.code == 2
    assert "is damaged: files: search.json was changed" in done.log
    assert "no bundle at nothing" in edgenas("report", "nothing", "--out", "x.html").log
