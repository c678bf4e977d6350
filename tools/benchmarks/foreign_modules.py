# pyright: reportIndexIssue=false, reportArgumentType=false
# torch types what nn.ModuleDict and nn.Module hold as plain modules.
"""Small networks of torch of the kinds that torchvision does not have, with random weights."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Bert(nn.Module):
    """Word numbers and a mask in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(100, 32), nn.Embedding(64, 32)
        layer = [nn.ModuleDict(_layer(32)) for _ in range(3)]
        self.layers, self.head = nn.ModuleList(layer), nn.Linear(32, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Shapes (batch, length), both int64."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        hidden = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            batch, length, units = x.shape
            q, k, v = (
                layer[n](x).view(batch, length, 4, units // 4).transpose(1, 2) for n in "qkv"
            )
            scores = (q @ k.transpose(-1, -2)) / (units // 4) ** 0.5 + hidden
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, units)
            x = layer["norm"](x + layer["out"](mixed))
            x = layer["after"](x + layer["down"](functional.gelu(layer["up"](x))))
        return self.head(x[:, 0])


def _layer(units: int) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {name: nn.Linear(units, units) for name in ("q", "k", "v", "out")}
    made |= {"up": nn.Linear(units, 2 * units), "down": nn.Linear(2 * units, units)}
    return made | {"norm": nn.LayerNorm(units), "after": nn.LayerNorm(units)}


class Vit(nn.Module):
    """Patches, a class token, attention of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        layer = [nn.ModuleDict(_layer(32)) for _ in range(3)]
        self.layers, self.head = nn.ModuleList(layer), nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Shape (batch, 3, 32, 32)."""
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for layer in self.layers:
            y = layer["norm"](x)
            q, k, v = (layer[n](y).unflatten(-1, (4, 8)).transpose(1, 2) for n in "qkv")
            mixed = functional.scaled_dot_product_attention(q, k, v)
            x = x + layer["out"](mixed.transpose(1, 2).flatten(2))
            x = x + layer["down"](functional.gelu(layer["up"](layer["after"](x))))
        return self.head(x[:, 0])


class Recurrent(nn.Module):
    """A bidirectional LSTM, a GRU, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(8, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.second, self.head = nn.GRU(24, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 11, 8)."""
        return self.head(self.second(self.first(x)[0])[0][:, -1])


class SamePad(nn.Module):
    """EfficientNet-Lite's convs: the padding is computed from the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 24, 32, 40, 48)
        pairs = list(itertools.pairwise(widths))
        self.wide = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairs)
        self.deep = nn.ModuleList(
            nn.Conv2d(b, b, k, 2, groups=b) for (_, b), k in zip(pairs, (3, 5) * 3, strict=True)
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 3, height, width)."""
        for wide, deep in zip(self.wide, self.deep, strict=True):
            x = functional.relu6(wide(x))
            kernel = deep.kernel_size[0]
            height, width = x.shape[-2:]
            down, right = (
                max((-(-s // 2) - 1) * 2 + kernel - s, 0)
                if isinstance(s, int)
                else _need(s, kernel)
                for s in (height, width)
            )
            x = functional.pad(x, [right // 2, right - right // 2, down // 2, down - down // 2])
            x = functional.relu6(deep(x))
        return self.head(x.mean((2, 3)))


def _need(size: Any, kernel: int) -> Any:
    """How much padding a strided conv needs; of a traced size, so that the graph computes it."""
    need = (torch.div(size + 1, 2, rounding_mode="floor") - 1) * 2 + kernel - size
    return torch.clamp(need, min=0)


class Detector(nn.Module):
    """A head of boxes and classes at three sizes, decoded on a grid."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 24, 32)
        self.body = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.heads = nn.ModuleList(nn.Conv2d(b, 3 * 9, 1) for b in widths[2:])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths[2:]))

    def boxes(self, x: Tensor) -> Tensor:
        """All boxes, shape (batch, n, 9)."""
        levels = []
        for conv in self.body:
            x = functional.silu(conv(x))
            levels.append(x)
        levels = levels[1:]
        for i in (1, 0):
            grown = functional.interpolate(self.up[i](levels[i + 1]), size=levels[i].shape[-2:])
            levels[i] = levels[i] + grown
        found = []
        for level, head in zip(levels, self.heads, strict=True):
            y = head(level)
            batch, _, rows, columns = y.shape
            y = y.view(batch, 3, 9, rows, columns).permute(0, 1, 3, 4, 2).sigmoid()
            grid = torch.stack(
                torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1
            )
            centre = y[..., :2] * 2 + grid[None, None].to(y.dtype)
            found.append(torch.cat([centre, y[..., 2:]], -1).reshape(batch, -1, 9))
        return torch.cat(found, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 3, 64, 64)."""
        return self.boxes(x)


class Suppressed(Detector):
    """The same, with a non-maximum suppression behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, 3, 64, 64)."""
        from torchvision.ops import nms

        found = self.boxes(x)[0]
        boxes = torch.cat([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
        return found[nms(boxes, found[:, 4], 0.5)]


class Frames(nn.Module):
    """Frames folded into the batch, a small net over them, then a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *[
                layer
                for a, b in ((3, 8), (8, 8), (8, 16))
                for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())
            ]
        )
        self.head = nn.Linear(16, 4)

    def forward(self, clip: Tensor) -> Tensor:
        """Shape (batch, 6, 3, 32, 32)."""
        batch, frames = clip.shape[:2]
        x = self.body(clip.flatten(0, 1)).mean((2, 3))
        return self.head(x.view(batch, frames, -1).mean(1))


class Plain(nn.Module):
    """An image without a batch: (3, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (3, 16, 16)."""
        return self.body(x[None])[0]


class Classifier(nn.Module):
    """Three linears."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 20)."""
        return self.body(x)


def all_of_them() -> dict[str, tuple[nn.Module, tuple[Tensor, ...], dict[str, dict[int, str]]]]:
    """Module, examples and the names of open extents, by name."""
    torch.manual_seed(0)
    ids = torch.ones(1, 10, dtype=torch.int64)
    words = {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}}
    image = {"x": {0: "batch"}}
    return {
        "bert": (Bert(), (ids, ids), {}),
        "bert open": (Bert(), (ids, ids), words),
        "vit": (Vit(), (torch.zeros(1, 3, 32, 32),), {"image": {0: "batch"}}),
        "recurrent": (Recurrent(), (torch.zeros(1, 11, 8),), {}),
        "same pad": (SamePad(), (torch.zeros(1, 3, 63, 64),), {}),
        "same pad open": (SamePad(), (torch.zeros(1, 3, 64, 64),), {"x": {0: "n", 2: "h", 3: "w"}}),
        "detector": (Detector(), (torch.zeros(1, 3, 64, 64),), image),
        "nms": (Suppressed(), (torch.zeros(1, 3, 64, 64),), {}),
        "frames": (Frames(), (torch.zeros(1, 6, 3, 32, 32),), {"clip": {0: "batch"}}),
        "plain": (Plain(), (torch.zeros(3, 16, 16),), {}),
        "classifier": (Classifier(), (torch.zeros(1, 20),), image),
    }  # fmt: skip
