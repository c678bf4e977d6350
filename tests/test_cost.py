"""Costs against independent counters: torch's FLOP counter, the modules, a liveness simulation."""

import operator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from strategies import archs_of, rows_of, seeds, spaces
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils.flop_counter import FlopCounterMode

from edgenas.model.blocks import Reparameterised
from edgenas.model.network import Network
from edgenas.space import cost
from edgenas.space.arch import Arch
from edgenas.space.layer import Layer
from edgenas.space.presets import PRESETS, load_space, tiny
from edgenas.space.space import Space

IN_PLACE = (
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Identity,
)


def counted(space: Space, arch: Arch) -> cost.Cost:
    """The cost of an arch by looking at its module and at its run; nothing is computed."""
    with torch.device("meta"):
        network = shipped(Network(space, arch))
        images = torch.zeros(1, space.inputs, *space.input_size(arch.resolution))
        with FlopCounterMode(display=False) as counter:
            assert network.eval()(images).shape == (1, space.classes)
    parts = [p for p in network.modules() if isinstance(p, (nn.Conv2d, nn.Linear))]
    # Deployed convs have a bias: their own or that of the batch norm. Only `mix` has neither.
    mixes = (
        []
        if space.mix_bias or space.mix_norm
        else [n for n, _ in network.named_modules() if n == "head.mix"]
    )
    # Nor have the shortcuts of basic blocks, and the depthwise convs of cells.
    bare = (".downsample", ".first", ".second", ".depthwise")
    mixes += [n for n, p in network.named_modules() if p in parts and n.endswith(bare)]
    without = sum(len(network.get_parameter(f"{name}.weight")) for name in mixes)
    return cost.Cost(
        macs=counter.get_total_flops() // 2,
        params=sum(p.numel() for p in network.parameters()),
        weights=sum(p.weight.numel() + len(p.weight) for p in parts)
        - without
        + 2 * space.stages[-1].widths[-1] * space.head_norm,
        peak=peak(network, images),
    )


def shipped(network: Network) -> Network:
    """With one conv in place of the branches that are for training alone."""
    for module in network.modules():
        for name, part in module.named_children():
            if isinstance(part, Reparameterised):
                conv = part.main.conv
                sizes = (conv.kernel_size, conv.stride, conv.padding)
                one = nn.Conv2d(conv.in_channels, conv.out_channels, *sizes, bias=True)
                padding = nn.Identity() if part.main.pads is None else nn.ZeroPad2d(part.main.pads)
                setattr(module, name, nn.Sequential(padding, one, part.activation, part.pool))
    return network


def peak(network: nn.Module, images: torch.Tensor) -> int:
    """Elements alive at the busiest moment, replayed over a trace of the network.

    A value lives from its operator until its last use. Batch norms and activations overwrite.
    """
    traced = fx.symbolic_trace(network)
    modules = dict(traced.named_modules())
    ShapeProp(traced).propagate(images)
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    nodes = list(traced.graph.nodes)
    for i, node in enumerate(nodes):
        # A deployed conv pads while it reads.
        padding = node.op == "call_module" and isinstance(modules[node.target], nn.ZeroPad2d)
        view = (
            padding or node.target is F.pad or (node.op, node.target) == ("call_method", "flatten")
        )
        if view or (node.op == "call_module" and isinstance(modules[node.target], IN_PLACE)):
            owner[node] = owner[node.all_input_nodes[0]]
        else:
            owner[node] = node
            known = (operator.add, operator.mul, operator.getitem, torch.cat)
            assert node.op != "call_function" or node.target in known
        for used in node.all_input_nodes:
            last[owner[used]] = i
    most, alive = 0, set[fx.Node]()
    for i, node in enumerate(nodes):
        if node.op == "output":
            continue
        alive.add(owner[node])
        if node.op != "placeholder" and owner[node] is node:
            most = max(most, sum(v.meta["tensor_meta"].shape.numel() for v in alive))
        alive = {value for value in alive if last[value] > i}
    return most


@settings(max_examples=15)
@given(space=spaces(), seed=seeds)
def test_costs_are_those_of_independent_counters(space: Space, seed: int):
    for arch in archs_of(space, seed=seed, n=2):
        assert cost.total(space, arch) == counted(space, arch)


# A small space of DARTS is counted in tests/test_darts.py.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * n.startswith(("ofa-", "darts", "mbv3-ch")))
        for n in PRESETS
    ],
)
def test_costs_of_shipped_spaces_are_those_of_independent_counters(name: str):
    space = load_space(name)
    for arch in (space.smallest(), space.largest(), *archs_of(space, seed=1, n=2)):
        known, seen = cost.total(space, arch), counted(space, arch)
        if space.cells:  # of cells the cost model knows no more than that they need no more
            assert known.peak >= seen.peak
            seen = replace(seen, peak=known.peak)
        assert known == seen


def check_tables(space: Space, *, seed: int, n: int) -> None:
    rows = rows_of(space, seed=seed, n=n)
    walked = [cost.total(space, arch) for arch in space.decode(rows)]
    for tables, field in (
        (cost.macs_table(space), "macs"),
        (cost.params_table(space), "params"),
        (cost.weights_table(space), "weights"),
        (cost.peak_table(space), "peak"),
    ):
        assert tables(rows).tolist() == [getattr(c, field) for c in walked]


@settings(max_examples=40)
@given(space=spaces(), seed=seeds)
def test_compiled_tables_equal_the_walk(space: Space, seed: int):
    check_tables(space, seed=seed, n=8)


@pytest.mark.parametrize("name", PRESETS)
def test_compiled_tables_of_shipped_spaces_equal_the_walk(name: str):
    check_tables(load_space(name), seed=0, n=100)


def test_many_rows_are_scored_like_few():
    space = tiny()
    rows = rows_of(space, seed=0, n=20_000)
    tables = cost.macs_table(space)
    parts = np.concatenate([tables(part) for part in np.array_split(rows, 7)])
    assert (tables(rows) == parts).all()
    assert tables(rows[:0]).shape == (0,)


def test_rows_that_are_not_canonical_score_nan_and_not_something():
    space = load_space("mbv3-cifar")
    (row,) = space.encode([space.largest()])
    optional = [c for c, gene in enumerate(space.genes) if gene.optional]
    for column in optional:
        broken = row.copy()
        broken[column] = 0
        assert np.isnan(cost.macs_table(space)(broken[None])).all()


def test_a_constant_is_added_once():
    space = tiny()
    rows = rows_of(space, seed=0)
    layer_ms = cost.compile_tables(space, lambda layer: layer.size * 1e-3, constant=0.5)
    plain = cost.compile_tables(space, lambda layer: layer.size * 1e-3)
    assert layer_ms(rows) == pytest.approx(plain(rows) + 0.5)


def test_what_a_function_of_layers_raises_is_passed_on():
    def missing(layer: Layer) -> float:
        raise KeyError(str(layer))

    with pytest.raises(KeyError, match="conv"):
        cost.compile_tables(tiny(), missing)


def test_memory_is_weights_and_the_largest_activations():
    value = cost.Cost(macs=1, params=1, weights=1000, peak=50)
    assert cost.memory(value) == 4200
    assert cost.memory(value, weight_bytes=1, activation_bytes=2, batch=8) == 1800


def test_cost_of_a_layer_worked_out_by_hand():
    layer = Layer(
        kind="mbconv", inputs=8, outputs=8, size=4, kernel=3, mid=16, squeeze=8, residual=True
    )
    # expand, depthwise, reduce, restore of the squeeze, project
    weights = 8 * 16 + 16 * 9 + 16 * 8 + 8 * 16 + 16 * 8
    assert cost.cost(layer) == cost.Cost(
        macs=16 * (8 * 16 + 16 * 9 + 16 * 8) + 2 * 16 * 8,
        params=weights + 2 * (16 + 16 + 8) + 8 + 16,
        weights=weights + 16 + 16 + 8 + 8 + 16,
        # before and after the depthwise conv, and the input for the shortcut; later the two sides
        # of the excitation, its gates and the input
        peak=max(16 * (16 + 16 + 8), 16 * (8 + 16 + 16) + 16),
    )
