"""DARTS' cells: from genotypes to a verified bundle, against a network written down anew."""

import ast
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import check_delivery
from test_export import PREPROCESSING, trained
from test_plan import check_plan
from test_supernet import check_parity
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgenas.basics.errors import EdgenasError
from edgenas.delivery.run import specialize
from edgenas.model.export import count, parity, to_onnx
from edgenas.model.fake_quantised import FakeQuantised
from edgenas.model.network import Network
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.pages.cell import draw_cell
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch
from edgenas.space.benchmarks import darts
from edgenas.space.cells import CellSpace
from edgenas.space.cost import macs_table, params_table, peak_table, total
from edgenas.space.genotype import arch_of_genotype, genotype, parse_genotype
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan
from edgenas.space.presets import load_space, space_from_json, space_to_json
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

# What the paper found (arXiv 1806.09055, figures 4 and 5), as its authors print it.
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
# Every operation, on edges of both sizes, and nodes of nothing.
MIXED = (
    "Genotype(normal=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_5x5', 0), ('none', 2), "
    "('none', 0), ('none', 3), ('skip_connect', 1), ('max_pool_3x3', 3)], "
    "normal_concat=range(2, 6), reduce=[('none', 0), ('none', 1), ('skip_connect', 0), "
    "('dil_conv_5x5', 1), ('avg_pool_3x3', 0), ('sep_conv_5x5', 3), ('dil_conv_3x3', 1), "
    "('sep_conv_3x3', 2)], reduce_concat=range(2, 6))"
)
SMALL = replace(darts(cells=4, channels=4, name="small-darts"), resolutions=(16,), classes=3)


# The network anew


def relu_conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


class HalvedAnew(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.other = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(min=0)
        return self.norm(torch.cat([self.one(x), self.other(x[:, :, 1:, 1:])], 1))


class NothingAnew(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def operation_anew(name: str, c: int, stride: int) -> nn.Module:
    kernel = int(name[-1]) if name[-1].isdecimal() else 0
    if name == "none":
        return NothingAnew(stride)
    if name == "skip_connect":
        return HalvedAnew(c, c) if stride == 2 else nn.Identity()
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    if name.startswith("dil"):
        wide = nn.Conv2d(c, c, kernel, stride, kernel - 1, 2, groups=c, bias=False)
        return nn.Sequential(nn.ReLU(), wide, nn.Conv2d(c, c, 1, bias=False), norm(c))
    parts: list[nn.Module] = []
    for step in (stride, 1):
        deep = nn.Conv2d(c, c, kernel, step, kernel // 2, groups=c, bias=False)
        parts += [nn.ReLU(), deep, nn.Conv2d(c, c, 1, bias=False), norm(c)]
    return nn.Sequential(*parts)


class CellAnew(nn.Module):
    def __init__(self, pairs: list[Any], before: tuple[int, int], c: int, halves: tuple) -> None:
        super().__init__()
        behind, reduces = halves
        far, near = before
        self.far = HalvedAnew(far, c) if behind else relu_conv_norm(far, c)
        self.near = relu_conv_norm(near, c)
        self.sources = [source for _, source in pairs]
        self.operations = nn.ModuleList(
            operation_anew(name, c, 2 if reduces and source < 2 else 1) for name, source in pairs
        )

    def forward(self, far: Tensor, near: Tensor) -> Tensor:
        states = [self.far(far), self.near(near)]
        for n in range(0, len(self.sources), 2):
            terms = (self.operations[n + t](states[self.sources[n + t]]) for t in range(2))
            states.append(sum(terms, torch.zeros(())))
        return torch.cat(states[2:], 1)


class Anew(nn.Module):
    """The evaluation network of arXiv 1806.09055, section 3.3, without its auxiliary head."""

    def __init__(self, text: str, *, cells: int, c: int, classes: int) -> None:
        super().__init__()
        wanted = {word.arg: word.value for word in ast.parse(text, mode="eval").body.keywords}  # type: ignore
        normal, reducing = (ast.literal_eval(wanted[name]) for name in ("normal", "reduce"))
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * c, 3, padding=1, bias=False), norm(3 * c))
        self.cells = nn.ModuleList()
        far, near, behind = 3 * c, 3 * c, False
        for number in range(cells):
            reduces = number in (cells // 3, 2 * cells // 3)
            c *= 1 + reduces
            pairs = reducing if reduces else normal
            self.cells.append(CellAnew(pairs, (far, near), c, (behind, reduces)))
            far, near, behind = near, 4 * c, reduces
        self.classifier = nn.Linear(near, classes)

    def forward(self, x: Tensor) -> Tensor:
        far = near = self.stem(x)
        for cell in self.cells:
            far, near = near, cell(far, near)
        return self.classifier(near.mean((2, 3)))


def copy_to(anew: Anew, network: Network) -> None:
    """Give the network anew the weights of a network, tensor after tensor."""

    def fill(module: nn.Module, tensors: dict[str, Tensor]) -> None:
        wanted = {n: t for n, t in module.state_dict().items() if "num_batches" not in n}
        values = [t for n, t in tensors.items() if "num_batches" not in n]
        if isinstance(module, HalvedAnew):  # one norm over both halves
            one, other = values[:5], values[5:]
            norms = [torch.cat(pair) for pair in zip(one[1:], other[1:], strict=True)]
            values = [one[0], other[0], *norms]
        loaded = dict(zip(wanted, values, strict=True))
        for name, tensor in loaded.items():
            assert tensor.shape == wanted[name].shape
        module.load_state_dict(loaded, strict=False)

    fill(anew.stem, network.get_submodule("stages.0.0").state_dict())
    fill(anew.classifier, network.head.state_dict())
    places = [place for stage in list(network.stages)[1:] for place in stage]  # type: ignore
    for cell, place in zip(anew.cells, places, strict=True):
        assert isinstance(cell, CellAnew)
        assert isinstance(place, nn.ModuleDict)
        fill(cell.far, place["input0"].state_dict())
        fill(cell.near, place["input1"].state_dict())
        for number, (operation, source) in enumerate(
            zip(cell.operations, cell.sources, strict=True)
        ):
            if operation.state_dict():
                name = f"edge{2 + number // 2}from{source}"
                fill(operation, place[name].state_dict())


# Text, rows, counts


def test_a_genotype_comes_back_from_its_cells():
    cells = parse_genotype(DARTS_V2)
    assert cells[0].startswith("|sep_conv_3x3~0|sep_conv_3x3~1|+|sep_conv_3x3~0|sep_conv_3x3~1|+|")
    assert parse_genotype(genotype(cells)) == cells
    assert "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0)" in genotype(cells)


def test_archs_and_spaces_of_darts_round_trip():
    space = load_space("darts")
    arch = arch_of_genotype(space, DARTS_V2)
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    rows = space.sample(50, rng=np.random.default_rng(0))
    archs = space.decode(rows)
    assert (space.encode(archs) == rows).all()
    assert len({a.id for a in archs}) == 50
    for found in archs:
        assert arch_of_genotype(space, genotype(found.cells)) == found
    assert space_from_json(json.loads(json.dumps(space_to_json(SMALL)))) == SMALL


def test_the_space_has_as_many_cells_as_the_paper_says():
    # Section 3.1.1: (prod of (k + 1) k / 2 for k = 1 .. 4) * 7^8 cells with seven operations that
    # compute something; here nothing at all is one more.
    assert load_space("darts").size == (1 * 3 * 6 * 10 * 8**8) ** 2


def test_the_published_network_has_its_published_size():
    space = load_space("darts-20")
    costs = total(space, arch_of_genotype(space, DARTS_V2))
    with torch.device("meta"):
        anew = Anew(DARTS_V2, cells=20, c=36, classes=10)
    assert costs.params == sum(p.numel() for p in anew.parameters())
    assert costs.params / 1e6 == pytest.approx(3.3, abs=0.05)  # table 1


@pytest.mark.parametrize(
    ("cells", "channels"), [(3, 4), pytest.param(20, 36, marks=pytest.mark.slow)]
)
def test_macs_are_those_that_torch_counts(cells: int, channels: int):
    space = darts(cells=cells, channels=channels)
    anew = Anew(DARTS_V2, cells=cells, c=channels, classes=10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        anew.eval()(torch.zeros(1, 3, 32, 32))
    macs = total(space, arch_of_genotype(space, DARTS_V2)).macs
    assert macs == counter.get_total_flops() // 2


def test_tables_and_slots_agree_with_the_walk():
    rows = SMALL.sample(30, rng=np.random.default_rng(1))
    check_plan(SMALL, rows)
    for row, arch in zip(rows, SMALL.decode(rows), strict=True):
        costs = total(SMALL, arch)
        assert macs_table(SMALL)(row[None]) == costs.macs
        assert params_table(SMALL)(row[None]) == costs.params
        assert peak_table(SMALL)(row[None]) == costs.peak
    for layer in layers(SMALL):
        assert Layer.parse(str(layer)) == layer


# Networks


@pytest.mark.parametrize("text", [DARTS_V2, MIXED])
def test_a_network_computes_what_one_written_anew_computes(text: str):
    network = trained(SMALL, arch_of_genotype(SMALL, text), seed=0).double()
    anew = Anew(text, cells=4, c=4, classes=3).double().eval()
    copy_to(anew, network)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), anew(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cells", [3, 5])
def test_gradients_are_those_of_one_written_anew(cells: int):
    space = replace(darts(cells=cells, channels=2), resolutions=(16,))
    network = trained(space, arch_of_genotype(space, MIXED), seed=1).double().train()
    anew = Anew(MIXED, cells=cells, c=2, classes=10).double().train()
    copy_to(anew, network)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    pairs = []
    for module, weight in ((network, "stages.0.0.unit.conv.weight"), (anew, "stem.0.weight")):
        module(images).square().sum().backward()
        grad = module.get_parameter(weight).grad
        assert grad is not None
        pairs.append(grad)
    torch.testing.assert_close(*pairs, rtol=1e-9, atol=1e-9)


def test_a_supernet_of_darts_equals_its_networks():
    check_parity(SMALL, seed=1, n=4)


@pytest.mark.parametrize("text", [DARTS_V2, MIXED])
def test_the_file_computes_what_the_network_computes(text: str):
    arch = arch_of_genotype(SMALL, text)
    network = trained(SMALL, arch, seed=0)
    file = to_onnx(network, preprocessing=PREPROCESSING)
    parity(network, file, images=torch.randn(4, 3, 16, 16)).require()
    counted, costs = count(file), total(SMALL, arch)
    assert (counted.macs, counted.weights) == (costs.macs, costs.weights)
    assert sum(p.numel() for p in network.parameters()) == costs.params


RUNTIMES = ("onnxruntime", "openvino", "ncnn", "litert", "tflite")


@pytest.mark.parametrize("text", [DARTS_V2, MIXED])
@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_compute_cells_of_darts(name: str, text: str):
    if why_not := runtimes.get(name).available():
        pytest.skip(why_not)
    onnx = network_graph(SMALL, arch_of_genotype(SMALL, text))
    images = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    (wanted,), (found,) = (
        runtimes.get(runtime)
        .compile(onnx, precision="fp32", threads=1, batch=1)
        .run({"image": images})
        for runtime in ("onnxruntime", name)
    )
    # Sums of at most some hundred products in another order: 1e-5 of the largest.
    np.testing.assert_allclose(found, wanted, atol=1e-5 * abs(wanted).max())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert"])
def test_integers_of_darts_are_near_and_end_no_process(name: str):
    """OpenVINO ends the process on an integer concat that two cells read: it stays in float."""
    if why_not := runtimes.get(name).available():
        pytest.skip(why_not)
    space = replace(SMALL, stages=SMALL.stages[:3])
    onnx = network_graph(space, arch_of_genotype(space, DARTS_V2))
    images = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    graph = convert_to_form(onnx, form="int8-unsigned", images=images)
    exact, rounded = (
        runtimes.get(runtime)
        .compile(file, precision=precision, threads=1, batch=1)
        .run({"image": images[:1]})[0]
        for runtime, file, precision in (("onnxruntime", onnx, "fp32"), (name, graph, "int8"))
    )
    assert abs(rounded - exact).max() <= 0.15 * abs(exact).max()  # seen: 0.02 to 0.06


def test_weights_that_learn_for_their_integers_compute_what_the_integers_do():
    arch = arch_of_genotype(SMALL, MIXED.replace("'none'", "'skip_connect'"))
    network = trained(SMALL, arch, seed=0)
    images = torch.randn(8, 3, 16, 16)
    onnx = to_onnx(network, preprocessing=PREPROCESSING, batch=8)
    graph = convert_to_form(onnx, form="int8-unsigned", images=images.numpy())
    session = runtimes.get("onnxruntime").compile(graph, precision="int8", threads=1, batch=8)
    (wanted,) = session.run({"image": images.numpy()})
    with torch.no_grad():
        found = FakeQuantised(network, int8=graph)(images).numpy()
    # A value at the middle between two integers may go to the other one.
    assert abs(found - wanted).max() <= 0.05 * abs(wanted).max()


@pytest.mark.slow
def test_a_network_of_darts_is_searched_for_delivered_and_kept(photos: Path, tmp_path: Path):
    budget, result = check_delivery(SMALL, photos, tmp_path)
    page = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    assert genotype(result.arch.cells).replace("'", "&#x27;") in page or (
        genotype(result.arch.cells) in page
    )
    named = replace(budget, arch=DARTS_V2)
    assert specialize(named, out=tmp_path / "named").arch == arch_of_genotype(SMALL, DARTS_V2)


def test_a_drawing_shows_every_edge_and_what_joins_at_the_output():
    for text in parse_genotype(MIXED):
        drawn = draw_cell(text, number=1)
        words = [w for e in drawn.iter("text") if (w := "".join(e.itertext()))]
        nodes = [f"node {n}" for n in range(2, 6)]
        assert {"input 0", "input 1", "output", *nodes} <= {*words}
        edges = text.count("~") - text.count("none~")
        classes = [e.attrib["class"] for e in drawn.iter("path")]
        assert (classes.count("flow"), classes.count("flow joined")) == (edges, 4)
        assert len(words) == 7 + edges
        boxes = [(float(e.attrib["x"]), float(e.attrib["width"])) for e in drawn.iter("rect")]
        assert all(x + w < other for (x, w), (other, _) in itertools.pairwise(boxes))


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genotype(", "a genotype must be Genotype(...), found 'Genotype('"),
        ("__import__('os').getcwd()", "a genotype must be Genotype(...), found"),
        ("(" * 9000, "a genotype must be Genotype(...), found"),
        ("Genotype(normal=[])", "a genotype must have normal, normal_concat, reduce, reduce_con"),
        (
            DARTS_V2.replace("[2, 3, 4, 5]", "print(1)", 1),
            "normal_concat of a genotype must be a list or a range, found 'print(1)'",
        ),
        (
            DARTS_V2.replace("[2, 3, 4, 5]", "[3, 4, 5]", 1),
            "normal_concat of a genotype must be all nodes, range(2, 6), found '[3, 4, 5]'",
        ),
        (
            DARTS_V2.replace("[2, 3, 4, 5]", "[2, 'a']", 1),
            "normal_concat of a genotype must be all nodes, range(2, 6), found",
        ),
        (
            DARTS_V2.replace("('sep_conv_3x3', 0)", "'sep_conv_3x3'", 1),
            "normal[0] of a genotype must be an operation and a node, found",
        ),
        (
            DARTS_V2.replace("dil_conv_3x3", "conv_7x1_1x7"),
            "normal[7] of a genotype must be an operation and a node, found \"('conv_7x1_1x7',",
        ),
        (
            DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)"),
            "normal of a genotype must have two different nodes before node 5 at it, found 0 and 0",
        ),
        (DARTS_V2.replace(", ('dil_conv_3x3', 2)", ""), "normal of a genotype must be two pairs a"),
    ],
)
def test_a_text_that_is_no_genotype_is_refused(text: str, message: str):
    with pytest.raises(EdgenasError) as caught:
        parse_genotype(text)
    assert caught.value.message.startswith(message)


def test_a_genotype_needs_a_space_that_has_its_cells():
    with pytest.raises(EdgenasError, match="needs a space with a normal and a reducing cell"):
        arch_of_genotype(load_space("nas-bench-201"), DARTS_V2)
    few = replace(SMALL, cells=(replace(SMALL.cells[0], operations=("none", "skip_connect")),) * 2)
    with pytest.raises(EdgenasError, match=r"cells\[0\].edges\[0\] must be one of none, skip_conn"):
        arch_of_genotype(few, DARTS_V2)
    arch = SMALL.largest()
    other = arch.cells[0].replace("~1|+", "~2|+", 1)
    with pytest.raises(EdgenasError, match="a cell must read like"):
        SMALL.check(replace(arch, cells=(other, other)))
    chained = "+".join(["|none~0|none~1|", "|none~0|none~1|none~2|", "|none~0|", "|none~0|none~1|"])
    with pytest.raises(EdgenasError) as caught:
        SMALL.check(replace(arch, cells=(chained, chained)))
    assert caught.value.message == (
        "cells[0].nodes[1] must take two of the nodes 0 to 2 in space small-darts, found 0, 1, 2"
    )


STEM = StageSpace(kind="conv", widths=(12,))
CELL = CellSpace(operations=("skip_connect",), nodes=2, family="darts")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (({"widths": (8,)},), "stages[0] must not be a cell of DARTS, which takes the blocks befo"),
        ((STEM, {"widths": (6,)}), "stages[1].widths must be a multiple of 4 in a cell of DARTS"),
        ((STEM, {"widths": (8,), "stride": 3}), "stages[1].stride must be 1 or 2 in a cell of D"),
        ((STEM, {"widths": (8,), "depths": (1, 2)}), "stages[1] must have one width, one depth"),
        (
            (replace(STEM, depths=(1, 2)), {"widths": (8,)}),
            "stages[0] must be a conv or a cell of DARTS without choices, and without pool, before",
        ),
        (
            (replace(STEM, kind="mbconv"), {"widths": (8,)}),
            "stages[0] must be a conv or a cell of DARTS without choices, and without pool, before",
        ),
        (
            (STEM, {"widths": (8,), "stride": 2}, {"widths": (8,), "stride": 2}),
            "resolutions must give even sizes where a cell of DARTS reduces, found 9x9 before "
            "stages[2] at 18",
        ),
        (
            (STEM, replace(STEM, stride=3), {"widths": (8,)}),
            "stages[2] must take images of the size of its cells, or of twice that, in a cell of "
            "DARTS, found 18x18 for 6x6 at the resolution 18",
        ),
    ],
)
def test_an_illegal_space_of_darts_is_refused(stages: tuple, message: str):
    made = [s if isinstance(s, StageSpace) else StageSpace(kind="cell", **s) for s in stages]
    with pytest.raises(EdgenasError) as caught:
        Space(name="x", resolutions=(18,), cells=(CELL,), stages=tuple(made))
    assert caught.value.message.startswith(message)


def test_every_layer_of_a_plan_has_a_place_of_its_own():
    names = [name for name, _ in plan(SMALL, SMALL.largest())]
    assert len(names) == len(set(names))
    assert {n.rsplit(".")[-1] for n in names} >= {
        "input0",
        "input1",
        "edge2from0",
        "output",
        "head",
    }
