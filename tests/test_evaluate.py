"""Calibration is what it says, by an independent computation; accuracy is a plain count."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import toy_images

from edgenas.accuracy.evaluation import evaluate_archs, measure_accuracy
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.calibration import BATCH, batch_for, calibrate, predict_logits
from edgenas.model.network import Network
from edgenas.model.supernet import Supernet
from edgenas.space.presets import tiny

PREPROCESSING = Preprocessing(stored=16, mean=(0.3, 0.3, 0.3), std=(0.2, 0.25, 0.3))


class Oracle(nn.Module):
    """Batch norm by the formula, in float64; keeps the statistics of every batch it sees."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(0, 1).flatten(1)
        self.means.append(rows.sum(1) / rows.shape[1])
        centred = rows - self.means[-1][:, None]
        self.variances.append(centred.pow(2).sum(1) / (rows.shape[1] - 1))
        normed = centred / (centred.pow(2).sum(1) / rows.shape[1] + self.norm.eps).sqrt()[:, None]
        y = normed * self.norm.weight[:, None] + self.norm.bias[:, None]
        return y.view(x.transpose(0, 1).shape).transpose(0, 1)


def with_oracles(module: nn.Module) -> dict[str, Oracle]:
    """Put an oracle in the place of every batch norm; by its name."""
    oracles: dict[str, Oracle] = {}
    for path, child in list(module.named_modules()):
        if isinstance(child, nn.BatchNorm2d):
            parent, _, name = path.rpartition(".")
            oracles[path] = Oracle(child)
            setattr(module.get_submodule(parent), name, oracles[path])
    return oracles


def some_archs(n: int) -> list:
    space = tiny()
    rows = space.sample(n, rng=np.random.default_rng(2), by="gene")
    return [space.largest(), space.smallest(), *space.decode(rows)]


@pytest.mark.parametrize("count", [2, 60, BATCH, 2 * BATCH, 2 * BATCH + 77])
def test_calibration_finds_mean_and_variance_of_the_inputs(count: int):
    pixels = toy_images(count).pixels
    batch = min(BATCH, count)
    supernet = Supernet(tiny(), seed=1).eval()
    for arch in some_archs(1):
        network, reference = supernet.extract(arch), supernet.extract(arch).double()
        calibrate(network, pixels, preprocessing=PREPROCESSING)
        oracles = with_oracles(reference)
        # Whole batches only, as many as there are.
        for start in range(0, count - batch + 1, batch):
            part = pixels[start : start + batch]
            prepared = PREPROCESSING.prepare(part, resolution=arch.resolution)
            reference(prepared.double())
        assert oracles
        for name, oracle in oracles.items():
            norm = network.get_submodule(name)
            mean = torch.stack(oracle.means).mean(0)
            variance = torch.stack(oracle.variances).mean(0)
            # float32 against float64, behind all layers before. With SSE4.1, AVX2 and AVX-512
            # a twentieth of it was measured at most.
            torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-3, atol=1e-5)


def test_large_inputs_run_in_smaller_batches():
    assert batch_for((32, 32)) == batch_for((128, 128)) == 250
    assert batch_for((224, 224)) == 250 * 128**2 // 224**2 == 81
    assert batch_for((64, 256)) == 250
    assert batch_for((4096, 4096)) == 2  # the variance of a single image is none


def test_calibration_replaces_what_was_there_and_leaves_evaluation_mode():
    pixels = toy_images(40).pixels
    supernet = Supernet(tiny(), seed=1).eval()
    network = supernet.extract(tiny().largest())
    calibrate(network, toy_images(40, seed=9).pixels, preprocessing=PREPROCESSING)
    calibrate(network, pixels, preprocessing=PREPROCESSING)
    assert not any(module.training for module in network.modules())
    fresh = supernet.extract(tiny().largest())
    calibrate(fresh, pixels, preprocessing=PREPROCESSING)
    for (name, one), other in zip(
        network.state_dict().items(), fresh.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_calibrated_network_treats_every_image_by_itself():
    pixels = toy_images(BATCH + 30).pixels
    network = calibrated(pixels)
    logits = predict_logits(network, pixels, preprocessing=PREPROCESSING)
    assert logits.shape == (BATCH + 30, 10)
    for i in (0, 17, BATCH, BATCH + 29):
        alone = predict_logits(network, pixels[i : i + 1], preprocessing=PREPROCESSING)[0]
        # Kernels depend on the batch. Measured for SSE4.1, AVX2 and AVX-512: a twentieth of it.
        torch.testing.assert_close(alone, logits[i], rtol=1e-4, atol=1e-5)


def calibrated(pixels: Tensor) -> Network:
    network = Supernet(tiny(), seed=1).eval().extract(tiny().largest())
    calibrate(network, pixels, preprocessing=PREPROCESSING)
    return network


def test_accuracy_counts():
    images = toy_images(90)
    network = calibrated(images.pixels)
    logits = predict_logits(network, images.pixels, preprocessing=PREPROCESSING)
    right = sum(
        int(np.argmax(row)) == label
        for row, label in zip(logits.numpy(), images.labels.tolist(), strict=True)
    )
    found = measure_accuracy(network, images, preprocessing=PREPROCESSING, split="test")
    assert found.value == pytest.approx(right / 90)
    assert (found.n, found.split) == (90, "test")


def test_evaluating_many_is_evaluating_each_and_leaves_the_supernet_alone():
    images, calibration = toy_images(50), toy_images(60, seed=3).pixels
    supernet = Supernet(tiny(), seed=1).eval()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    archs = some_archs(4)
    found = evaluate_archs(
        supernet,
        archs,
        images=images,
        calibration=calibration,
        preprocessing=PREPROCESSING,
        split="validation",
    )
    for arch, one in zip(archs, found, strict=True):
        network = supernet.extract(arch)
        calibrate(network, calibration, preprocessing=PREPROCESSING)
        alone = measure_accuracy(network, images, preprocessing=PREPROCESSING, split="validation")
        # Two memory layouts add up in two orders: one image may be at a tie.
        assert abs(one.value - alone.value) <= 1 / 50 + 1e-9
        assert (one.n, one.split) == (50, "validation")
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name]), name
