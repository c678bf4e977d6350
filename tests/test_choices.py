"""Activation and squeeze as choices: blocks that name their own, and the space that has them."""

import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from test_export import trained
from test_supernet import randomised
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.model.export import parity, run_onnx, to_onnx
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.pages.network import draw_network
from edgenas.space.arch import Arch, Block
from edgenas.space.cost import compile_tables, total
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan
from edgenas.space.presets import PRESETS, load_space, mbv3_choices, space_to_json
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.run import search

SPACE = mbv3_choices()
PREPROCESSING = {"stored": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
STRIDES = (1, 2, 1, 2, 2)  # of the stages of the space
OLD = (
    *("tiny", "mbv3-cifar", "mbv3-photo", "ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50"),
    *("nas-bench-macro", "nas-bench-201", "lite-photo", "lite0", "mobilenet_v3_small"),
    *("efficientnet_b0", "mnasnet1_0", "hardcorenas_f"),
)


def some_archs(n: int, *, space: Space = SPACE, seed: int = 0) -> list[Arch]:
    rows = space.sample(n, rng=np.random.default_rng(seed), by="gene")
    return [space.largest(), space.smallest(), *space.decode(rows)]


# Values, texts and files


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("3x4-relu6", Block(3, 4.0, activation="relu6")),
        ("3x4-relu6-se0", Block(3, 4.0, activation="relu6", squeeze=0)),
        ("5x2.5-se4", Block(5, 2.5, squeeze=4)),
        ("fused:3x4-silu", Block(3, 4.0, "fused", activation="silu")),
        ("conv:3x1-none", Block(3, 1.0, "conv", activation="none")),
        ("uib:5+3x4-relu", Block(3, 4.0, "uib", 5, "relu")),
    ],
)
def test_a_block_with_choices_of_its_own_comes_back_from_its_text(text: str, block: Block):
    assert Block.parse(text) == block
    assert str(block) == text


@pytest.mark.parametrize(
    "text", ["3x4-gelu", "3x4-se", "3x4-", "3x4-se4-relu6", "3x4-se4000", "none-relu", "3x4relu"]
)
def test_a_text_with_another_choice_is_refused(text: str):
    with pytest.raises(EdgenasError) as caught:
        Block.parse(text)
    assert caught.value.message == (
        f"a block must read like 3x4, fused:3x4, uib:5+3x4, 3x4-relu6-se0 or none, found {text!r}"
    )


def test_archs_come_back_from_rows_and_from_json():
    archs = some_archs(20)
    assert SPACE.decode(SPACE.encode(archs)) == archs
    for arch in archs:
        assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    assert archs[1].to_json()["stages"][2]["blocks"] == [
        {"kernel": 3, "expand": 2.0, "activation": "relu6"}
    ]
    assert archs[0].to_json()["stages"][4]["blocks"][0] == {
        "kernel": 5,
        "expand": 4.0,
        "activation": "hswish",
        "squeeze": 4,
    }
    assert (
        str(archs[1]) == "r24 16[3x1] 24[3x1] 24[3x2-relu6] 48[3x2-relu6 3x2-relu6] 80[3x2-relu6]"
    )


def test_a_file_with_an_unknown_activation_is_refused():
    value = SPACE.smallest().to_json()
    value["stages"][2]["blocks"][0]["activation"] = "gelu"
    with pytest.raises(EdgenasError, match=r"stages\[2\].blocks\[0\].activation must be"):
        Arch.from_json(value)


def test_no_network_of_it_is_a_network_of_another_space():
    for arch in some_archs(5):
        assert [name for name, make in PRESETS.items() if make().contains(arch)] == ["mbv3-choices"]


def test_what_is_as_in_the_stage_goes_without_saying():
    stage = StageSpace(
        kind="mbconv",
        widths=(16,),
        activation="hswish",
        squeeze=4,
        blocks=("mbconv:3x2-hswish-se4", "3x2-relu6", "3x2-se0", "fused:3x2-hswish"),
    )
    assert [*map(str, stage.options)] == ["3x2", "3x2-relu6", "3x2-se0", "fused:3x2"]
    with pytest.raises(EdgenasError, match=r"blocks must be listed once each, found \['3x2', "):
        Space(
            name="twice",
            resolutions=(16,),
            inputs=16,
            stages=(replace(stage, blocks=("3x2", "3x2-se4")),),
        )


@pytest.mark.parametrize(
    ("blocks", "fields", "message"),
    [
        (("3x2-none",), {}, "blocks[0] must have an activation outside conv, found 3x2-none"),
        (
            ("3x2", "fused:3x2-se4"),
            {"squeeze": 4},
            "blocks[1] must name a squeeze in mbconv alone, found fused:3x2-se4",
        ),
        (
            ("3x2-se4", "3x2-se5"),
            {},
            "blocks must give different channels inside the squeeze, found 4, 5 of 16 giving 8, 8",
        ),
        (
            ("3x2-se20", "3x2-se30"),
            {"squeeze_of": "inputs"},
            "blocks must give different channels inside the squeeze, "
            "found 20, 30 of 16 giving 1, 1",
        ),
        (
            ("3x2-relu", "3x2.1-relu6"),
            {},
            "blocks must give different middle channels, found 2, 2.1 of 16 giving 32, 32",
        ),
        (
            ("none", "conv:1x1-none"),
            {},
            "blocks[1] must have an activation beside none, found conv:1x1-none",
        ),
    ],
)
def test_blocks_that_break_a_rule_are_refused(blocks: tuple[str, ...], fields: dict, message: str):
    stage = StageSpace(kind="mbconv", widths=(16,), blocks=blocks, **fields)
    with pytest.raises(EdgenasError) as caught:
        Space(name="wrong", resolutions=(16,), inputs=16, stages=(stage,))
    assert caught.value.message == f"stages[0].{message}"


def test_spaces_of_before_keep_their_digests_keys_and_ids():
    # Histories and caches are found by the first text, weights by the second, tables by the keys.
    # The digest is of these spaces together, as they were before blocks could name an activation.
    made = hashlib.sha256()
    for name in OLD:
        space = load_space(name)
        keys = " ".join(map(str, layers(space)))
        texts = repr(space), json.dumps(space_to_json(space), sort_keys=True), keys
        for text in (*texts, space.largest().id, space.smallest().id):
            made.update(text.encode())
    assert made.hexdigest()[:16] == "4c7e5c92a40c5dee"


# Networks


def run_by_hand(text: str, tensors: dict[str, Tensor], x: Tensor) -> tuple[Tensor, int, int]:
    """What a network of the space computes, written anew from the text of its arch.

    Returns:
        The logits of one image, the number of products on the way, and that of parameters.
    """
    read: dict[str, int] = {}
    products: list[int] = []

    def take(name: str, *shape: int) -> Tensor:
        tensor = tensors[name][tuple(map(slice, shape))]
        read[name] = tensor.numel()
        return tensor

    def multiply(x: Tensor, name: str, outputs: int) -> Tensor:
        weight = take(f"{name}.weight", outputs, x.shape[1]).flatten(1)
        products.append(weight.numel())
        return x @ weight.T + take(f"{name}.bias", outputs)

    def conv(x: Tensor, name: str, outputs: int, *, kernel: int = 1, stride: int = 1) -> Tensor:
        depthwise = name.endswith("depthwise")
        weight = tensors[f"{name}.conv.weight"][:outputs, : 1 if depthwise else x.shape[1]]
        if kernel < weight.shape[-1]:
            matrix = tensors[f"{name.removesuffix('.depthwise')}.kernel_5to3"]
            inner = weight[:, :, 1:4, 1:4].flatten(2)
            weight = torch.einsum("oik,lk->oil", inner, matrix).unflatten(2, (3, 3))
        read[name] = weight.numel()
        groups = outputs if depthwise else 1
        x = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
        products.append(weight.numel() * x.shape[2] * x.shape[3])
        mean, variance = (tensors[f"{name}.bn.running_{n}"][:outputs] for n in ("mean", "var"))
        scale, shift = (take(f"{name}.bn.{n}", outputs) for n in ("weight", "bias"))
        rows = (x.movedim(1, -1) - mean) / (variance + 1e-5).sqrt() * scale + shift
        return rows.movedim(-1, 1)

    functions = {
        "relu6": lambda x: x.clamp(0, 6),
        "hswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    }
    stages = [(int(w), b.split()) for w, b in re.findall(r"(\d+)\[([^\]]+)\]", text)]
    x = functions["relu6"](conv(x, "stages.0.0.unit", 16, kernel=3))
    for i, (width, blocks) in enumerate(stages[1:], 1):
        for j, block in enumerate(blocks):
            name, inputs, taken = f"stages.{i}.{j}", x.shape[1], x
            parts = block.split("-")
            kernel, expand = map(int, parts[0].split("x"))
            act, mid = functions[parts[1] if len(parts) > 1 else "relu6"], inputs * expand
            stride = STRIDES[i] if j == 0 else 1
            if expand > 1:
                x = act(conv(x, f"{name}.expand", mid))
            x = act(conv(x, f"{name}.depthwise", mid, kernel=kernel, stride=stride))
            if parts[-1] == "se4":
                inside = (mid // 4 + 4) // 8 * 8
                y = multiply(x.mean((2, 3)), f"{name}.squeeze.reduce", inside).clamp(min=0)
                gate = (multiply(y, f"{name}.squeeze.expand", mid) + 3).clamp(0, 6) / 6
                x = x * gate[:, :, None, None]
            x = conv(x, f"{name}.project", width)
            if stride == 1 and inputs == width:
                x = x + taken
    x = functions["relu6"](conv(x, "head.final", 320)).mean((2, 3))
    return multiply(x, "head.classifier", 10), sum(products), sum(read.values())


def test_networks_compute_what_a_module_written_anew_computes():
    supernet = randomised(SPACE, seed=5).double().eval()
    tensors = supernet.state_dict()
    generator = torch.Generator().manual_seed(0)
    for arch in some_archs(2):
        size = arch.resolution
        x = torch.randn(1, 3, size, size, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            wanted, macs, params = run_by_hand(str(arch), tensors, x)
            found, plain = supernet(x, arch), supernet.extract(arch)(x)
        bound = 1e-9 * float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=bound)
        torch.testing.assert_close(plain, wanted, rtol=1e-9, atol=bound)
        costs = total(SPACE, arch)
        assert (costs.macs, costs.params) == (macs, params)
        assert costs.params == sum(p.numel() for p in Network(SPACE, arch).parameters())


def choose(texts: tuple[str, ...]) -> Arch:
    """The smallest network with given blocks in its last stage but one."""
    arch = SPACE.smallest()
    stage = replace(arch.stages[3], blocks=tuple(map(Block.parse, texts)))
    return replace(arch, stages=(*arch.stages[:3], stage, arch.stages[4]))


def test_blocks_that_differ_in_activation_or_squeeze_share_the_weights_of_their_convs():
    supernet = Supernet(SPACE)
    kinds = ("relu6", "hswish", "relu6-se4", "hswish-se4")
    every = [plan(SPACE, choose((f"5x4-{kind}",) * 2))[4] for kind in kinds]
    slices = [supernet.slice(name, layer) for name, layer in every]
    for tensors, other in itertools.pairwise(slices):
        for key in ("expand.conv.weight", "depthwise.conv.weight", "project.bn.bias"):
            assert tensors[key].data_ptr() == other[key].data_ptr()
    assert ["squeeze.reduce.weight" in t for t in slices] == [False, False, True, True]
    inside = "squeeze.reduce.weight"
    assert slices[2][inside].data_ptr() == slices[3][inside].data_ptr()
    assert len({str(layer) for _, layer in every}) == 4  # each has times of its own


def test_a_step_of_training_reaches_a_squeeze_only_where_the_network_has_one():
    for texts, wanted in ((("3x2-hswish",) * 2, False), (("3x2-hswish-se4",) * 2, True)):
        supernet = Supernet(SPACE)
        supernet(torch.randn(4, 3, 24, 24), choose(texts)).square().sum().backward()
        weight = supernet.get_parameter("stages.3.1.squeeze.expand.weight")
        assert (weight.grad is not None and bool(weight.grad.any())) is wanted
        conv = supernet.get_parameter("stages.3.1.depthwise.conv.weight").grad
        assert conv is not None
        assert conv.any()


# What ships


def test_the_file_that_ships_has_the_chosen_operators_and_gives_the_answers():
    generator = torch.Generator().manual_seed(1)
    for arch in some_archs(2, seed=3):
        network = trained(SPACE, arch, seed=2)
        data = to_onnx(network, preprocessing=PREPROCESSING)
        shape = (3, 3, arch.resolution, arch.resolution)
        parity(network, data, images=torch.randn(shape, generator=generator)).require()
        found = Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
        chosen = [block for stage in arch.stages for block in stage.blocks]
        assert found["HardSwish"] == 2 * sum(b.activation == "hswish" for b in chosen)
        assert found["GlobalAveragePool"] == 1 + sum(b.squeeze == 4 for b in chosen)


def test_integers_of_relu6_alone_need_no_float_between_the_ends():
    x = np.random.default_rng(0).standard_normal((8, 3, 24, 24)).astype(np.float32)
    graph = network_graph(SPACE, SPACE.smallest(), batch=8)
    made = convert_to_form(graph, form="int8-unsigned", images=x)
    nodes = onnx.load_from_string(made).graph.node
    writers = {output: node.op_type for node in nodes for output in node.output}
    # Every operator but the first quantisation reads integers: no activation stands in between.
    assert {"HardSwish", "HardSigmoid", "Mul"}.isdisjoint(node.op_type for node in nodes)
    read = {writers[name] for n in nodes if n.op_type == "Conv" for name in n.input[:2]}
    assert read == {"DequantizeLinear"}
    exact, rounded = run_onnx(graph, x), run_onnx(made, x)
    assert np.square(rounded - exact).mean() < 0.01 * exact.var()


# What a search does with it


def seconds_of(layer: Layer, *, swish: float, pool: float) -> float:
    """A device whose integers are quick, where a hard swish or a squeeze costs so much more."""
    seconds = 0.0
    for part in primitives(layer):
        seconds += 1e-10 * part.macs + 1e-6
        seconds += swish * (part.activation == "hswish") + pool * (part.op == "globalpool")
    return seconds


def worth_of(layer: Layer) -> float:
    """More MACs, a hard swish and a squeeze each make a network better."""
    macs = sum(part.macs for part in primitives(layer))
    return macs / 1e6 + 0.05 * (layer.activation == "hswish") + 0.05 * (layer.squeeze > 0)


@pytest.mark.parametrize(("swish", "pool"), [(1e-3, 0.0), (0.0, 1e-3), (1e-3, 1e-3)])
def test_a_search_leaves_out_what_does_not_pay_on_the_device(swish: float, pool: float):
    costs = compile_tables(SPACE, lambda layer: seconds_of(layer, swish=swish, pool=pool))
    limit = Limit(constraint=parse_constraint("latency<=2ms"), values=costs)
    worth = compile_tables(SPACE, worth_of)
    best = search(SPACE, maximize=worth, subject_to=[limit], evaluations=4000).best.arch
    blocks = [block for stage in best.stages[2:] for block in stage.blocks]
    assert any(b.activation == "hswish" for b in blocks) is (swish == 0)
    assert any(b.squeeze == 4 for b in blocks) is (pool == 0)


def test_a_drawing_shows_what_a_block_has_of_its_own():
    drawn = draw_network(SPACE, SPACE.largest(), seconds={})
    words = ["".join(element.itertext()) for element in drawn.iter()]
    assert {"5x5", "5x5 se", "e4 hswish"} <= set(words)
    assert any("24 over 96 to 24, hswish and shortcut" in text for text in words)
    stage = StageSpace(kind="mbconv", widths=(16,), squeeze=4, blocks=("3x2-se0", "3x2"))
    space = Space(name="less", resolutions=(16,), inputs=16, stages=(stage,))
    texts = {
        "".join(e.itertext()) for e in draw_network(space, space.smallest(), seconds={}).iter()
    }
    assert "3x3 no se" in texts
