"""Pages stand alone, say what the bundle says, and no text can break them."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Tree

from edgenas.bundle.accuracy import AccuracyRecord
from edgenas.bundle.contents import Contents
from edgenas.bundle.record import PredictedLatency, Promise, Record
from edgenas.bundle.trace import (
    Attempt,
    FrontNetwork,
    Improvement,
    LayerTime,
    SearchSummary,
    Trace,
)
from edgenas.delivery.latency import find_latency
from edgenas.delivery.log import SearchLog, Watch, layer_times, trace_of
from edgenas.latency.device import Target
from edgenas.latency.device import load as load_device
from edgenas.pages.bundle import bundle_page
from edgenas.pages.charts import Plane, ticks
from edgenas.pages.markup import node, page
from edgenas.pages.network import draw_network
from edgenas.pages.style import DARK, LIGHT
from edgenas.space.arch import CELL
from edgenas.space.cost import cost, memory, total
from edgenas.space.plan import plan
from edgenas.space.presets import PRESETS, tiny
from edgenas.space.space import Space

# What a text would have to become to do harm.
HOSTILE = "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\ud800"


def contents(space: Space | None = None, *, text: str = "usual") -> Contents:
    """All that a page can show, with one text wherever a user or a file can put one."""
    space = dataclasses.replace(space or tiny(), name=text)
    arch = space.largest()
    costs = total(space, arch)
    layers = [
        LayerTime(name=name, layer=str(layer), seconds=1e-4, macs=cost(layer).macs)
        for name, layer in plan(space, arch)
    ]
    seconds = 1e-4 * (len(layers) + 1)
    predicted = PredictedLatency(
        seconds=seconds,
        upper=1.2 * seconds,
        confidence=0.95,
        bound=text,
        provenance="estimated",
        source=text,
    )
    step = Improvement(phase=text, evaluations=10, best=0.71)
    record = Record(
        target=Target(text, text, "fp32"),
        accuracy=AccuracyRecord(
            kind="measured", value=0.7, data=text, split=text, images=10, error=0.01, archs=0
        ),
        predicted=predicted,
        measured=None,
        promises=(Promise(constraint=text, value=1.0, limit=2.0, rests_on=text),),
        costs=costs,
        memory=memory(costs),
        supernet=text,
        notes=(text,),
    )
    trace = Trace(
        seen=100,
        accuracies=(0.5, 0.6, 0.7),
        latencies=(0.001, 0.0011, 0.0012),
        front=(FrontNetwork(arch_id=text, arch_text=text, accuracy=0.7, latency=0.001),),
        searches=(SearchSummary(name=text, strategy=text, evaluations=100, history=(step, step)),),
        attempts=(
            Attempt(arch_id=text, accuracy=0.7, predicted=0.001, measured=0.0011, fresh=True),
        ),
        layers=tuple(layers),
        overhead=1e-4,
    )
    told = {
        "request": {"data": text, text: [text]},
        "versions": {text: text},
        "parity": {"max_abs_difference": 1e-6, "same_top1": 3, "n": 3, "tolerance": 1e-4},
    }
    return Contents(space=space, arch=arch, record=record, trace=trace, manifest=told)


def test_a_page_needs_nothing_from_elsewhere():
    text = bundle_page(contents())
    tree = Tree(text)
    assert not any(tree.named(tag) for tag in ("script", "link", "img", "iframe", "object", "base"))
    (policy,) = (m["content"] for m in tree.named("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    for _, attributes in tree.elements:
        assert not {"src", "href", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    (style,) = (t for t in tree.texts if "--accent" in t)
    assert "url(" not in style
    assert "@import" not in style


def test_no_text_can_break_a_page():
    tree = Tree(bundle_page(contents(text=HOSTILE)))
    usual = Tree(bundle_page(contents()))
    # The very same elements: the text stayed a text, and is there to be read.
    assert [tag for tag, _ in tree.elements] == [tag for tag, _ in usual.elements]
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert sum(shown in text for text in tree.texts) >= 12


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_comes_out_as_it_went_in(text: str):
    made = page(text, node("p", text), node("p", "x", title=text))
    made.encode()
    tree = Tree(made)
    seen = [attributes["title"] for attributes in tree.named("p") if "title" in attributes]
    harmless = "".join("\ufffd" if _bad(c) else c for c in text)
    normal = harmless.replace("\r\n", "\n").replace("\r", "\n")
    assert [s.replace("\r\n", "\n").replace("\r", "\n") for s in seen] == [normal]
    assert [tag for tag, _ in tree.elements][-3:] == ["main", "p", "p"]


def _bad(character: str) -> bool:
    code = ord(character)
    control = code < 32 and character not in "\t\n\r"
    return control or code in (127, 0xFFFE, 0xFFFF) or 0xD800 <= code <= 0xDFFF


def test_the_same_contents_give_the_same_bytes():
    assert bundle_page(contents()) == bundle_page(contents())


def test_every_drawing_has_a_name_and_a_description():
    tree = Tree(bundle_page(contents()))
    drawings = tree.named("svg")
    assert len(drawings) == 5
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 20
    assert tree.named("html")[0]["lang"] == "en"
    assert all("scope" in attributes for attributes in tree.named("th"))
    assert any("width=device-width" in m.get("content", "") for m in tree.named("meta"))


def test_the_numbers_of_the_record_are_on_the_page():
    said = " ".join(Tree(bundle_page(contents())).texts)
    record = contents().record
    for words in (str(record.accuracy), str(record.predicted), record.costs_text()):
        assert words in said


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_and_marks_can_be_told_from_their_ground(theme: dict[str, str]):
    for ground in ("bg", "surface"):
        for text in ("text", "muted", "accent", "warn", "good"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)  # WCAG AA
    for box in ("k0", "k1", "k2"):
        assert contrast(theme["text"], theme[box]) >= 4.5, box
    for mark in ("accent", "warn", "good", "dot"):
        assert contrast(theme[mark], theme["bg"]) >= 2.9, mark


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_of_any_space_fits_its_drawing(name: str):
    space = PRESETS[name]()
    rows = space.sample(5, rng=np.random.default_rng(0), by="gene")
    for arch in (space.largest(), space.smallest(), *space.decode(rows)):
        seconds = {name: 1e-3 for name, _ in plan(space, arch)}
        drawn = draw_network(space, arch, seconds=seconds)
        width, height = map(float, drawn.attrib["viewBox"].split()[2:])
        boxes = [part for part in drawn.iter("rect") if "k" in part.attrib["class"].split()[-1]]
        cells = sum(s.blocks.count(CELL) for s in arch.stages)
        blocks = cells + sum(name.count(".") == 2 for name, _ in plan(space, arch))
        assert sum("box" in part.attrib["class"] for part in boxes) == blocks + 1
        ghosts = [part for part in drawn.iter("rect") if part.attrib["class"] == "ghost"]
        allowed = sum(max(stage.depths) for stage in space.stages)
        assert len(ghosts) == allowed - blocks
        for part in drawn.iter("rect"):
            x, y, w, h = (float(part.attrib[n]) for n in ("x", "y", "width", "height"))
            assert x >= 0
            assert y >= 0
            assert w >= 0
            assert x + w <= width
            assert y + h <= height


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low: float, size: float):
    found = ticks(low, low + size)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-6 * size <= tick <= low + size * (1 + 1e-6) for tick in found)
    step = found[1] - found[0]
    lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(lead - m) for m in (1, 2, 5, 10)) < 1e-3


def test_a_plane_maps_its_corners():
    plane = Plane.of((0.0, 2.0), (10.0, 20.0), height=200)
    assert plane.x(1.0) == pytest.approx((plane.x.start + plane.x.end) / 2)
    assert plane.y(20.0) < plane.y(10.0)
    assert plane.mark(3.0, 15.0, class_="measured", title="outside") is None


# What is drawn


@pytest.fixture(scope="module")
def jetson():
    space, device = PRESETS["mbv3-cifar"](), load_device("jetson")
    return space, find_latency(space, device=device, target=device.target()).predictor


def test_the_layers_add_up_to_the_prediction(jetson):
    space, predictor = jetson
    rows = space.sample(20, rng=np.random.default_rng(1), by="gene")
    for arch, predicted in zip(space.decode(rows), predictor.predict(rows), strict=True):
        layers, overhead = layer_times(space, arch, latency=predictor)
        assert [layer.name for layer in layers] == [name for name, _ in plan(space, arch)]
        assert overhead + sum(layer.seconds for layer in layers) == pytest.approx(predicted)


def test_a_trail_keeps_the_front_of_all_and_a_sample(jetson, tmp_path: Path):
    space, predictor = jetson
    rows = space.sample(3000, rng=np.random.default_rng(2), by="gene")

    def accuracy(rows):
        return 0.5 + rows.astype(float).sum(axis=1) / 1000

    log = SearchLog()
    for seed, several in enumerate((rows[:1000], rows[1000:])):
        watch = Watch(space, accuracy=accuracy, latency=predictor, seed=seed)
        for part in np.array_split(several, 7):
            np.testing.assert_array_equal(watch(part), accuracy(part))
        log = log.join(SearchLog(watch.seen))
    trace = trace_of(log, space, space.largest(), latency=predictor)
    assert trace.seen == 3000
    true, seconds = accuracy(rows), predictor.predict(rows)
    best = [i for i in range(3000) if not ((true > true[i]) & (seconds <= seconds[i])).any()]
    best = [i for i in best if not ((true == true[i]) & (seconds < seconds[i])).any()]
    best = sorted(best, key=lambda i: seconds[i])
    told = [(f.accuracy, f.latency) for f in trace.front]
    whole = list(zip(true[best], seconds[best], strict=True))
    assert set(told) <= set(whole)
    assert (told[0], told[-1]) == (whole[0], whole[-1])
    assert len(trace.accuracies) == 800
    # A uniform sample: its mean is that of all within four standard errors.
    off = np.mean(trace.accuracies) - true.mean()
    assert abs(off) < 4 * true.std() / math.sqrt(800)
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
