"""TensorFlow's SAME padding: in plans, modules, supernets, graphs and files."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics.errors import EdgenasError
from edgenas.model.blocks import ConvNorm
from edgenas.model.depthwise import conv2d
from edgenas.model.export import parity, to_onnx
from edgenas.model.supernet import Supernet
from edgenas.space.layer import Layer, pad_side
from edgenas.space.narrow import map_codes
from edgenas.space.plan import plan
from edgenas.space.presets import load_space, space_from_json, space_to_json, tiny
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from edgenas.space.stage import StageSpace

SAME = dataclasses.replace(tiny(), name="same", resolutions=(12, 18), padding="same")


def reference(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A conv with SAME padding as TensorFlow's notes define it, output by output.

    The first window begins at ``-(zeros // 2)``; written with unfolded windows, without `pads`.
    """
    kernel = weight.shape[-1]
    outputs = [-(-n // stride) for n in x.shape[2:]]
    zeros = [
        max((o - 1) * stride + kernel - n, 0) for o, n in zip(outputs, x.shape[2:], strict=True)
    ]
    padded = x.new_zeros(*x.shape[:2], *(n + 2 * kernel for n in x.shape[2:]))
    padded[:, :, kernel:-kernel, kernel:-kernel] = x
    result = x.new_zeros(len(x), len(weight), *outputs)
    for row in range(outputs[0]):
        for column in range(outputs[1]):
            top = row * stride - zeros[0] // 2 + kernel
            left = column * stride - zeros[1] // 2 + kernel
            window = padded[:, :, top : top + kernel, left : left + kernel]
            result[:, :, row, column] = torch.einsum("nchw,ochw->no", window, weight)
    return result


@given(
    size=st.tuples(st.integers(2, 13), st.integers(2, 13)),
    kernel=st.sampled_from((1, 3, 5, 7)),
    stride=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_a_conv_with_same_padding_is_tensorflows(
    size: tuple[int, int], kernel: int, stride: int, seed: int
):
    layer = Layer(
        kind="conv",
        inputs=2,
        outputs=3,
        size=size[0],
        columns=size[1],
        kernel=kernel,
        stride=stride,
        padding="same",
    )
    unit = ConvNorm(2, 3, kernel=kernel, stride=stride, pads=primitives(layer)[0].pads).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        padded = x if unit.pads is None else F.pad(x, unit.pads)
        found = conv2d(unit.conv, padded)
        wanted = reference(x, unit.conv.weight, stride)
    assert found.shape[2:] == layer.out_size
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("size", [9, 10])
def test_the_centre_of_a_kernel_sees_the_same_pixels_as_the_small_kernel(kernel: int, size: int):
    """So smaller kernels can be cut out of larger ones under both rules, at every size."""
    weight = torch.zeros(1, 1, kernel, kernel, dtype=torch.float64)
    margin = (kernel - 3) // 2
    weight[:, :, margin:-margin, margin:-margin] = torch.randn(3, 3, dtype=torch.float64)
    x = torch.randn(1, 1, size, size, dtype=torch.float64)
    small = weight[:, :, margin:-margin, margin:-margin]
    torch.testing.assert_close(reference(x, weight, 2), reference(x, small, 2), rtol=0, atol=1e-12)


def test_pads_are_those_that_are_published():
    def same(size: int, kernel: int) -> tuple[int, int]:
        return pad_side(size, kernel=kernel, stride=2, padding="same")

    # EfficientNet-Lite2 at 260 pixels: two even inputs, then three odd ones.
    assert [same(260, 3), same(130, 3), same(65, 5), same(33, 3), same(17, 5)] == [
        (0, 1),
        (0, 1),
        (2, 2),
        (1, 1),
        (2, 2),
    ]
    assert same(56, 5) == (1, 2)
    assert pad_side(56, kernel=5, stride=2, padding="symmetric") == (2, 2)


def test_layers_say_the_padding_only_where_it_differs():
    paddings = {
        name: layer.padding for name, layer in plan(SAME, SAME.restrict(resolution=[18]).largest())
    }
    # 18 is even, 9 is odd: there, both rules are the same.
    assert paddings["stages.1.0"] == "same"
    assert {p for name, p in paddings.items() if name != "stages.1.0"} == {"symmetric"}
    (layer,) = (x for _, x in plan(SAME, SAME.smallest()) if x.padding == "same" and x.size == 12)
    assert str(layer).endswith(",padding=same)")
    assert Layer.parse(str(layer)) == layer
    with pytest.raises(EdgenasError, match="padding must be one of symmetric, same, found 'valid'"):
        Layer.parse(str(layer).replace("=same", "=valid"))
    assert "padding" not in "".join(str(x) for _, x in plan(tiny(), tiny().largest()))


def test_files_name_the_padding_only_where_it_is_not_symmetric():
    assert "padding" not in space_to_json(tiny())
    assert space_to_json(SAME)["padding"] == "same"
    assert space_from_json(space_to_json(SAME)) == SAME
    assert "padding" not in repr(tiny())
    assert "padding='same'" in repr(SAME)
    with pytest.raises(EdgenasError, match="padding must be"):
        space_from_json({**space_to_json(SAME), "padding": "valid"})
    symmetric = dataclasses.replace(SAME, padding="symmetric")
    with pytest.raises(EdgenasError, match="must have the same padding of space same"):
        map_codes(SAME, symmetric)


@pytest.mark.parametrize("stage", [{"kind": "bottleneck"}, {"kind": "conv", "pool": 2}])
def test_bottlenecks_and_pools_are_symmetric(stage: dict[str, object]):
    with pytest.raises(EdgenasError, match=r"padding must be symmetric where .* stages\[1\]"):
        Space(
            name="wrong",
            resolutions=(16,),
            stages=(
                StageSpace(kind="conv", widths=(16,)),
                StageSpace(widths=(16,), **stage),  # pyright: ignore[reportArgumentType]
            ),
            padding="same",
        )


@pytest.mark.parametrize("kernel", [3, 5])
def test_networks_learn_with_same_padding(kernel: int):
    """The gradients in parts (kernel 5) are those of the plain conv."""
    space = SAME.restrict(kernel=[kernel])
    network = Supernet(space, seed=1).extract(space.largest())
    unit = network.get_submodule("stages.1.0.depthwise")
    assert isinstance(unit, ConvNorm)
    assert unit.pads is not None
    x = torch.randn(40, 24, 18, 18)
    conv2d(unit.conv, F.pad(x, unit.pads)).square().sum().backward()
    weight = unit.conv.weight.detach().double().requires_grad_()
    F.conv2d(F.pad(x.double(), unit.pads), weight, stride=2, groups=24).square().sum().backward()
    assert weight.grad is not None
    assert unit.conv.weight.grad is not None
    # float32 sums of 40 * 9 * 9 products: measured 3e-6 of the largest.
    torch.testing.assert_close(
        unit.conv.weight.grad.double(),
        weight.grad,
        rtol=1e-4,
        atol=float(weight.grad.abs().max()) * 1e-4,
    )


@pytest.mark.parametrize("resolution", [12, 18])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "ncnn"])
def test_graphs_have_the_pads_in_every_runtime(resolution: int, name: str):
    from edgenas.model.export import run_onnx
    from edgenas.runtime import registry

    runtime = registry.get(name)
    if why_not := runtime.available():
        pytest.skip(why_not)
    space = SAME.restrict(resolution=[resolution])
    network = Supernet(space, seed=2).eval().extract(space.largest())
    onnx = to_onnx(network, preprocessing={})
    images = torch.randn(4, 3, resolution, resolution)
    parity(network, onnx, images=images).require()
    with torch.no_grad():
        wanted = network(images).numpy()
    np.testing.assert_allclose(
        run_onnx(onnx, images.numpy(), runtime=name, precision="fp32"), wanted, atol=1e-4
    )


def test_lite_spaces_hold_the_published_networks():
    # Parameters and MACs of the published networks, docs of tensorflow/tpu and timm.
    from edgenas.space.cost import total

    wanted: dict[Literal["lite0", "lite1", "lite2"], tuple[int, float]] = {
        "lite0": (4_652_008, 385.2e6),
        "lite1": (5_416_680, 600.2e6),
        "lite2": (6_092_072, 859.7e6),
    }
    for name, (params, macs) in wanted.items():
        space = load_space(name)
        cost = total(space, space.largest())
        assert cost.params == params
        assert cost.macs == pytest.approx(macs, abs=0.05e6)
