"""Images: every way of packing them is the same data set; damage is named, never guessed around."""

import hashlib
import http.server
import io
import itertools
import tarfile
import threading
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from serving import QuietServer, running

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import cache_folder
from edgenas.images import cifar10, loading
from edgenas.images.data import Images, count_copies, split
from edgenas.images.loading import load_images
from edgenas.images.preprocessing import Preprocessing, decode_stored


def picture(seed: int, *, width: int = 20, height: int = 16) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(seed: int, *, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, kind)
    return stream.getvalue()


# Relative path -> bytes: two classes, two formats, one folder inside a class.
FILES = {
    "cat/1.png": encoded(1),
    "cat/2.JPG": encoded(2, kind="JPEG"),
    "cat/old/3.png": encoded(3),
    "dog/1.png": encoded(4),
    "dog/2.jpeg": encoded(5, kind="JPEG"),
}


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def archive_of(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    kinds: dict[str, Any] = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}
    with tarfile.open(path, kinds[path.suffix]) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def refused(source: Path, *words: str) -> str:
    """The message that loading a source ends with."""
    with pytest.raises(EdgenasError) as caught:
        load_images(str(source), stored=8)
    message = str(caught.value)
    for word in words:
        assert word in message
    return message


# One data set, however it is packed


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root = folder_of(tmp_path_factory.mktemp("plain") / "images", FILES)
    return load_images(str(root), stored=8)


def test_a_folder_gives_the_images_in_it(plain: Images):
    assert plain.classes == ("cat", "dog")
    assert plain.labels.tolist() == [0, 0, 0, 1, 1]
    assert plain.pixels.shape == (5, 3, 8, 8)
    assert plain.pixels.dtype == torch.uint8
    for row, content in zip(plain.pixels, FILES.values(), strict=True):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), decode_stored(content, stored=8))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"])
@pytest.mark.parametrize("wrapper", ["", "./", "photos/2024/"])
def test_an_archive_is_the_folder(tmp_path: Path, plain: Images, name: str, wrapper: str):
    packed = {wrapper + path: FILES[path] for path in sorted(FILES, reverse=True)}
    found = load_images(str(archive_of(tmp_path / name, packed)), stored=8)
    assert found.digest == plain.digest
    assert found.classes == plain.classes
    assert torch.equal(found.pixels, plain.pixels)


def listed(path: Path, rows: list[str], *, head: str = "path,label") -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("absolute", [False, True])
def test_a_csv_is_the_folder(tmp_path: Path, plain: Images, absolute: bool):
    root = folder_of(tmp_path / "images", {f"{i}.img": c for i, c in enumerate(FILES.values())})
    start = f"{root}/" if absolute else "images/"
    rows = [f'"{start}{i}.img",{path.split("/")[0]},x' for i, path in enumerate(FILES)]
    found = load_images(
        str(listed(tmp_path / "list.csv", rows[::-1], head="path,label,who")), stored=8
    )
    assert found.digest == plain.digest
    assert found.classes == plain.classes


def test_a_csv_that_is_wrong_is_refused(tmp_path: Path):
    folder_of(tmp_path, {"a.png": encoded(1), "b.png": encoded(2)})
    path = tmp_path / "list.csv"
    good = ["a.png,cat", "b.png,dog"]
    assert len(load_images(str(listed(path, good)), stored=8)) == 2
    refused(listed(path, good, head="file,class"), "must name the columns path and label", "file")
    refused(listed(path, ["a.png,cat", "b.png,"]), "line 3: path and label must both be there")
    refused(listed(path, ["a.png,cat", "c.png,dog"]), "cannot read the image", "c.png")
    refused(listed(path, ["a.png,cat", "a.png,dog"]), "names a.png more than once")
    refused(listed(path, ["a.png,cat"]), "at least 2 classes")
    refused(listed(path, []), "no images in")
    # A label that was corrected is seen, though no image changed.
    assert load_images(str(listed(path, good)), stored=8).classes == ("cat", "dog")
    assert load_images(str(listed(path, ["a.png,cow", "b.png,dog"])), stored=8).classes[0] == "cow"


def test_copies_between_two_sets_are_counted(plain: Images):
    first, second = plain.take(torch.tensor([0, 1, 2])), plain.take(torch.tensor([2, 3, 2]))
    assert count_copies(first, second) == 2
    assert count_copies(second, first) == 1
    assert count_copies(first, plain.take(torch.tensor([3, 4]))) == 0


def test_the_parent_of_the_class_folders_will_do(tmp_path: Path, plain: Images):
    folder_of(tmp_path / "up" / "images", FILES)
    assert load_images(str(tmp_path / "up"), stored=8).digest == plain.digest


def test_links_inside_the_folder_are_followed(tmp_path: Path, plain: Images):
    linked = folder_of(tmp_path / "linked", {f".kept/{n}": c for n, c in FILES.items()})
    (linked / "cat").mkdir()
    (linked / "dog").symlink_to(linked / ".kept" / "dog")
    (linked / "cat" / "old").symlink_to("../.kept/cat/old")
    for name in ("1.png", "2.JPG"):
        (linked / "cat" / name).symlink_to(linked / ".kept" / "cat" / name)
    (linked / "cat" / "circle").symlink_to(linked)
    (linked / "cat" / "itself").symlink_to(linked / "cat" / "itself")
    found = load_images(str(linked), stored=8)
    assert found.digest == plain.digest
    assert found.untaken == "1 of 6 files were not taken: 1 links that lead nowhere"
    (tmp_path / "elsewhere").symlink_to(linked)
    assert load_images(str(tmp_path / "elsewhere"), stored=8).digest == plain.digest


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, plain: Images):
    folder = folder_of(tmp_path / "images", FILES)
    other = folder_of(tmp_path / "images2", FILES)  # a name that begins with that of the folder
    (folder / "dog" / "9.png").symlink_to(other / "dog" / "1.png")
    (folder / "dog" / "everything").symlink_to("/")
    (folder / "cow").symlink_to(other / "cat")
    found = load_images(str(folder), stored=8)
    assert found.digest == plain.digest
    assert "3 of 8 files were not taken: 3 links that lead out of the folder" in found.untaken
    assert "name the images in a CSV" in found.untaken


def test_links_inside_a_tar_are_images(tmp_path: Path, plain: Images):
    path = archive_of(tmp_path / "a.tar", {k: v for k, v in FILES.items() if k != "dog/1.png"})
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("dog/1.png")
        member.type, member.linkname = tarfile.LNKTYPE, "cat/1.png"
        archive.addfile(member)
        for name, target in (("dog/8.png", "dog/8.png"), ("dog/9.png", "/etc/hostname")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    found = load_images(str(path), stored=8)
    assert found.labels.tolist() == plain.labels.tolist()
    assert torch.equal(found.pixels[3], plain.pixels[0])
    assert "2 links that lead to no file in the archive" in found.untaken


def test_what_is_no_image_is_left_alone(tmp_path: Path, plain: Images):
    junk = {".DS_Store": b"x", ".git/a/1.png": b"x", "cat/._1.png": b"x", "readme.md": b"x"}
    junk |= {"dog/notes.txt": b"x", "__MACOSX/cat/._1.png": b"x", "cover.png": encoded(9)}
    folder = folder_of(tmp_path / "images", FILES | junk)
    assert load_images(str(folder), stored=8).digest == plain.digest
    assert load_images(str(archive_of(tmp_path / "a.zip", FILES | junk)), stored=8).digest == (
        plain.digest
    )


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_names_in_an_archive_do_no_harm(tmp_path: Path, name: str):
    inside = tmp_path / "inside"
    inside.mkdir()
    target = tmp_path / "evil.png"
    odd = {
        "../evil.png": encoded(1),
        f"{tmp_path}/evil.png": encoded(2),
        "x/../../evil.png": encoded(3),
        "ünï cöde \n/😀.png": encoded(4),
    }
    before = sorted(tmp_path.rglob("*"))
    path = archive_of(inside / name, odd)
    assert len(load_images(str(path), stored=8)) == 4
    assert not target.exists()
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_nothing_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    path = archive_of(tmp_path / "a.tar.xz", FILES)
    load_images(str(path), stored=8)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p.suffix for p in sorted(files)] == [".xz", ".npz"]


# What is refused


def test_a_source_that_is_not_there(tmp_path: Path):
    refused(tmp_path / "none", "no images at", "hint: give a folder of class folders")


def test_a_source_of_no_known_kind(tmp_path: Path):
    path = tmp_path / "a.rar"
    path.write_bytes(b"Rar!")
    refused(path, "images must be a folder or one of .tar", "a.rar")


@pytest.mark.parametrize("files", [{}, {"cat/notes.txt": b"x"}, {"1.png": encoded(1)}])
def test_a_folder_without_images(tmp_path: Path, files: dict[str, bytes]):
    root = tmp_path / "images"
    root.mkdir()
    refused(folder_of(root, files), "no images in", "one folder per class")


def test_an_archive_without_images(tmp_path: Path):
    refused(archive_of(tmp_path / "a.tar", {}), "no images in")


def test_a_single_class(tmp_path: Path):
    files = {"cat/1.png": encoded(1), "cat/2.png": encoded(2)}
    message = "must have at least 2 classes, found 1 ('cat')"
    refused(folder_of(tmp_path / "images", files), message)
    refused(archive_of(tmp_path / "a.zip", files), message)


def test_a_class_without_images(tmp_path: Path):
    root = folder_of(tmp_path / "images", FILES)
    (root / "bird").mkdir()
    refused(root, "class folder bird in", "has no images", "remove the folder")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(root, "images")
    refused(tmp_path / "a.tar", "class folder images/bird in", "has no images")


def encoded_as(values: NDArray[Any], *, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


BAD = {
    "text": b"this is no image",
    "empty": b"",
    "truncated png": FILES["cat/1.png"][:200],
    "16 bits": encoded_as(np.arange(400, dtype=np.uint16).reshape(20, 20), kind="PNG"),
    "32 bits": encoded_as(np.arange(400, dtype=np.int32).reshape(20, 20), kind="TIFF"),
    "floats": encoded_as(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20), kind="TIFF"),
    "truncated jpeg": FILES["cat/2.JPG"][:-40],
    "huge": encoded(1, kind="BMP")[:18] + b"\xff\xff\xff\x0f" * 2 + encoded(1, kind="BMP")[26:],
}


@pytest.mark.parametrize("content", [pytest.param(v, id=k) for k, v in BAD.items()])
def test_an_image_that_cannot_be_read_is_named_or_skipped(
    tmp_path: Path, plain: Images, content: bytes
):
    files = FILES | {"dog/9.png": content}
    for source in (
        folder_of(tmp_path / "images", files),
        archive_of(tmp_path / "a.zip", files),
        archive_of(tmp_path / "a.tar.gz", files),
    ):
        message = refused(source, "cannot read the image dog/9.png in", "--skip-bad-images")
        assert len(message.splitlines()) == 2
        kept = load_images(str(source), stored=8, skip_bad_images=True)
        assert kept.digest == plain.digest
        assert kept.skipped == ("dog/9.png",)
        # What was left out once is not left out silently the next time.
        refused(source, "cannot read the image dog/9.png in")


def test_what_is_left_of_bad_images_is_decoded_once(
    tmp_path: Path, plain: Images, monkeypatch: pytest.MonkeyPatch
):
    root = folder_of(tmp_path / "images", FILES | {"dog/9.png": b"x"})
    load_images(str(root), stored=8, skip_bad_images=True)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "decode_stored", None)
        kept = load_images(str(root), stored=8, skip_bad_images=True)
    assert kept.digest == plain.digest
    assert kept.skipped == ("dog/9.png",)
    refused(root, "cannot read the image dog/9.png in")
    # Once it is mended, nothing is left out any more.
    (root / "dog/9.png").write_bytes(encoded(9))
    kept = load_images(str(root), stored=8, skip_bad_images=True)
    assert len(kept) == len(plain) + 1
    assert kept.skipped == ()


def test_grey_of_8_bits_and_of_one_is_read(tmp_path: Path):
    grey = np.arange(400, dtype=np.uint8).reshape(20, 20)
    for values in (grey, grey > 100):
        found = decode_stored(encoded_as(values, kind="PNG"), stored=20)
        wanted = values * np.uint8(255) if values.dtype == bool else values
        assert np.array_equal(found, np.repeat(wanted[..., None], 3, 2))


def test_a_class_that_loses_all_its_images(tmp_path: Path):
    root = folder_of(tmp_path / "images", FILES | {"bird/1.png": b"", "bird/2.png": b"x"})
    with pytest.raises(EdgenasError, match=r"class 'bird' in .* has no image that can be read"):
        load_images(str(root), stored=8, skip_bad_images=True)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_a_damaged_archive_is_refused_or_whole(tmp_path: Path, plain: Images, name: str):
    whole = archive_of(tmp_path / name, FILES).read_bytes()
    path = tmp_path / f"damaged{''.join(Path(name).suffixes)}"
    rng, refusals = np.random.default_rng(5), 0
    for cut in (0, 1, 100, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:cut])
        refused(path, "damaged")
    for _ in range(30):
        content = bytearray(whole)
        place = int(rng.integers(len(whole)))
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            found = load_images(str(path), stored=8)
        except EdgenasError:
            refusals += 1
        else:
            # A plain tar has no checksum over its contents: a pixel may change, no image may go.
            assert len(found) == len(plain)
            assert name == "a.tar" or found.digest == plain.digest
    assert refusals > 5


def test_an_encrypted_zip_member_is_named(tmp_path: Path):
    path = archive_of(tmp_path / "a.zip", FILES)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1  # the flag "encrypted" of the first entry of the directory
    path.write_bytes(content)
    refused(path, "cannot read the image cat/1.png in", "encrypted")


# The cache


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def test_images_are_decoded_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    root = folder_of(tmp_path / "images", FILES)
    told: list[tuple[int, int]] = []
    first = load_images(str(root), stored=8, progress=lambda done, of: told.append((done, of)))
    assert told == [(i, 5) for i in range(1, 6)]
    with monkeypatch.context() as patch:
        patch.setattr(loading, "decode_stored", lambda *_, **__: pytest.fail("decoded again"))
        again = load_images(str(root), stored=8)
    assert again.digest == first.digest
    assert len(list(own_cache.iterdir())) == 1
    assert load_images(str(root), stored=6).pixels.shape == (5, 3, 6, 6)


def test_a_change_of_the_images_is_seen(tmp_path: Path, own_cache: Path):
    root = folder_of(tmp_path / "images", FILES)
    first = load_images(str(root), stored=8)
    (root / "cat/1.png").write_bytes(encoded(77))
    assert load_images(str(root), stored=8).digest != first.digest
    (root / "cat/1.png").unlink()
    assert len(load_images(str(root), stored=8)) == 4


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, own_cache: Path, damage: str):
    root = folder_of(tmp_path / "images", FILES)
    first = load_images(str(root), stored=8)
    (kept,) = own_cache.iterdir()
    content = bytearray(kept.read_bytes())
    place = content.index(first.pixels[0].permute(1, 2, 0).numpy().tobytes())
    content[place] ^= 1
    cases = {"empty": b"", "cut": kept.read_bytes()[:500], "flipped": content, "other": b"no npz"}
    kept.write_bytes(cases[damage])
    assert load_images(str(root), stored=8).digest == first.digest
    assert len(list(own_cache.iterdir())) == 1


# From an image to an input


@pytest.mark.parametrize(("width", "height"), [(21, 16), (16, 21), (16, 16), (40, 9), (3, 5)])
def test_decoding_cuts_the_centre_square(width: int, height: int):
    image = picture(1, width=width, height=height)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    side = min(width, height)
    values = np.asarray(image)
    top, left = (height - side) // 2, (width - side) // 2
    square = values[top : top + side, left : left + side]
    assert np.array_equal(decode_stored(stream.getvalue(), stored=side), square)
    resized = Image.fromarray(square).resize((11, 11), Image.Resampling.BILINEAR)
    assert np.array_equal(decode_stored(stream.getvalue(), stored=11), np.asarray(resized))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_image_becomes_rgb(mode: str):
    stream = io.BytesIO()
    picture(1).convert(mode).save(stream, "TIFF")
    assert decode_stored(stream.getvalue(), stored=7).shape == (7, 7, 3)


# How an upright image lies in a file of each orientation (EXIF 2.32, tag 0x0112).
STORED_AS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_every_image_is_upright(orientation: int, kind: str):
    # Smooth, so that JPEG keeps it.
    ramp = np.add.outer(np.arange(12) * 3, np.arange(18) * 9).astype(np.uint8)
    upright = np.stack([ramp] * 3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored = np.ascontiguousarray(STORED_AS[orientation](upright))
    Image.fromarray(stored).save(stream, kind, exif=exif, quality=100)
    found = decode_stored(stream.getvalue(), stored=12)
    wanted = upright[:, 3:15]
    assert np.abs(found.astype(int) - wanted).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("resolution", [5, 8, 12, 19, 24])
def test_preparing_is_pillows_resize_and_the_normalisation(resolution: int):
    stored = 12
    pixels = torch.from_numpy(
        np.random.default_rng(3).integers(0, 256, (6, 3, stored, stored), dtype=np.uint8)
    )
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    preprocessing = Preprocessing(stored=stored, mean=mean, std=std)
    prepared = preprocessing.prepare(pixels, resolution=resolution)
    assert prepared.dtype == torch.float32
    assert prepared.shape == (6, 3, resolution, resolution)
    assert prepared.is_contiguous(memory_format=torch.channels_last)
    for row, stored_row in zip(prepared, pixels, strict=True):
        image = Image.fromarray(stored_row.permute(1, 2, 0).numpy())
        image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
        levels = (row.permute(1, 2, 0).numpy() * std + mean) * 255
        assert np.abs(levels - np.asarray(image)).max() < 1e-3
    assert not np.shares_memory(prepared.numpy(), pixels.numpy())


def test_statistics_normalise_the_images_to_mean_0_and_deviation_1(plain: Images):
    mean, std = plain.statistics()
    prepared = Preprocessing(stored=8, mean=mean, std=std).prepare(plain.pixels, resolution=8)
    assert prepared.mean((0, 2, 3)).abs().max() < 1e-5
    assert (prepared.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_preprocessing_comes_back_from_json():
    value = Preprocessing(stored=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert Preprocessing.from_json(value.to_json(), where="x") == value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("interpolation", "nearest", r"x: interpolation must be .bilinear.*found 'nearest'"),
        ("stored", "32", "x: stored must be an integer or a list, found '32'"),
        ("stored", 0, "x: stored must be at least 1 pixel, found 0"),
        ("mean", [0.5, 0.5], r"x: mean must have 3 items, found \[0.5, 0.5\]"),
        ("mean", 0.5, "x: mean must be a list, found 0.5"),
        ("std", [0.2, 0.2, 0.0], r"x: std\[2\] must be at least 1e-06, found 0.0"),
        ("std", [0.2, 0.2, float("nan")], r"x: std\[2\] must be a finite number, found nan"),
        ("crop", 1, "x: unknown field 'crop'"),
        ("fit", "squash", "x: fit must be one of crop, pad, stretch, found 'squash'"),
        ("crop_fraction", 0.0, "x: crop_fraction must be at least 0.1, found 0.0"),
        ("crop_fraction", 1.1, "x: crop_fraction must be at most 1, found 1.1"),
        ("schema", "edgenas.preprocessing/9", "x must have schema"),
    ],
)
def test_preprocessing_that_is_not_ours_is_refused(field: str, value: object, message: str):
    fields = Preprocessing(stored=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).to_json()
    with pytest.raises(EdgenasError, match=message):
        Preprocessing.from_json(fields | {field: value}, where="x")


# Splitting


def many(counts: tuple[int, ...]) -> Images:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Images(
        pixels=torch.from_numpy(np.broadcast_to(pixels, (len(labels), 3, 2, 2)).copy()),
        labels=torch.from_numpy(labels),
        classes=tuple(f"class {i}" for i in range(len(counts))),
        source="test",
        digest="",
    )


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.9, 1.0])
def test_a_split_is_disjoint_complete_and_stratified(fraction: float):
    counts = (40, 90, 2, 17)
    images = many(counts)
    parts = split(images, validation=fraction, seed=4)
    train, held = (part.pixels[:, 0, 0, 0].tolist() for part in (parts.train, parts.validation))
    assert sorted(train + held) == list(range(len(images)))
    assert not set(train) & set(held)
    for label, count in enumerate(counts):
        found = int((parts.validation.labels == label).sum())
        assert found == min(max(1, round(fraction * count)), count - 1)
    for part, rows in ((parts.train, train), (parts.validation, held)):
        assert torch.equal(part.labels, images.labels[torch.tensor(rows)])


def test_a_split_is_chosen_by_its_seed():
    images = many((40, 60))
    held = [
        split(images, validation=0.2, seed=seed).validation.pixels[:, 0, 0, 0].tolist()
        for seed in (0, 0, 1)
    ]
    assert held[0] == held[1] != held[2]


DIVIDED = {
    f"{part}/{name}/{i}.png": encoded(seed)
    for seed, (part, name, i) in enumerate(
        (part, name, i)
        for part, count in (("train", 3), ("val", 2), ("test", 1))
        for name in ("cat", "dog")
        for i in range(count)
    )
}


@pytest.mark.parametrize("name", ["folder", "a.zip", "a.tar.gz"])
@pytest.mark.parametrize("top", ["", "photos/"])
def test_folders_say_what_is_for_validation(tmp_path: Path, own_cache: Path, name: str, top: str):
    files = {top + path: content for path, content in DIVIDED.items()}
    made = folder_of if name == "folder" else archive_of
    source = str(made(tmp_path / name, files))
    folder_of(tmp_path / "plain", DIVIDED)
    wanted = [load_images(str(tmp_path / "plain" / part), stored=8) for part in ("train", "val")]
    for _ in range(2):  # decoded, then from the cache
        images = load_images(source, stored=8)
        assert images.classes == ("cat", "dog")
        assert len(images) == 10
        for seed in (0, 1):
            parts = split(images, validation=0.1, seed=seed)
            for found, part in zip((parts.train, parts.validation), wanted, strict=True):
                assert torch.equal(found.pixels, part.pixels)
                assert torch.equal(found.labels, part.labels)


def test_a_column_says_what_is_for_validation(tmp_path: Path):
    folder_of(tmp_path / "images", DIVIDED)
    wanted = load_images(str(tmp_path / "images"), stored=8)
    rows = [f"images/{path},{path.split('/')[1]},{path.split('/')[0]}" for path in DIVIDED]
    path = listed(tmp_path / "list.csv", rows, head="path,label,split")
    found = load_images(str(path), stored=8)
    assert wanted.held is not None
    assert found.digest == wanted.digest
    # What is for what can change while no image does.
    listed(path, [row.replace(",val", ",train") for row in rows], head="path,label,split")
    assert load_images(str(path), stored=8).held is None
    listed(path, [row.replace(",val", ", Valid ") for row in rows], head="path,label,split")
    assert load_images(str(path), stored=8).digest == wanted.digest
    bad = [*rows[:2], "images/train/cat/2.png,cat,fold3"]
    refused(listed(path, bad, head="path,label,split"), "line 4: split must be", "found 'fold3'")
    refused(listed(path, ["a.png,cat,"], head="path,label,split"), "line 2: split must be")


def test_every_class_needs_images_in_both_folders(tmp_path: Path):
    kept = {path: c for path, c in DIVIDED.items() if not path.startswith("val/dog")}
    images = load_images(str(folder_of(tmp_path / "a", kept)), stored=8)
    with pytest.raises(EdgenasError, match=r"class 'dog' of .* found none for validation"):
        split(images, validation=0.1, seed=0)
    (tmp_path / "a/val/dog").mkdir()
    refused(tmp_path / "a", "class folder val/dog in", "has no images")


def test_classes_may_be_called_like_a_part(tmp_path: Path):
    names = ("train", "bus", "val")
    files = {f"{name}/{i}.png": encoded(i) for name in names for i in range(2)}
    images = load_images(str(folder_of(tmp_path / "a", files)), stored=8)
    assert images.classes == ("bus", "train", "val")
    assert images.held is None
    # Images right below are no class folders.
    files = {f"{name}/{i}.png": encoded(i) for name in ("train", "test") for i in range(2)}
    assert load_images(str(folder_of(tmp_path / "b", files)), stored=8).classes == ("test", "train")


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(EdgenasError, match="class 'class 1' must have at least 2 images"):
        split(many((5, 1)), validation=0.2, seed=0)


# CIFAR-10, from a server that this test runs


class Server(QuietServer):
    """Serves one file; may break off after some bytes, or not know ranges."""

    content = b""
    breaks_after: int | None = None
    knows_ranges = True
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, start = cast(Server, self.server), 0
        wanted = self.headers["Range"]
        server.asked.append(wanted)
        if wanted and server.knows_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


def cifar10_archive() -> bytes:
    """The binary version in small: 4 images a batch, label first, then the planes of R, G, B."""
    stream, rng = io.BytesIO(), np.random.default_rng(8)
    names = "airplane automobile bird cat deer dog frog horse ship truck\n".replace(" ", "\n")
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        files = {"batches.meta.txt": names.encode() + b"\n", "readme.html": b""}
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
            records[:, 0] = rng.integers(0, 10, 4)
            files[f"{name}.bin"] = records.tobytes()
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def server(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.content, server.asked = cifar10_archive(), []
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    digest = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setattr(cifar10, "CIFAR10_BYTES", len(server.content))
    monkeypatch.setattr(cifar10, "CIFAR10_SHA256", digest)
    with running(server) as site:
        monkeypatch.setattr(cifar10, "CIFAR10_URL", f"{site}/c.tar.gz")
        yield server


def downloads() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "downloads").iterdir())


def test_two_who_want_a_file_at_once_fetch_it_once(server: Server):
    together, found = threading.Barrier(4), list[int]()

    def work() -> None:
        together.wait()
        found.append(len(load_images("cifar10", stored=32)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 4
    assert len(server.asked) == 1
    assert downloads() == ["cifar-10-binary.tar.gz"]


def test_cifar10_is_downloaded_once_and_read_right(server: Server):
    train, test = (load_images(name, stored=32) for name in ("cifar10", "cifar10-test"))
    assert len(server.asked) == 1
    assert (len(train), len(test)) == (20, 4)
    assert train.classes[:2] == ("airplane", "automobile")
    assert len(train.classes) == 10
    with tarfile.open(fileobj=io.BytesIO(server.content)) as archive:
        stream = archive.extractfile("cifar-10-batches-bin/data_batch_2.bin")
        assert stream is not None
        record = stream.read()[3073 : 2 * 3073]  # the sixth training image
    assert train.labels[5] == record[0]
    for channel, row, column in itertools.product(range(3), (0, 7, 31), (0, 13, 31)):
        wanted = record[1 + channel * 1024 + row * 32 + column]
        assert train.pixels[5, channel, row, column] == wanted
    smaller = load_images("cifar10-test", stored=16)
    image = Image.fromarray(test.pixels[0].permute(1, 2, 0).numpy())
    resized = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(smaller.pixels[0].permute(1, 2, 0).numpy(), resized)


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server: Server, knows_ranges: bool):
    server.breaks_after = 1000
    with pytest.raises(EdgenasError, match="broke off after 1000 of") as caught:
        load_images("cifar10", stored=32)
    assert "try again (it resumes)" in caught.value.hint
    assert downloads() == ["cifar-10-binary.tar.gz.part"]
    server.breaks_after, server.knows_ranges = None, knows_ranges
    assert len(load_images("cifar10", stored=32)) == 20
    assert server.asked == [None, "bytes=1000-"]
    assert downloads() == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize(
    "wrong", [lambda c: c[:-1] + b"x", lambda c: c + b"x", lambda c: b"<html>" + c[6:]]
)
def test_another_file_is_refused_and_not_kept(server: Server, wrong: Callable[[bytes], bytes]):
    content = server.content
    server.content = wrong(content)
    with pytest.raises(EdgenasError, match="is not the expected file") as caught:
        load_images("cifar10", stored=32)
    assert "put it at" in caught.value.hint
    assert downloads() == []
    server.content = content
    assert len(load_images("cifar10", stored=32)) == 20


def test_a_beginning_that_the_server_does_not_have_is_forgotten(server: Server):
    content = server.content
    server.content = content[:500]
    for _ in range(2):
        with pytest.raises(EdgenasError, match="could not download"):
            load_images("cifar10", stored=32)
    server.content = content
    assert len(load_images("cifar10", stored=32)) == 20


def test_no_network(server: Server, monkeypatch: pytest.MonkeyPatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        port = other.server_port
    monkeypatch.setattr(cifar10, "CIFAR10_URL", f"http://127.0.0.1:{port}/c.tar.gz")
    with pytest.raises(EdgenasError, match="could not download http") as caught:
        load_images("cifar10", stored=32)
    assert "put the file at" in caught.value.hint
    # And the hint works: a file put there by hand is used.
    path = cache_folder() / "downloads" / "cifar-10-binary.tar.gz"
    path.write_bytes(server.content)
    assert len(load_images("cifar10", stored=32)) == 20
    assert server.asked == []
