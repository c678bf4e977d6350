"""Imported backbones on photos: the answers of the source, and those of smaller networks.

    python -m tools.benchmarks.bench_backbones PHOTOS [--backbone lite0] [--count 500]

PHOTOS is a folder or archive of labelled photos. First, the original is imported, extracted and
exported untouched, and its logits are compared with those of its library (the PyPI package
``efficientnet_lite_pytorch``, or torchvision) in PyTorch and in every runtime that is here. Then
networks around it are calibrated on other photos of the folder, and the table tells on how many
photos they name the class that the original names: at other resolutions with the published
statistics and with calibrated ones, and with fewer channels, kernels and blocks. Where the folders
are those of imagenette, it tells the accuracy too, among all 1,000 classes.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgenas.images.imagenet import read_class_names
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate, predict_logits
from edgenas.model.export import run_onnx, to_onnx
from edgenas.model.importing import import_weights
from edgenas.model.request import ImportRequest
from edgenas.model.saved import TrainedSupernet, load_supernet
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch
from edgenas.space.cost import total
from edgenas.space.space import Space

# Folders of imagenette, by the index of their class in ImageNet.
_IMAGENETTE = {
    "tench": 0,
    "english_springer": 217,
    "cassette_player": 482,
    "chain_saw": 491,
    "church": 497,
    "french_horn": 566,
    "garbage_truck": 569,
    "gas_pump": 571,
    "golf_ball": 574,
    "parachute": 701,
}


def source_network(backbone: str, resolution: int) -> nn.Module:
    """The network of the library that the weights were made for."""
    import importlib.metadata

    import efficientnet_lite_pytorch as library

    from edgenas.model.backbones import BACKBONES
    from edgenas.model.weights_file import read_weights

    pip = BACKBONES[backbone].pip
    assert pip is not None
    file = importlib.metadata.distribution(pip.package).locate_file(pip.path)
    name = f"efficientnet-{backbone}"
    network: Any = library.EfficientNet.from_name(name, image_size=resolution)
    network.load_state_dict(read_weights(Path(str(file))))
    return network.eval()


def compare_with_source(backbone: str, trained: TrainedSupernet, pixels: Tensor) -> None:
    """Print how far the original is from its library, in PyTorch and in every runtime."""
    arch = trained.supernet.original
    assert arch is not None
    inputs = trained.preprocessing.prepare(pixels, resolution=arch.resolution)
    source = source_network(backbone, arch.resolution)
    with torch.no_grad():
        wanted = torch.cat([source(part) for part in inputs.split(50)]).numpy()
    network = trained.supernet.extract(arch)
    calibrate(network, pixels, preprocessing=trained.preprocessing)  # leaves it alone
    logits = predict_logits(network, pixels, preprocessing=trained.preprocessing).numpy()
    onnx = to_onnx(network, preprocessing={})
    print(f"{'':12} same class  largest difference of a logit")
    _print_difference("PyTorch", logits, wanted)
    images = inputs.contiguous().numpy()
    for name in runtimes.names():
        if runtimes.get(name).available() is None:
            found = run_onnx(onnx, images, runtime=name, precision="fp32")
            _print_difference(name, found, wanted)


def _print_difference(name: str, logits: Any, wanted: Any) -> None:
    same = int((logits.argmax(1) == wanted.argmax(1)).sum())
    print(f"{name:12} {same}/{len(wanted)}    {np.abs(logits - wanted).max():.2e}", flush=True)


def neighbours(space: Space, original: Arch) -> Iterator[tuple[str, Arch]]:
    """Networks around the original, with a word for each."""
    own = space.restrict(resolution=[original.resolution])
    for resolution in space.resolutions[::-2]:
        yield f"{resolution} px", space.restrict(resolution=[resolution]).largest()
    yield "expand 4", own.restrict(expand=[4]).largest()
    yield "expand 3", own.restrict(expand=[3]).largest()
    yield "kernel 3", own.restrict(kernel=[3]).largest()
    for i, stage in enumerate(space.stages):
        if len(stage.depths) > 1:
            stages = list(original.stages)
            one = stages[i]
            stages[i] = type(one)(one.width, one.blocks[:-1])
            yield f"stage {i}, last block", type(original)(original.resolution, tuple(stages))
    yield "smallest", own.smallest()


def compare_neighbours(trained: TrainedSupernet, pixels: Tensor, labels: Tensor | None) -> None:
    """Print how often networks around the original agree with it, and how often they are right."""
    supernet, space, original = trained.supernet, trained.supernet.space, trained.supernet.original
    assert original is not None
    half = len(pixels) // 2
    calibration, pixels = pixels[:half], pixels[half:]
    labels = None if labels is None else labels[half:]
    steps = trained.preprocessing

    def answers(arch: Arch, *, published: bool) -> Tensor:
        network = supernet.extract(arch).to(memory_format=torch.channels_last)
        network.keeps_statistics = published
        calibrate(network, calibration, preprocessing=steps)
        return predict_logits(network, pixels, preprocessing=steps).argmax(1)

    wanted = answers(original, published=True)
    print(f"\n{len(pixels)} photos, calibrated on {half} others")
    print(f"{'network':22} {'M MACs':>7} {'statistics':>11} {'agrees':>7} {'right':>7}")
    for name, arch in neighbours(space, original):
        kinds = (True, False) if arch.stages == original.stages else (False,)
        for published in kinds:
            classes = answers(arch, published=published)
            agrees = (classes == wanted).double().mean().item()
            right = "" if labels is None else f"{(classes == labels).double().mean():.1%}"
            word = "published" if published else "calibrated"
            macs = total(space, arch).macs / 1e6
            print(f"{name:22} {macs:7.1f} {word:>11} {agrees:7.1%} {right:>7}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Imported backbones on photos")
    parser.add_argument("photos", help="labelled photos: a folder or an archive")
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument("--count", type=int, default=500, help="photos of the first table")
    parser.add_argument("--more", type=int, default=1000, help="photos of the second table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "supernet"
        import_weights(ImportRequest(backbone=arguments.backbone, out=out))
        trained = load_supernet(out)
    images = load_images(arguments.photos, stored=trained.preprocessing.stored)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    pixels = images.pixels[order]
    labels = None
    if set(images.classes) <= set(_IMAGENETTE):
        index = torch.tensor([_IMAGENETTE[name] for name in images.classes])
        labels = index[images.labels[order]]
        print(", ".join(read_class_names()[i] for i in index.tolist()))
    compare_with_source(arguments.backbone, trained, pixels[: arguments.count])
    compare_neighbours(
        trained,
        pixels[: arguments.more],
        None if labels is None else labels[: arguments.more],
    )


if __name__ == "__main__":
    main()
