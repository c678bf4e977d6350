"""Depthwise convs: torch's own numbers, also where the gradient is computed in parts."""

import pytest
import torch
from torch import fx, nn
from torch.func import functional_call
from torch.nn import functional as F

from edgenas.model.blocks import ConvNorm
from edgenas.model.depthwise import conv2d
from edgenas.model.supernet import Supernet
from edgenas.space.presets import load_space

SHAPES = [  # channels, height, width, kernel, stride
    (24, 16, 16, 7, 1),
    (24, 16, 16, 7, 2),
    (40, 15, 9, 5, 2),
    (16, 3, 2, 7, 1),  # smaller than its kernel
    (16, 1, 1, 5, 2),
    (3, 80, 120, 5, 1),  # images one by one
]


def depthwise(channels: int, kernel: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def differentiated(conv: nn.Conv2d, images: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Outputs, then the gradients of the images and of the weights."""
    images = images.clone().requires_grad_()
    out = conv2d(conv, images)
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
    conv = depthwise(channels, kernel, stride=stride)
    images = torch.randn(20, channels, height, width).to(memory_format=layout)
    found = differentiated(conv, images, 1)
    assert "InParts" in type(conv2d(conv, images).grad_fn).__name__
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
    norm = ConvNorm(2, 2, kernel=5, stride=2, groups=2).double().eval()

    def outputs(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional_call(norm, {"conv.weight": weight}, (images,))

    images = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, (images, weight))
    assert torch.autograd.gradgradcheck(outputs, (images, weight))


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_half_precision_and_evaluation_are_left_to_torch(kernel: int):
    conv = depthwise(8, kernel, stride=1)
    images = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        halved = conv2d(conv, images)
    assert halved.dtype is torch.bfloat16
    assert "InParts" not in type(halved.grad_fn).__name__
    assert conv.weight.grad is None
    halved.float().sum().backward()
    with torch.no_grad():
        plain = F.conv2d(images, conv.weight, padding=kernel // 2, groups=8)
        assert torch.equal(conv2d(conv, images), plain)


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_trace_names_the_modules(kernel: int):
    norm = ConvNorm(8, 8, kernel=kernel, groups=8).eval()
    images = torch.randn(2, 8, 9, 9)
    traced = fx.symbolic_trace(norm)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "conv",
        "bn",
    ]
    assert torch.equal(traced(images), norm(images))


def test_a_supernet_learns_with_them():
    space = load_space("mbv3-cifar")
    supernet = Supernet(space, seed=0).to(memory_format=torch.channels_last).train()
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    logits = supernet(images, space.largest())
    seen, todo = set(), [logits.grad_fn]
    names = set[str]()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(type(node).__name__)
            todo += [before for before, _ in node.next_functions]
    assert any("InParts" in name for name in names)
