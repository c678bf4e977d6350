"""Blocks that are a choice: whole blocks in a list, and the kinds fused, uib and rep."""

import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_backbones import randomise
from test_supernet import check_parity
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgenas.basics.errors import EdgenasError
from edgenas.model.blocks import Reparameterised, UniversalBottleneck
from edgenas.model.folding import merge
from edgenas.model.network import Network, build
from edgenas.model.supernet import Supernet
from edgenas.pages.network import draw_network
from edgenas.space.arch import NOTHING, Arch, Block, Stage
from edgenas.space.cost import macs_table, params_table, total
from edgenas.space.layer import Layer
from edgenas.space.narrow import narrow_tables
from edgenas.space.plan import plan
from edgenas.space.presets import load_space
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

MIXED = Space(
    name="mixed",
    resolutions=(16,),
    stages=(
        StageSpace(kind="rep", widths=(16,), stride=2),
        StageSpace(
            kind="mbconv",
            widths=(24,),
            depths=(3,),
            blocks=("none", "3x2", "5x3", "fused:3x2", "uib:0x2", "uib:3x3", "uib:5+3x2"),
        ),
    ),
    final=32,
    mix=24,
    mix_norm=True,
)

# Text forms, and NAS-Bench-Macro


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("3x4", Block(3, 4.0)),
        ("5x2.5", Block(5, 2.5)),
        ("fused:3x4", Block(3, 4.0, "fused")),
        ("uib:5+3x4", Block(3, 4.0, "uib", 5)),
        ("uib:3+0x4", Block(0, 4.0, "uib", 3)),
        ("uib:0x4", Block(0, 4.0, "uib")),
        ("none", NOTHING),
    ],
)
def test_a_block_comes_back_from_its_text(text: str, block: Block):
    assert Block.parse(text) == block
    assert str(block) == text


@pytest.mark.parametrize("text", ["", "3", "3x", "x4", "none:3x4", "3x0", "vit:3x4", "3x-1"])
def test_a_text_that_is_no_block_is_refused(text: str):
    with pytest.raises(EdgenasError, match="a block must read like 3x4, fused:3x4, uib:5"):
        Block.parse(text)


def test_archs_say_which_block_stands_where():
    blocks = tuple(MIXED.stages[1].options[i] for i in (6, 0, 3))
    arch = Arch(16, (Stage(16, (Block(3, 1.0),)), Stage(24, blocks)))
    MIXED.check(arch)
    assert str(arch) == "r16 16[3x1] 24[uib:5+3x2 none fused:3x2]"
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    assert arch.to_json()["stages"][1]["blocks"][2] == {
        "kernel": 3,
        "expand": 2.0,
        "kind": "fused",
    }
    assert [name for name, _ in plan(MIXED, arch)] == [
        "stages.0.0",
        "stages.1.0",
        "stages.1.2",
        "head",
    ]


def test_old_archs_keep_their_json_and_their_id():
    arch = Arch(32, (Stage(24, (Block(3, 4.0),)),))
    assert arch.to_json()["stages"] == [{"width": 24, "blocks": [{"kernel": 3, "expand": 4.0}]}]
    assert arch.id == "f91277bc0a"


def test_a_block_that_is_not_listed_is_refused():
    arch = MIXED.largest()
    stages = (arch.stages[0], replace(arch.stages[1], blocks=(Block(7, 4.0, "fused"),) * 3))
    with pytest.raises(EdgenasError) as caught:
        MIXED.check(replace(arch, stages=stages))
    assert caught.value.message == (
        "stages[1].blocks[0] must be one of none, 3x2, 5x3, fused:3x2, uib:0x2, uib:3x3, uib:5+3x2 "
        "in space mixed, found fused:7x4"
    )


def test_smallest_and_largest_take_the_first_and_the_last_of_the_list():
    assert MIXED.smallest().stages[1].blocks == (NOTHING,) * 3
    assert set(MIXED.largest().stages[1].blocks) == {Block(3, 2.0, "uib", 5)}


def test_all_6561_networks_of_nas_bench_macro_have_the_published_size(shared_data: Path):
    with lzma.open(shared_data / "nas_benchmarks" / "macro.json.xz") as file:
        published = json.load(file)
    space = load_space("nas-bench-macro")
    assert space.size == len(published) == 6561
    rows = np.array([[1 + int(digit) for digit in key] for key in published], np.uint8)
    assert macs_table(space)(rows).tolist() == [entry["flops"] for entry in published.values()]
    assert params_table(space)(rows).tolist() == [entry["params"] for entry in published.values()]


def test_a_space_with_fewer_blocks_reads_the_tables_of_the_whole():
    narrow = MIXED.restrict(kernel=[3])
    assert narrow.stages[1].blocks == ("none", "3x2", "fused:3x2", "uib:3x3", "uib:5+3x2")
    rows = narrow.sample(20, rng=np.random.default_rng(0))
    taken = narrow_tables(macs_table(MIXED), space=MIXED, narrow=narrow)
    assert taken(rows).tolist() == macs_table(narrow)(rows).tolist()
    assert MIXED.restrict(expand=[4]).stages[1].blocks == ("none",)
    without = replace(MIXED, stages=(replace(MIXED.stages[1], blocks=("3x2", "5x3")),), inputs=16)
    with pytest.raises(EdgenasError, match=r"stages\[0\].blocks must keep one of 3x2, 5x3"):
        without.restrict(expand=[4])


# Modules


def test_a_supernet_of_all_kinds_equals_its_networks():
    check_parity(MIXED, seed=3, n=2)


def test_the_four_forms_of_a_universal_bottleneck_share_their_weights():
    blocks = ("0x2", "3x2", "5+0x2", "3+3x2", "5+5x2")
    stage = StageSpace(kind="uib", widths=(16,), blocks=blocks)
    space = Space(name="forms", resolutions=(8,), inputs=16, stages=(stage,))
    supernet = Supernet(space)
    block = supernet.get_submodule("stages.0.0")
    assert isinstance(block, UniversalBottleneck)
    slices: list[dict[str, Tensor]] = []
    for option in space.stages[0].options:
        ((name, layer), _) = plan(space, Arch(8, (Stage(16, (option,)),)))
        slices.append(supernet.slice(name, layer))
    for tensors in slices:
        for unit in ("expand", "project"):
            one = tensors[f"{unit}.conv.weight"]
            assert one.data_ptr() == block.get_parameter(f"{unit}.conv.weight").data_ptr()
    has = [("start.conv.weight" in t, "depthwise.conv.weight" in t) for t in slices]
    assert has == [(False, False), (False, True), (True, False), (True, True), (True, True)]
    centre = block.get_parameter("start.conv.weight")[:, :, 1:4, 1:4]
    torch.testing.assert_close(slices[3]["start.conv.weight"], centre)
    assert isinstance(block.get_parameter("kernel_start_5to3"), nn.Parameter)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_branches_of_a_block_are_one_conv(stride: int, padding: str):
    layer = Layer(
        kind="rep",
        inputs=6,
        outputs=6,
        size=12,
        kernel=5,
        stride=stride,
        residual=stride == 1,
        padding=padding,
    )
    block = build(layer, epsilon=1e-3)
    randomise(block, seed=1).double()
    assert isinstance(block, Reparameterised)
    assert (block.through is not None) is (stride == 1)
    images = torch.randn(2, 6, 12, 12, dtype=torch.float64)
    weight, bias = merge(block)
    top = block.main.corner[0]
    padded = nn.functional.pad(images, (top, 4 - top, top, 4 - top))
    merged = torch.relu(nn.functional.conv2d(padded, weight, bias, stride))
    with torch.no_grad():
        torch.testing.assert_close(block(images), merged, rtol=1e-10, atol=1e-10)


def test_a_drawing_shows_what_each_block_is():
    arch = replace(MIXED.largest())
    blocks = tuple(MIXED.stages[1].options[i] for i in (6, 3, 0))
    arch = replace(arch, stages=(arch.stages[0], replace(arch.stages[1], blocks=blocks)))
    drawn = draw_network(MIXED, arch, seconds={"stages.1.0": 1e-3, "head": 2e-3})
    words = ["".join(element.itertext()) for element in drawn.iter()]
    assert {"5+3", "uib e2", "fused e2", "24 x 8 x 8"} <= set(words)
    assert any("1.0 uib 5+3, 16 over 32 to 24" in text for text in words)


# Published networks of these kinds

Rows = tuple[tuple[str, int, int, tuple[str, ...]], ...]  # kind, width, stride, blocks

EFFICIENTNET_V2_S: Rows = (
    ("conv", 24, 2, ("3x1",)),
    ("fused", 24, 1, ("3x1",) * 2),
    ("fused", 48, 2, ("3x4",) * 4),
    ("fused", 64, 2, ("3x4",) * 4),
    ("mbconv", 128, 2, ("3x4",) * 6),
    ("mbconv", 160, 1, ("3x6",) * 9),
    ("mbconv", 256, 2, ("3x6",) * 15),
)
MOBILENET_V4_SMALL: Rows = (
    ("conv", 32, 2, ("3x1",)),
    ("conv", 32, 2, ("3x1",)),
    ("conv", 32, 1, ("1x1",)),
    ("conv", 96, 2, ("3x1",)),
    ("conv", 64, 1, ("1x1",)),
    ("uib", 96, 2, ("5+5x3",)),
    ("uib", 96, 1, ("3x2", "3x2", "3x2", "3x2", "3+0x4")),
    ("uib", 128, 2, ("3+3x6",)),
    ("uib", 128, 1, ("5+5x4", "5x4", "5x3", "3x4", "3x4")),
)
MOBILENET_V4_MEDIUM: Rows = (
    ("conv", 32, 2, ("3x1",)),
    ("fused", 48, 2, ("3x4",)),
    ("uib", 80, 2, ("3+5x4",)),
    ("uib", 80, 1, ("3+3x2",)),
    ("uib", 160, 2, ("3+5x6",)),
    ("uib", 160, 1, ("3+3x4", "3+3x4", "3+5x4", "3+3x4", "3+0x4", "0x2", "3+0x4")),
    ("uib", 256, 2, ("5+5x6",)),
    (
        "uib",
        256,
        1,
        ("5+5x4", "3+5x4", "3+5x4", "0x4", "3+0x4", "3+5x2", "5+5x4", "0x4", "0x4", "5+0x2"),
    ),
)


def network_of(name: str, rows: Rows, *, resolution: int, **fields: Any) -> tuple[Space, Arch]:
    """A space whose stages list the blocks of a published network, and that network."""
    squeeze = {"squeeze": 4, "squeeze_of": "inputs", "squeeze_activation": "silu"}
    squeeze["gate"] = "sigmoid"
    stages = [
        StageSpace(
            kind=kind,  # pyright: ignore[reportArgumentType]
            widths=(width,),
            depths=(len(blocks),),
            stride=stride,
            blocks=tuple(dict.fromkeys(blocks)),
            activation=fields["activation"],
            shortcut=kind != "conv",
            **(squeeze if kind == "mbconv" else {}),
        )
        for kind, width, stride, blocks in rows
    ]
    space = Space(
        name=name, resolutions=(resolution,), stages=tuple(stages), classes=1000, **fields
    )
    chosen = (Stage(width, tuple(map(Block.parse, blocks))) for _, width, _, blocks in rows)
    return space, Arch(resolution, tuple(chosen))


def copy_in_order(source: nn.Module, target: Network) -> None:
    """Copy convs, batch norms and linears in the order in which they compute."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    theirs = [m for m in source.modules() if isinstance(m, kinds)]
    parts = [*target.stages.modules(), *target.head.modules()]
    ours = [m for m in parts if isinstance(m, kinds)]
    with torch.no_grad():
        for one, other in zip(theirs, ours, strict=True):
            for name, tensor in one.state_dict().items():
                other.state_dict()[name].copy_(tensor)


def check_published(
    made: tuple[Space, Arch], make: Callable[[], nn.Module], *, params: int, pixels: int
) -> None:
    """The published size, and in float64 the answers of another library."""
    space, arch = made
    assert total(space, arch).params == params
    small = replace(space, resolutions=(pixels,))
    theirs = randomise(make(), seed=0).double()
    ours = Network(small, replace(arch, resolution=pixels)).double().eval()
    assert sum(p.numel() for p in theirs.parameters()) == params
    copy_in_order(theirs, ours)
    images = torch.randn(1, 3, pixels, pixels, dtype=torch.float64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wanted = theirs(images)
    assert total(small, ours.arch).macs == counter.get_total_flops() // 2
    with torch.no_grad():
        torch.testing.assert_close(ours(images), wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max())


def test_efficientnet_v2_s_has_its_published_size():
    fields = {"final": 1280, "activation": "silu", "epsilon": 1e-3}
    space, arch = network_of("v2-s", EFFICIENTNET_V2_S, resolution=384, **fields)
    assert total(space, arch).params == 21_458_488
    # torchvision's page says 8.37 G at 384 pixels.
    assert round(total(space, arch).macs / 1e9, 2) == 8.37


@pytest.mark.slow
def test_efficientnet_v2_s_gives_the_answers_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    fields = {"final": 1280, "activation": "silu", "epsilon": 1e-3}
    made = network_of("v2-s", EFFICIENTNET_V2_S, resolution=384, **fields)
    check_published(made, lambda: models.efficientnet_v2_s(), params=21_458_488, pixels=64)


MOBILENETS = [
    ("mobilenetv4_conv_small", MOBILENET_V4_SMALL, 3_774_024, 186_005_568),
    ("mobilenetv4_conv_medium", MOBILENET_V4_MEDIUM, 9_715_512, 827_649_984),
]


def mobilenet_v4(name: str, rows: Rows) -> tuple[Space, Arch]:
    fields = {"final": 960, "mix": 1280, "mix_norm": True, "activation": "relu"}
    return network_of(name, rows, resolution=224, **fields)


@pytest.mark.parametrize(("name", "rows", "params", "macs"), MOBILENETS)
def test_mobilenet_v4_has_its_published_size(name: str, rows: Rows, params: int, macs: int):
    space, arch = mobilenet_v4(name, rows)
    assert total(space, arch).params == params
    assert total(space, arch).macs == macs  # as torch counts timm's network


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows", "params", "macs"), MOBILENETS)
def test_mobilenet_v4_gives_the_answers_of_timm(name: str, rows: Rows, params: int, macs: int):
    timm = pytest.importorskip("timm")
    made = mobilenet_v4(name, rows)
    check_published(made, lambda: timm.create_model(name), params=params, pixels=64)
