"""Photos without labels: a teacher answers them, and networks learn its answers."""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images, split
from edgenas.images.loading import load_images
from edgenas.model.saved import load_supernet, save_supernet
from edgenas.training.recipe import Recipe
from edgenas.training.step import TrainingBatch, sandwich_step
from edgenas.training.unlabelled import label_images, teach_by_original

CPU = torch.device("cpu")
RECIPE = """schema = "edgenas.recipe/1"
epochs = 2
batch = 16
learning_rate = 0.05
calibration = 32
validation = 0.3
watched = 1
accuracy_archs = 20
"""


@pytest.fixture(scope="module")
def imported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The supernet ``tiny``, as if its largest network were a published one."""
    folder = tmp_path_factory.mktemp("imported") / "tiny"
    trained = load_supernet(tiny)
    trained.supernet.original = trained.supernet.space.largest()
    folder.mkdir()
    save_supernet(folder, dataclasses.replace(trained, learnt=None), dtype=torch.float32)
    return folder


@pytest.fixture
def scattered(photos: Path, tmp_path: Path) -> Path:
    """The same photos in folders that say nothing, one of them empty."""
    folder = tmp_path / "scattered"
    (folder / "empty").mkdir(parents=True)
    (folder / "deep" / "er").mkdir(parents=True)
    for i, file in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(file, folder / ("deep/er" if i % 3 else ".") / f"{i:03}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_photos_without_labels_may_lie_anywhere(scattered: Path, photos: Path, tmp_path: Path):
    images = load_images(str(scattered), stored=16, labelled=False)
    assert len(images) == 96
    assert images.classes == ()
    assert not images.labels.any()
    assert "1 .txt" in images.untaken
    # The very same pictures, whatever folder they lie in.
    labelled = load_images(str(photos), stored=16)
    assert {p.numpy().tobytes() for p in images.pixels} == {
        p.numpy().tobytes() for p in labelled.pixels
    }
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(scattered, arcname=".")
    packed = load_images(str(tmp_path / "all.tar"), stored=16, labelled=False)
    assert torch.equal(packed.pixels, images.pixels)
    (tmp_path / "list.csv").write_text("path,label\na.png,b\n")
    with pytest.raises(EdgenasError, match="must be a folder or an archive"):
        load_images(str(tmp_path / "list.csv"), stored=16, labelled=False)
    with pytest.raises(EdgenasError, match="no images in"):
        load_images(str(scattered / "empty"), stored=16, labelled=False)


def answered(folder: Path, scattered: Path) -> Images:
    trained = load_supernet(folder)
    images = load_images(str(scattered), stored=16, labelled=False)
    teacher = teach_by_original(trained, stored=16, size=None, place=CPU)
    return label_images(
        images, teacher, classes=trained.classes, place=CPU, progress=lambda done, total: None
    )


def test_labels_are_the_answers_of_the_original(imported: Path, scattered: Path):
    images = answered(imported, scattered)
    trained = load_supernet(imported)
    network = trained.supernet.extract(trained.supernet.space.largest())
    mean = torch.tensor(trained.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(trained.preprocessing.std).view(1, 3, 1, 1)
    with torch.no_grad():
        answers = network((images.pixels.float() / 255 - mean) / std).argmax(1)
    assert torch.equal(images.labels, answers)
    assert images.classes == trained.classes
    assert not images.labelled


def test_a_class_that_the_teacher_never_answers_does_not_stop_the_split(
    imported: Path, scattered: Path
):
    images = answered(imported, scattered)
    once = torch.zeros_like(images.labels)
    once[5] = 2  # one image of one class, none of another
    parts = split(dataclasses.replace(images, labels=once), validation=0.25, seed=3)
    assert (len(parts.train), len(parts.validation)) == (72, 24)
    both = torch.cat([parts.train.pixels, parts.validation.pixels])
    assert {p.numpy().tobytes() for p in both} == {p.numpy().tobytes() for p in images.pixels}
    assert not parts.train.labelled


def test_a_supernet_learns_from_photos_without_labels(
    edgenas: Callable[..., SimpleNamespace], imported: Path, scattered: Path, tmp_path: Path
):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = ("train", "--space", "tiny", "--data", scattered, "--recipe", tmp_path / "recipe.toml")
    done = edgenas(*words, "--init", imported, "--unlabelled", "--out", tmp_path / "run")
    assert done.code == 0, done.log
    trained, init = load_supernet(tmp_path / "run"), load_supernet(imported)
    assert trained.classes == init.classes
    assert trained.preprocessing.mean == init.preprocessing.mean
    assert trained.supernet.original is None  # it has learnt, so it is another network now
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["labels"] == "answers of the teacher"
    assert record["recipe"]["distillation"] == 1.0


def test_only_the_answers_of_the_teacher_are_learnt(imported: Path, scattered: Path):
    images = answered(imported, scattered)
    trained = load_supernet(imported)
    supernet, space = trained.supernet, trained.supernet.space
    answers = torch.randn(16, len(images.classes), generator=torch.Generator().manual_seed(0))
    gradients: list[torch.Tensor] = []
    for labels in (images.labels[:16], (images.labels[:16] + 1) % len(images.classes)):
        supernet.zero_grad()
        sandwich_step(
            supernet,
            [space.largest(), space.smallest()],
            TrainingBatch(pixels=images.pixels[:16], labels=labels, answers=answers),
            recipe=Recipe(distillation=1.0),
            preprocessing=trained.preprocessing,
        )
        gradient = supernet.get_parameter("head.classifier.weight").grad
        assert gradient is not None
        gradients.append(gradient.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--unlabelled",), "--init"),
        (("--unlabelled", "--init", "TINY"), "must be an imported supernet"),
        (("--teacher-size", "32"), "teacher_size has no effect without teacher or unlabelled"),
    ],
)
def test_what_is_missing_is_named(
    extra: tuple[str, ...],
    message: str,
    edgenas: Callable[..., SimpleNamespace],
    tiny: Path,
    scattered: Path,
    tmp_path: Path,
):
    words = [str(tiny) if word == "TINY" else word for word in extra]
    done = edgenas(
        "train", "--space", "tiny", "--data", scattered, "--out", tmp_path / "run", *words
    )
    assert done.code == 2
    assert message in done.log.replace("\n", " ")
    assert not (tmp_path / "run").exists()
