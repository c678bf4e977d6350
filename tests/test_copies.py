"""Copies of what was learnt from are found and told; different photos are never mixed up."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.bundle.contents import read_contents
from edgenas.bundle.verify import verify_bundle
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.images.copies import (
    LEARNT_FILE,
    LearntImages,
    Sketches,
    find_copies,
    load_learnt,
    save_learnt,
)
from edgenas.images.data import split
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import decode_stored
from edgenas.model.saved import load_supernet
from edgenas.space.presets import load_space
from edgenas.training.loop import train
from edgenas.training.options import TrainingOptions
from edgenas.training.recipe import Recipe

Photo = NDArray[np.uint8]


def scene(seed: int, *, side: int = 160) -> Photo:
    """Something like a photo: a gradient, soft shapes of many sizes, fine texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    pixels = np.stack([a * x + b * y + c for a, b, c in rng.uniform(-60, 110, (3, 3))], 2)
    for size in rng.uniform(0.03, 0.4, 25):
        cy, cx = rng.uniform(0, 1, 2)
        inside = ((y - cy) ** 2 + (x - cx) ** 2 < size**2)[..., None]
        pixels = np.where(inside, 0.4 * pixels + rng.uniform(0, 150, 3), pixels)
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def saved(pixels: Photo, kind: str = "PNG", *, scale: float = 1, quality: int = 75) -> bytes:
    image = Image.fromarray(pixels)
    size = round(image.width * scale), round(image.height * scale)
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, kind, quality=quality)
    return stream.getvalue()


def stored(files: list[bytes], side: int) -> torch.Tensor:
    rows = np.stack([decode_stored(content, stored=side) for content in files])
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


SCENES = [scene(seed) for seed in range(24)]

ANEW: dict[str, Callable[[Photo], bytes]] = {
    "the same": saved,
    "JPEG 90": lambda p: saved(p, "JPEG", quality=90),
    "JPEG 50": lambda p: saved(p, "JPEG", quality=50),
    "WebP 60": lambda p: saved(p, "WEBP", quality=60),
    "half": lambda p: saved(p, "JPEG", scale=0.5),
    "double": lambda p: saved(p, "JPEG", scale=2),
}
OTHERWISE: dict[str, Callable[[Photo], Photo]] = {
    "the camera moved": lambda p: np.roll(p, 12, 1),
    "mirrored": lambda p: p[:, ::-1].copy(),
    "another light": lambda p: (p * 0.8).astype(np.uint8),
    "another colour": lambda p: np.roll(p, 1, 2),
    "something came in": lambda p: np.where(np.indices(p.shape)[:2].min(0) > 105, 20, p).astype(
        np.uint8
    ),
}


@pytest.mark.parametrize("side", [64, 96, 160])
@pytest.mark.parametrize("how", ANEW)
def test_a_copy_is_found_however_it_was_encoded(how: str, side: int):
    known = Sketches.of(stored([saved(p) for p in SCENES], side))
    assert find_copies(stored([ANEW[how](p) for p in SCENES], side), known).all()


@pytest.mark.parametrize("side", [pytest.param(32, marks=pytest.mark.slow), 96])
@pytest.mark.parametrize("how", OTHERWISE)
def test_another_photo_of_the_same_is_no_copy(how: str, side: int):
    known = Sketches.of(stored([saved(p) for p in SCENES], side))
    assert not find_copies(stored([saved(OTHERWISE[how](p)) for p in SCENES], side), known).any()
    others = stored([saved(scene(seed)) for seed in range(100, 124)], side)
    assert not find_copies(others, known).any()


def test_copies_are_found_at_another_stored_size():
    known = Sketches.of(stored([saved(p) for p in SCENES], 160))
    assert find_copies(stored([saved(p) for p in SCENES], 96), known).all()


def test_of_flat_images_only_equal_pixels_count():
    rng = np.random.default_rng(0)
    white = np.clip(250 + rng.normal(0, 1, (8, 32, 32, 3)), 0, 255).astype(np.uint8)
    pixels = torch.from_numpy(white).permute(0, 3, 1, 2)
    known = Sketches.of(pixels[:4])
    assert find_copies(pixels, known).tolist() == [True] * 4 + [False] * 4
    assert not find_copies(pixels, Sketches.none()).any()
    assert find_copies(pixels[:0], known).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "equal"), [("waste", 1), ("scenes", 1), ("imagenette", 0),
                                             ("grocery", 0)])  # fmt: skip
def test_real_photos_are_not_mixed_up(shared_data: Path, name: str, equal: int):
    """Of real training and test sets only photos that are equal to the byte are copies."""
    folder = shared_data / "photos" / name
    contents: list[set[bytes]] = []
    for part in ("train", "test"):
        with tarfile.open(folder / f"{part}.tar") as archive:
            files = [archive.extractfile(m) for m in archive if m.isfile()]
            contents.append({stream.read() for stream in files if stream is not None})
    assert len(contents[0] & contents[1]) == equal
    parts = [load_images(str(folder / f"{part}.tar"), stored=96) for part in ("train", "test")]
    assert find_copies(parts[1].pixels, Sketches.of(parts[0].pixels)).sum() == equal


# The file


def test_what_was_learnt_from_is_kept(tmp_path: Path):
    assert load_learnt(tmp_path) is None
    some = Sketches.of(stored([saved(p) for p in SCENES[:5]], 64))
    both = Sketches.joined(
        [some, Sketches.none(), some, Sketches.of(stored([saved(SCENES[9])], 64))]
    )
    assert len(both) == 6
    save_learnt(tmp_path, LearntImages(both, whole=False))
    found = load_learnt(tmp_path)
    assert found is not None
    assert not found.whole
    assert all(torch.equal(getattr(found.sketches, n), getattr(both, n))
               for n in ("grey", "colour", "hashes"))  # fmt: skip
    assert (tmp_path / LEARNT_FILE).stat().st_size < 1000 + 6 * 400


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_record_is_refused(tmp_path: Path, tiny: Path, damage: str):
    path = tmp_path / LEARNT_FILE
    content = (tiny / LEARNT_FILE).read_bytes()
    other = (tiny / "weights.safetensors").read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "other": other, "empty": b""}[damage])
    with pytest.raises(EdgenasError, match=r"learnt\.safetensors (is damaged|holds no record)"):
        load_learnt(tmp_path)


def test_a_training_keeps_what_it_and_its_start_have_learnt_from(
    tmp_path: Path, tiny: Path, photos: Path
):
    start, images = load_supernet(tiny), load_images(str(photos), stored=16)
    learnt = load_learnt(tiny)
    assert learnt is not None
    assert learnt.whole
    parts = split(images, validation=0.25, seed=0)
    assert find_copies(parts.train.pixels, learnt.sketches).all()
    assert not find_copies(parts.validation.pixels, learnt.sketches).any()
    recipe = Recipe(epochs=1, batch=24, validation=0.25, calibration=24, watched=0)
    half = images.take(torch.arange(0, len(images), 2))
    after = train(
        load_space("tiny"),
        half,
        recipe=recipe,
        out=tmp_path / "a",
        options=TrainingOptions(init=start),
    ).learnt
    assert after is not None
    assert after.whole
    assert find_copies(parts.train.pixels, after.sketches).all()
    # Of a start without a record nobody knows what it has seen.
    shutil.copytree(tiny, tmp_path / "old")
    (tmp_path / "old" / LEARNT_FILE).unlink()
    old = load_supernet(tmp_path / "old")
    after = train(
        load_space("tiny"),
        half,
        recipe=recipe,
        out=tmp_path / "b",
        options=TrainingOptions(init=old),
    ).learnt
    assert after is not None
    assert not after.whole


# Told wherever the accuracy stands


def encoded_anew(photos: Path, folder: Path) -> Path:
    for path in photos.rglob("*.png"):
        to = folder / path.parent.name / f"{path.stem}.jpg"
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(to, "JPEG", quality=95, subsampling=0)
    return folder


@pytest.mark.parametrize("given", ["record", "data alone", "nothing"])
def test_specialize_tells_how_many_test_images_were_learnt_from(
    tmp_path: Path, tiny: Path, photos: Path, given: str
):
    supernet = tmp_path / "supernet"
    shutil.copytree(tiny, supernet)
    if given != "record":
        (supernet / LEARNT_FILE).unlink()
    result = specialize(
        SpecializeRequest(
            device="rpi4",
            supernet=str(supernet),
            latency="5ms",
            data=str(photos) if given == "data alone" else None,
            test=str(encoded_anew(photos, tmp_path / "test")),
        ),
        out=tmp_path / "bundle",
    )
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    page = (tmp_path / "bundle" / "report.html").read_text(encoding="utf-8")
    record = read_contents(tmp_path / "bundle").record
    assert record == result.record
    assert all(check.passed for check in verify_bundle(tmp_path / "bundle"))
    if given == "nothing":
        assert record.accuracy.copies is None
        assert "copies" not in (tmp_path / "bundle" / "report.json").read_text().split('"notes"')[0]
        for text in (card, page):
            assert "keeps no record of the images that it has learnt from" in text
        return
    # A quarter of each class was set aside; the others were learnt from.
    assert record.accuracy.copies == 72
    for text in (card, page, str(record.accuracy)):
        assert "72 of 96 images are copies of training images" in text
    assert any("72 of the 96 test images are copies" in text for text in record.notes)


def test_train_and_fit_accuracy_tell_it_too(
    tmp_path: Path, photos: Path, edgenas: Callable[..., SimpleNamespace]
):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'schema = "edgenas.recipe/1"\nepochs = 1\nbatch = 24\nvalidation = 0.25\nwatched = 0\n'
        "calibration = 24\naccuracy_archs = 24\n"
    )
    test = encoded_anew(photos, tmp_path / "test")
    done = edgenas("train", "--space", "tiny", "--data", photos, "--test", test, "--recipe",
                   recipe, "--threads", 1, "--out", tmp_path / "run")  # fmt: skip
    assert done.code == 0
    assert "72 of 96 test images are training images too" in done.log
    assert "on 96 test images, 72 of them copies of training images" in done.out
    done = edgenas("fit-accuracy", tmp_path / "run", "--data", test, "--archs", 20, "--seed", 3)
    assert done.code == 0
