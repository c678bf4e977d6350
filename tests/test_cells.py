"""Cells: the space of NAS-Bench-201, from text to a verified bundle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import check_delivery
from test_blocks import MIXED
from test_export import PREPROCESSING, trained
from test_plan import filled
from test_supernet import check_parity
from torch import Tensor, nn

from edgenas.basics.errors import EdgenasError
from edgenas.model.export import count, parity, to_onnx
from edgenas.model.network import Network
from edgenas.pages.cell import draw_cell
from edgenas.space.arch import CELL, Arch
from edgenas.space.cells import CellSpace, cell_text, parse_cell
from edgenas.space.cost import macs_table, params_table, peak_table, total
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan
from edgenas.space.presets import load_space, space_from_json, space_to_json
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

NB201 = load_space("nas-bench-201")
TEXT = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
SMALL = Space(
    name="small-cells",
    resolutions=(12, 16),
    stages=(
        StageSpace(kind="conv", widths=(8,), activation="none"),
        StageSpace(kind="cell", widths=(8,), depths=(2,)),
        StageSpace(kind="basic", widths=(16,), stride=2),
        StageSpace(kind="cell", widths=(16,)),
    ),
    cells=(
        CellSpace(
            operations=("none", "skip_connect", "max_pool_3x3", "nor_conv_3x3"),
            nodes=2,
        ),
    ),
    head_norm=True,
    activation="relu",
    classes=3,
)


def arch_of(text: str, space: Space = NB201) -> Arch:
    largest = space.largest()
    return Arch(largest.resolution, largest.stages, (text,))


# Text, rows, counts


def test_a_cell_comes_back_from_its_text():
    nodes = parse_cell(TEXT)
    assert nodes == (
        (("nor_conv_3x3", 0),),
        (("nor_conv_3x3", 0), ("avg_pool_3x3", 1)),
        (("skip_connect", 0), ("nor_conv_1x1", 1), ("none", 2)),
    )
    assert cell_text(nodes) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0",
        "|none~1|",
        "|none~-1|",
        "|gone~0|",
        "|none~0|none~0|",
        "|none~0|+|none~1|none~0|",
    ],
)
def test_a_text_that_is_no_cell_is_refused(text: str):
    with pytest.raises(EdgenasError, match=r"a cell must read like \|skip_connect~0\|"):
        parse_cell(text)


def test_archs_of_cells_round_trip():
    arch = arch_of(TEXT)
    assert str(arch).startswith(f"r32 {TEXT} 16[3x1] 16[cell cell cell cell cell] 32[3x1]")
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    assert NB201.decode(NB201.encode([arch])) == [arch]
    rows = NB201.sample(50, rng=np.random.default_rng(0))
    assert (NB201.encode(NB201.decode(rows)) == rows).all()
    assert len({a.id for a in NB201.decode(rows)}) == len(np.unique(rows, axis=0))
    for space in (NB201, SMALL):
        assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


def test_all_15625_cells_have_the_published_macs(shared_data: Path):
    with np.load(shared_data / "nas_benchmarks" / "nb201.npz", allow_pickle=False) as found:
        cells, macs = found["cells"], found["macs_cifar"]
        assert tuple(found["op_names"]) == NB201.cells[0].operations
    rows = (cells + 1).astype(np.uint8)
    assert NB201.size == len(rows) == len(np.unique(rows, axis=0))
    assert (macs_table(NB201)(rows) == macs).all()


def test_the_largest_network_has_the_heaviest_operations():
    for arch, name in ((NB201.largest(), "nor_conv_3x3"), (NB201.smallest(), "skip_connect")):
        assert NB201.cells[0].values(arch.cells[0]) == (name,) * 6
    assert total(NB201, NB201.largest()).params == 1_531_546


def test_tables_and_slots_agree_with_the_walk():
    rows = SMALL.sample(40, rng=np.random.default_rng(1))
    known = set(layers(SMALL))
    for row, arch in zip(rows, SMALL.decode(rows), strict=True):
        assert filled(SMALL, row) == list(plan(SMALL, arch))
        assert {layer for _, layer in plan(SMALL, arch)} <= known
        costs = total(SMALL, arch)
        assert macs_table(SMALL)(row[None]) == costs.macs
        assert params_table(SMALL)(row[None]) == costs.params
        assert peak_table(SMALL)(row[None]) == costs.peak
    for layer in known:
        assert Layer.parse(str(layer)) == layer


# Networks


def by_hand(network: Network, x: Tensor) -> Tensor:
    """The output of the cell of stage 1, block 0 by the definition of the benchmark."""
    (text,) = network.arch.cells
    cell, nodes = network.get_submodule("stages.1.0"), [x]
    for n, part in enumerate(text.split("+"), 1):
        y = torch.zeros_like(x)
        for operation in part.strip("|").split("|"):
            name, source = operation.split("~")
            taken = nodes[int(source)]
            if name == "skip_connect":
                y = y + taken
            elif name == "avg_pool_3x3":
                y = y + nn.functional.avg_pool2d(taken, 3, 1, 1, count_include_pad=False)
            elif name == "max_pool_3x3":
                y = y + nn.functional.max_pool2d(taken, 3, 1, 1)
            elif name != "none":
                unit = cell.get_submodule(f"edge{n}from{source}.unit")
                conv, bn = unit.get_submodule("conv"), unit.get_submodule("bn")
                y = y + bn(conv(torch.relu(taken)))
        nodes.append(y)
    return nodes[-1]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "|none~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|",
    ],
)
def test_a_cell_computes_the_sums_of_its_operations(text: str):
    network = trained(NB201, arch_of(text), seed=0).double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    taken: list[Tensor] = []
    second = [s for s in plan(NB201, network.arch) if s[0].startswith("stages.1.1.")]
    with torch.no_grad():
        wanted = by_hand(network, network.get_submodule("stages.0.0")(images))
        if second:  # the first layer of the next cell takes what the first cell gives
            module = network.get_submodule(second[0][0])
            module.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        network(images)
    for value in taken:
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)


def test_a_supernet_of_cells_equals_its_networks():
    check_parity(SMALL, seed=1, n=6)


@pytest.mark.parametrize("seed", range(3))
def test_the_file_computes_what_the_network_of_cells_computes(seed: int):
    rows = SMALL.sample(1, rng=np.random.default_rng(seed))
    for arch in (*SMALL.decode(rows), SMALL.largest()):
        network = trained(SMALL, arch, seed=seed)
        size = SMALL.input_size(arch.resolution)
        images = torch.randn(4, 3, *size)
        file = to_onnx(network, preprocessing=PREPROCESSING)
        parity(network, file, images=images).require()
        counted, costs = count(file), total(SMALL, arch)
        assert (counted.macs, counted.weights) == (costs.macs, costs.weights)
        assert sum(p.numel() for p in network.parameters()) == costs.params


@pytest.mark.slow
@pytest.mark.parametrize("space", [SMALL, replace(MIXED, classes=3)], ids=lambda space: space.name)
def test_a_network_of_cells_or_listed_blocks_is_delivered_and_kept(
    space: Space, photos: Path, tmp_path: Path
):
    check_delivery(space, photos, tmp_path)


def test_a_drawing_shows_every_edge_with_its_operation():
    drawn = draw_cell(TEXT, number=0)
    words = [text for e in drawn.iter("text") if (text := "".join(e.itertext()))]
    assert sorted(words) == sorted(
        [name for terms in parse_cell(TEXT) for name, _ in terms if name != "none"]
        + ["input", "node 1", "node 2", "output"]
    )
    assert len([e for e in drawn.iter("path") if e.attrib["class"] == "flow"]) == 5


# Mistakes


@pytest.mark.parametrize(
    ("cells", "stage", "message"),
    [
        ((), {}, "cells must be those that stages use, [0], found 0"),
        (
            (CellSpace(operations=("conv",), nodes=2),),
            {},
            "cells[0].operations must be of none, skip_connect, max_pool_3x3, avg_pool_3x3, ",
        ),
        (
            (CellSpace(operations=("none", "none"), nodes=2),),
            {},
            "cells[0].operations must be listed once each, found ['none', 'none']",
        ),
        (
            SMALL.cells,
            {"depths": (1, 2)},
            "stages[0] must have one width, one depth and the cell alone, in a cell",
        ),
        (
            SMALL.cells,
            {"widths": (16,)},
            "stages[0].widths must be those of its input in a cell, (3,), found (16,)",
        ),
    ],
)
def test_an_illegal_space_of_cells_is_refused(cells: tuple, stage: dict, message: str):
    fields = {"kind": "cell", "widths": (3,), **stage}
    with pytest.raises(EdgenasError) as caught:
        Space(name="x", resolutions=(16,), cells=cells, stages=(StageSpace(**fields),))
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ((), "cells must be 1 in space nas-bench-201, found 0"),
        (("|none~0|",), "cells[0] must have 6 edges in space nas-bench-201, found 1"),
        (
            ("|none~0|none~1|+|none~0|none~1|+|none~0|none~1|",),
            "cells[0].nodes[0] must take the nodes 0 to 0 in space nas-bench-201, found 0, 1",
        ),
        (
            (TEXT.replace("none~2", "max_pool_3x3~2"),),
            "cells[0].edges[5] must be one of none, skip_connect, nor_conv_1x1, nor_conv_3x3, "
            "avg_pool_3x3 in space nas-bench-201, found max_pool_3x3",
        ),
    ],
)
def test_a_cell_of_another_space_is_refused(cells: tuple, message: str):
    with pytest.raises(EdgenasError) as caught:
        NB201.check(Arch(32, NB201.largest().stages, cells))
    assert caught.value.message == message


def test_a_cell_stands_alone_in_its_stage():
    assert NB201.stages[1].options == (CELL,)
