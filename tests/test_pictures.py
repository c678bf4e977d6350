"""Photos are known by their content, only photo formats are opened, and what is hostile is refused.

Fault tests: every refusal is one line, and needs neither the memory nor the time asked for.
"""

import bz2
import gzip
import io
import lzma
import os
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError, features

from edgenas.basics.errors import EdgenasError
from edgenas.images import sources
from edgenas.images.loading import load_images
from edgenas.images.pictures import (
    FORMATS,
    HEAD,
    MOST_PIXELS,
    detect_format,
    open_image,
)
from edgenas.images.preprocessing import decode_stored

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def photo(seed: int, *, kind: str = "JPEG", size: tuple[int, int] = (40, 32)) -> bytes:
    ramp = np.add.outer(np.arange(size[1]) * 3, np.arange(size[0]) * 2).astype(np.uint8)
    pixels = np.stack([ramp, np.roll(ramp, seed, 0), np.full_like(ramp, 40 * seed % 256)], 2)
    return saved(Image.fromarray(pixels), kind)


def saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image.save(stream, kind)
    return stream.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def two_classes(root: Path) -> Path:
    for name in ("cat", "dog"):
        for i in range(2):
            put(root / name / f"{i}.jpg", photo(i + 3 * len(name)))
    return root


# By content


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a", "a.dat", "a.HEIC"])
def test_a_photo_is_taken_whatever_its_name(tmp_path: Path, kind: str, name: str):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    root = two_classes(tmp_path / "photos")
    content = photo(1, kind=kind)
    assert detect_format(content[:HEAD]) == kind
    put(root / "dog" / name, content)
    found = load_images(str(root), stored=16)
    assert len(found) == 5
    assert found.untaken == ""
    wanted = decode_stored(photo(1, kind="PNG"), stored=16).astype(int)
    row = found.pixels[found.labels == 1].permute(0, 2, 3, 1).numpy().astype(int)
    assert min(np.abs(one - wanted).mean() for one in row) < 12  # lossy codecs, GIF's palette


def test_a_telephones_folder_keeps_its_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names that cameras, browsers and telephones give; HEIC is told where it cannot be read."""
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        for i, end in enumerate((".jpg", ".jfif", "", ".jpe", ".HEIC") * 4):
            heic = end == ".HEIC"
            put(root / name / f"{i}{end}", HEIC + os.urandom(99) if heic else photo(i))
    put(root / "cat" / "notes.TXT", b"BM, and no image")
    put(root / "cat" / "raw.NEF", photo(3, kind="TIFF"))
    monkeypatch.setattr(sources, "is_readable", lambda kind: kind != "HEIF")
    found = load_images(str(root), stored=16)
    assert len(found) == 32
    assert "10 of 42 files were not taken: 8 .HEIC, 1 .TXT, 1 .NEF" in found.untaken
    assert "edgenas[heic]" in found.untaken
    monkeypatch.undo()
    # With the package these are no HEIC images either: random bytes follow their first box.
    assert "8 .HEIC" in load_images(str(root), stored=16).untaken


def test_a_class_of_heic_alone_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = two_classes(tmp_path / "photos")
    put(root / "cow" / "1.heic", HEIC + b"\0\0\0\x20meta")
    monkeypatch.setattr(sources, "is_readable", lambda kind: kind != "HEIF")
    with pytest.raises(EdgenasError, match=r"class folder cow in .* has no images") as caught:
        load_images(str(root), stored=16)
    assert "edgenas[heic]" in caught.value.hint
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg"):
        (root / name).write_bytes(HEIC + b"\0\0\0\x20meta")
    (root / "cow" / "1.heic").unlink()
    (root / "cow").rmdir()
    with pytest.raises(EdgenasError, match=r"no images in .*4 of 4 files .* 4 \.jpg"):
        load_images(str(root), stored=16)
    rows = "\n".join(f"photos/{n}/{i}.jpg,{n}" for n in ("cat", "dog") for i in range(2))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}\n")
    with pytest.raises(EdgenasError, match="no images in") as caught:
        load_images(str(tmp_path / "list.csv"), stored=16)
    assert "edgenas[heic]" in caught.value.hint


def test_nothing_but_photo_formats_is_ever_opened(monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    plain = Image.open

    def opened(stream: io.BytesIO, formats: list[str]) -> Image.Image:
        asked.append(formats)
        return plain(stream, formats=formats)

    monkeypatch.setattr(Image, "open", opened)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it ran"))
    Image.init()
    others = 0
    for kind in sorted(Image.SAVE):
        if kind in (*FORMATS, "MPO", "DIB"):
            continue
        stream = io.BytesIO()
        try:
            Image.new("RGB", (32, 32)).save(stream, kind)
        except (OSError, ValueError, KeyError):
            continue  # of another mode or size
        others += 1
        with pytest.raises(UnidentifiedImageError):
            decode_stored(stream.getvalue(), stored=8)
    assert others >= 5
    assert asked == []
    for kind in ("JPEG", "PNG", "BMP"):
        decode_stored(photo(1, kind=kind), stored=8)
    assert asked == [["JPEG"], ["PNG"], ["BMP"]]


def test_postscript_with_the_name_of_a_photo_is_refused(tmp_path: Path):
    root = two_classes(tmp_path / "photos")
    put(root / "cat" / "9.png", saved(Image.new("RGB", (32, 32)), "EPS"))
    with pytest.raises(EdgenasError, match=r"cat/9.png in .*: it is no image of a known kind"):
        load_images(str(root), stored=16)


# Large photos


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and holds next to none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data


def resized_header(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header says another size."""
    place = next(content.index(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in content)
    return content[: place + 5] + struct.pack(">HH", height, width) + content[place + 9 :]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_of(60_000, 60_000), id="png"),
        pytest.param(png_of(9_000, 9_000), id="png below Pillow's own limit"),
        pytest.param(resized_header(photo(1), 60_000, 60_000), id="jpeg"),
    ],
)
def test_more_pixels_than_memory_are_refused(tmp_path: Path, content: bytes):
    root = two_classes(tmp_path / "photos")
    put(root / "cat" / "9.jpg", content)
    with pytest.raises(EdgenasError, match=r"cannot read the image cat/9.jpg") as caught:
        load_images(str(root), stored=16)
    assert "pixels" in caught.value.message
    assert len(caught.value.message) <= 300
    assert load_images(str(root), stored=16, skip_bad_images=True).skipped == ("cat/9.jpg",)


def test_a_large_jpeg_is_decoded_at_half_its_size(monkeypatch: pytest.MonkeyPatch):
    content = photo(2, size=(160, 128))
    whole = decode_stored(content, stored=32).astype(int)
    monkeypatch.setattr("edgenas.images.pictures.MOST_PIXELS", 160 * 128 // 2)
    with open_image(io.BytesIO(content)) as image:
        assert image.size == (80, 64)
    # Block averages and Pillow's filter differ by a few levels where values wrap around.
    assert np.abs(decode_stored(content, stored=32).astype(int) - whole).mean() < 6
    with pytest.raises(ValueError, match="160 x 128 pixels"):
        decode_stored(photo(2, kind="PNG", size=(160, 128)), stored=32)
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).save(stream, "JPEG", progressive=True)
    with pytest.raises(ValueError, match="160 x 128 pixels"):  # it is kept whole in memory
        decode_stored(stream.getvalue(), stored=32)
    assert MOST_PIXELS >= 64_000_000  # what cameras of today make


# What is no photo


def test_pipes_sockets_and_odd_names_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = two_classes(tmp_path / "photos")
    plain = load_images(str(root), stored=16)
    os.mkfifo(root / "cat" / "pipe.jpg")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root / "dog")  # the path of a socket is short
        server.bind("s.png")
    (root / "dog" / "zero.png").symlink_to("/dev/zero")
    odd = os.fsencode(root / "cat") + b"/\xff\xfe.jpg"
    with open(odd, "wb") as stream:
        stream.write(photo(1))
    found = load_images(str(root), stored=16)
    assert found.digest == plain.digest
    for words in ("5 of 9 files", "3 pipes, sockets or devices", "1 with names that are not UTF-8",
                  "1 links that lead out of the folder"):  # fmt: skip
        assert words in found.untaken


@pytest.mark.parametrize("name", ["photos", "photos.tar", "photos.zip", "list.csv"])
def test_a_pipe_instead_of_photos_is_refused(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    with pytest.raises(EdgenasError, match="is neither a folder nor a file"):
        load_images(str(tmp_path / name), stored=16)


@pytest.mark.parametrize("where", ["pipe.jpg", "a\0b.jpg", "/dev/zero", "x" * 5000])
def test_a_list_of_what_is_no_file_is_refused(tmp_path: Path, where: str):
    os.mkfifo(tmp_path / "pipe.jpg")
    put(tmp_path / "1.jpg", photo(1))
    (tmp_path / "list.csv").write_text(f"path,label\n1.jpg,cat\n{where},dog\n")
    with pytest.raises(EdgenasError, match=r"cannot read the image|is no CSV file") as caught:
        load_images(str(tmp_path / "list.csv"), stored=16)
    assert len(caught.value.message) <= 300 + len(str(tmp_path))


# Archives


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lambda data: lzma.compress(data, preset=0),
}


@pytest.mark.parametrize(
    "suffix",
    [pytest.param(one, marks=[pytest.mark.slow] * (one != ".tar.gz")) for one in PACKERS],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_gigabytes_of_zeros_are_refused(tmp_path: Path, suffix: str, kind: bytes):
    """As a photo, and as a header: the second would be read into memory at once."""
    pack = PACKERS[suffix]
    zeros = pack(bytes(2**24)) * 384  # 6 GB: the packed parts follow each other
    start = tar_of({"cat/1.jpg": photo(1), "dog/1.jpg": photo(2)})[: 4 * 512]
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(pack(start + header("cat/2.jpg", 96 * 2**26, kind)) + zeros)
    with pytest.raises(EdgenasError, match=r"the archive .* is refused: ") as caught:
        load_images(str(path), stored=16)
    assert len(caught.value.message) <= 300 + len(str(tmp_path))


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path: Path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(9):
            archive.writestr(f"cat/{i}.png", b"")
            archive.filelist[-1].file_size = 2**26  # what it says it unpacks to
    with pytest.raises(EdgenasError, match=r"is refused: .* bytes unpack to more than"):
        load_images(str(path), stored=16)


def test_archives_inside_an_archive_stay_closed(tmp_path: Path):
    path = tmp_path / "a.zip"
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("cat/1.png", photo(1))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/1.jpg", photo(1))
        archive.writestr("dog\\1.jpg", photo(2))  # as packers of Windows write it
        archive.writestr("dog/more.zip", inner.getvalue())
        link = zipfile.ZipInfo("dog/2.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    found = load_images(str(path), stored=16)
    assert len(found) == 2
    assert found.untaken == "2 of 4 files were not taken: 1 links, 1 .zip"


def test_devices_and_sparse_files_in_a_tar_are_left_out(tmp_path: Path):
    files = {"cat/1.jpg": photo(1), "dog/1.jpg": photo(2)}
    content = tar_of(files).rstrip(b"\0")
    content += bytes(-len(content) % 512)
    content += header("dog/tty", 0, tarfile.CHRTYPE) + header("dog/fifo.jpg", 0, tarfile.FIFOTYPE)
    path = tmp_path / "a.tar"
    path.write_bytes(content + bytes(1024))
    found = load_images(str(path), stored=16)
    assert len(found) == 2
    assert found.untaken == "2 of 4 files were not taken: 2 devices or pipes"


MEASURED = """
import resource, sys
from edgenas.images.loading import load_images
from edgenas.basics.errors import EdgenasError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_images(sys.argv[1], stored=16)
except EdgenasError as error:
    assert "refused" in str(error) or "pixels" in str(error), error
else:
    raise SystemExit("it was taken")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


BOMBS = ("zeros.tar.gz", "header.tar.gz")


@pytest.mark.parametrize(
    "bomb", ["pixels.zip", *(pytest.param(b, marks=pytest.mark.slow) for b in BOMBS)]
)
def test_what_is_refused_takes_no_memory(tmp_path: Path, bomb: str):
    path = tmp_path / bomb
    zeros = gzip.compress(bytes(2**24)) * 384
    if bomb == "pixels.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cat/1.png", png_of(60_000, 60_000))
            archive.writestr("dog/1.png", png_of(60_000, 60_000))
    else:
        kind = tarfile.REGTYPE if bomb == "zeros.tar.gz" else tarfile.XHDTYPE
        path.write_bytes(gzip.compress(header("cat/1.png", 96 * 2**26, kind)) + zeros)
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "EDGENAS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    # The whole process may take 1 GB, of which torch and its libraries need less than 0.7.
    assert int(found.stdout) < 300
