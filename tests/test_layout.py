"""Which folders are classes and which divide a data set, whatever they are called."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from edgenas.basics.errors import EdgenasError
from edgenas.images.layout import (
    Entry,
    detect_role,
    is_hidden,
    make_printable,
    sort_into_classes,
)

CLASSES = ("cat", "cow", "dog")


def photos(*places: str, classes: Iterable[str] = CLASSES, n: int = 2) -> list[str]:
    """Names of photos in class folders below places."""
    return [f"{p}/{c}/{i}.jpg".lstrip("/") for p in places for c in classes for i in range(n)]


def flat(*places: str) -> list[str]:
    return [f"{place}/{i}.jpg" for place in places for i in range(3)]


def laid(names: list[str], folders: Iterable[str] = ()) -> tuple[list[Entry], Mapping[str, int]]:
    found = sort_into_classes([(n, None) for n in names], folders, Path("photos"), hint="mend it")
    assert len(found.entries) + found.left.total() == len(names), "every photo is accounted for"
    return found.entries, found.left


def held(entries: list[Entry]) -> tuple[set[str], set[str]]:
    """The names for training and for validation."""
    return {n for _, n, _, v in entries if not v}, {n for _, n, _, v in entries if v}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAIN", "Validation", "TESTING"),
        ("training", "validation", "evaluation"),
        ("training_set", "dev_set", "test_set"),
        ("Training Set", "Validation Set", "Test Set"),
        ("train-images", "val-images", "test-images"),
        ("images_train", "images_val", "images_test"),
        ("trainData", "valData", "testData"),
        ("trainset", "devset", "evalset"),
        ("train2017", "val2017", "test2017"),
        ("seg_train", "seg_val", "seg_test"),
        ("train", "dev", "held_out"),
    ],
)
@pytest.mark.parametrize("top", ["", "data/", "images/", "a/b/c/"])
@pytest.mark.parametrize("nested", ["", "same", "images"])
def test_parts_are_recognised(train: str, validation: str, test: str, top: str, nested: str):
    parts = {"": "", "images": "/images"}
    places = [f"{top}{part}{parts.get(nested, f'/{part}')}" for part in (train, validation, test)]
    entries, left = laid(photos(*places))
    assert {name for name, *_ in entries} == set(CLASSES)
    learnt, aside = held(entries)
    assert learnt == set(photos(places[0]))
    assert aside == set(photos(places[1]))
    (reason,) = left
    assert reason.endswith("for tests")
    assert left[reason] == 6


@pytest.mark.parametrize("other", ["test", "val", "unlabeled", "Unlabelled", "pred", "submission"])
def test_a_part_without_class_folders_is_left_out(other: str):
    entries, left = laid([*photos("train"), *flat(other)])
    assert held(entries) == (set(photos("train")), set())
    assert list(left.values()) == [3]
    assert other in next(iter(left))


@pytest.mark.parametrize("other", ["unlabeled", "extra", "to sort", "overview"])
def test_a_folder_beside_parts_does_not_make_classes_of_them(other: str):
    entries, left = laid([*photos("train", "val"), *flat(other)])
    assert held(entries) == (set(photos("train")), set(photos("val")))
    assert sum(left.values()) == 3


@pytest.mark.parametrize("stray", ["cover.jpg", "train/overview.jpg", "val/overview.png"])
def test_a_stray_photo_does_not_make_classes_of_parts(stray: str):
    entries, left = laid([stray, *photos("train", "val")])
    assert held(entries) == (set(photos("train")), set(photos("val")))
    assert left == {"outside the class folders": 1}


@pytest.mark.parametrize(
    "names",
    [
        ("bus", "train", "val"),
        ("train", "test"),
        ("train", "car"),
        ("test_tube", "train_station", "bullet_train"),
        ("unlabeled bottle", "validation stamp"),
    ],
)
def test_classes_may_be_called_like_parts(names: tuple[str, ...]):
    entries, left = laid(photos("", classes=names))
    assert {name for name, *_ in entries} == set(names)
    assert not held(entries)[1]
    assert not left


def test_classes_with_folders_inside_stay_classes():
    by_day = photos("train", "bus", "car", "test", classes=("day", "night"))
    assert {name for name, *_ in laid(by_day)[0]} == {"train", "bus", "car", "test"}
    one = [*photos("train", classes=("old",)), *flat("bus", "car")]
    assert {name for name, *_ in laid(one)[0]} == {"train", "bus", "car"}


@pytest.mark.parametrize(
    "names",
    [
        [*photos("train"), *flat("misc")],
        photos("train", "query"),
        photos("train", "val", "query"),
    ],
)
def test_what_may_be_a_part_or_a_class_is_refused_by_name(names: list[str]):
    with pytest.raises(EdgenasError, match=r"train in photos holds class folders .* but") as caught:
        laid(names)
    odd = "misc" if any("misc" in n for n in names) else "query"
    assert f"but {odd} beside it" in caught.value.message
    assert f"move {odd} away" in caught.value.hint


def test_classes_may_be_divided_themselves():
    names = photos(*CLASSES, classes=("train", "val", "test"))
    entries, left = laid(names)
    assert {name for name, *_ in entries} == set(CLASSES)
    learnt, aside = held(entries)
    assert learnt == {n for n in names if "/train/" in n}
    assert aside == {n for n in names if "/val/" in n}
    assert left == {"in folders test, inside the class folders": 6}
    # Where it is not so of every class, they are folders like any other.
    entries, left = laid([*names, *flat("pig")])
    assert len(entries) == len(names) + 3
    assert not held(entries)[1]


@pytest.mark.parametrize("beside", ["annotations", "labels", "docs", "metadata", "ImageSets"])
def test_folders_of_annotations_are_no_empty_classes(beside: str):
    for names in (photos(""), photos("train", "val"), photos("images/train", "images/val")):
        entries, _ = laid(names, [beside, f"{beside}/train"])
        assert {name for name, *_ in entries} == set(CLASSES)


@pytest.mark.parametrize("place", ["", "train/", "val/"])
def test_an_empty_class_folder_is_refused(place: str):
    names = photos("train", "val") if place else photos("")
    with pytest.raises(EdgenasError, match=f"class folder {place}pig in photos has no images"):
        laid(names, [f"{place}pig"])
    entries, _ = laid(photos("train", "val"), ["test", "test/pig"])
    assert len(entries) == 12


def test_roles_of_names():
    assert detect_role("Validation-Set") == ("validation", True)
    assert detect_role("train_station") == ("training", False)
    assert detect_role("station") == detect_role("") == detect_role("constrain") == ("", False)
    assert detect_role("test_train") == ("", False)


def test_what_systems_put_beside_files_is_hidden():
    for name in (".DS_Store", "a/Thumbs.db", "__MACOSX/a/._1.jpg", "a/.ipynb_checkpoints/1.jpg",
                 "@eaDir/1.jpg", "a/desktop.ini"):  # fmt: skip
        assert is_hidden(name)
    assert not is_hidden("../a/1.jpg")
    assert not is_hidden("a b/1.jpg")


def test_a_name_is_shown_on_one_line():
    assert make_printable("a\nb\x1b[31m") == "a?b?[31m"
    assert len(make_printable("x" * 5000)) < 90
