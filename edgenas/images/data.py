"""Labelled images as values, and how a set of them is divided."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenas.basics.errors import EdgenasError
from edgenas.images.copies import Sketches, find_copies
from edgenas.space.framing import USUAL_FRAMING, Framing


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A set of labelled images.

    Args:
        pixels: uint8, shape (n, 3, height, width).
        labels: int64, shape (n,).
        classes: the name of each label.
        source: where they come from.
        digest: SHA-256 over pixels, labels and classes.
        held: which ones their folder sets aside for validation, bool, shape (n,); None: it does
            not say.
        skipped: files that could not be decoded and were left out.
        untaken: how many other files of the source were not taken and why, in words; may be empty.
        framing: how the pictures got the shape of the pixels.
        labelled: whether people gave the labels. Otherwise they are a teacher's answers, and
            "accuracy" on such images is agreement with that teacher.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    digest: str
    held: Tensor | None = None
    skipped: tuple[str, ...] = ()
    untaken: str = ""
    framing: Framing = USUAL_FRAMING
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        """A part of the images, in the order of the indices."""
        return Images(
            pixels=self.pixels[indices],
            labels=self.labels[indices],
            classes=self.classes,
            source=self.source,
            digest=self.digest,
            held=None if self.held is None else self.held[indices],
            framing=self.framing,
            labelled=self.labelled,
        )

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of values in [0, 1]."""
        total, squares, count = torch.zeros(3).double(), torch.zeros(3).double(), 0
        for part in self.pixels.split(1000):
            values = part.double() / 255
            total += values.sum((0, 2, 3))
            squares += values.square().sum((0, 2, 3))
            count += values.numel() // 3
        mean = total / count
        std = (squares / count - mean.square()).sqrt()
        return tuple(mean.tolist()), tuple(std.clamp_min(1e-3).tolist())


@dataclass(frozen=True, slots=True)
class Split:
    """Training and validation images of one source; the test images are another source."""

    train: Images
    validation: Images


def split(images: Images, *, validation: float, seed: int) -> Split:
    """Set a part of every class aside for validation, or what its folder sets aside.

    Args:
        images: all images that may be learnt from.
        validation: the fraction of every class, at least one image of each.
        seed: of the choice.

    Raises:
        EdgenasError: a class has a single image, or none in one of the two folders.
    """
    if images.held is not None:
        return _by_folder(images, images.held)
    if not images.labelled:
        return _at_random(images, part=validation, seed=seed)
    rng, chosen = np.random.default_rng((seed, 7)), list[NDArray[np.int64]]()
    labels = images.labels.numpy()
    for label, name in enumerate(images.classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise EdgenasError(
                f"class {name!r} must have at least 2 images to be split, found {len(members)}",
                hint="add images or remove the class",
            )
        count = min(max(1, round(len(members) * validation)), len(members) - 1)
        chosen.append(rng.permutation(members)[:count])
    held = np.zeros(len(labels), bool)
    held[np.concatenate(chosen)] = True
    return Split(
        images.take(torch.from_numpy(np.flatnonzero(~held))),
        images.take(torch.from_numpy(np.flatnonzero(held))),
    )


def _at_random(images: Images, *, part: float, seed: int) -> Split:
    """Set a part of all images aside: classes that nobody gave need not be in both parts."""
    if len(images) < 2:
        raise EdgenasError(
            f"{images.source} must have at least 2 images to be split, found {len(images)}",
            hint="add images",
        )
    order = torch.from_numpy(np.random.default_rng((seed, 7)).permutation(len(images)))
    count = min(max(1, round(len(images) * part)), len(images) - 1)
    return Split(images.take(order[count:].sort().values), images.take(order[:count].sort().values))


def _by_folder(images: Images, held: Tensor) -> Split:
    for name, part in (("training", ~held), ("validation", held)):
        counts = images.labels[part].bincount(minlength=len(images.classes))
        if not counts.all():
            raise EdgenasError(
                f"class {images.classes[int(counts.argmin())]!r} of {images.source} must have "
                f"images for training and for validation, found none for {name}",
                hint="add images, or remove the class from both folders",
            )
    return Split(images.take(torch.nonzero(~held)[:, 0]), images.take(torch.nonzero(held)[:, 0]))


def count_copies(first: Images, second: Images) -> int:
    """How many images of the second set are copies of one of the first, see ``find_copies``."""
    return int(find_copies(second.pixels, Sketches.of(first.pixels)).sum())


def drop_copies(images: Images, others: Sequence[Images]) -> Images:
    """The images that are copies of none of the others, see ``find_copies``."""
    known = Sketches.joined([Sketches.of(other.pixels) for other in others])
    return images.take(torch.from_numpy(np.flatnonzero(~find_copies(images.pixels, known))))


def check_classes(images: Images, classes: tuple[str, ...]) -> None:
    """Refuse images whose class names are not those of a supernet, or of its training images.

    Raises:
        EdgenasError: names the first that differs.
    """
    if images.classes == classes:
        return
    strange = sorted(set(images.classes) ^ set(classes))
    differ = f"they differ in {strange[0]!r}" if strange else "their order differs"
    few = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    raise EdgenasError(
        f"the classes of {images.source} must be those of the supernet ({few}), {differ}",
        hint="give images of the same classes, or train: edgenas train --init SUPERNET",
    )
