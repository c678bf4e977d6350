"""How to train, as a small value; a TOML file can override its fields."""

import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from edgenas.basics.decode import decode
from edgenas.basics.files import read_toml
from edgenas.basics.ranges import Fraction, Range
from edgenas.space.space import Space

RECIPE_SCHEMA = "edgenas.recipe/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        method: ``sandwich``: all networks from the start (arXiv 1903.05134); ``progressive``: the
            largest first, smaller ones join phase by phase (once-for-all, arXiv 1908.09791).
        epochs: passes over the training images.
        batch: images of a step.
        learning_rate: at its peak; a linear warm-up, then a cosine to zero.
        head_rate: the classifier's learning rate is so many times as high: its weights are new
            where those of the body are trained already.
        warmup: epochs of the warm-up.
        momentum: Nesterov's.
        weight_decay: of conv and linear weights; none on biases, norms and kernel transforms.
        label_smoothing: of the labels that the largest network learns.
        distillation: the part of the loss that is for the answers of a given teacher; the rest is
            for the labels. Without such a teacher the largest network learns the labels, and the
            others its answers.
        temperature: of all distillation (arXiv 1503.02531, section 2).
        random_archs: networks of a step beside the largest and the smallest.
        sampling: of those: ``uniform``: every choice of a gene is drawn with equal probability;
            ``fair``: equally often (FairNAS, arXiv 1907.01845); ``best-up`` and ``worst-up``: the
            best or the worst of some candidates of the same MACs (AttentiveNAS, arXiv 2011.09011).
        candidates: of which each such network is chosen.
        guide: what they are chosen by: ``predictor``: the losses of past steps, see
            ``edgenas.training.guide``; ``batch``: their losses on the batch of the step, a forward
            pass each.
        accumulate: batches of a step. With several processes each has as many, so a step learns
            from batch * accumulate * processes images.
        ema: decay of a moving average of the weights, which then is what is evaluated and saved;
            0: none.
        augmentation: ``shift``: random shifts by an eighth of the shorter side and mirroring, for
            images of objects that fill the frame; ``crop``: random resized crops and mirroring.
        smallest_crop: the least part of an image's area that such a crop keeps.
        randaugment: random operations on every image (RandAugment, arXiv 1909.13719).
        magnitude: of those operations, 0 to 30.
        mixup: parameter of the Beta distribution that mixes pairs of images (arXiv 1710.09412);
            0: none.
        cutmix: the same for patches (arXiv 1905.04899). With both, each step does one of them.
        precision: ``bf16``: autocast (arXiv 1905.12322), ``fp16``: autocast with scaled gradients
            (arXiv 1710.03740), both for GPUs, fp16 for those alone; ``fp32`` is faster on CPUs.
        balance: 0: every image is learnt from once an epoch; 1: images are drawn, every class
            equally often; between them, images are drawn with probability count ** -balance.
        validation: the fraction of every class that is set aside and never learnt from.
        largest_resolution: supernets are trained at resolutions up to this one, as far as the
            space has any; larger inputs of the same weights are only evaluated. 0: at all.
        watched: random networks that are evaluated after every epoch, always the same ones, beside
            the largest and the smallest.
        judge_every: epochs from one such evaluation to the next. The last epoch always has one.
        calibration: training images for batch-norm statistics.
        accuracy_archs: networks evaluated at the end for the accuracy predictor.
        checkpoint_seconds: between checkpoints.
    """

    method: Literal["sandwich", "progressive"] = "sandwich"
    epochs: Annotated[int, Range(1, 100_000, "count")] = 30
    batch: Annotated[int, Range(2, 65_536, "count")] = 128
    learning_rate: Annotated[float, Range(0, 1000, "number")] = 0.12
    head_rate: Annotated[float, Range(0, 1000, "number")] = 1.0
    warmup: Annotated[float, Range(0, 100_000, "count")] = 1.0
    momentum: Annotated[float, Range(0, 1, "fraction")] = 0.9
    weight_decay: Annotated[float, Range(0, 1000, "number")] = 1e-4
    label_smoothing: Annotated[float, Range(0, 0.99, "fraction")] = 0.1
    distillation: Fraction = 0.5
    temperature: Annotated[float, Range(0.1, 100, "number")] = 1.0
    random_archs: Annotated[int, Range(0, 1000, "count")] = 2
    sampling: Literal["uniform", "fair", "best-up", "worst-up"] = "uniform"
    candidates: Annotated[int, Range(2, 100, "count")] = 3
    guide: Literal["predictor", "batch"] = "predictor"
    accumulate: Annotated[int, Range(1, 65_536, "count")] = 1
    ema: Annotated[float, Range(0, 0.99999, "fraction")] = 0.0
    augmentation: Literal["shift", "crop"] = "shift"
    smallest_crop: Annotated[float, Range(0.01, 1, "fraction")] = 0.35
    randaugment: Annotated[int, Range(0, 100, "count")] = 0
    magnitude: Annotated[int, Range(0, 30, "number")] = 9
    mixup: Annotated[float, Range(0, 1000, "number")] = 0.0
    cutmix: Annotated[float, Range(0, 1000, "number")] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    balance: Fraction = 0.0
    validation: Annotated[float, Range(0.001, 0.9, "fraction")] = 0.1
    largest_resolution: Annotated[int, Range(0, 10_000, "pixels")] = 0
    watched: Annotated[int, Range(0, 10_000, "count")] = 4
    judge_every: Annotated[int, Range(1, 100_000, "count")] = 1
    calibration: Annotated[int, Range(2, 10_000_000, "count")] = 2000
    accuracy_archs: Annotated[int, Range(20, 1_000_000, "count")] = 320
    checkpoint_seconds: Annotated[float, Range(0, 1e9, "seconds")] = 60.0


_FEW = 20_000  # images, training and validation together


def default_recipe(space: Space, *, images: int | None = None) -> Recipe:
    """The recipe that suits the image size of a space and a number of images; None: many."""
    if max(space.input_size(max(space.resolutions))) <= 64:
        return Recipe()
    recipe = Recipe(batch=64, learning_rate=0.06, augmentation="crop")
    if images is None or images > _FEW:
        return recipe
    # Few large images are learnt from again and again: the weights are held back more, and the
    # evaluations, which do not grow shorter with the epochs, are made shorter.
    return replace(recipe, random_archs=1, weight_decay=5e-4, calibration=500)


def load_recipe(path: Path, base: Recipe) -> Recipe:
    """A recipe with the fields of a TOML file (schema ``edgenas.recipe/1``) put in its place.

    Raises:
        EdgenasError: a field is unknown or illegal.
    """
    fields = read_toml(path, schema=RECIPE_SCHEMA)
    return decode(Recipe, {**dataclasses.asdict(base), **fields}, where=str(path))


def learning_rate(step: int, steps: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """A linear warm-up, of half of the steps at most, then a cosine to zero (arXiv 1608.03983)."""
    warmup = min(round(recipe.warmup * steps_per_epoch), steps // 2)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    passed = (step - warmup) / max(1, steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * passed))
