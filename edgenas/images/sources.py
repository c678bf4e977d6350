"""Lists the images of folders, archives and CSV files; it decodes none of them.

What is an image is told by the first bytes of a file. What is not taken is counted, by its
extension or the reason.
"""

import csv
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.ranges import Length
from edgenas.images.archives import (
    ARCHIVES,
    Member,
    Members,
    list_members,
    read_members,
)
from edgenas.images.layout import (
    Entry,
    Role,
    detect_role,
    is_hidden,
    make_printable,
    sort_into_classes,
)
from edgenas.images.pictures import (
    AVIF_HINT,
    DECODING,
    HEAD,
    HEIC_HINT,
    HEIC_SUFFIXES,
    MOST_BYTES,
    RAW_SUFFIXES,
    SUFFIXES,
    detect_format,
    is_readable,
)

_GIVE = "give a folder of class folders, a .tar or .zip of one, a .csv, or cifar10"
_OUT = "links that lead out of the folder"
_MOST_REASONS = 6  # reasons named where files are not taken


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a source.

    Args:
        entries: with their classes, sorted by class and name.
        untaken: how many files were not taken, and why, in words; empty: all were.
        hint: how more of them would be; may be empty.
    """

    entries: list[Entry]
    untaken: str = ""
    hint: str = ""


@dataclass(slots=True)
class _LeftOut:
    """What is not taken: how many, by extension or by a reason, and what would help."""

    count: Counter[str] = field(default_factory=Counter)
    hints: set[str] = field(default_factory=set)

    def lacks(self, name: str, head: bytes) -> bool:
        """Whether a file is an image of a format that this installation does not read; counted."""
        kind, suffix = detect_format(head), PurePosixPath(name).suffix
        heic = kind == "HEIF" or (not kind and suffix.lower() in HEIC_SUFFIXES)
        if heic and not is_readable("HEIF"):
            self.hints.add(f"for HEIC files: {HEIC_HINT}")
        elif kind and not is_readable(kind):
            self.hints.add(AVIF_HINT)
        else:
            return False
        self.count[suffix or "without an extension"] += 1
        return True

    def takes(self, name: str, head: bytes) -> bool:
        """Whether a file is an image that is read, or promises one by its name; else counted."""
        suffix = PurePosixPath(name).suffix
        if self.lacks(name, head):
            return False
        raw = suffix.lower() in RAW_SUFFIXES
        if (detect_format(head) and not raw) or suffix.lower() in SUFFIXES:
            return True
        self.count[suffix or "without an extension"] += 1
        return False

    def told(self, taken: int) -> str:
        """In words, e.g. ``12 of 60 files were not taken: 12 .heic``; empty: nothing is left."""
        spellings: dict[str, Counter[str]] = {}
        for words, n in self.count.items():
            spellings.setdefault(words.lower(), Counter())[words] += n
        reasons = Counter({s.most_common(1)[0][0]: s.total() for s in spellings.values()})
        named = [f"{n} {make_printable(words)}" for words, n in reasons.most_common(_MOST_REASONS)]
        if others := reasons.total() - sum(n for _, n in reasons.most_common(_MOST_REASONS)):
            named.append(f"{others} others")
        if not (left := reasons.total()):
            return ""
        return f"{left} of {taken + left} files were not taken: {', '.join(named)}"


def list_images(path: Path, *, labelled: bool = True) -> Listing:
    """The images of a folder, archive or list, with their class, sorted by both.

    Args:
        path: the folder, archive or list.
        labelled: whether folders are classes. Images without labels may lie anywhere, and their
            class is empty.

    Raises:
        EdgenasError: nothing there, no archive, a damaged one, or a class folder without images.
    """
    if os.path.isdir(path):
        return _take_images(_walk_folder(path), path, labelled=labelled)
    if not os.path.exists(path):
        raise EdgenasError(f"no images at {path}", hint=_GIVE)
    if not os.path.isfile(path):
        raise EdgenasError(f"{path} is neither a folder nor a file", hint=_GIVE)
    if path.suffix.lower() == ".csv":
        if not labelled:
            raise EdgenasError(
                f"images without labels must be a folder or an archive, found {path}",
                hint="give the folder of the images",
            )
        return _read_csv(path)
    if not path.name.lower().endswith(ARCHIVES):
        raise EdgenasError(
            f"images must be a folder or one of {', '.join(ARCHIVES)}, .csv, found {path}",
            hint="give a folder of class folders, an archive of one, or a CSV of path,label",
        )
    return _take_images(list_members(path), path, labelled=labelled)


def _take_images(members: Members, path: Path, *, labelled: bool) -> Listing:
    """The images among files, with their classes if they are labelled."""
    left = _LeftOut(members.left)
    images: list[tuple[str, object]] = []
    for member in members.files:
        if is_hidden(member.name):
            continue
        if not _is_utf8(member.name):
            left.count["with names that are not UTF-8"] += 1
        elif left.takes(member.name, member.head):
            images.append((member.name, member.handle))
    folders = [name for name in members.folders if not is_hidden(name) and _is_utf8(name)]
    if left.count[_OUT]:
        left.hints.add("links out of a folder are not followed: name the images in a CSV")
    hint = "; ".join(sorted(left.hints))
    if not labelled:
        entries = [("", name, handle, False) for name, handle in sorted(images, key=lambda i: i[0])]
        return Listing(entries, left.told(len(entries)), hint)
    layout = sort_into_classes(
        images, folders, path, hint=hint or "add images or remove the folder"
    )
    left.count.update(layout.left)
    return Listing(layout.entries, left.told(len(layout.entries)), hint)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path) -> Listing:
    """The images that a CSV file of the columns ``path`` and ``label`` names, sorted.

    Paths are relative to the folder of the file. A column ``split`` divides them as folders of
    these names do; what is for tests is left out.
    """
    entries, left = list[Entry](), _LeftOut()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            missing = {"path", "label"} - set(rows.fieldnames or ())
            if missing:
                names = make_printable(",".join(rows.fieldnames or ()))
                raise EdgenasError(
                    f"the first line of {path} must name the columns path and label, "
                    f"found {names or 'nothing'}",
                    hint="write path,label there",
                )
            for row in rows:
                name, where = (row["label"] or "").strip(), (row["path"] or "").strip()
                if not name or not where:
                    raise EdgenasError(
                        f"{path}, line {rows.line_num}: path and label must both be there",
                        hint="complete or remove the line",
                    )
                if (part := _role_of_row(row, path, rows.line_num)) == "test":
                    left.count["for tests"] += 1
                elif not left.lacks(where, _read_head(path.parent / where)):
                    entries.append((name, where, None, part == "validation"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise EdgenasError(
            f"{path} is no CSV file: {error}", hint="its first line must be path,label, in UTF-8"
        ) from error
    twice = [where for where, n in Counter(where for _, where, _, _ in entries).items() if n > 1]
    if twice:
        raise EdgenasError(
            f"{path} names {make_printable(twice[0])} more than once", hint="one label an image"
        )
    hint = "; ".join(sorted(left.hints))
    return Listing(sorted(entries, key=lambda e: (e[0], e[1])), left.told(len(entries)), hint)


def _role_of_row(row: dict[str, str | None], path: Path, line: int) -> Role:
    """What a row of a CSV file is for; training, where there is no column for that."""
    word = (row.get("split", "train") or "").strip()
    role, exact = detect_role(word)
    if role not in ("training", "validation", "test") or not exact:
        raise EdgenasError(
            f"{path}, line {line}: split must be train, val or test, "
            f"found {make_printable(word)!r}",
            hint="or leave the column split out: then a part of every class is set aside",
        )
    return role


def _walk_folder(path: Path) -> Members:
    """What is below a folder. Links inside it are followed, each folder once; no others are."""

    def unread(error: OSError) -> None:
        raise EdgenasError(
            f"cannot read the folder {make_printable(str(error.filename))}: {error.strerror}",
            hint="let it be read, or remove it",
        ) from error

    top = os.path.realpath(path)
    files, folders, left, seen = list[Member](), list[str](), Counter[str](), {top}
    for root, inside, names in os.walk(path, followlinks=True, onerror=unread):
        below = PurePosixPath(os.path.relpath(root, path))
        kept: list[str] = []
        for name in sorted(inside):
            real = os.path.realpath(f"{root}/{name}")
            if is_hidden(name):
                continue
            if not _is_within(real, top):
                left[_OUT] += 1
            elif real not in seen:
                seen.add(real)
                kept.append(name)
        inside[:] = kept
        folders += [str(below / name) for name in kept]
        for name in sorted(names):
            if is_hidden(name):
                continue
            if reason := _reason_to_refuse(f"{root}/{name}", top):
                left[reason] += 1
            else:
                files.append(Member(str(below / name), _read_head(Path(root, name)), None))
    return Members(files, folders, left)


def _reason_to_refuse(file: str, top: str) -> str:
    """Why a file is never opened; empty: it is a plain file below the folder ``top``."""
    if os.path.islink(file):
        if not _is_within(os.path.realpath(file), top):
            return _OUT
        if not os.path.exists(file):
            return "links that lead nowhere"
    return "" if os.path.isfile(file) else "pipes, sockets or devices"


def _is_within(real: str, top: str) -> bool:
    return real == top or real.startswith(top.rstrip("/") + "/")


def _read_head(file: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read: that is told when it is wanted."""
    try:
        return _read_bytes(file, HEAD)
    except (OSError, ValueError):
        return b""


def _read_bytes(file: Path, most: int) -> bytes:
    """The bytes of a plain file, the first ``most`` of them.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe, a socket or a device, or no file can have its name.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for a writer
    with open(handle, "rb", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no plain file")
        return stream.read(most)


def open_entries(
    path: Path, entries: list[Entry]
) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Class, name and a function that reads the bytes, of every entry, in the source's own order.

    Nothing is ever unpacked to the disk, so a name inside an archive cannot do harm.
    """
    if path.is_dir() or path.suffix.lower() == ".csv":
        base = _base_folder(path)
        for name, where, *_ in entries:
            # One byte more than an image may have, so that it is refused for that.
            yield name, where, lambda where=where: _read_bytes(base / where, MOST_BYTES + 1)
    else:
        for (name, where, *_), read in read_members(path, entries):
            yield name, where, read


def _base_folder(path: Path) -> Path:
    """What the names of entries are relative to."""
    return path if path.is_dir() else path.parent


def check_listing(
    listing: Listing, classes: list[str], source: str, *, labelled: bool = True
) -> None:
    """Refuse what no classifier can learn from: no images, or a single class."""
    listed = source.lower().endswith(".csv")
    hint = "one line per image: path,label" if listed else "one folder per class, images inside"
    hint = listing.hint or hint
    left = f"; {listing.untaken}" if listing.untaken else ""
    if not listing.entries:
        raise EdgenasError(f"no images in {source}{left}", hint=hint)
    if labelled and len(classes) < 2:
        raise EdgenasError(
            f"{source} must have at least 2 classes, found {len(classes)} "
            f"({make_printable(classes[0])!r}){left}",
            hint=hint,
        )
    for name in (
        classes if labelled else ()
    ):  # they are written to supernets and bundles, whose readers have this rule
        if rule := Length(1, 1000).broken_by(name, "characters"):
            raise EdgenasError(
                f"{source}: the name of a class must {rule}, found {quote(name)}",
                hint="rename that class",
            )


def fingerprint(path: Path, entries: list[Entry], form: str) -> str:
    """A name for what would be decoded now: it changes with the path, a size or a time.

    Args:
        path: of the source.
        entries: its images.
        form: what they are decoded to, in words.
    """
    digest = hashlib.sha256(os.fsencode(f"{DECODING} {form} {path.resolve()}"))
    if any(held for *_, held in entries):
        digest.update(bytes(held for *_, held in entries))
    digest.update("\0".join(name for name, *_ in entries).encode())
    files = [path]
    if path.is_dir() or path.suffix.lower() == ".csv":
        files = [_base_folder(path) / where for _, where, *_ in entries]
    for file in files:
        try:
            status = os.stat(file)
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise EdgenasError(
                f"cannot read the image {make_printable(str(file))} of {path}: {said}",
                hint="correct the path, or leave the image out",
            ) from error
        digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()[:32]
