"""Images without labels: the answers of a published network are what others learn from.

A network that ImageNet has taught answers each image, and the networks around it learn those
answers (Hinton, Vinyals, Dean, arXiv 1503.02531). No label is needed. On such images "accuracy" is
agreement with that network.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch

from edgenas.basics.errors import EdgenasError
from edgenas.images.data import Images
from edgenas.images.preprocessing import Size, as_size, sides
from edgenas.model.calibration import batch_for
from edgenas.model.saved import TrainedSupernet
from edgenas.training.teacher import Teacher


def teach_by_original(
    init: TrainedSupernet, *, stored: Size, size: int | None, place: torch.device
) -> Teacher:
    """Make the published network of an imported supernet a teacher.

    Args:
        init: the imported supernet.
        stored: height and width that the images are kept at.
        size: height of its inputs in pixels. None: what it was published for.
        place: where it runs.

    Raises:
        EdgenasError: the supernet was not imported, or was trained since.
    """
    original = init.supernet.original
    if original is None:
        raise EdgenasError(
            "images without labels need a teacher: --init must be an imported supernet, or "
            "--teacher a file",
            hint="edgenas import lite0 --out lite0, then --init lite0",
        )
    network = init.supernet.eval().extract(original).to(place).eval()
    network = network.to(memory_format=torch.channels_last)
    height, width = sides(stored)
    preprocessing = replace(init.preprocessing, stored=as_size(height, width))
    size = size or original.resolution
    record = {
        "file": f"{init.supernet.space.name}, the original network",
        "sha256": init.training.get("imported", {}).get("sha256", ""),
        "size": list(preprocessing.size(size)),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
    return Teacher(
        run=network,
        batch=None,
        size=size,
        preprocessing=preprocessing,
        shares=False,
        record=record,
    )


def label_images(
    images: Images,
    teacher: Teacher,
    *,
    classes: tuple[str, ...],
    place: torch.device,
    progress: Callable[[int, int], None],
) -> Images:
    """Give every image the class that a teacher answers.

    Args:
        images: without labels.
        teacher: answers one number for each class.
        classes: their names.
        place: where the teacher runs.
        progress: called with (images answered, images in all).
    """
    labels: list[torch.Tensor] = []
    for part in images.pixels.split(batch_for(teacher.preprocessing.size(teacher.size))):
        labels.append(teacher.logits(part.to(place)).argmax(1).cpu())
        progress(sum(map(len, labels)), len(images))
    digest = hashlib.sha256(f"{images.digest} {teacher.record}".encode()).hexdigest()
    return replace(images, labels=torch.cat(labels), classes=classes, digest=digest, labelled=False)
