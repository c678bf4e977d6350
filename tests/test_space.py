"""The laws of spaces: rows and archs say the same, and no operator leaves the space."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import archs_of, rows_of, seeds, spaces

from edgenas.basics.errors import EdgenasError
from edgenas.space.arch import (
    Arch,
    Block,
    Stage,
    load_arch,
    save_arch,
)
from edgenas.space.genes import layout, rules
from edgenas.space.plan import plan
from edgenas.space.presets import PRESETS, tiny
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace, make_divisible, middle_channels

law = settings(max_examples=40)
presets = pytest.mark.parametrize("name", PRESETS)


def every_arch(space: Space) -> list[Arch]:
    """All archs, by another road than rows: choices within choices."""
    per_stage = []
    for stage in space.stages:
        blocks = [Block(k, e) for k in stage.kernels for e in stage.expands]
        if stage.blocks:
            own = f"{stage.kind}:"
            texts = (re.sub(rf"-{stage.activation}\b", "", text) for text in stage.blocks)
            blocks = [Block.parse(text.removeprefix(own)) for text in texts]
        per_stage.append(
            [
                Stage(width, chosen)
                for width in stage.widths
                for depth in stage.depths
                for chosen in itertools.product(blocks, repeat=depth)
            ]
        )
    return [Arch(r, s) for r in space.resolutions for s in itertools.product(*per_stage)]


# Rows and archs


@law
@given(space=spaces(), seed=seeds)
def test_encode_and_decode_are_inverse(space: Space, seed: int):
    rows = rows_of(space, seed=seed)
    archs = space.decode(rows)
    assert (space.encode(archs) == rows).all()
    assert space.decode(space.encode(archs)) == archs
    assert all(space.contains(arch) for arch in archs)


@presets
def test_encode_and_decode_are_inverse_in_shipped_spaces(name: str):
    space = PRESETS[name]()
    for by in ("arch", "gene"):
        rows = space.sample(50, rng=np.random.default_rng(1), by=by)
        assert (space.canonical(rows) == rows).all()
        assert (space.encode(space.decode(rows)) == rows).all()
    ends = [space.smallest(), space.largest()]
    assert space.decode(space.encode(ends)) == ends


@law
@given(space=spaces(), seed=seeds)
def test_canonical_forgets_the_genes_of_absent_blocks_only(space: Space, seed: int):
    rng = np.random.default_rng(seed)
    limits = [len(gene.values) for gene in space.genes]
    rows = rng.integers(1, np.array(limits) + 1, size=(8, len(limits)))
    canonical = space.canonical(rows)
    assert (space.canonical(canonical) == canonical).all()
    assert ((canonical == rows) | (canonical == 0)).all()
    assert space.decode(rows) == space.decode(canonical)
    assert (space.encode(space.decode(rows)) == canonical).all()
    assert canonical.dtype == np.uint8


@law
@given(space=spaces(most=2))
def test_size_counts_every_arch_once(space: Space):
    assume(space.size <= 2000)
    archs = every_arch(space)
    assert len(set(archs)) == len(archs) == space.size
    rows = space.encode(archs)
    assert len(np.unique(rows, axis=0)) == space.size
    assert len({arch.id for arch in archs}) == space.size
    # Different values are different networks: no two have the same layers, wherever they stand.
    assert len({plan(space, arch) for arch in archs}) == space.size


def test_no_archs_are_no_rows():
    assert tiny().encode([]).shape == (0, len(tiny().genes))
    assert tiny().decode(tiny().encode([])) == []


# Sampling


def test_sampling_is_uniform_over_archs():
    space = Space(
        name="small",
        resolutions=(8, 16),
        stages=(
            StageSpace(kind="mbconv", widths=(8, 16), depths=(1, 3), kernels=(3, 5)),
            StageSpace(kind="bottleneck", widths=(16,), expands=(0.5, 1.0)),
        ),
    )
    assert space.size == 80
    rows = space.sample(20_000, rng=np.random.default_rng(0))
    found, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(found) == space.size
    assert chisquare(counts).pvalue > 1e-3


def test_sampling_by_gene_makes_depths_equally_likely():
    space = PRESETS["mbv3-cifar"]()
    rows = space.sample(6_000, rng=np.random.default_rng(0), by="gene")
    for column, gene in enumerate(space.genes):
        codes = rows[:, column]
        counts = np.bincount(codes[codes > 0], minlength=len(gene.values) + 1)[1:]
        assert chisquare(counts).pvalue > 1e-4, gene.name


def test_sampling_repeats_itself_under_one_seed():
    space = PRESETS["ofa-resnet50"]()
    one, other, third = (space.sample(5, rng=np.random.default_rng(s)) for s in (3, 3, 4))
    assert (one == other).all()
    assert (one != third).any()


# Mutation and crossover


@law
@given(space=spaces(), seed=seeds, probability=st.floats(0, 1))
def test_operators_stay_inside_the_space(space: Space, seed: int, probability: float):
    rng = np.random.default_rng(seed)
    first, second = rows_of(space, seed=seed), rows_of(space, seed=seed + 1)
    before = first.copy()
    for rows in (
        space.mutate(first, rng=rng, probability=probability),
        space.crossover(first, second, rng=rng),
    ):
        assert rows.dtype == np.uint8
        assert (space.canonical(rows) == rows).all()
    assert (first == before).all()


@law
@given(space=spaces(), seed=seeds)
def test_crossover_of_equal_parents_is_the_parent(space: Space, seed: int):
    rows = rows_of(space, seed=seed)
    assert (space.crossover(rows, rows, rng=np.random.default_rng(seed)) == rows).all()


@law
@given(space=spaces(), seed=seeds)
def test_crossover_takes_every_gene_from_a_parent(space: Space, seed: int):
    first, second = rows_of(space, seed=seed), rows_of(space, seed=seed + 1)
    child = space.crossover(first, second, rng=np.random.default_rng(seed))
    assert ((child == 0) | (child == first) | (child == second)).all()


@law
@given(space=spaces(), seed=seeds)
def test_completed_children_keep_what_they_have_and_draw_what_appears(space: Space, seed: int):
    rows, deep = rows_of(space, seed=seed, n=30), rows_of(space, seed=seed + 1, n=30)
    depths = list(layout(space).depths.values())
    rows[:, depths] = deep[:, depths]
    found = rules(space).complete(rows, rng=np.random.default_rng(seed))
    assert (space.canonical(found) == found).all()
    assert (found[:, depths] == rows[:, depths]).all()
    kept = (rows != 0) & (found != 0)
    assert (found[kept] == rows[kept]).all()
    children = space.canonical(np.maximum(rows, 1))
    assert ((found != 0) == (children != 0)).all()


@law
@given(space=spaces(), seed=seeds)
def test_mutation_with_probability_zero_changes_nothing(space: Space, seed: int):
    rows = rows_of(space, seed=seed)
    rng = np.random.default_rng(seed)
    assert (space.mutate(rows, rng=rng, probability=0) == rows).all()


def test_mutation_that_deepens_a_stage_draws_the_new_genes_evenly():
    space = PRESETS["ofa-mbv3-w1.0"]()
    shallow = np.repeat(space.encode([space.smallest()]), 4_000, axis=0)
    mutants = space.mutate(shallow, rng=np.random.default_rng(0), probability=0.5)
    appeared = [c for c, gene in enumerate(space.genes) if gene.optional]
    for column in appeared:
        codes = mutants[:, column]
        counts = np.bincount(codes[codes > 0], minlength=4)[1:]
        assert counts.sum() > 500
        assert chisquare(counts).pvalue > 1e-4, space.genes[column].name


# Narrowing


@law
@given(space=spaces(most=2), data=st.data())
def test_restrict_keeps_exactly_the_archs_with_the_named_values(space: Space, data: st.DataObject):
    assume(space.size <= 500)
    resolution = data.draw(st.sampled_from(space.resolutions))
    depth = max(max(stage.depths) for stage in space.stages)
    try:
        narrow = space.restrict(resolution=(resolution,), depth=(depth,))
    except EdgenasError:
        assume(False)
        raise
    kept = {
        arch
        for arch in every_arch(space)
        if arch.resolution == resolution
        and all(
            len(found.blocks) == depth or len(stage.depths) == 1
            for found, stage in zip(arch.stages, space.stages, strict=True)
        )
    }
    assert set(every_arch(narrow)) == kept
    assert all(space.contains(arch) and narrow.contains(arch) for arch in kept)


def test_restrict_leaves_alone_what_is_no_choice():
    space = PRESETS["mbv3-cifar"]()
    narrow = space.restrict(kernel=(5,), expand=(3,))
    assert narrow.stages[0] == space.stages[0]
    assert {s.kernels for s in narrow.stages} == {(3,), (5,)}
    assert not narrow.contains(space.largest())


def test_with_classes_changes_the_classifier_only():
    space = tiny().with_classes(7)
    assert space == replace(tiny(), classes=7)
    assert space.size == tiny().size


# Rounding


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1, 8),
        (8, 8),
        (12, 16),
        (11.9, 16),
        (8.8, 8),
        (13, 16),
        (18, 24),
        (19, 24),
        (41.6, 40),
        (51.2, 48),
    ],
)
def test_divisible_is_the_rule_of_mobilenet(value: float, rounded: int):
    assert make_divisible(value) == rounded


@given(value=st.floats(1, 1e4))
def test_divisible_loses_at_most_a_tenth(value: float):
    assert make_divisible(value) % 8 == 0
    assert make_divisible(value) >= 0.9 * value
    assert make_divisible(value) <= value + 8


def test_a_ratio_of_one_changes_nothing():
    assert middle_channels(12, 1.0) == 12


# Archs


@law
@given(space=spaces(), seed=seeds)
def test_archs_come_back_from_json(space: Space, seed: int):
    for arch in archs_of(space, seed=seed, n=2):
        assert Arch.from_json(arch.to_json()) == arch


def test_arch_file_and_text_forms(tmp_path: Path):
    arch = Arch(28, (Stage(16, (Block(3, 1.0),)), Stage(24, (Block(5, 4.0), Block(3, 2.5)))))
    save_arch(arch, tmp_path / "arch.json")
    assert load_arch(tmp_path / "arch.json") == arch
    assert str(arch) == "r28 16[3x1] 24[5x4 3x2.5]"
    assert arch.id == Arch.from_json(arch.to_json()).id == "8ab833971f"


def broken(change) -> dict:
    value = tiny().smallest().to_json()
    change(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (broken(lambda v: v.pop("resolution")), "arch: the field 'resolution' is missing"),
        (broken(lambda v: v.update(name=1)), "arch: unknown field 'name'"),
        (broken(lambda v: v.update(schema="edgenas.arch/9")), "must have schema 'edgenas.arch/1'"),
        (broken(lambda v: v.update(resolution=True)), "arch: resolution must be an integer, found"),
        (broken(lambda v: v.update(stages=[])), "arch: stages must not be empty"),
        (broken(lambda v: v["stages"].append(3)), "arch: stages[3] must be an object, found 3"),
        (
            broken(lambda v: v["stages"][1].pop("width")),
            "arch: stages[1]: the field 'width' is missing",
        ),
        (
            broken(lambda v: v["stages"][1]["blocks"][0].update(kernel=3.0)),
            "arch: stages[1].blocks[0].kernel must be an integer, found 3.0",
        ),
        (
            broken(lambda v: v["stages"][1]["blocks"][0].update(expand="3")),
            "arch: stages[1].blocks[0].expand must be a number, found '3'",
        ),
    ],
)
def test_a_broken_arch_is_refused_with_its_path(value: dict, message: str):
    with pytest.raises(EdgenasError) as caught:
        Arch.from_json(value)
    assert message in caught.value.message


# What is refused


def changed(**values) -> Arch:
    """The smallest arch of tiny with its second stage changed."""
    arch = tiny().smallest()
    stages = list(arch.stages)
    stages[1] = replace(stages[1], **values)
    return replace(arch, stages=tuple(stages))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            replace(tiny().smallest(), resolution=13),
            "resolution must be one of 12, 16 in space tiny, found 13",
        ),
        (
            replace(tiny().smallest(), stages=()),
            "stages must be 3 in space tiny, found 0",
        ),
        (changed(width=9), "stages[1].width must be one of 8 in space tiny, found 9"),
        (
            changed(blocks=(Block(3, 2.0),) * 3),
            "stages[1].depth must be one of 1, 2 in space tiny, found 3",
        ),
        (
            changed(blocks=(Block(7, 2.0),)),
            "stages[1].blocks[0].kernel must be one of 3, 5 in space tiny, found 7",
        ),
        (
            changed(blocks=(Block(3, 2.0), Block(3, 4.5))),
            "stages[1].blocks[1].expand must be one of 2, 3 in space tiny, found 4.5",
        ),
    ],
)
def test_an_arch_of_another_space_is_refused_with_the_path(arch: Arch, message: str):
    with pytest.raises(EdgenasError) as caught:
        tiny().encode([arch])
    assert caught.value.message == message
    assert not tiny().contains(arch)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(EdgenasError, match=r"rows must have shape \(n, 11\), found \(2, 3\)"):
        tiny().canonical(np.ones((2, 3), np.uint8))


@pytest.mark.parametrize("code", [0, 3, 255])
def test_a_code_out_of_range_is_refused(code: int):
    rows = tiny().encode([tiny().largest()] * 2)
    for column, gene in enumerate(tiny().genes):
        wrong = rows.copy()
        wrong[1, column] = code
        with pytest.raises(EdgenasError) as caught:
            tiny().canonical(wrong)
        text = f"rows[1]: {gene.name} must be a code from 1 to 2, found {code}"
        assert caught.value.message == text


def test_a_choice_that_would_be_empty_is_refused():
    message = r"stages\[1\].kernels must keep one of 3, 5, found 9"
    with pytest.raises(EdgenasError, match=message):
        tiny().restrict(kernel=(9,))


BLOCK = StageSpace(kind="mbconv", widths=(16,), kernels=(3, 5), expands=(2.0, 3.0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"resolutions": ()},
            "resolutions must be pixels of at least 8, in ascending order, each once",
        ),
        ({"resolutions": (16, 8)}, "resolutions must be pixels of at least 8, in ascending order"),
        ({"stages": ()}, "stages must not be empty"),
        ({"classes": 1}, "classes must be an integer >= 2, found 1"),
        ({"inputs": 0}, "inputs must be an integer >= 1, found 0"),
        ({"final": -8}, "final must be an integer >= 0, found -8"),
        ({"mix": 1.5}, "mix must be an integer >= 0, found 1.5"),
        (
            {"activation": "gelu"},
            "activation must be one of relu, relu6, hswish, silu, found 'gelu'",
        ),
        (
            {"kept_in_float": ("middle",)},
            "kept_in_float must be of first, squeeze, depthwise, classifier, found 'middle'",
        ),
        ({"mix_norm": True}, "mix_norm must be false where there is no mix, found true"),
        (
            {"mix": 8, "mix_bias": True, "mix_norm": True},
            "mix_bias must be false where mix_norm is true",
        ),
        ({"kernel_transform": "none"}, "kernel_transform must be linear or crop, found 'none'"),
        ({"epsilon": 0}, "epsilon must be between 0 and 1, found 0"),
    ],
)
def test_an_illegal_space_is_refused(fields: dict, message: str):
    with pytest.raises(EdgenasError) as caught:
        Space(**{"name": "x", "resolutions": (16,), "stages": (BLOCK,), **fields})
    assert caught.value.message.startswith(message)


def listed(*blocks: str, **fields: Any) -> dict[str, Any]:
    """A stage that lists whole blocks."""
    return {"kernels": (3,), "expands": (1.0,), "blocks": blocks, **fields}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "vit"},
            "stages[1].kind must be one of conv, mbconv, bottleneck, fused, uib, rep, "
            "basic, cell, found 'vit'",
        ),
        ({"activation": "gelu"}, "stages[1].activation must be one of relu, relu6, hswish"),
        (
            {"widths": (0,)},
            "stages[1].widths must be positive integers, in ascending order, each once",
        ),
        (
            {"depths": (2, 1)},
            "stages[1].depths must be positive integers, in ascending order, each once",
        ),
        (
            {"depths": (0, 1)},
            "stages[1].depths must be positive integers, in ascending order, each once",
        ),
        (
            {"kernels": (3, 4)},
            "stages[1].kernels must be odd integers, in ascending order, each once",
        ),
        (
            {"expands": (0.0,)},
            "stages[1].expands must be positive numbers, in ascending order, each once",
        ),
        ({"stride": 0}, "stages[1].stride must be an integer >= 1, found 0"),
        ({"pool": 0}, "stages[1].pool must be an integer >= 1, found 0"),
        ({"squeeze": -1}, "stages[1].squeeze must be an integer >= 0, found -1"),
        ({"kind": "conv"}, "stages[1].expands must be one value in a conv, found (2.0, 3.0)"),
        (
            {"expands": (1.0, 2.0)},
            "stages[1].expands must be above 1 where there is a choice, found (1.0, 2.0)",
        ),
        (
            {"kind": "bottleneck", "kernels": (3,), "squeeze": 4},
            "stages[1].squeeze must be 0 outside mbconv, found 4",
        ),
        ({"kind": "bottleneck"}, "stages[1].kernels must be (3,) in a bottleneck, found (3, 5)"),
        (
            {"blocks": ("3x2",)},
            "stages[1] must have either blocks or kernels and expands, not both",
        ),
        (listed("3x2", pool=2), "stages[1].pool must be 1 where blocks are listed, found 2"),
        (listed("3x2", "3x2"), "stages[1].blocks must be listed once each, found ['3x2', '3x2']"),
        (
            listed("none", "3x2", depths=(1, 2)),
            "stages[1].depths must be one value where a block may be none, found (1, 2)",
        ),
        (
            listed("3x1", "5x2"),
            "stages[1].blocks must all expand by more than 1, or none, in mbconv, found",
        ),
        (
            listed("3+3x2"),
            "stages[1].blocks[0] must have one kernel size outside uib, found 3+3x2",
        ),
        (listed("uib:4x2"), "stages[1].blocks[0] must have odd kernel sizes, found uib:4x2"),
        (
            listed("uib:3x2", "uib:0x2", stride=2),
            "stages[1].blocks[1] must have a depthwise conv for the stride, found uib:0x2",
        ),
        (listed("rep:3x2"), "stages[1].blocks[0] must have the expansion 1 in rep, found rep:3x2"),
        (
            listed("bottleneck:5x0.5"),
            "stages[1].blocks[0] must have the kernel 3 in a bottleneck, found bottleneck:5x0.5",
        ),
        (
            listed("3x2", "3x2.1"),
            "stages[1].blocks must give different middle channels, found 2, 2.1 of 16 giving",
        ),
        (listed("x"), "a block must read like 3x4, fused:3x4, uib:5+3x4, 3x4-relu6-se0 or none"),
        (
            {"expands": (2.0, 2.1)},
            "stages[1].expands must give different middle channels, found 2, 2.1 of 16 giving "
            "32, 32",
        ),
    ],
)
def test_an_illegal_stage_is_refused_with_its_path(fields: dict, message: str):
    with pytest.raises(EdgenasError) as caught:
        Space(name="x", resolutions=(16,), stages=(BLOCK, replace(BLOCK, **fields)))
    assert caught.value.message.startswith(message)


@law
@given(space=spaces())
def test_largest_and_smallest_are_in_the_space(space: Space):
    assert space.contains(space.largest())
    assert space.contains(space.smallest())
    assert space.restrict(resolution=(space.largest().resolution,)).contains(space.largest())
