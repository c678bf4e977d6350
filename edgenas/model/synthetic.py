"""Synthetic calibration images: noise that batch norms cannot tell from the training images.

A supernet that is shipped needs images to calibrate its networks with, and nobody's images may be
shipped. So noise is optimised until the inputs of all batch norms of many networks have the mean
and variance that real training images give them: the idea of DeepInversion (arXiv 1912.08795,
section 3.2), over archs instead of over one network, and with the statistics of the batch instead
of stored ones. No image goes in, only averages over images do.

Each batch norm counts by how well as many real images would do: early ones, whose means are over
many pixels, must be met far more exactly than late ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import BATCH, calibrate
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch

# Levels of a pixel that Adam moves at most in a step, at the start; a cosine takes it to zero.
LEARNING_RATE = 6.0
# Variances that no batch norm can tell from none.
EPSILON = 1e-4
# Squared errors that no batch norm need be better than, whatever real images do.
FLOOR = 2e-4
# Random archs beside the largest and the smallest.
ARCHS = 62
STEPS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisProgress:
    """Where a synthesis stands, told after every step.

    Args:
        step: steps done.
        steps: steps in all.
        distance: of the arch of this step; 1: what as many real images would have.
    """

    step: int
    steps: int
    distance: float


def synthesise(
    supernet: Supernet,
    pixels: Tensor,
    *,
    preprocessing: Preprocessing,
    count: int = BATCH,
    steps: int = STEPS,
    seed: int = 0,
    start: Tensor | None = None,
    progress: Callable[[SynthesisProgress], None] = lambda state: None,
) -> Tensor:
    """Make calibration images for the networks of a supernet.

    Args:
        supernet: trained; left as it is.
        pixels: stored training images, uint8, shape (n, 3, height, width); only averages over
            them are used.
        preprocessing: how pixels become inputs.
        count: images to make; a multiple of ``calibration.BATCH``, or fewer than that.
        steps: of the optimisation, each on one arch and one batch.
        seed: of everything that is left to chance.
        start: images of an earlier call to go on from, uint8, shape (count, 3, height, width).
            None: coloured noise.
        progress: is called after every step.

    Returns:
        The images, uint8, shape (count, 3, height, width).
    """
    rng = np.random.default_rng((seed, 11))
    archs = sample_calibration_archs(supernet, rng=rng)
    targets: dict[int, tuple[list[Tensor], Tensor]] = {}
    batch = min(BATCH, count)
    assert count % batch == 0, f"count must be a multiple of {BATCH}, found {count}"
    noise = make_coloured_noise(pixels, count=count, rng=rng)
    images = noise if start is None else start.to(noise.dtype)
    parts = [part.clone().requires_grad_() for part in images.split(batch)]
    optimisers = [torch.optim.Adam([part], lr=LEARNING_RATE, betas=(0.9, 0.99)) for part in parts]
    for step in range(steps):
        # Every batch meets every arch: a round of archs for one batch, then for the next.
        turn, which = divmod(step, len(parts))
        number = _order(turn, len(archs), seed)
        network = supernet.extract(archs[number]).to(memory_format=torch.channels_last)
        network.requires_grad_(False)
        if number not in targets:
            few = pixels[: min(count, len(pixels) // 2)]
            wanted = measure_statistics(network, pixels, preprocessing=preprocessing)
            real = measure_statistics(network, few, preprocessing=preprocessing)
            targets[number] = wanted, 1 / (distances(real, wanted) + FLOOR)
        part, optimiser = parts[which], optimisers[which]
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        values = statistics(network, _inputs(part, archs[number], preprocessing))
        wanted, weights = targets[number]
        loss = (distances(values, wanted) * weights).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            part.clamp_(0, 255)
        progress(SynthesisProgress(step=step + 1, steps=steps, distance=loss.item()))
    return torch.cat([part.detach().round().to(torch.uint8) for part in parts])


def sample_calibration_archs(supernet: Supernet, *, rng: np.random.Generator) -> list[Arch]:
    """The largest and the smallest network and random ones, at all resolutions."""
    space = supernet.space
    rows = space.sample(ARCHS, rng=rng, by="gene")
    return [space.largest(), space.smallest(), *space.decode(rows)]


def measure_statistics(
    network: Network, pixels: Tensor, *, preprocessing: Preprocessing
) -> list[Tensor]:
    """What calibrating a network with images finds, as ``statistics`` gives it."""
    calibrate(network, pixels, preprocessing=preprocessing)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    return [torch.stack([n.get_buffer("running_mean"), n.get_buffer("running_var")]) for n in norms]


def statistics(network: Network, inputs: Tensor) -> list[Tensor]:
    """Mean and variance of the input of every batch norm, while all norm by their batch.

    Args:
        network: left in training mode; its stored statistics are left alone.
        inputs: shape (n, 3, *preprocessing.size(resolution)).

    Returns:
        One tensor a batch norm, shape (2, channels): means, and variances over n - 1 as batch
        norms store them.
    """
    by_norm: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        # Far faster than torch.var_mean over three dimensions.
        rows = given[0].movedim(1, 3).flatten(0, 2)
        mean = rows.mean(0)
        variance = (rows - mean).square().sum(0) / (len(rows) - 1)
        by_norm[module] = torch.stack([mean, variance])

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    network.train()
    for norm in norms:
        norm.momentum = 0.0
    network(inputs)
    for handle in handles:
        handle.remove()
    return [by_norm[norm] for norm in norms]


def distances(values: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """How far statistics are apart, averaged over channels, shape (batch norms,).

    Means differ in units of the wanted standard deviation, variances by the logarithm of their
    ratio; both squared.
    """
    terms: list[Tensor] = []
    for (mean, variance), (mean_wanted, variance_wanted) in zip(values, wanted, strict=True):
        scale = variance_wanted + EPSILON
        means = ((mean - mean_wanted).square() / scale).mean()
        terms.append(means + ((variance + EPSILON) / scale).log().square().mean() / 4)
    return torch.stack(terms)


def make_coloured_noise(pixels: Tensor, *, count: int, rng: np.random.Generator) -> Tensor:
    """Gaussian noise with the mean image and the spectrum of images.

    The spectrum is the average, over images, of the products of the Fourier coefficients of all
    pairs of channels, frequency by frequency: it fixes all correlations between pixels that do
    not depend on where in the image they are.

    Args:
        pixels: uint8, shape (n, 3, height, width).
        count: images to make.
        rng: the source of chance.

    Returns:
        float32, shape (count, 3, height, width), from 0 to 255.
    """
    values = pixels.double()
    mean = values.mean(0)
    spectrum = torch.fft.fft2(values - mean).movedim(1, 3)
    products = torch.einsum("nhwc,nhwd->hwcd", spectrum, spectrum.conj()) / len(pixels)
    height, width = pixels.shape[2:]
    area = height * width
    ridge = 1e-6 * products.diagonal(dim1=2, dim2=3).real.mean() * torch.eye(3)
    root = torch.linalg.cholesky(products / area + ridge / area)
    white = torch.from_numpy(rng.standard_normal((count, 3, height, width)))
    coloured = torch.einsum("hwcd,nhwd->nhwc", root, torch.fft.fft2(white).movedim(1, 3))
    noise = torch.fft.ifft2(coloured.movedim(3, 1)).real
    return (mean + noise).clamp(0, 255).float()


def _inputs(part: Tensor, arch: Arch, preprocessing: Preprocessing) -> Tensor:
    """The inputs that the rounded images will give, exactly, with the gradient of a smooth twin."""
    exact = part.detach().round().to(torch.uint8)
    inputs = preprocessing.prepare(exact, resolution=arch.resolution)
    size = inputs.shape[2:]
    smooth = part
    if size != part.shape[2:]:
        smooth = F.interpolate(part, size, mode="bilinear", antialias=True)
    smooth = smooth / 255 / torch.tensor(preprocessing.std).view(1, -1, 1, 1)
    return inputs + (smooth - smooth.detach())


def _order(turn: int, count: int, seed: int) -> int:
    """All archs in a random order, then all again in another; the corners twice as often."""
    numbers = [0, 1, *range(count)]
    again, place = divmod(turn, len(numbers))
    return numbers[np.random.default_rng((seed, 12, again)).permutation(len(numbers))[place]]
