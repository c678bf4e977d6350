"""Random views of stored images, and mixtures of them."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from edgenas.training.recipe import Recipe

_MOST = 30  # the largest magnitude
_GREY = (124, 116, 104)  # what moves in where an image moves away


def augment_images(
    pixels: Tensor,
    *,
    recipe: Recipe,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Random views of images as a recipe wants them.

    Args:
        pixels: stored images, uint8, shape (n, 3, height, width).
        recipe: says which views.
        rng: the source of chance.
        size: height and width of the only network that learns from them. Random crops are brought
            to it at once, which is several times as fast as by way of the stored size.

    Returns:
        uint8, shape (n, 3, height, width): as stored, but random crops as ``size`` says.
    """
    if recipe.augmentation == "crop":
        pixels = crop(pixels, smallest=recipe.smallest_crop, size=size, rng=rng)
    else:
        pixels = shift(pixels, rng=rng)
    if recipe.randaugment:
        pixels = randaugment(
            pixels, operations=recipe.randaugment, magnitude=recipe.magnitude, rng=rng
        )
    return pixels


def mix_images(
    pixels: Tensor, labels: Tensor, *, recipe: Recipe, classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of a batch, where a recipe wants it.

    Args:
        pixels: uint8, shape (n, 3, height, width).
        labels: int64, shape (n,).
        recipe: says which, and how strongly.
        classes: how many there are.
        rng: the source of chance.

    Returns:
        Pixels as before, and the labels, or the share of every class, float32, (n, classes).
    """
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(recipe, kind)]
    if not kinds:
        return pixels, labels
    kind = kinds[int(rng.integers(len(kinds)))]
    strength = getattr(recipe, kind)
    share = float(rng.beta(strength, strength))
    partner = torch.from_numpy(rng.permutation(len(pixels)))
    if kind == "mixup":
        pixels = pixels.float().lerp(pixels[partner].float(), 1 - share).round().to(torch.uint8)
    else:
        height, width = pixels.shape[2:]
        side = math.sqrt(1 - share)
        y, x = (int(rng.integers(n)) for n in (height, width))
        top, bottom = (round(np.clip(y + s * side * height / 2, 0, height)) for s in (-1, 1))
        left, right = (round(np.clip(x + s * side * width / 2, 0, width)) for s in (-1, 1))
        patch = pixels[partner][:, :, top:bottom, left:right]
        pixels = pixels.clone()
        pixels[:, :, top:bottom, left:right] = patch
        share = 1 - (bottom - top) * (right - left) / (height * width)
    one_hot = F.one_hot(labels, classes).float()
    return pixels, one_hot.lerp(one_hot[partner], 1 - share)


def randaugment(
    pixels: Tensor, *, operations: int, magnitude: int, rng: np.random.Generator
) -> Tensor:
    """Random operations on each image, one after the other; RandAugment, arXiv 1909.13719.

    The operations and their ranges are those of the paper's section 3; shifts grow with the image.

    Args:
        pixels: uint8, shape (n, 3, height, width).
        operations: on each image.
        magnitude: 0 to 30, of every operation that has a strength.
        rng: the source of chance.
    """
    arrays: list[np.ndarray] = []
    for array in pixels.permute(0, 2, 3, 1).numpy():
        image = Image.fromarray(np.ascontiguousarray(array))
        for _ in range(operations):
            name = _OPERATIONS[int(rng.integers(len(_OPERATIONS)))]
            sign = 1 if rng.random() < 0.5 else -1
            image = _changed(image, name, magnitude / _MOST, sign)
        arrays.append(np.asarray(image))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


_OPERATIONS = (
    "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip


def _changed(image: Image.Image, name: str, strength: float, sign: int) -> Image.Image:
    """One operation; ``strength`` 0 to 1."""
    if name == "identity":
        return image
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "solarize":
        return ImageOps.solarize(image, round(255 * (1 - strength)))
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * strength))
    if name in _ENHANCERS:
        return _ENHANCERS[name](image).enhance(1 + sign * 0.9 * strength)
    if name == "rotate":
        return image.rotate(sign * 30 * strength, Image.Resampling.BILINEAR, fillcolor=_GREY)
    shear, shift = sign * 0.3 * strength, sign * 0.3 * strength
    matrix = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, shift * image.width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift * image.height),
    }[name]
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_GREY,
    )


_ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def shift(pixels: Tensor, *, rng: np.random.Generator) -> Tensor:
    """Random shifts by up to an eighth of the shorter side and mirroring; uint8, same shape."""
    n, _, height, width = pixels.shape
    mirrored = torch.from_numpy(rng.random(n) < 0.5).view(n, 1, 1, 1)
    pixels = torch.where(mirrored, pixels.flip(3), pixels)
    margin = max(1, min(height, width) // 8)
    padded = F.pad(pixels.float(), (margin,) * 4, mode="reflect").to(torch.uint8)
    offsets = rng.integers(0, 2 * margin + 1, size=(n, 2)).tolist()
    parts = [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(parts)


def crop(
    pixels: Tensor,
    *,
    rng: np.random.Generator,
    smallest: float = 0.35,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Random resized crops and mirroring.

    Args:
        pixels: stored images, uint8, shape (n, 3, height, width).
        rng: the source of chance.
        smallest: the least part of an image's area that is kept.
        size: height and width of the views; None: as the images are stored.

    Returns:
        uint8, shape (n, 3, *size).
    """
    n, _, height, width = pixels.shape
    mirrored = torch.from_numpy(rng.random(n) < 0.5).view(n, 1, 1, 1)
    area = rng.uniform(smallest, 1.0, n) * height * width
    # The ratio is that to the shape of the image, so that nothing is distorted by more.
    shape = width / height
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), n))
    heights = np.clip(np.round(np.sqrt(area / ratio / shape)), 1, height).astype(int)
    widths = np.clip(np.round(np.sqrt(area * ratio * shape)), 1, width).astype(int)
    tops = (rng.random(n) * (height - heights + 1)).astype(int)
    lefts = (rng.random(n) * (width - widths + 1)).astype(int)
    parts = [
        # Random views need not be Pillow's to the bit, and one by one this is several times faster.
        F.interpolate(
            p[None, :, t : t + h, x : x + w],
            size or (height, width),
            mode="bilinear",
            antialias=True,
        )[0]
        for p, t, h, x, w in zip(pixels, tops, heights, lefts, widths, strict=True)
    ]
    views = torch.stack(parts)
    # Afterwards, because the views may be much smaller than what is stored.
    return torch.where(mirrored, views.flip(3), views)
