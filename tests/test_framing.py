"""Pictures of any shape become inputs in one way: in training, in bundles, and as libraries do."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example as sample
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.bundle import example, manifest
from edgenas.images import pictures
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing, choose_preprocessing, decode_stored, resize
from edgenas.images.resampling import resample
from edgenas.space.framing import FILL, Filter, Framing, inner_size
from edgenas.space.presets import space_from_json, space_to_json, tiny

LITE = Framing(crop_fraction=0.875, filter="bicubic")
FRAMINGS = [
    Framing(),
    Framing(filter="bicubic"),
    LITE,
    Framing(fit="pad"),
    Framing(fit="pad", filter="bicubic"),
    Framing(fit="stretch"),
]
MEAN, STD = (127 / 255,) * 3, (0.229, 0.224, 128 / 255)


def photo(width: int, height: int, *, seed: int = 1) -> Image.Image:
    """Noise beside flat colours: where filters differ most."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    values[: height // 2, : width // 3] = (250, 20, 90)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def in_training(content: bytes, steps: Preprocessing, resolution: int) -> np.ndarray:
    pixels = torch.tensor(decode_stored(content, stored=steps.stored, framing=steps.framing))
    return steps.prepare(pixels.permute(2, 0, 1)[None], resolution=resolution).numpy()


def in_a_bundle(content: bytes, steps: Preprocessing, resolution: int, path: Path) -> np.ndarray:
    path.write_bytes(content)
    return example.load_image(path, manifest.describe_preprocessing(steps, resolution=resolution))


def agree(content: bytes, steps: Preprocessing, *, resolution: int, path: Path) -> None:
    found = in_a_bundle(content, steps, resolution, path)
    assert found.shape == (1, 3, *steps.size(resolution))
    assert np.array_equal(found, in_training(content, steps, resolution))


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    stored=st.integers(4, 40) | st.sampled_from([(15, 25), (24, 18)]),
    resolution=st.integers(3, 45),
    framing=st.sampled_from(FRAMINGS),
)
@sample(width=1, height=900, stored=16, resolution=12, framing=LITE)
@sample(width=900, height=1, stored=16, resolution=12, framing=Framing(fit="pad"))
@sample(width=37, height=37, stored=16, resolution=16, framing=LITE)
def test_the_example_prepares_to_the_bit_as_training_does(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    stored: Any,
    resolution: int,
    framing: Framing,
):
    path = tmp_path_factory.mktemp("images") / "image.png"
    steps = Preprocessing(stored=stored, mean=MEAN, std=STD, framing=framing)
    agree(encoded(photo(width, height)), steps, resolution=resolution, path=path)


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_every_kind_of_file_is_prepared_alike(tmp_path: Path, framing: Framing):
    steps = Preprocessing(stored=24, mean=MEAN, std=STD, framing=framing)
    image = photo(61, 43)
    clear = image.convert("RGBA")
    clear.putalpha(photo(61, 43, seed=2).convert("L"))
    palette = image.quantize(32)
    contents = [encoded(image.convert(mode), "TIFF") for mode in ("L", "CMYK", "LA", "1", "P")]
    contents += [
        encoded(clear),
        encoded(clear, "WEBP", lossless=True),
        encoded(palette),
        encoded(palette, transparency=3),
        encoded(palette, "GIF"),
        encoded(image, "JPEG", quality=80),
        encoded(image.convert("L"), "JPEG"),
        encoded(image.convert("CMYK"), "JPEG"),
    ]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        contents.append(encoded(image, "JPEG", exif=exif))
    for content in contents:
        agree(content, steps, resolution=17, path=tmp_path / "image")
    # Of 16 bits: colour is read as 8 bits by Pillow in both places, grey is refused in both.
    grey = Image.fromarray(np.arange(61 * 43, dtype=np.uint16).reshape(43, 61) * 20)
    for content in (encoded(grey), encoded(grey, "TIFF")):
        with pytest.raises(ValueError, match="more than 8 bits"):
            in_training(content, steps, 17)
        with pytest.raises(ValueError, match="more than 8 bits"):
            in_a_bundle(content, steps, 17, tmp_path / "grey")


def test_a_very_large_jpeg_is_halved_in_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = encoded(photo(201, 150), "JPEG", quality=90)
    steps = Preprocessing(stored=64, mean=MEAN, std=STD)
    whole = in_training(content, steps, 48)
    for module in (pictures, example):
        monkeypatch.setattr(module, "MOST_PIXELS", 20_000)
    agree(content, steps, resolution=48, path=tmp_path / "image")
    assert not np.array_equal(in_training(content, steps, 48), whole)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (1000, 64), (256, 341)])
@pytest.mark.parametrize(("side", "fraction"), [(224, 0.875), (240, 0.882), (128, 0.95)])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_a_crop_fraction_is_what_torchvision_and_timm_do(
    size: tuple[int, int], side: int, fraction: float, filter: Filter
):
    """Resize the shorter side to ``floor(side / fraction)``, cut the centre."""
    transforms = pytest.importorskip("torchvision.transforms", reason="needs torchvision")
    image = photo(*size)
    interpolation = transforms.InterpolationMode(filter)
    theirs = transforms.Resize(int(side / fraction), interpolation=interpolation)(image)
    theirs = np.asarray(transforms.CenterCrop(side)(theirs))
    framing = Framing(crop_fraction=fraction, filter=filter)
    ours = decode_stored(encoded(image), stored=side, framing=framing)
    assert np.array_equal(ours, theirs)


@given(width=st.integers(1, 90), height=st.integers(1, 90), stored=st.integers(2, 50))
def test_padding_shows_the_whole_picture_in_its_shape(width: int, height: int, stored: int):
    found = decode_stored(encoded(photo(width, height)), stored=stored, framing=Framing(fit="pad"))
    high, wide = inner_size((height, width), size=(stored, stored))
    assert max(high, wide) == stored
    scale = stored / max(height, width)
    half = 0.5 + 1e-9  # a pixel is rounded to the nearest; the scale is rounded itself
    assert abs(high - max(1, height * scale)) <= half
    assert abs(wide - max(1, width * scale)) <= half
    top, left = (stored - high) // 2, (stored - wide) // 2
    inside = found[top : top + high, left : left + wide]
    whole = photo(width, height).resize((wide, high), Image.Resampling.BILINEAR)
    assert np.array_equal(inside, np.asarray(whole))
    outside = np.ones((stored, stored), bool)
    outside[top : top + high, left : left + wide] = False
    assert (found[outside] == FILL).all()


def test_stretching_shows_the_whole_picture():
    image = photo(50, 20)
    found = decode_stored(encoded(image), stored=(15, 25), framing=Framing(fit="stretch"))
    assert np.array_equal(found, np.asarray(image.resize((25, 15), Image.Resampling.BILINEAR)))


def test_a_very_long_picture_needs_no_more_memory(monkeypatch: pytest.MonkeyPatch):
    """Resized before it is cut, this picture would have 650 million pixels."""
    sizes: list[int] = []
    resized = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *rest: Any, **options: Any) -> Any:
        sizes.append(size[0] * size[1])
        return resized(self, size, *rest, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    for framing in FRAMINGS:
        decode_stored(encoded(photo(10_000, 1)), stored=224, framing=framing)
    assert max(sizes) <= 256 * 16 * 256


@given(
    shape=st.sampled_from([(1, 1), (3, 5), (16, 9)]),
    before=st.integers(1, 40),
    after=st.integers(1, 40),
    filter=st.sampled_from(["bilinear", "bicubic"]),
)
def test_other_devices_resize_as_pillow_does(
    shape: tuple[int, int], before: int, after: int, filter: Filter
):
    high, wide = shape
    generator = torch.Generator().manual_seed(before)
    images = (3, 3, high * before, wide * before)
    pixels = torch.randint(256, images, dtype=torch.uint8, generator=generator)
    size = (high * after, wide * after)
    assert torch.equal(
        resample(pixels, size=size, filter=filter), resize(pixels, size=size, filter=filter)
    )


# What files hold


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_a_framing_comes_back_from_files(framing: Framing):
    steps = Preprocessing(stored=32, mean=MEAN, std=STD, framing=framing)
    assert Preprocessing.from_json(steps.to_json(), where="x") == steps
    told = manifest.describe_preprocessing(steps, resolution=16)
    assert manifest.find_framing(told, where="x") == framing


def test_the_usual_framing_is_not_written():
    steps = Preprocessing(stored=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert [*steps.to_json()] == ["schema", "stored", "interpolation", "mean", "std"]
    assert repr(steps) == (
        "Preprocessing(stored=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))"
    )  # digests of older versions contain it
    told = manifest.describe_preprocessing(steps, resolution=16)
    assert not {"fit", "crop_fraction", "fill"} & {*told}
    assert not {"framing", "mean", "std"} & {*space_to_json(tiny())}
    assert "framing" not in repr(tiny())
    assert "mean" not in repr(tiny())


def test_framings_that_contradict_themselves_are_refused():
    with pytest.raises(EdgenasError, match=r"crop_fraction must be 1 with fit pad, found 0\.8"):
        Framing(fit="pad", crop_fraction=0.8)
    steps = Preprocessing(stored=32, mean=MEAN, std=STD, framing=LITE).to_json()
    with pytest.raises(EdgenasError, match="x: crop_fraction must be 1 with fit stretch"):
        Preprocessing.from_json(steps | {"fit": "stretch"}, where="x")


def test_a_space_states_its_preprocessing():
    fields = space_to_json(tiny()) | {
        "framing": {"crop_fraction": 0.875, "filter": "bicubic"},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    space = space_from_json(fields)
    assert space_from_json(space_to_json(space)) == space
    assert space_to_json(space)["framing"] == fields["framing"]
    steps = choose_preprocessing(space, usual=(MEAN, STD))
    assert (steps.framing, steps.mean, steps.std) == (LITE, (0.5,) * 3, (0.5,) * 3)
    assert choose_preprocessing(tiny(), usual=(MEAN, STD)).mean == MEAN
    with pytest.raises(EdgenasError, match="mean and std must be given together"):
        space_from_json({k: v for k, v in fields.items() if k != "std"})
    with pytest.raises(EdgenasError, match=r"framing\.fit must be one of crop, pad, stretch"):
        space_from_json(fields | {"framing": {"fit": "squash"}})


def test_images_are_kept_for_each_framing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGENAS_CACHE", str(cache))
    tmp_path = tmp_path / "images"
    for name in "ab":
        (tmp_path / name).mkdir(parents=True)
        photo(30, 20, seed=ord(name)).save(tmp_path / name / "1.png")
    loaded = [load_images(str(tmp_path), stored=16, framing=framing) for framing in FRAMINGS]
    assert [images.framing for images in loaded] == FRAMINGS
    assert len({images.digest for images in loaded}) == len(FRAMINGS)
    assert len([*cache.glob("**/*.npz")]) == len(FRAMINGS)
    assert load_images(str(tmp_path), stored=16).digest == loaded[0].digest
    assert loaded[3].take(torch.tensor([1])).framing == FRAMINGS[3]
