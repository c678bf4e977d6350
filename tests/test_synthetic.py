"""Synthetic images do to batch norms what real ones do, and are none of them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_images

from edgenas.images.preprocessing import Preprocessing
from edgenas.model import synthetic
from edgenas.model.calibration import calibrate
from edgenas.model.supernet import Supernet
from edgenas.model.synthetic import (
    SynthesisProgress,
    distances,
    make_coloured_noise,
    measure_statistics,
    statistics,
    synthesise,
)
from edgenas.space.presets import tiny

SIDE = 16


@pytest.fixture(autouse=True)
def few_archs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "ARCHS", 30)


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    """Smooth, coloured images, darker at the top: nothing like white noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(240, 3, 5, 5, generator=generator)
    coarse[:, 1] = 0.7 * coarse[:, 0] + 0.3 * coarse[:, 1]
    smooth = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return (smooth * torch.linspace(60, 250, SIDE)[:, None]).round().to(torch.uint8)


@pytest.fixture(scope="module")
def preprocessing(real: torch.Tensor) -> Preprocessing:
    mean, std = dataclasses.replace(toy_images(3), pixels=real).statistics()
    return Preprocessing(stored=SIDE, mean=mean, std=std)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(tiny(), seed=4).to(memory_format=torch.channels_last).eval()


def mean_distance(
    supernet: Supernet,
    pixels: torch.Tensor,
    real: torch.Tensor,
    preprocessing: Preprocessing,
) -> float:
    """Over archs that nothing was optimised for, by what calibrating with both leaves behind."""
    space = tiny()
    rows = space.sample(8, rng=np.random.default_rng(77), by="gene")
    found = []
    for arch in space.decode(rows):
        pair = [
            measure_statistics(supernet.extract(arch), images, preprocessing=preprocessing)
            for images in (pixels, real)
        ]
        found.append(distances(pair[0], pair[1]).mean().item())
    return float(np.mean(found))


@pytest.mark.slow
def test_the_distance_falls(supernet: Supernet, real: torch.Tensor, preprocessing: Preprocessing):
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    told: list[SynthesisProgress] = []
    made = synthesise(
        supernet, real, preprocessing=preprocessing, count=40, steps=80, progress=told.append
    )
    assert made.shape == (40, 3, SIDE, SIDE)
    assert made.dtype == torch.uint8
    assert [p.step for p in told] == list(range(1, 81))
    noise = (
        make_coloured_noise(real, count=40, rng=np.random.default_rng(0)).round().to(torch.uint8)
    )
    white = torch.randint(0, 256, made.shape, generator=torch.Generator().manual_seed(0))
    far = mean_distance(supernet, white.to(torch.uint8), real, preprocessing)
    near = mean_distance(supernet, noise, real, preprocessing)
    ours = mean_distance(supernet, made, real, preprocessing)
    assert ours < near / 4
    assert ours < far / 50, (ours, far)
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_seed_decides(supernet: Supernet, real: torch.Tensor, preprocessing: Preprocessing):
    made = [
        synthesise(supernet, real, preprocessing=preprocessing, count=10, steps=3, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_no_real_image_comes_out(
    supernet: Supernet, real: torch.Tensor, preprocessing: Preprocessing
):
    made = synthesise(supernet, real, preprocessing=preprocessing, count=40, steps=40).double()
    centred = [images - images.mean((2, 3), keepdim=True) for images in (made, real.double())]
    flat = [F.normalize(images.flatten(1), dim=1) for images in centred]
    across = (flat[0] @ flat[1].T).max()
    among = (flat[1] @ flat[1].T - torch.eye(len(real))).max()
    assert across < among


def test_the_statistics_are_those_of_calibration(
    supernet: Supernet, real: torch.Tensor, preprocessing: Preprocessing
):
    for arch in (tiny().largest(), tiny().smallest()):
        inputs = preprocessing.prepare(real, resolution=arch.resolution)
        found = statistics(supernet.extract(arch), inputs)
        network = supernet.extract(arch)
        calibrate(network, real, preprocessing=preprocessing)
        wanted = measure_statistics(supernet.extract(arch), real, preprocessing=preprocessing)
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert len(found) == len(wanted) == len(norms)
        for one, other, norm in zip(found, wanted, norms, strict=True):
            # Measured with kernels for SSE4.1, AVX2 and AVX-512: a thirtieth of it.
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
            assert torch.equal(other[0], norm.get_buffer("running_mean"))
            assert torch.equal(other[1], norm.get_buffer("running_var"))
        assert distances(found, wanted).mean() < 1e-6


def test_the_distance_is_what_it_says():
    wanted = [torch.tensor([[1.0, 0.0], [4.0, 1.0]]), torch.tensor([[0.0], [2.0]])]
    moved = [torch.tensor([[3.0, 0.0], [4.0, 1.0]]), torch.tensor([[0.0], [2.0 * np.e**2]])]
    assert distances(wanted, wanted).mean() == 0
    # One mean of two is off by a deviation; one variance is off by e squared; over two norms.
    assert distances(moved, wanted).mean().item() == pytest.approx((0.5 + 1.0) / 2, rel=1e-4)


def test_what_is_optimised_is_what_is_stored(preprocessing: Preprocessing):
    arch = tiny().smallest()
    assert arch.resolution < SIDE
    floats = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 255
    part = floats.clone().requires_grad_()
    inputs = synthetic._inputs(part, arch, preprocessing)
    stored = floats.round().to(torch.uint8)
    exact = preprocessing.prepare(stored, resolution=arch.resolution)
    # The same pixels and the same two operations in float32, on numbers below 5: one rounding.
    torch.testing.assert_close(inputs.detach(), exact, rtol=0, atol=1e-6)
    # The gradient is that of the smooth resize: by finite differences of a linear map.
    weights = torch.rand(exact.shape, generator=torch.Generator().manual_seed(2))
    (inputs * weights).sum().backward()
    bumped = floats.double()
    bumped[2, 1, 5, 7] += 1
    std = torch.tensor(preprocessing.std).double().view(1, -1, 1, 1)

    def smooth(values: torch.Tensor) -> torch.Tensor:
        size = (arch.resolution, arch.resolution)
        return F.interpolate(values, size, mode="bilinear", antialias=True) / 255 / std

    change = ((smooth(bumped) - smooth(floats.double())) * weights).sum()
    assert part.grad is not None
    # float32 against float64, a few products: measured 1e-7.
    assert part.grad[2, 1, 5, 7].item() == pytest.approx(change.item(), rel=1e-3)


@given(seed=st.integers(0, 2**32 - 1))
def test_noise_is_in_range(seed: int, real: torch.Tensor):
    noise = make_coloured_noise(real[:20], count=3, rng=np.random.default_rng(seed))
    assert noise.shape == (3, 3, SIDE, SIDE)
    assert noise.min() >= 0
    assert noise.max() <= 255


def test_noise_has_the_mean_image_and_the_correlations(real: torch.Tensor):
    # Away from 0 and 255, so that nothing is cut off.
    pixels = (real.float() * 0.3 + 90).round().to(torch.uint8)
    noise = make_coloured_noise(pixels, count=4000, rng=np.random.default_rng(0)).double()
    mean = pixels.double().mean(0)
    assert (noise.mean(0) - mean).abs().max() < 1.5
    for dy, dx, other in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (3, 2, 0), (0, 0, 1), (0, 2, 1)):
        products = []
        for images in (noise, pixels.double()):
            centred = images - mean
            shifted = centred.roll((dy, dx), (2, 3))
            products.append((centred[:, 0] * shifted[:, other]).mean().item())
        scale = (pixels.double() - mean).square().mean().item()
        assert products[0] == pytest.approx(products[1], abs=0.05 * scale), (dy, dx, other)


def test_a_count_that_leaves_a_part_of_a_batch_is_refused(
    supernet: Supernet, real: torch.Tensor, preprocessing: Preprocessing
):
    with pytest.raises(AssertionError, match="count must be a multiple of 250, found 300"):
        synthesise(supernet, real, preprocessing=preprocessing, count=300, steps=1)
