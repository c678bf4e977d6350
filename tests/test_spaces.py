"""The spaces that ship and those that users declare."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from strategies import spaces

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import write_json
from edgenas.space.cost import total
from edgenas.space.presets import (
    PRESETS,
    load_space,
    space_from_json,
    space_to_json,
    tiny,
)
from edgenas.space.space import Space

MINE = """
schema = "edgenas.space/1"
name = "mine"
resolutions = [96, 128]
final = 256
classes = 20
[[stages]]
kind = "conv"
widths = [16]
stride = 2
[[stages]]
kind = "mbconv"
widths = [24]
depths = [1, 2, 3]
kernels = [3, 5]
expands = [3, 6]
stride = 2
"""


@settings(max_examples=40)
@given(space=spaces())
def test_spaces_come_back_from_json(space: Space):
    assert space_from_json(space_to_json(space)) == space


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_spaces_have_their_name_and_come_back_from_a_file(name: str, tmp_path: Path):
    space = load_space(name)
    assert space.name == name
    write_json(tmp_path / "space.json", space_to_json(space))
    assert load_space(str(tmp_path / "space.json")) == space


def test_a_space_is_declared_in_toml(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    space = load_space(str(path))
    # The example in the module's documentation, worked out by hand.
    assert space.size == 2 * (4 + 4**2 + 4**3)
    assert space.classes == 20
    assert space.stages[1].expands == (3.0, 6.0)
    assert space.stages[1].activation == "relu"


# Multiply-accumulates in millions by resolution, and parameters in millions, of the smallest and
# the largest network, as the authors' package counts them.
COUNTED = {
    "ofa-mbv3-w1.0": ({128: (41.5, 188.2), 160: (63.2, 291.3), 224: (121.3, 566.2)}, 3.41, 7.66),
    "ofa-mbv3-w1.2": ({160: (100.3, 433.6), 224: (193.1, 843.1)}, 4.60, 10.70),
    "ofa-proxyless-w1.3": (
        {128: (87.8, 329.3), 160: (136.3, 513.5), 224: (265.5, 1004.9)},
        3.72,
        7.94,
    ),
    "ofa-resnet50": (
        {128: (315.1, 2447.6), 160: (491.6, 3823.3), 224: (962.2, 7491.6)},
        6.54,
        48.11,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_released_spaces_have_the_published_sizes(name: str):
    macs, fewest, most = COUNTED[name]
    for resolution, expected in macs.items():
        space = load_space(name).restrict(resolution=(resolution,))
        ends = [total(space, arch) for arch in (space.smallest(), space.largest())]
        assert [c.macs / 1e6 for c in ends] == pytest.approx(expected, abs=0.05)
        assert [c.params / 1e6 for c in ends] == pytest.approx((fewest, most), abs=0.006)


def test_released_spaces_have_the_published_numbers_of_networks():
    for name, number in (
        ("ofa-mbv3-w1.0", 2.18e19),
        ("ofa-mbv3-w1.2", 2.18e19),
        ("ofa-proxyless-w1.3", 1.96e20),
        # The release counts two stems of 24 channels, which are the same network.
        ("ofa-resnet50", 2.46e12 * 2 / 3),
    ):
        space = load_space(name)
        assert space.size / len(space.resolutions) == pytest.approx(number, rel=5e-3)


# What is refused


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(EdgenasError, match="unknown space 'mbv3-cifra'") as caught:
        load_space("mbv3-cifra")
    assert "mbv3-cifar" in caught.value.hint
    assert "edgenas list spaces" in caught.value.hint


def changed(**fields) -> dict:
    return {**space_to_json(tiny()), **fields}


def stage(**fields) -> dict:
    return changed(stages=[{**space_to_json(tiny())["stages"][1], **fields}])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(schema="edgenas.space/2"), "must have schema 'edgenas.space/1'"),
        (changed(colour=1), "space: unknown field 'colour'"),
        (changed(stages=[]), "space: stages must not be empty, found []"),
        (changed(stages=[7]), "space: stages[0] must be an object, found 7"),
        (changed(name=7), "space: name must be a text, found 7"),
        (changed(classes="ten"), "space: classes must be an integer, found 'ten'"),
        (changed(resolutions=16), "space: resolutions must be a list, found 16"),
        (stage(width=[8]), "space: stages[0]: unknown field 'width'"),
        (stage(kernels=["3"]), "space: stages[0].kernels[0] must be an integer, found '3'"),
        (
            stage(kernels=[3, 4]),
            "stages[0].kernels must be odd integers, in ascending order, each once",
        ),
        (stage(shortcut=1), "space: stages[0].shortcut must be true or false, found 1"),
        (changed(epsilon=float("nan")), "space: epsilon must be a finite number, found nan"),
        (changed(classes=10**9), "space: classes must be at most 1e+06, found 1000000000"),
        (changed(inputs=True), "space: inputs must be an integer, found True"),
        (changed(name="a\x07"), "space: name must be a text without control characters"),
        (stage(widths=[10**400]), "stages[0].widths[0] must be at most 65536, found an integer"),
        (stage(expands=[float("inf")]), "stages[0].expands[0] must be a finite number, found inf"),
        (stage(stride="2"), "space: stages[0].stride must be an integer, found '2'"),
    ],
)
def test_a_broken_declaration_is_refused_with_its_path(value: dict, message: str):
    with pytest.raises(EdgenasError) as caught:
        space_from_json(value)
    assert message in caught.value.message


def test_a_declaration_without_a_name_is_refused():
    value = changed()
    del value["name"]
    with pytest.raises(EdgenasError, match="space: the field 'name' is missing"):
        space_from_json(value)
