"""Layers: the walk and the slots agree, and a layer's text is the layer."""

import contextlib
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import rows_of, seeds, spaces

from edgenas.basics.errors import EdgenasError
from edgenas.space.arch import NOTHING, Block
from edgenas.space.genes import Codes
from edgenas.space.layer import Layer
from edgenas.space.plan import layers, plan, slots, walk
from edgenas.space.presets import PRESETS, load_space, tiny
from edgenas.space.primitives import primitives
from edgenas.space.space import Space


def filled(space: Space, row: Codes) -> list[tuple[str, Layer]]:
    """The layers of a row by its slots."""
    found = (
        (slot.name, slot.layers[tuple(int(row[column]) for column in slot.columns)])
        for slot in slots(space)
    )
    return [(name, layer) for name, layer in found if layer is not None]


def check_plan(space: Space, rows: Codes) -> None:
    known = set(layers(space))
    for row, arch in zip(rows, space.decode(rows), strict=True):
        walked = plan(space, arch)
        assert filled(space, row) == list(walked)
        assert {layer for _, layer in walked} <= known
        # Each layer takes what those before give.
        given = {"": (space.inputs, space.input_size(arch.resolution))}
        for step in walk(space, arch):
            taken = {given[source] for source in step.sources}
            assert taken == {(step.layer.inputs, step.layer.in_size)}
            given[step.name] = (step.layer.outputs, step.layer.out_size)
        assert given["head"] == (space.classes, (1, 1))


@settings(max_examples=60)
@given(space=spaces(), seed=seeds)
def test_walk_and_slots_agree(space: Space, seed: int):
    check_plan(space, rows_of(space, seed=seed))


@pytest.mark.parametrize("name", PRESETS)
def test_walk_and_slots_agree_in_shipped_spaces(name: str):
    check_plan(load_space(name), rows_of(load_space(name), seed=0, n=30))


@settings(max_examples=60)
@given(space=spaces())
def test_slots_hold_the_codes_of_canonical_rows_only(space: Space):
    for slot in slots(space):
        genes = [space.genes[column] for column in slot.columns]
        for codes, layer in slot.layers.items():
            optional = [code for gene, code in zip(genes, codes, strict=True) if gene.optional]
            assert not any(optional) or all(optional)
            nothing = any(
                isinstance(value := gene.values[code - 1], Block) and value == NOTHING
                for gene, code in zip(genes, codes, strict=True)
                if code
            )
            assert all(optional) if layer is not None else nothing or not any(optional)
            for gene, code in zip(genes, codes, strict=True):
                assert (not gene.optional) <= code <= len(gene.values)


@settings(max_examples=60)
@given(space=spaces())
def test_layers_come_back_from_their_text(space: Space):
    for layer in layers(space):
        assert Layer.parse(str(layer)) == layer
    assert len({str(layer) for layer in layers(space)}) == len(layers(space))


def test_text_prints_what_is_not_default():
    layer = Layer(kind="mbconv", inputs=24, outputs=40, size=16, kernel=5, mid=72, residual=True)
    assert str(layer) == "mbconv(inputs=24,outputs=40,size=16,kernel=5,mid=72,residual=1)"
    assert str(replace(layer, kernel=1, residual=False)) == (
        "mbconv(inputs=24,outputs=40,size=16,mid=72)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layer must read like conv(inputs=3,...), found ''"),
        ("pool(inputs=3)", "layer must read like conv(inputs=3,...), found 'pool(inputs=3)'"),
        ("conv(inputs=3,colour=1)", "layer 'conv(inputs=3,colour=1)': unknown part 'colour=1'"),
        ("conv(inputs=3,kind=conv)", "unknown part 'kind=conv'"),
        ("conv(inputs=,size=3)", "unknown part 'inputs='"),
        ("conv(inputs=-3)", "inputs must be a number below 10^9, found '-3'"),
        (f"conv(inputs={'9' * 5000})", "inputs must be a number below 10^9, found '9999"),
        ("conv(inputs=3,outputs=8)", "layer 'conv(inputs=3,outputs=8)' is incomplete"),
    ],
)
def test_a_broken_layer_text_is_refused(text: str, message: str):
    with pytest.raises(EdgenasError) as caught:
        Layer.parse(text)
    assert message in caught.value.message


@given(text=st.text("convhead(),=inputs1234567890", max_size=40))
def test_any_text_is_a_layer_or_refused(text: str):
    with contextlib.suppress(EdgenasError):
        assert Layer.parse(text).inputs >= 0


@settings(max_examples=60)
@given(space=spaces())
def test_primitives_of_a_layer_fit_each_other(space: Space):
    for layer in layers(space):
        parts = primitives(layer)
        assert parts[0].inputs == layer.inputs
        assert parts[0].in_size == layer.in_size
        assert parts[-1].outputs == layer.outputs
        assert parts[-1].out_size == layer.out_size
        for part in parts:
            assert part.op in (
                "conv linear globalpool avgpool maxpool add mul act".split()  # as documented
            )
            assert part.inputs % part.groups == 0
            if part.op not in ("conv", "linear"):
                assert part.macs == part.weights == part.params == part.folded == 0
                assert part.inputs == part.outputs


def test_a_layer_worked_out_by_hand():
    """ResNet-D's first block of a stage: pooled shortcut, stride in the middle conv."""
    layer = Layer(
        kind="bottleneck",
        inputs=64,
        outputs=256,
        size=9,
        kernel=3,
        stride=2,
        mid=64,
        residual=True,
        downsample=True,
    )
    assert layer.out_size == (5, 5)
    convs = [p for p in primitives(layer) if p.op == "conv"]
    assert [(p.inputs, p.outputs, p.kernel[0], p.in_size[0], p.out_size[0]) for p in convs] == [
        (64, 256, 1, 5, 5),
        (64, 64, 1, 9, 9),
        (64, 64, 3, 9, 5),
        (64, 256, 1, 5, 5),
    ]
    assert sum(p.macs for p in convs) == 2 * 25 * 64 * 256 + 81 * 64 * 64 + 25 * 9 * 64 * 64


def test_names_are_places():
    space = tiny()
    assert [name for name, _ in plan(space, space.largest())] == (
        "stages.0.0 stages.1.0 stages.1.1 stages.2.0 stages.2.1 head".split()
    )
    assert [name for name, _ in plan(space, space.smallest())] == (
        "stages.0.0 stages.1.0 stages.2.0 head".split()
    )


def test_the_pool_is_behind_the_last_block_that_runs():
    space = load_space("ofa-resnet50")
    wide = replace(space, stages=(replace(space.stages[0], pool=2), *space.stages[1:]))
    for arch, pools in ((wide.smallest(), [2]), (wide.largest(), [1, 2])):
        stem = [layer for name, layer in plan(wide, arch) if name.startswith("stages.0.")]
        assert [layer.pool for layer in stem] == pools


def test_fields_of_layers_have_defaults_so_that_old_tables_stay_valid():
    required = [f.name for f in fields(Layer) if f.default is f.default_factory]
    assert required == ["kind", "inputs", "outputs", "size"]
