"""Small labelled images that a small network can learn to tell apart."""

import hashlib

import numpy as np
import torch

from edgenas.images.data import Images


def toy_images(n: int, *, classes: int = 3, side: int = 16, seed: int = 0) -> Images:
    """Noise with a bright square; its place says the class. Labels take turns."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (n, 3, side, side), dtype=np.uint8)
    labels = np.arange(n) % classes
    places = np.linspace(0, side - side // 3, classes).round().astype(int)
    for image, label in zip(pixels, labels, strict=True):
        place = places[label]
        image[label % 3, place : place + side // 3, :] = 230
    return Images(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels),
        classes=tuple(f"class {i}" for i in range(classes)),
        source="toys",
        digest=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )
