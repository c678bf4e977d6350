"""Gradient searches of DARTS' cells: all edges run, and of each node two are kept."""

import dataclasses
import itertools
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_gradient import PREPARED, Double, batch, check_against_differences, step_of
from test_table import fake_seconds
from toys import toy_images

from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.benchmarks import darts, nas_bench_201
from edgenas.space.cells import CellSpace, parse_cell
from edgenas.space.cost import compile_tables, macs_table
from edgenas.space.space import Space
from edgenas.space.wiring import cell_place
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.gradient.choosing import find_most_preferred, list_ceilings
from edgenas.strategies.gradient.collapse import find_skips, share_of_skips
from edgenas.strategies.gradient.estimators import MIXTURES, STRATEGIES
from edgenas.strategies.gradient.expected import Expected
from edgenas.strategies.gradient.mixture import mix_all
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.pc_darts import mix_partial, weigh_edges
from edgenas.strategies.gradient.policy import Policy, list_edges, name_choice
from edgenas.strategies.gradient.relaxed import RelaxedPolicy
from edgenas.strategies.gradient.run import SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.gradient.tilt import Ceiling, tilt
from edgenas.strategies.gradient.weights import WeightTraining
from edgenas.strategies.neighbours import list_all
from edgenas.training.recipe import Recipe

EVERY = darts().cells[0].operations
FEW = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")


def space_of(
    *, operations: tuple[str, ...] = FEW, nodes: int = 2, cells: int = 3, side: int = 8
) -> Space:
    """A normal cell, then two that reduce, and a normal one where there are four."""
    whole = darts(cells=cells, channels=4, name="small-darts")
    cell = CellSpace(operations=operations, nodes=nodes, family="darts")
    return dataclasses.replace(whole, cells=(cell, cell), resolutions=(side,), classes=3)


def random_relaxed(space: Space, *, seed: int, size: float = 1.0) -> RelaxedPolicy:
    policy = RelaxedPolicy(space)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in (*policy.logits, *policy.edges):
            logits.copy_(size * torch.randn(len(logits), generator=generator))
    return policy


def by_edge(policy: RelaxedPolicy) -> dict[tuple[int, int, int], int]:
    """The choice of the edge of a cell to a node from a node."""
    found: dict[tuple[int, int, int], int] = {}
    for i, choice in enumerate(policy.choices):
        node, source = list_edges(policy.space.cells[choice.cell])[choice.edge]
        found[choice.cell, node, source] = i
    return found


def certain_gates(policy: RelaxedPolicy, arch: Arch) -> list[torch.Tensor]:
    """One on what an arch has, and on none where it has no edge."""
    gates = [F.one_hot(torch.tensor(0), c.size).double() for c in policy.choices]
    places = by_edge(policy)
    for number, text in enumerate(arch.cells):
        operations = policy.space.cells[number].operations
        for node, terms in enumerate(parse_cell(text), 2):
            for name, source in terms:
                chosen = torch.tensor(operations.index(name))
                gates[places[number, node, source]] = F.one_hot(chosen, len(operations)).double()
    return gates


@pytest.mark.parametrize(
    ("operations", "nodes", "cells"), [(EVERY, 4, 4), (FEW, 2, 3), (("none", "skip_connect"), 1, 3)]
)
def test_a_mixture_that_is_certain_of_one_network_computes_what_that_does(
    operations: tuple[str, ...], nodes: int, cells: int
):
    """In float64: inputs, strides, skips with a stride and what joins nodes are those extracted."""
    space = space_of(operations=operations, nodes=nodes, cells=cells)
    double = Double(stored=16, mean=PREPARED.mean, std=PREPARED.std)
    policy, supernet = RelaxedPolicy(space), Supernet(space, seed=1).double().train()
    paths = Paths(supernet, policy, preprocessing=double)
    pixels, _ = batch(space)
    x = double.prepare(pixels[:4], resolution=8)
    for arch in space.decode(space.sample(2, rng=np.random.default_rng(0), by="gene")):
        mixture = mix_all(policy, step_of(space), certain_gates(policy, arch))
        with torch.no_grad():
            found, _ = paths._logits(paths._open(mixture), x=x)
            wanted = supernet.extract(arch)(x)
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_every_edge_and_operation_has_weights_of_its_own():
    """Those of one change the loss of mixtures that have it, and of no other."""
    space = space_of(operations=("none", "sep_conv_3x3", "dil_conv_3x3"))
    policy = RelaxedPolicy(space)
    supernet = Supernet(space, seed=1).train()
    paths = Paths(supernet, policy, preprocessing=PREPARED, weights="free")
    pixels, labels = batch(space)
    gates = [torch.tensor([0.2, 0.5, 0.3]) for _ in policy.choices]
    loss, _ = paths.mixed(mix_all(policy, step_of(space), gates), pixels=pixels, labels=labels)
    names = [name for name, _ in supernet.named_parameters() if ".edge" in name]
    convs = [name for name in names if ".bn." not in name]
    found = torch.autograd.grad(loss, [supernet.get_parameter(name) for name in convs])
    # Three cells, five edges, and of each edge the convs of both: 4 and 2.
    assert len(convs) == 3 * 5 * (4 + 2)
    assert all(float(gradient.abs().max()) > 0 for gradient in found)


def probabilities_of(policy: RelaxedPolicy) -> tuple[np.ndarray, np.ndarray]:
    """All networks, and by the definition in words how likely each is."""
    space, rows = policy.space, list_all(policy.space)
    places, scales = by_edge(policy), weigh_edges(policy)
    chances = [p.detach().double().numpy() for p in policy.probabilities()]
    found = np.ones(len(rows))
    for at, arch in enumerate(space.decode(rows)):
        for number, text in enumerate(arch.cells):
            operations = space.cells[number].operations
            for node, terms in enumerate(parse_cell(text), 2):
                for name, source in terms:
                    i = places[number, node, source]
                    chance = chances[i][operations.index(name)] * float(scales[i].detach())
                    found[at] *= chance * (name != "none")
    return rows, found / found.sum()


@pytest.mark.parametrize("seed", range(2))
def test_expectations_are_those_over_all_networks(seed: int):
    space = space_of(operations=("none", "skip_connect", "sep_conv_3x3"))
    space = dataclasses.replace(space, stages=space.stages[:2], cells=space.cells[:1])
    policy = random_relaxed(space, seed=seed)
    rows, chances = probabilities_of(policy)
    assert len(rows) == 9 * 27
    for tables in (compile_tables(space, fake_seconds, constant=0.001), macs_table(space)):
        found = Expected(space, tables, policy.parts)(policy.join(policy.probabilities()))
        assert float(found.detach()) == pytest.approx(float(chances @ tables(rows)), rel=1e-5)
    # What is drawn has these probabilities.
    generator = torch.Generator().manual_seed(seed)
    drawn = np.concatenate([policy.draw(generator) for _ in range(600)])
    shares = (drawn[:, None] == rows[None]).all(2).mean(0)
    # The deviation of a share of 600 draws is at most 0.02.
    assert abs(shares - chances).max() < 0.08
    assert shares[chances == 0].max() == 0


def test_expectations_are_those_over_all_networks_of_two_cells():
    space = space_of(operations=("skip_connect", "sep_conv_3x3"))
    policy = random_relaxed(space, seed=2)
    rows, chances = probabilities_of(policy)
    tables = macs_table(space)
    found = Expected(space, tables, policy.parts)(policy.join(policy.probabilities()))
    assert len(rows) == (4 * 12) ** 2
    assert float(found.detach()) == pytest.approx(float(chances @ tables(rows)), rel=1e-5)


def kept_by_hand(policy: RelaxedPolicy) -> list[tuple[tuple[str, int], ...]]:
    """Of each node the two edges whose strongest operation other than none is strongest."""
    places, scales, nodes = by_edge(policy), weigh_edges(policy), []
    for number, cell in enumerate(policy.space.cells):
        for node in range(2, 2 + cell.nodes):
            ranked = []
            for source in range(node):
                i = places[number, node, source]
                gates = torch.softmax(policy.logits[i].detach(), 0) * scales[i].detach()
                pairs = zip(gates.tolist(), cell.operations, strict=True)
                strength, name = max(pair for pair in pairs if pair[1] != "none")
                ranked.append((-strength, source, name))
            kept = sorted((source, name) for _, source, name in sorted(ranked)[:2])
            nodes.append(tuple((name, source) for source, name in kept))
    return nodes


@pytest.mark.parametrize("seed", range(2))
def test_the_chosen_cell_keeps_the_two_strongest_edges_of_each_node(seed: int):
    space = space_of(operations=EVERY, nodes=4)
    policy = random_relaxed(space, seed=seed)
    policy.tilt = [torch.arange(c.size, dtype=torch.float) for c in policy.choices]
    wanted = kept_by_hand(policy)
    # By the search that all gradient strategies end with.
    found = find_most_preferred(space, policy.preference(), limits=[], seed=0, count=1)
    nodes = [terms for text in found[0].arch.cells for terms in parse_cell(text)]
    assert nodes == wanted
    # And it is the likeliest of what is drawn without limits.
    policy.tilt = [torch.zeros(c.size) for c in policy.choices]
    likeliest = [int(p.argmax()) for p in policy.join(policy.probabilities())]
    assert space.decode(policy._encode(likeliest)) == [found[0].arch]
    assert policy.preference()(space.encode([found[0].arch]))[0] == pytest.approx(0, abs=1e-6)
    # Of certain picks, too.
    best = [
        int(torch.where(torch.arange(c.size) > 0, x.detach(), -9.0).argmax())
        for c, x in zip(policy.choices, policy.logits, strict=True)
    ]
    assert space.decode(policy.row(best)) == [found[0].arch]


def test_none_is_chosen_only_where_limits_leave_nothing_else():
    space = space_of(operations=("none", "sep_conv_3x3"))
    policy = RelaxedPolicy(space)
    with torch.no_grad():
        for logits in policy.logits:
            logits.copy_(torch.tensor([5.0, -5.0]))  # DARTS' collapse into none
    macs = macs_table(space)
    (best,) = find_most_preferred(space, policy.preference(), limits=[], seed=0, count=1)
    assert all("none" not in text for text in best.arch.cells)
    most = 0.8 * float(macs(space.encode([best.arch]))[0])
    limit = Limit(constraint=parse_constraint(f"macs<={most:.0f}"), values=macs)
    (less,) = find_most_preferred(space, policy.preference(), limits=[limit], seed=0, count=1)
    assert float(macs(space.encode([less.arch]))[0]) <= most
    assert any("none" in text for text in less.arch.cells)


@pytest.mark.parametrize(("summed", "chosen"), [(True, "nor_conv_1x1"), (False, "none")])
def test_none_counts_where_single_paths_see_what_it_does(summed: bool, chosen: str):
    """A sum does not: what its gate scales, a batch norm scales back."""
    space = dataclasses.replace(nas_bench_201(), resolutions=(8,))
    policy = RelaxedPolicy(space, summed=summed)
    with torch.no_grad():
        for logits in policy.logits:
            logits.copy_(torch.tensor([5.0, -1.0, 1.0, 0.0, -1.0]))
    (best,) = find_most_preferred(space, policy.preference(), limits=[], seed=0, count=1)
    assert {name for node in parse_cell(best.arch.cells[0]) for name, _ in node} == {chosen}
    macs = macs_table(space)
    most = float(macs(space.encode([space.smallest()]))[0])
    limit = Limit(constraint=parse_constraint(f"macs<={most:.0f}"), values=macs)
    (less,) = find_most_preferred(space, policy.preference(), limits=[limit], seed=0, count=1)
    assert float(macs(space.encode([less.arch]))[0]) <= most


def test_limits_choose_none_where_nothing_else_keeps_them():
    whole = nas_bench_201()
    (cell,) = whole.cells
    few = dataclasses.replace(cell, operations=("none", "nor_conv_1x1"))
    space = dataclasses.replace(whole, resolutions=(8,), cells=(few,))
    macs = macs_table(space)
    least = float(macs(list_all(space)).min())
    limit = Limit(constraint=parse_constraint(f"macs<={least:.0f}"), values=macs)
    policy = RelaxedPolicy(space)
    (less,) = find_most_preferred(space, policy.preference(), limits=[limit], seed=0, count=1)
    assert {name for node in parse_cell(less.arch.cells[0]) for name, _ in node} == {"none"}


def test_skips_count_where_none_comes_first_and_says_nothing():
    space = dataclasses.replace(nas_bench_201(), resolutions=(8,))
    for summed, share in ((True, 1.0), (False, 0.0)):
        policy = RelaxedPolicy(space, summed=summed)
        with torch.no_grad():
            for logits in policy.logits:
                logits.copy_(torch.tensor([5.0, 1.0, 0.0, 0.0, 0.0]))
        assert share_of_skips(policy) == share


@pytest.mark.parametrize(("gates", "kept"), [("sigmoid", (0, 1)), ("softmax", (1, 2))])
def test_fair_gates_say_how_strong_an_edge_is_by_themselves(
    gates: Literal["softmax", "sigmoid"], kept: tuple[int, int]
):
    """An edge with two good operations loses by a softmax, and not by gates of their own."""
    space = space_of(operations=("none", "skip_connect", "sep_conv_3x3"))
    policy = RelaxedPolicy(space, gates=gates)
    places = by_edge(policy)
    with torch.no_grad():
        policy.logits[places[0, 3, 0]].copy_(torch.tensor([2.0, 2.1, 2.2]))
        policy.logits[places[0, 3, 1]].copy_(torch.tensor([-3.0, -3.0, 1.0]))
        policy.logits[places[0, 3, 2]].copy_(torch.tensor([-3.0, -3.0, 0.9]))
    (best,) = find_most_preferred(space, policy.preference(), limits=[], seed=0, count=1)
    assert tuple(source for _, source in parse_cell(best.arch.cells[0])[1]) == kept


def test_a_ceiling_holds_the_expectation_and_forgets_nothing():
    space = space_of(operations=EVERY, nodes=4)
    policy = random_relaxed(space, seed=0, size=0.3)
    tables = macs_table(space)
    expected = Expected(space, tables, policy.parts)
    start = float(expected(policy.join(policy.probabilities())).detach())
    for part in (0.9, 0.7, 0.5):
        ceiling = Ceiling(name="macs", tables=tables, limit=part * start)
        (found,), (price,) = tilt(policy, [ceiling], [expected])
        assert found == pytest.approx(part * start, rel=0.003)
        assert price > 0
        again = float(expected(policy.join(policy.probabilities())).detach())
        assert again == pytest.approx(found, rel=1e-5)


def test_the_weights_of_edges_sum_to_one_over_those_of_a_node_and_say_which_are_kept():
    space = space_of(operations=EVERY, nodes=4)
    policy = random_relaxed(space, seed=0)
    scales, places = weigh_edges(policy), by_edge(policy)
    for number, node in itertools.product(range(2), range(2, 6)):
        of_node = [scales[places[number, node, source]] for source in range(node)]
        assert float(torch.stack(of_node).detach().sum()) == pytest.approx(1)
    # Operations alike everywhere: the weights alone decide.
    policy = RelaxedPolicy(space)
    with torch.no_grad():
        for edges in policy.edges:
            edges.copy_(torch.arange(len(edges), dtype=torch.float))
    (best,) = find_most_preferred(space, policy.preference(), limits=[], seed=0, count=1)
    for text in best.arch.cells:
        taken = [[source for _, source in terms] for terms in parse_cell(text)]
        assert taken == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_three_quarters_of_the_channels_pass_an_edge_with_a_stride_by():
    """As the largest of two times two pixels; behind the shuffle they stand apart."""
    space = space_of(operations=("none", "skip_connect", "sep_conv_3x3"))
    policy = RelaxedPolicy(space)
    paths = Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED)
    run = paths._open(mix_partial(policy, step_of(space)))
    (stage,) = [i for i, s in enumerate(space.stages) if s.cell == 1 and s.kind == "cell"][:1]
    place = cell_place(space, stage, 0, 8)
    steps = ["none", place.edge(0, "skip_connect"), place.edge(0, "sep_conv_3x3")]
    at = by_edge(policy)[1, 2, 0]
    x = torch.randn(2, place.width, 8, 8, generator=torch.Generator().manual_seed(0))
    y = paths._mix(run, f"{place.name}.edge2from0", at, steps=steps, x=x)
    assert y is not None
    assert y.shape == (2, place.width, 4, 4)
    quarter, pooled = place.width // 4, F.max_pool2d(x, 2)
    passed = [k for k in range(place.width) if k % 4]
    wanted = [(k % 4) * quarter + k // 4 for k in passed]
    assert torch.equal(y[:, passed], pooled[:, wanted])


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=() if name in ("pc-darts", "fair-darts") else pytest.mark.slow)
        for name in sorted(MIXTURES.keys() - {"gdas", "darts-v2"})
    ],
)
def test_the_gradient_of_every_mixture_is_that_of_its_loss(strategy: str):
    policy = random_relaxed(space_of(), seed=0)
    check_against_differences(policy, strategy, places=((1, 1), (8, 3)))


def test_gdas_runs_one_operation_on_every_edge():
    space = space_of(operations=EVERY, nodes=4)
    policy = random_relaxed(space, seed=0)
    paths = Paths(Supernet(space, seed=1).train(), policy, preprocessing=PREPARED)
    step = step_of(space, number=3)
    mixture = MIXTURES["gdas"](policy, step)
    assert len(mixture.picks) == 2 * 14
    assert all(len(picks) == 1 for picks in mixture.picks)
    loss, _ = paths.mixed(mixture, pixels=step.pixels, labels=step.labels)
    back = torch.autograd.grad(loss, policy.logits, materialize_grads=True)
    moved = [float(gradient.abs().max()) > 0 for gradient in back]
    # An edge where none was drawn has no gradient: nothing went through it.
    drawn = [policy.space.cells[0].operations[picks[0]] for picks in mixture.picks]
    assert [name for name, has in zip(drawn, moved, strict=True) if name == "none" and has] == []
    assert sum(moved) > 14


def small_search(
    strategy: str, space: Space, *, measure: int, training: WeightTraining | None = None
):
    latency = compile_tables(space, fake_seconds)
    rows = space.sample(200, rng=np.random.default_rng(0), by="gene")
    most = float(np.quantile(latency(rows), 0.3))
    limit = Limit(constraint=parse_constraint(f"latency<={most!r}s"), values=latency)
    images = toy_images(16, side=16, classes=3)
    learnt = learn(
        Supernet(space, seed=1),
        strategy=strategy,
        data=SearchData(images=images, preprocessing=PREPARED, training=training),
        ceilings=list_ceilings(space, [limit]),
        settings=GradientSettings(steps=3, batch=4, measure=measure),
    )
    return learnt, limit, latency


def taught() -> WeightTraining:
    images = toy_images(16, side=16, classes=3, seed=1)
    return WeightTraining(images=images, recipe=Recipe(batch=4, learning_rate=0.05))


QUICK = ("darts-v1", "gdas", "gumbel", "reinforce")


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(STRATEGIES)
    ],
)
def test_a_search_ends_with_networks_within_its_limit(strategy: str):
    space = space_of()
    training = taught() if strategy in ("darts-v2", "gumbel") else None
    measure = 0 if strategy in QUICK else 2
    learnt, limit, latency = small_search(strategy, space, measure=measure, training=training)
    most = limit.constraint.limit
    assert all(line["expected latency"] <= 1.003 * most for line in learnt.history)
    chosen = find_most_preferred(space, learnt.policy.preference(), limits=[limit], seed=0)
    rows = space.encode([candidate.arch for candidate in chosen])
    assert (latency(rows) <= most).all()
    assert all(0 <= line["skips"] <= 1 for line in learnt.history)
    assert float(torch.cat([x.detach() for x in learnt.policy.logits]).abs().max()) > 0


def test_choices_have_names_and_skips_are_found_on_edges():
    policy = RelaxedPolicy(space_of())
    names = [name_choice(policy.space, choice) for choice in policy.choices]
    assert names[:3] == [
        "cells[0].nodes[0].edges[0]",
        "cells[0].nodes[0].edges[1]",
        "cells[0].nodes[1].edges[0]",
    ]
    assert find_skips(policy) == dict.fromkeys(range(10), 1)
    # Of networks that are drawn whole, on the two operations of each node.
    whole = Policy(policy.space)
    assert [whole.choices[i].field for i in find_skips(whole)] == ["operation"] * 8
