"""The operators of the networks that other people published latencies of.

torchvision builds what it has; the rest (MobileNetV1, the minimalistic MobileNetV3 and YOLO11) is
written here. Networks run once on torch's meta device, where every operator leaves a record and
nothing is computed.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

from edgenas.space.layer import Primitive

_ACTIVATIONS = {
    "relu": "relu",
    "relu_": "relu",
    "hardtanh": "relu6",
    "hardtanh_": "relu6",
    "hardswish": "hswish",
    "hardswish_": "hswish",
    "hardsigmoid": "hsigmoid",
    "hardsigmoid_": "hsigmoid",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "silu_": "silu",
    "_softmax": "softmax",
}
# Operators that only look at a tensor in another way, or do not exist at inference.
_FREE = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "split", "alias",
    "split_with_sizes", "unbind", "select", "squeeze", "unsqueeze", "detach", "flatten",
    "as_strided",
}  # fmt: skip


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Primitive] = []
        self.convs: dict[int, Tensor] = {}  # outputs of convs, kept alive so that ids stay unique

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _FREE:
            return result
        out = result[0] if isinstance(result, (tuple, list)) else result
        self._record(name, args, out)
        return result

    def _record(self, name: str, args: Any, out: Tensor) -> None:
        source = args[1] if name == "addmm" else args[0]
        first = source[0] if isinstance(source, (tuple, list)) else source
        if not isinstance(first, Tensor):
            return  # an allocation
        channels, size = _shape(first)
        outputs, out_size = _shape(out)

        def add(op: str, **more: Any) -> None:
            common: dict[str, Any] = {"inputs": channels, "outputs": outputs}
            shapes: dict[str, Any] = {"in_size": size, "out_size": out_size}
            self.operators.append(Primitive(op=op, **(common | shapes | more)))

        if name == "convolution":
            weight, stride, groups = args[1], args[3][0], args[8]
            kernel = tuple(weight.shape[2:])
            add("conv", kernel=kernel, stride=stride, groups=groups, bias=args[2] is not None)
            self.convs[id(out)] = out
        elif name in ("addmm", "mm"):
            add("linear", bias=name == "addmm")
        elif name == "bmm":
            # (heads, rows, inner) x (heads, inner, columns): a grouped 1x1 conv over the rows.
            heads, rows, inner = args[0].shape
            columns = args[1].shape[2]
            shape = {"in_size": (rows, 1), "out_size": (rows, 1)}
            add("conv", inputs=heads * inner, outputs=heads * columns, groups=heads, **shape)
        elif name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            if id(args[0]) in self.convs:
                self.convs[id(out)] = out
            else:
                add("mul")
        elif name == "max_pool2d_with_indices":
            add("maxpool", kernel=tuple(args[1]), stride=args[2][0] if len(args) > 2 else 1)
        elif name == "avg_pool2d":
            add("avgpool", kernel=tuple(args[1]), stride=args[2][0] if len(args) > 2 else 1)
        elif name in ("mean", "_adaptive_avg_pool2d"):
            add("globalpool" if out_size == (1, 1) else "avgpool", outputs=channels)
        elif name in ("add", "add_", "mul"):
            add("mul" if name == "mul" else "add", inputs=outputs, in_size=out_size)
        elif name in _ACTIVATIONS:
            add("act", activation=_ACTIVATIONS[name])
        elif name == "cat":
            add("concat", inputs=outputs, in_size=out_size)
        elif name in ("clone", "upsample_nearest2d", "copy_"):
            add("copy", inputs=outputs, in_size=out_size)
        else:
            raise NotImplementedError(name)


def _shape(tensor: Tensor) -> tuple[int, tuple[int, int]]:
    """Channels and (height, width); what is no image has width 1."""
    shape = tuple(tensor.shape)
    if len(shape) == 4:
        return shape[1], (shape[2], shape[3])
    if len(shape) == 2:
        return shape[1], (1, 1)
    rest = 1
    for extent in shape[2:]:
        rest *= extent
    return shape[1], (rest, 1)


def trace(build: Callable[[], nn.Module], size: tuple[int, int]) -> tuple[Primitive, ...]:
    """The operators of a network at an input of (height, width), batch norms folded."""
    with torch.device("meta"):
        module = build().eval()
        image = torch.empty(1, 3, *size)
    with torch.no_grad(), _Recorder() as recorder:
        module(image)
    return tuple(recorder.operators)


# -- MobileNetV1 (arXiv 1704.04861) ---------------------------------------------------------------


def mobilenet_v1(width: float) -> nn.Module:
    """MobileNetV1 as TensorFlow publishes it."""

    def channels(full: int) -> int:
        return max(8, int(full * width))

    def conv(i: int, o: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(o), nn.ReLU6()]

    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    before = channels(32)
    modules = conv(3, before, 3, 2)
    for stride, wide in zip(strides, widths, strict=True):
        modules += conv(before, before, 3, stride, before)
        modules += conv(before, channels(wide), 1, 1)
        before = channels(wide)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1001)]
    return nn.Sequential(*modules, *head)


# -- MobileNetV3 (arXiv 1905.02244) ---------------------------------------------------------------

_LARGE = [
    (16, 3, 16, 16, False, "RE", 1), (16, 3, 64, 24, False, "RE", 2),
    (24, 3, 72, 24, False, "RE", 1), (24, 5, 72, 40, True, "RE", 2),
    (40, 5, 120, 40, True, "RE", 1), (40, 5, 120, 40, True, "RE", 1),
    (40, 3, 240, 80, False, "HS", 2), (80, 3, 200, 80, False, "HS", 1),
    (80, 3, 184, 80, False, "HS", 1), (80, 3, 184, 80, False, "HS", 1),
    (80, 3, 480, 112, True, "HS", 1), (112, 3, 672, 112, True, "HS", 1),
    (112, 5, 672, 160, True, "HS", 2), (160, 5, 960, 160, True, "HS", 1),
    (160, 5, 960, 160, True, "HS", 1),
]  # fmt: skip
_SMALL = [
    (16, 3, 16, 16, True, "RE", 2), (16, 3, 72, 24, False, "RE", 2),
    (24, 3, 88, 24, False, "RE", 1), (24, 5, 96, 40, True, "HS", 2),
    (40, 5, 240, 40, True, "HS", 1), (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 120, 48, True, "HS", 1), (48, 5, 144, 48, True, "HS", 1),
    (48, 5, 288, 96, True, "HS", 2), (96, 5, 576, 96, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
]  # fmt: skip


def mobilenet_v3(variant: str, *, width: float = 1.0, minimal: bool = False) -> nn.Module:
    """MobileNetV3 ``large`` or ``small``; minimal: 3x3, ReLU and no squeeze-and-excitation."""
    rows, last = (_LARGE, 1280) if variant == "large" else (_SMALL, 1024)

    def adjust(channels: float) -> int:
        return InvertedResidualConfig.adjust_channels(1, channels)

    configs: list[InvertedResidualConfig] = []
    for i, kernel, mid, o, squeeze, act, stride in rows:
        # TensorFlow's width multiplier acts on the ends of a block; its middle keeps the ratio.
        inputs, outputs = adjust(i * width), adjust(o * width)
        middle = adjust(mid / i * inputs)
        kernel, squeeze, act = (3, False, "RE") if minimal else (kernel, squeeze, act)
        configs.append(
            InvertedResidualConfig(inputs, kernel, middle, outputs, squeeze, act, stride, 1, 1.0)
        )
    module = MobileNetV3(configs, last)
    if minimal:
        for parent in module.modules():
            for name, child in parent.named_children():
                if isinstance(child, nn.Hardswish):
                    setattr(parent, name, nn.ReLU())
    return module


# -- YOLO11, written from the layer table of its yaml file ----------------------------------------


def _silu_conv(i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.SiLU())


class _Bottleneck(nn.Module):
    def __init__(self, i: int, o: int, ratio: float) -> None:
        super().__init__()
        mid = int(o * ratio)
        self.first, self.second = _silu_conv(i, mid, 3), _silu_conv(mid, o, 3)
        self.shortcut = i == o

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class _C3k(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        mid = channels // 2
        self.left, self.right = _silu_conv(channels, mid), _silu_conv(channels, mid)
        self.blocks = nn.Sequential(_Bottleneck(mid, mid, 1.0), _Bottleneck(mid, mid, 1.0))
        self.out = _silu_conv(2 * mid, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat((self.blocks(self.left(x)), self.right(x)), 1))


class _C3k2(nn.Module):
    def __init__(self, i: int, o: int, *, repeats: int, nested: bool, ratio: float) -> None:
        super().__init__()
        self.mid = int(o * ratio)
        self.first = _silu_conv(i, 2 * self.mid)
        self.blocks = nn.ModuleList(
            _C3k(self.mid) if nested else _Bottleneck(self.mid, self.mid, 0.5)
            for _ in range(repeats)
        )
        self.out = _silu_conv((2 + repeats) * self.mid, o)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.out(torch.cat(parts, 1))


class _Pyramid(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _silu_conv(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.out = _silu_conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        parts.extend(self.pool(parts[-1]) for _ in range(3))
        return self.out(torch.cat(parts[:1] + parts[1:], 1))


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // 64
        self.value = channels // self.heads
        self.key = self.value // 2

        def plain(i: int, o: int, kernel: int = 1, groups: int = 1) -> nn.Module:
            conv = nn.Conv2d(i, o, kernel, padding=kernel // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(o))

        self.qkv = plain(channels, channels + 2 * self.key * self.heads)
        self.position, self.out = plain(channels, channels, 3, channels), plain(channels, channels)
        self.feed = nn.Sequential(_silu_conv(channels, 2 * channels), plain(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x).view(n * self.heads, 2 * self.key + self.value, h * w)
        query, key, value = qkv.split([self.key, self.key, self.value], dim=1)
        weights = torch.bmm(query.transpose(1, 2), key).softmax(-1)
        mixed = torch.bmm(value, weights.transpose(1, 2)).view(n, c, h, w)
        x = x + self.out(mixed + self.position(value.reshape(n, c, h, w)))
        return x + self.feed(x)


class _C2PSA(nn.Module):
    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        self.first = _silu_conv(channels, channels)
        self.blocks = nn.Sequential(*(_Attention(channels // 2) for _ in range(repeats)))
        self.out = _silu_conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.first(x).chunk(2, 1)
        return self.out(torch.cat((kept, self.blocks(attended)), 1))


class _Yolo11(nn.Module):
    def __init__(self, scale: str) -> None:
        super().__init__()
        depth, width, limit = {
            "n": (0.5, 0.25, 1024),
            "s": (0.5, 0.5, 1024),
            "m": (0.5, 1.0, 512),
            "l": (1.0, 1.0, 512),
            "x": (1.0, 1.5, 512),
        }[scale]
        repeats, big = max(1, round(2 * depth)), scale in "mlx"

        def ch(full: int) -> int:
            return -(-int(min(full, limit) * width) // 8) * 8

        def stage(i: int, o: int, nested: bool, ratio: float = 0.5) -> nn.Module:
            return _C3k2(i, o, repeats=repeats, nested=nested or big, ratio=ratio)

        self.p3 = nn.Sequential(
            _silu_conv(3, ch(64), 3, 2),
            _silu_conv(ch(64), ch(128), 3, 2),
            stage(ch(128), ch(256), False, 0.25),
            _silu_conv(ch(256), ch(256), 3, 2),
            stage(ch(256), ch(512), False, 0.25),
        )
        self.p4 = nn.Sequential(_silu_conv(ch(512), ch(512), 3, 2), stage(ch(512), ch(512), True))
        self.p5 = nn.Sequential(
            _silu_conv(ch(512), ch(1024), 3, 2),
            stage(ch(1024), ch(1024), True),
            _Pyramid(ch(1024)),
            _C2PSA(ch(1024), repeats),
        )
        self.up = nn.Upsample(scale_factor=2)
        self.up4 = stage(ch(1024) + ch(512), ch(512), False)
        self.up3 = stage(2 * ch(512), ch(256), False)
        self.down4 = _silu_conv(ch(256), ch(256), 3, 2)
        self.mix4 = stage(ch(256) + ch(512), ch(512), False)
        self.down5 = _silu_conv(ch(512), ch(512), 3, 2)
        self.mix5 = stage(ch(512) + ch(1024), ch(1024), True)
        levels = (ch(256), ch(512), ch(1024))
        box, kind = max(16, levels[0] // 4, 64), max(levels[0], 80)
        self.boxes = nn.ModuleList(
            nn.Sequential(_silu_conv(c, box, 3), _silu_conv(box, box, 3), nn.Conv2d(box, 64, 1))
            for c in levels
        )
        self.kinds = nn.ModuleList(
            nn.Sequential(
                _silu_conv(c, c, 3, 1, c),
                _silu_conv(c, kind),
                _silu_conv(kind, kind, 3, 1, kind),
                _silu_conv(kind, kind),
                nn.Conv2d(kind, 80, 1),
            )
            for c in levels
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        up4 = self.up4(torch.cat((self.up(p5), p4), 1))
        up3 = self.up3(torch.cat((self.up(up4), p3), 1))
        mix4 = self.mix4(torch.cat((self.down4(up3), up4), 1))
        mix5 = self.mix5(torch.cat((self.down5(mix4), p5), 1))
        return [
            torch.cat((self.boxes[i](level), self.kinds[i](level)), 1)
            for i, level in enumerate((up3, mix4, mix5))
        ]


# -- by the names of the published rows -----------------------------------------------------------

_TORCHVISION = {
    "alexnet", "squeezenet1_0", "squeezenet1_1", "resnet18", "resnet34", "resnet50", "resnet101",
    "resnet152", "resnext50_32x4d", "densenet121", "densenet161", "densenet169", "densenet201",
    "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
    "mobilenet_v2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0", "mnasnet0_5", "mnasnet1_3",
}  # fmt: skip
_PARTIAL: dict[str, Callable[[], nn.Module]] = {
    "googlenet": lambda: zoo.googlenet(weights=None, aux_logits=False, init_weights=False),
    "inception_v3": lambda: zoo.inception_v3(weights=None, aux_logits=False, init_weights=False),
    **{f"yolo11{scale}": functools.partial(_Yolo11, scale) for scale in "nsmlx"},
}


def family(model: str) -> str:
    """The family of a published network: the rows that are left out together."""
    names = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "shufflenet_v2", "yolo11", "resnext")
    for name in (*names, "resnet", "densenet", "vgg", "squeezenet", "mnasnet", "inception"):
        if model.startswith(name):
            return name
    return model


@functools.cache
def operators(model: str, size: tuple[int, int]) -> tuple[Primitive, ...] | None:
    """The operators of a published network by its name; None: the name is not known here."""
    if model in _TORCHVISION:
        return trace(functools.partial(zoo.get_model, model, weights=None), size)
    if model in _PARTIAL:
        return trace(_PARTIAL[model], size)
    if model.startswith("mobilenet_v1"):
        return trace(functools.partial(mobilenet_v1, _width(model)), size)
    if model.startswith("mobilenet_v2"):
        build = functools.partial(zoo.mobilenet_v2, weights=None, width_mult=_width(model))
        return trace(build, size)
    if model.startswith("mobilenet_v3"):
        variant = "large" if "large" in model else "small"
        minimal = "minimalistic" in model
        width = 1.0 if minimal else _width(model)
        return trace(functools.partial(mobilenet_v3, variant, width=width, minimal=minimal), size)
    return None


def _width(model: str) -> float:
    last = model.rsplit("_", 1)[1]
    return float(last) if last[0].isdecimal() else 1.0
