"""Laws of the time of an engine that are drawn at random, so that nothing can be fitted to one.

Each seed gives another board: tiles of channels and pixels, a floor of each kernel, what is fused,
a cache whose end is a step, and whether arithmetic and memory traffic overlap.
"""

import random
from dataclasses import dataclass

from trtexec_law import Kernel, fused_pairs


@dataclass(frozen=True)
class Drawn:
    """A board.

    Args:
        inputs, outputs, pixels: tiles of a conv's arithmetic.
        channels: tile of a depthwise conv's channels.
        macs, depthwise: of fp16 in a second.
        floor, launch: seconds of a kernel: at least, and in any case.
        run: seconds of a run.
        narrow: 1x1 convs that follow each other are fused up to so many channels between them.
        cache: bytes that a kernel may move before it leaves the cache.
        near, far: bytes in a second within the cache and beyond it.
        weights: bytes of weights in a second.
        overlaps: whether arithmetic and memory traffic happen at the same time.
    """

    inputs: int
    outputs: int
    pixels: int
    channels: int
    macs: float
    depthwise: float
    floor: float
    launch: float
    run: float
    narrow: int
    cache: float
    near: float
    far: float
    weights: float
    overlaps: bool

    def __call__(self, kernels: list[Kernel], *, size: int) -> float:
        """The noiseless seconds of one run."""
        total = self.run
        for group in fused_pairs(kernels, narrow=self.narrow):
            compute = sum(self._compute(kernel) for kernel in group) * size / 2
            moved = (group[0].read + group[-1].written) * size
            memory = moved / (self.near if moved < self.cache else self.far)
            memory += sum(kernel.weights for kernel in group) * size / self.weights
            work = max(compute, memory) if self.overlaps else compute + memory
            total += max(self.floor, self.launch + work)
        return total

    def _compute(self, kernel: Kernel) -> float:
        pixels = max(kernel.pixels, 1)
        if kernel.kind == "depthwise":
            macs = _whole(kernel.outputs, self.channels) * pixels * kernel.window
            return macs / self.depthwise
        if not kernel.macs:
            return 0.0
        inputs, outputs = _whole(kernel.inputs, self.inputs), _whole(kernel.outputs, self.outputs)
        return inputs * outputs * kernel.window * _whole(pixels, self.pixels) / self.macs


def _whole(value: int, tile: int) -> int:
    return -(-value // tile) * tile


def draw(seed: int) -> Drawn:
    """The board of a seed."""
    random_ = random.Random(f"board {seed}")
    far = random_.uniform(3e10, 9e10)
    launch = random_.uniform(0.8e-6, 3e-6)
    macs = random_.uniform(1e12, 4e12)
    return Drawn(
        inputs=random_.choice((4, 8, 16, 32)),
        outputs=random_.choice((8, 16, 32, 64)),
        pixels=random_.choice((16, 32, 64, 128)),
        channels=random_.choice((2, 8, 16, 32, 64)),
        macs=macs,
        depthwise=macs * random_.uniform(0.05, 0.2),
        floor=launch * random_.uniform(1.2, 2.5),
        launch=launch,
        run=random_.uniform(5e-6, 2e-5),
        narrow=random_.choice((0, 48, 96, 160)),
        cache=random_.choice((1.5e5, 3e5, 6e5)),
        near=far * random_.uniform(1.3, 3.0),
        far=far,
        weights=random_.uniform(3e10, 8e10),
        overlaps=random_.random() < 0.5,
    )
