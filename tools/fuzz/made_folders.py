"""Inputs that are folders, and a board: bundles, runs, photos, the answers of a clock."""

import json
import os
import random
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tools.fuzz.kinds import Base, Maker, Reader
from tools.fuzz.made_texts import write
from tools.fuzz.raw import mutated_bytes, mutated_lines
from tools.fuzz.trees import Unchanged, json_text, leaf, mutated

_LINKS = ("/etc/passwd", "/dev/zero", "..", "missing", "/")


def _bundle(base: Base, folder: Path, rng: random.Random) -> Reader:
    """A bundle with one changed file, whose hashes are right again more often than not."""
    made = folder / "b"
    shutil.copytree(base.folder / "bundle", made)
    if not isinstance(rng, Unchanged):
        _change_bundle(made, rng)
    return rng.choice(
        (
            ["verify", "b"],
            ["verify", "b", "--json"],
            ["report", "b", "--out", "page.html"],
            ["export", "b", "--to", "onnx", "--out", "out"],
        )
    )


def _change_bundle(made: Path, rng: random.Random) -> None:
    names = sorted(path.name for path in made.iterdir() if path.name != "manifest.json")
    name = rng.choice(names)
    kind = rng.randrange(6)
    if kind == 0:
        tree = json.loads((made / "manifest.json").read_text())
        write(made / "manifest.json", json_text(mutated(tree, rng)), rng)
    elif kind == 1:
        _something_else(made / name, rng)
    elif name.endswith(".json"):
        tree = json.loads((made / name).read_text())
        write(made / name, json_text(mutated(tree, rng)), rng)
    else:
        (made / name).write_bytes(mutated_bytes((made / name).read_bytes(), rng))
    if kind != 1 and rng.randrange(5):
        _signed_again(made, rng, change=kind == 0)


def _signed_again(made: Path, rng: random.Random, *, change: bool) -> None:
    """Give a bundle the hashes of its files as they are now, and its manifest another value."""
    from edgenas.basics.files import sha256
    from edgenas.bundle import manifest

    try:
        held = json.loads((made / "manifest.json").read_text())
        if change:
            held[rng.choice(sorted(held))] = json.loads(json_text(leaf(rng)))
        for name, one in held["files"].items():
            one.update(bytes=(made / name).stat().st_size, sha256=sha256(made / name))
        held["bundle_id"] = manifest.compute_id(held)
        (made / "manifest.json").write_text(manifest.to_text(held))
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        pass  # a manifest that cannot be signed is hostile enough as it is


def _something_else(path: Path, rng: random.Random) -> None:
    """In the place of a file: nothing, a folder, a FIFO, a link."""
    path.unlink()
    kind = rng.randrange(4)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(rng.choice(_LINKS))


def _run(base: Base, folder: Path, rng: random.Random) -> Reader:
    for path in (base.data / "run-1").iterdir():
        shutil.copy(path, folder)
    kind = rng.randrange(4)
    if kind <= 1:
        tree = json.loads((folder / "run.json").read_text())
        write(folder / "run.json", json_text(mutated(tree, rng)), rng)
    elif kind == 2:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json_text(mutated(json.loads(lines[at]), rng))
        write(folder / "metrics.jsonl", "\n".join(lines) + "\n", rng)
    else:
        data = (folder / "metrics.jsonl").read_bytes()
        (folder / "metrics.jsonl").write_bytes(mutated_bytes(data, rng))
    return ["report", ".", "--out", "page.html"]


def _photos(base: Base, folder: Path, rng: random.Random) -> Reader:
    from edgenas.images.loading import load_images

    made = folder / "photos"
    shutil.copytree(base.folder / "photos", made)
    images = sorted(made.rglob("*.*"))
    source = made
    kind = rng.choice((0, 4, 5) if isinstance(rng, Unchanged) else range(6))
    if kind <= 1:
        path = rng.choice(images)
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    elif kind == 2:
        _something_else(rng.choice(images), rng)
    elif kind == 3:
        path = rng.choice(images)
        new = rng.choice((b"\xff\xfe.png", b"a\x1b[2J.png", b".hidden.png", b"x.eps", b"n", b"\n"))
        os.rename(path, os.fsencode(path.parent) + b"/" + new)
    elif kind == 4:
        rows = "".join(f"{path.relative_to(made)},{path.parent.name}\n" for path in images)
        source = made / "list.csv"
        source.write_bytes(mutated_lines(f"path,label\n{rows}", rng))
    else:
        source = _archive(folder, made, rng)
    skip = bool(rng.randrange(2))
    return lambda: load_images(str(source), stored=16, skip_bad_images=skip)


def _archive(folder: Path, made: Path, rng: random.Random) -> Path:
    """An archive of photos that was damaged, or holds what no archive of photos holds."""
    kind = rng.choice(("tar", "tar.gz", "zip"))
    path = folder / f"photos-archive.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for one in sorted(made.rglob("*.*")):
                archive.write(one, str(one.relative_to(made)))
            if isinstance(rng, Unchanged):
                return path
            if rng.randrange(3) == 0:
                archive.writestr("a/bomb.png", b"\x00" * (200 << 20))
            if rng.randrange(3) == 0:
                archive.writestr(rng.choice(("../../out.png", "/abs/a.png", "a/\x1b[2J.png")), b"")
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(made, ".")
            if isinstance(rng, Unchanged):
                return path
            member = tarfile.TarInfo(rng.choice(("a/link.png", "../up.png", "/abs/a.png")))
            member.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
            member.linkname = rng.choice(("/etc/passwd", "a/link.png", "../x", "./a/0.png"))
            if rng.randrange(2):
                archive.addfile(member)
    if rng.randrange(2):
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    return path


def _board(base: Base, folder: Path, rng: random.Random) -> Reader:
    """A board whose answers were changed; in place of ssh a script says them and listens on."""
    lines = (base.folder / "answers.jsonl").read_text().splitlines()
    kind = -1 if isinstance(rng, Unchanged) else rng.randrange(6)
    at = rng.randrange(len(lines))
    if 0 <= kind <= 3:
        event = mutated(json.loads(lines[at]), rng)
        lines[at] = json_text(event)
    elif kind == 4:
        lines[at:at] = [rng.choice(lines)] * rng.choice((1, 3, 2000))
    elif kind == 5:
        del lines[at:]
    text = "\n".join(lines) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    (folder / "answers").write_bytes(mutated_bytes(data, rng) if rng.random() < 0.2 else data)
    (folder / "bin").mkdir()
    script = folder / "bin" / "ssh"
    script.write_text('#!/bin/sh\ncat "$(dirname "$0")/../answers"\nexec cat > /dev/null\n')
    script.chmod(0o755)
    return lambda: _measured(base, folder)


def _measured(base: Base, folder: Path) -> Any:
    from edgenas.clock.board.settings import TimingSettings
    from edgenas.clock.remote import Board
    from edgenas.clock.ssh import Place
    from edgenas.runtime import registry as runtimes

    board = Board(place=Place(address="board"), pauses=())
    graph = base.folder / "unit.onnx"
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder / 'bin'}:{path}"
    try:
        settings = TimingSettings(seconds=2.0)
        return list(
            board.measure(
                [("unit", graph)], runtime=runtimes.get(runtimes.DEFAULT), settings=settings
            )
        )
    finally:
        os.environ["PATH"] = path


KINDS: dict[str, Maker] = {
    "bundle": _bundle,
    "run": _run,
    "photos": _photos,
    "board": _board,
}
