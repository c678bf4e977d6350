"""Inputs that are no squares: the whole way, from images to a bundle."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import toy_images

from edgenas.basics.errors import EdgenasError
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing, choose_stored_size, decode_stored
from edgenas.latency.table import MeasuredNetwork, Timing
from edgenas.model.synthetic import make_coloured_noise
from edgenas.space.cost import cost, peak_elements, total
from edgenas.space.layer import Layer
from edgenas.space.narrow import map_codes
from edgenas.space.plan import layers, plan
from edgenas.space.presets import load_space, space_from_json, space_to_json, tiny
from edgenas.training.augment import crop, shift
from edgenas.training.loop import train
from edgenas.training.recipe import Recipe, default_recipe

WIDE = dataclasses.replace(tiny(), name="wide", resolutions=(12, 15), aspect=(3, 5))

# Of squares, written down before there was any other shape.
DIGESTS = {
    "tiny": ["c1ed36059159319b", "e2138e4d995e1a1c", "aceb70273c363a60"],
    "mbv3-cifar": ["d99173bac8bbbf6f", "0b83c07ed00bb0f7", "c006abd1aa5a1c1d"],
}


def test_a_space_says_the_shape_of_its_inputs():
    assert WIDE.input_size(12) == (12, 20)
    assert choose_stored_size(WIDE) == (15, 25)
    assert choose_stored_size(tiny()) == 16
    assert space_from_json(json.loads(json.dumps(space_to_json(WIDE)))) == WIDE
    assert "aspect" not in space_to_json(tiny())  # as files of before have it
    for wrong, words in (
        ((6, 10), r"in lowest terms, like \[3, 5\], found \[6, 10\]"),
        ((3,), "aspect must be height to width"),
        ((0, 1), "aspect must be height to width"),
        ((5, 3), r"resolutions must be multiples of 5 for the aspect \[5, 3\], found 12"),
        ((2, 1), r"must give widths of at least 8 pixels for the aspect \[2, 1\], found 12"),
    ):
        with pytest.raises(EdgenasError, match=words):
            dataclasses.replace(WIDE, resolutions=(12,), aspect=wrong)


def test_digests_of_squares_are_those_of_before():
    # Histories and checkpoints are found by the first, weights by the second, tables by the third.
    for name, wanted in DIGESTS.items():
        space = load_space(name)
        costs = [
            (str(layer), dataclasses.astuple(cost(layer)), peak_elements(layer))
            for layer in layers(space)
        ]
        texts = repr(space), json.dumps(space_to_json(space)), repr(costs)
        assert [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts] == wanted
    assert "aspect" not in repr(tiny())
    assert "aspect=(3, 5)" in repr(WIDE)
    turned = dataclasses.replace(WIDE, aspect=(3, 4))
    assert len({WIDE.filed_as, turned.filed_as, tiny().filed_as}) == 3


def test_what_was_measured_on_squares_is_not_used_for_others():
    square = dataclasses.replace(WIDE, aspect=(1, 1))
    arch = square.largest()
    assert WIDE.contains(arch)
    network = MeasuredNetwork(
        space=square.name, classes=square.classes, arch=arch, timing=Timing(mean=1.0, n=1)
    )
    assert network.belongs_to(square)
    assert not network.belongs_to(WIDE)
    with pytest.raises(EdgenasError, match=r"must have the aspect \[1, 1\] of space wide, found"):
        map_codes(square, WIDE)
    assert set(layers(square)).isdisjoint(layers(WIDE))


def test_layers_name_their_width_where_it_is_another():
    texts = [str(layer) for _, layer in plan(WIDE, WIDE.largest())]
    assert texts[0] == "conv(inputs=3,outputs=8,size=15,kernel=3,activation=hswish,columns=25)"
    assert all(Layer.parse(text) in dict(plan(WIDE, WIDE.largest())).values() for text in texts)
    # By hand: the stem reads 3x3 of 3 channels at every pixel.
    stem = dict(plan(WIDE, WIDE.largest()))["stages.0.0"]
    assert (stem.in_size, stem.out_size) == ((15, 25), (15, 25))
    square = dataclasses.replace(tiny(), resolutions=(12, 15))
    ratio = total(WIDE, WIDE.largest()).macs / total(square, square.largest()).macs
    assert 1.5 < ratio < 1.9


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    stored=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_the_largest_part_of_the_shape_is_kept(width: int, height: int, stored: tuple[int, int]):
    # Values rise to the right and downwards, so a corner says where it was cut.
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width) * 4, (np.arange(height) * 4)[:, None]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    found = decode_stored(stream.getvalue(), stored=stored)
    assert found.shape == (*stored, 3)
    share = min(height / stored[0], width / stored[1])
    kept = share * stored[0], share * stored[1]
    for axis, channel, size in ((0, 1, height), (1, 0, width)):
        ends = found[..., channel].astype(float).take([0, -1], axis=axis).mean(axis=1 - axis) / 4
        first = (size - kept[axis]) / 2
        assert ends[0] >= first - 1.1
        assert ends[1] <= first + kept[axis] + 0.1


def test_inputs_keep_the_shape_of_what_is_stored():
    preprocessing = Preprocessing(stored=(15, 25), mean=(0.5,) * 3, std=(0.2,) * 3)
    pixels = torch.randint(256, (4, 3, 15, 25), dtype=torch.uint8)
    assert preprocessing.prepare(pixels, resolution=12).shape == (4, 3, 12, 20)
    told = preprocessing.to_json()
    assert told["stored"] == [15, 25]
    assert Preprocessing.from_json(json.loads(json.dumps(told)), where="x") == preprocessing


def test_images_of_another_shape_are_refused(tmp_path: Path):
    words = r"images must have the aspect \[3, 5\] of the space wide, found 16x16 pixels"
    with pytest.raises(EdgenasError, match=words):
        train(WIDE, toy_images(60), recipe=Recipe(batch=16), out=tmp_path / "run")


@pytest.mark.parametrize("kind", ["shift", "crop"])
def test_narrow_images_have_views_too(kind: str):
    pixels = torch.randint(256, (5, 3, 64, 8), dtype=torch.uint8)
    views = {"shift": shift, "crop": crop}[kind](pixels, rng=np.random.default_rng(0))
    assert views.shape == pixels.shape
    assert not torch.equal(views, pixels)


def test_the_longer_side_decides_the_recipe():
    for aspect, kind in (((1, 1), "shift"), ((1, 2), "crop"), ((2, 1), "shift")):
        space = dataclasses.replace(tiny(), resolutions=(48,), aspect=aspect)
        assert default_recipe(space).augmentation == kind


def test_noise_has_the_shape_and_the_mean_of_images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, 140, (300, 3, 9, 15), dtype=torch.uint8, generator=generator)
    pixels[..., :5] += 60
    noise = make_coloured_noise(pixels, count=400, rng=np.random.default_rng(0))
    assert noise.shape == (400, 3, 9, 15)
    torch.testing.assert_close(noise.mean(0), pixels.float().mean(0), rtol=0, atol=4)
    torch.testing.assert_close(noise.std(0), pixels.float().std(0), rtol=0.25, atol=0)


@pytest.mark.parametrize("kind", ["shift", "crop"])
def test_views_have_the_shape_of_their_images(kind: str):
    ramp = (torch.arange(40) * 6).to(torch.uint8)
    pixels = ramp.expand(300, 3, 24, 40).contiguous()
    views = {"shift": shift, "crop": crop}[kind](pixels, rng=np.random.default_rng(0))
    assert views.shape == pixels.shape
    if kind == "crop":
        # The slope of a view along the ramp is the width of its crop.
        row = views[:, 0, 12].float()
        widths = (row[:, 30] - row[:, 10]).abs() / 20 / 6 * 40
        assert 0.6 * 40 < widths.mean() < 0.95 * 40


@pytest.fixture(scope="module")
def banners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide images: the colour of a bar says the class."""
    folder = tmp_path_factory.mktemp("data") / "banners"
    rng = np.random.default_rng(0)
    for colour, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(32):
            pixels = rng.integers(0, 120, (18, 30, 3), dtype=np.uint8)
            pixels[:, 12:18, colour] = 220
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


SPACE = """
schema = "edgenas.space/1"
name = "wide"
resolutions = [12, 15]
aspect = [3, 5]
final = 24
[[stages]]
kind = "conv"
widths = [8]
kernels = [3]
stride = 2
[[stages]]
kind = "mbconv"
widths = [16]
depths = [1, 2]
kernels = [3, 5]
expands = [2, 3]
stride = 2
squeeze = 4
"""


def test_wide_images_from_a_folder_to_a_bundle(
    edgenas: Callable[..., SimpleNamespace],
    banners: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    Path("wide.toml").write_text(SPACE)
    Path("recipe.toml").write_text(
        'schema = "edgenas.recipe/1"\nepochs = 4\nbatch = 16\naccuracy_archs = 20\n'
    )
    words = ("train", "--space", "wide.toml", "--data", banners, "--recipe", "recipe.toml")
    done = edgenas(*words, "--out", "run", "--threads", 1)
    assert done.code == 0, done.log
    assert load_images(str(banners), stored=(15, 25)).pixels.shape == (96, 3, 15, 25)
    words = ("specialize", "--device", "jetson", "--supernet", "run", "--data", banners)
    done = edgenas(*words, "--latency", "20ms", "--out", "bundle")
    assert done.code == 0, done.log
    manifest = json.loads(Path("bundle/manifest.json").read_text())
    shape = manifest["model"]["input_shape"]
    assert shape in ([1, 3, 12, 20], [1, 3, 15, 25])
    assert manifest["preprocessing"]["resize"] == [[15, 25], shape[2:]]
    assert "largest centre part of 3:5" in manifest["preprocessing"]["crop"]
    assert f"resize to 15x25, then to {shape[2]}x{shape[3]} pixels" in (
        Path("bundle/MODEL_CARD.md").read_text(encoding="utf-8")
    )
    assert json.loads(Path("bundle/report.json").read_text())["accuracy"]["value"] > 0.6
    assert f"{shape[2]}x{shape[3]} pixels" in Path("bundle/report.html").read_text(encoding="utf-8")
    assert edgenas("verify", "bundle").code == 0
