"""Which folders are classes and which divide a data set: told by names alone, nothing is read.

The images of a source lie in class folders, right below the outermost folder that branches. Where
that folder has ``train`` and ``val`` inside, by whatever usual names, the class folders lie in
those. What is for tests, or has no label, is left out and counted.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgenas.basics.errors import EdgenasError

Parts = tuple[str, ...]
Role = Literal["", "training", "validation", "test", "unlabelled"]

# A class name, a path for people, a handle inside an archive (or None), and whether its folder
# sets it aside for validation.
Entry = tuple[str, str, Any, bool]

_ROLES: Mapping[Role, tuple[str, ...]] = {
    "training": ("train", "training", "trainval", "learn"),
    "validation": ("val", "valid", "validation", "validate", "validating", "dev", "devel"),
    "test": ("test", "tests", "testing", "eval", "evaluation", "evaluate", "holdout", "heldout"),
    "unlabelled": ("unlabeled", "unlabelled", "nolabel", "unsup", "unsupervised", "pred",
                   "predict", "prediction", "submission"),
}  # fmt: skip
_ROLE_OF: Mapping[str, Role] = {word: role for role, words in _ROLES.items() for word in words}
# Words that say nothing beside the name of a part: training_set, test-images, ValData.
_FILLERS = (
    "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos",
    "picture", "pictures", "split", "folder", "files", "samples",
)  # fmt: skip
# Folders of what describes images.
_BESIDE = re.compile(
    r"(annot|label|meta|doc|script|list|info|csv|json|xml|imagesets|code|notebook)", re.I
)


def detect_role(name: str) -> tuple[Role, bool]:
    """What a folder of this name divides off, and whether the name says nothing else beside.

    ``Training_Set``, ``val2017`` and ``testImages`` say nothing else; ``seg_train`` does, and may
    be a class as well as ``train_station``.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.findall(r"[a-z]+", spaced.lower()) if word not in _FILLERS]
    joined = "".join(words)
    for whole in (joined, *(_drop_filler(joined) if len(words) == 1 else ())):
        if whole in _ROLE_OF:
            return _ROLE_OF[whole], True
    roles: list[Role] = [
        _ROLE_OF[word] for word in (*words[:1], *words[1:][-1:]) if word in _ROLE_OF
    ]
    return (roles[0], False) if len(roles) == 1 else ("", False)


def _drop_filler(word: str) -> list[str]:
    """A word without the filler that is glued to its end, as in trainset."""
    return [word.removesuffix(filler) for filler in _FILLERS if word.endswith(filler)]


@dataclass(frozen=True, slots=True)
class ClassLayout:
    """The labelled images of a source, and how many others it has, by the reason in words."""

    entries: list[Entry]
    left: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Tree:
    """The folders of a source: those with images below them, and all."""

    images: list[tuple[Parts, str, Any]]
    children: dict[Parts, set[str]] = field(default_factory=lambda: defaultdict(set))
    folders: dict[Parts, set[str]] = field(default_factory=lambda: defaultdict(set))

    @staticmethod
    def of(images: Iterable[tuple[str, Any]], folders: Iterable[str]) -> "_Tree":
        tree = _Tree([(PurePosixPath(n).parts[:-1], n, handle) for n, handle in images])
        for parents, _, _ in tree.images:
            for i in range(len(parents)):
                tree.children[parents[:i]].add(parents[i])
                tree.folders[parents[:i]].add(parents[i])
        for name in folders:
            parts = PurePosixPath(name).parts
            for i in range(len(parts)):
                tree.folders[parts[:i]].add(parts[i])
        return tree

    def inside(self, place: Parts) -> set[str]:
        """The folders right inside a place that have images below them."""
        return self.children.get(place, set())

    def empty(self, place: Parts) -> set[str]:
        """The folders right inside a place that have none and are none of annotations."""
        others = self.folders.get(place, set()) - self.inside(place)
        return {name for name in others if not _BESIDE.match(name)}

    def top(self) -> Parts:
        """The outermost folder that branches: so a folder and its parent are the same data set."""
        place: Parts = ()
        while len(inside := self.inside(place)) == 1:
            within = (*place, *inside)
            if not self.inside(within) or any(not detect_role(n)[0] for n in self.empty(place)):
                break
            place = within
        return place

    def base(self, place: Parts) -> Parts:
        """Where the class folders of a part lie: ``test/test`` and ``test/images`` are ``test``."""
        inside = self.inside(place)
        if len(inside) == 1:
            (only,) = inside
            same = only.lower() == place[-1].lower()
            kind, exact = detect_role(only)
            if same or only.lower() in _FILLERS or (exact and kind == detect_role(place[-1])[0]):
                return (*place, only)
        return place


def sort_into_classes(
    images: Iterable[tuple[str, Any]], folders: Iterable[str], source: Path, *, hint: str
) -> ClassLayout:
    """The images of a source with their classes, sorted by class and name.

    Args:
        images: name inside the source, and handle, of each.
        folders: names of all folders, also those without images.
        source: for messages.
        hint: what to do about a class folder without images.

    Raises:
        EdgenasError: a class folder has no images, or it cannot be told whether folders are
            classes or parts of a data set.
    """
    tree = _Tree.of(images, folders)
    top = tree.top()
    parts = _find_parts(tree, top, source)
    if parts is not None:
        layout = _divide_by_parts(tree, parts)
        checked = [place for place, role in parts.items() if role in ("training", "validation")]
    else:
        layout, checked = _divide_inside_classes(tree, top), []
        if layout is None:
            layout, checked = _take_classes(tree, top), [top]
    for place in checked if layout.entries else ():
        # Nothing would tell the class of a folder without images from the others.
        if tree.inside(place) and (empty := tree.empty(place)):
            raise EdgenasError(
                f"class folder {make_printable(str(PurePosixPath(*place, min(empty))))} in "
                f"{make_printable(str(source))} has no images that are read",
                hint=hint,
            )
    left = Counter(layout.left)
    if outside := len(tree.images) - len(layout.entries) - left.total():
        left["outside the class folders"] += outside
    return ClassLayout(sorted(layout.entries, key=lambda e: (e[0], e[1])), left)


def _find_parts(tree: _Tree, top: Parts, source: Path) -> dict[Parts, Role] | None:
    """The folders that divide a data set, with their roles; None: these are classes.

    Names alone do not say so: ``train`` may be a class of vehicles. That ``train`` has class
    folders, and that another part has some of the same, or none at all, does.
    """
    inside = tree.inside(top)
    told = {name: detect_role(name) for name in sorted(inside)}
    bases = {name: tree.base((*top, name)) for name in told}
    below = {name: {n.lower() for n in tree.inside(place)} for name, place in bases.items()}
    train = {name for name, (role, _) in told.items() if role == "training"}
    classes = {n for name in train for n in below[name]}
    others, strange = set(told) - train, {name for name, (role, _) in told.items() if not role}
    if not train or not others or not classes:
        return None
    kin = {name for name in strange if below[name] & classes}
    if any(below[name] & classes for name in others - strange):
        if len(kin) == 1:
            raise _refuse_unclear(source, top, min(kin), min(train))
        if kin:  # vehicles, each by day and by night
            return None
    elif strange:
        flat = {name for name in strange if not below[name]}
        if len(strange) == 1 and kin | flat and len(classes) > 1:
            raise _refuse_unclear(source, top, min(strange), min(train))
        return None
    elif any(not exact for _, exact in told.values()) and (
        len(classes) < 2 or any(below[name] for name in others)
    ):
        return None
    return {bases[name]: role or "unlabelled" for name, (role, _) in told.items()}


def _refuse_unclear(source: Path, top: Parts, odd: str, train: str) -> EdgenasError:
    name, odd = make_printable(str(PurePosixPath(*top, train))), make_printable(odd)
    return EdgenasError(
        f"{name} in {make_printable(str(source))} holds class folders as the training part of a "
        f"data set does, but {odd} beside it is no usual part of one",
        hint=f"move {odd} away, or rename the folder {make_printable(train)} if it is a class",
    )


def _divide_by_parts(tree: _Tree, parts: Mapping[Parts, Role]) -> ClassLayout:
    """The class folders inside parts; those for tests and those without labels are left out."""
    entries, left = list[Entry](), Counter[str]()
    for place, role in parts.items():
        level, name = len(place), make_printable(str(PurePosixPath(*place)))
        mine = [image for image in tree.images if image[0][:level] == place]
        labelled = [image for image in mine if len(image[0]) > level]
        if role in ("test", "unlabelled"):
            kind = "for tests" if role == "test" else "without a use in training"
            left[f"in {name}, {kind}"] += len(mine)
        elif not labelled:
            left[f"in {name}, which has no class folders"] += len(mine)
        else:
            entries += [(p[level], n, handle, role == "validation") for p, n, handle in labelled]
    return ClassLayout(entries, left)


def _divide_inside_classes(tree: _Tree, top: Parts) -> ClassLayout | None:
    """Class folders that are divided themselves, every one into the same kinds of parts."""
    roles: dict[Parts, Role] = {}
    for name in tree.inside(top):
        inner_roles = {inner: detect_role(inner) for inner in tree.inside((*top, name))}
        kinds = {role for role, exact in inner_roles.values() if exact}
        if len(kinds) < 2 or "training" not in kinds or not all(e for _, e in inner_roles.values()):
            return None
        roles |= {(*top, name, inner): role for inner, (role, _) in inner_roles.items()}
    level = len(top) + 2
    if len(tree.inside(top)) < 2 or any(len(top) < len(p) < level for p, _, _ in tree.images):
        return None
    entries, left = list[Entry](), Counter[str]()
    for parents, name, handle in tree.images:
        role = roles.get(parents[:level], "")
        if role in ("test", "unlabelled"):
            left[f"in folders {parents[level - 1]}, inside the class folders"] += 1
        elif role:
            entries.append((parents[level - 2], name, handle, role == "validation"))
    return ClassLayout(entries, left)


def _take_classes(tree: _Tree, top: Parts) -> ClassLayout:
    level = len(top)
    inside = [image for image in tree.images if len(image[0]) > level and image[0][:level] == top]
    return ClassLayout([(p[level], name, handle, False) for p, name, handle in inside])


def is_hidden(name: str) -> bool:
    """Whether a path is what systems put beside files: ``.git``, ``__MACOSX``, ``Thumbs.db``."""
    parts = PurePosixPath(name).parts
    return any((p.startswith(".") and p != "..") or p.lower() in _LITTER for p in parts)


_LITTER = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin",
           "system volume information", "lost+found"}  # fmt: skip


def make_printable(name: str) -> str:
    """A name for one line: what cannot be printed is replaced, a long one is shortened."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"
