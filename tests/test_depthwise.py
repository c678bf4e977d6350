"""Depthwise convs: torch's own numbers, also where the gradient is computed in parts."""

import pytest
import torch
from torch.nn import functional as F

from edgenas.depthwise import DepthwiseConv2d
from edgenas.spaces import load_space
from edgenas.supernet import Supernet

SHAPES = [  # channels, height, width, kernel, stride
    (24, 16, 16, 7, 1),
    (24, 16, 16, 7, 2),
    (40, 15, 9, 5, 2),
    (16, 3, 2, 7, 1),  # smaller than its kernel
    (16, 1, 1, 5, 2),
    (3, 80, 120, 5, 1),  # images one by one
]


def differentiated(conv: DepthwiseConv2d, images: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Outputs, then the gradients of the images and of the weights."""
    images = images.clone().requires_grad_()
    out = conv(images)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    (out * weights.to(out.dtype)).sum().backward()
    assert images.grad is not None
    assert conv.weight.grad is not None
    return [out.detach(), images.grad, conv.weight.grad]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_those_of_torch_in_double_precision(
    shape: tuple[int, ...], layout: torch.memory_format
):
    channels, height, width, kernel, stride = shape
    torch.manual_seed(0)
    conv = DepthwiseConv2d(channels, kernel, stride=stride)
    images = torch.randn(20, channels, height, width).to(memory_format=layout)
    found = differentiated(conv, images, 1)
    assert "InParts" in type(conv(images).grad_fn).__name__
    weight = conv.weight.detach().double().requires_grad_()
    exact = images.double().requires_grad_()
    out = F.conv2d(exact, weight, None, stride, kernel // 2, groups=channels)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
    (out * weights).sum().backward()
    for ours, theirs in zip(found, [out, exact.grad, weight.grad], strict=True):
        assert theirs is not None
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_gradients_of_gradients():
    conv = DepthwiseConv2d(2, 5, stride=2).double()
    images = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv, (images,))
    assert torch.autograd.gradgradcheck(conv, (images,))

    def by_weight(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (images.detach(),))

    assert torch.autograd.gradgradcheck(by_weight, (conv.weight.detach().requires_grad_(),))


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_half_precision_and_evaluation_are_left_to_torch(kernel: int):
    conv = DepthwiseConv2d(8, kernel, stride=1)
    images = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        halved = conv(images)
    assert halved.dtype is torch.bfloat16
    assert "InParts" not in type(halved.grad_fn).__name__
    assert conv.weight.grad is None
    halved.float().sum().backward()
    with torch.no_grad():
        plain = F.conv2d(images, conv.weight, padding=kernel // 2, groups=8)
        assert torch.equal(conv(images), plain)


def test_a_supernet_learns_with_them():
    space = load_space("mbv3-cifar")
    supernet = Supernet(space, seed=0).to(memory_format=torch.channels_last).train()
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    logits = supernet(images, space.largest())
    seen, todo = set[int](), [logits.grad_fn]
    names = set[str]()
    while todo:
        node = todo.pop()
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            names.add(type(node).__name__)
            todo += [before for before, _ in node.next_functions]
    assert any("InParts" in name for name in names)
