"""Released once-for-all networks: the reference package and edgenas side by side, in one run.

    python -m tools.benchmarks.bench_ofa [--archs 50] [--space NAME ...] [--published FOLDER]

The reference is the PyPI package ``ofa`` of the authors (MIT). Its networks get random weights and
random batch-norm statistics, are saved as the authors save theirs, and imported; then random archs
are compared: logits of the supernet, of the extracted plain network and of its ONNX file in ONNX
Runtime, MACs and parameters. With the folder of the published tables and predictors, these are
compared on 1,000 random archs each. The tests run a smaller cut of the same functions.
"""

import argparse
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ofa
import onnxruntime
import torch
import yaml
from ofa.imagenet_classification.elastic_nn.networks import (
    OFAMobileNetV3,
    OFAProxylessNASNets,
    OFAResNets,
)
from ofa.nas.accuracy_predictor import ResNetArchEncoder
from ofa.nas.accuracy_predictor import acc_predictor as nas_accuracy_predictor
from ofa.utils.pytorch_utils import count_net_flops, count_parameters
from torch import Tensor, nn

from edgenas.accuracy.ofa_predictor import import_accuracy
from edgenas.basics.download import ADDRESSES
from edgenas.latency.ofa_tables import import_latency_tables
from edgenas.model.export import to_onnx
from edgenas.model.ofa_weights import import_supernet
from edgenas.model.supernet import Supernet
from edgenas.space.arch import Arch
from edgenas.space.cost import total
from edgenas.space.presets import load_space
from edgenas.space.space import Space


def reference(space: str, *, seed: int) -> Any:
    """The reference supernet of a space with random weights and random statistics.

    Args:
        space: the name of a released space.
        seed: of the weights.
    """
    # As ofa.model_zoo.ofa_net builds them; that module itself wants a downloader installed.
    kind: Any = OFAMobileNetV3
    choices: dict[str, Any] = {
        "ks_list": [3, 5, 7],
        "expand_ratio_list": [3, 4, 6],
        "depth_list": [2, 3, 4],
    }
    if space.startswith("ofa-mbv3"):
        choices["width_mult"] = float(space[-3:])
    elif space == "ofa-proxyless-w1.3":
        kind = OFAProxylessNASNets
        choices["width_mult"] = 1.3
    elif space == "ofa-resnet50":
        kind = OFAResNets
        choices = {
            "expand_ratio_list": [0.2, 0.25, 0.35],
            "depth_list": [0, 1, 2],
            "width_mult_list": [0.65, 0.8, 1.0],
        }
    net = kind(dropout_rate=0, **choices)
    generator = torch.Generator().manual_seed(seed)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(_random(name, tensor, generator))
        # Statistics near those of the signals, as in a trained network: else signals explode, and
        # single precision has nothing left to compare. Then each is moved at random.
        for part in norms:
            part.reset_running_stats()
            part.momentum = None
        net.set_max_net()
        net.train()(torch.randn(4, 3, 160, 160, generator=generator))
        for part in norms:
            mean, variance = part.running_mean, part.running_var
            assert mean is not None
            assert variance is not None
            mean += 0.1 * variance.sqrt() * torch.randn(mean.shape, generator=generator)
            variance *= 0.8 + 0.45 * torch.rand(mean.shape, generator=generator)
    return net.eval()


def _random(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random weights of the usual sizes, with nothing left at its default."""
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("_matrix"):
        return torch.eye(len(tensor)) + 0.05 * noise
    if tensor.dim() == 4:
        return noise * (2 / tensor[0].numel()) ** 0.5
    if tensor.dim() == 2:
        return 0.05 * noise
    scale = "bn" in name and name.endswith("weight")
    return 1 + 0.2 * noise if scale else 0.2 * noise


def settings(space: Space, arch: Arch) -> dict[str, list[Any]]:
    """What the reference calls an arch: lists over all blocks, absent ones included."""
    body = [
        (found, stage)
        for found, stage in zip(arch.stages, space.stages, strict=True)
        if stage.kind != "conv" and stage.expands != (1.0,)
    ]
    blocks = [
        found.blocks[min(j, len(found.blocks) - 1)]
        for found, stage in body
        for j in range(max(stage.depths))
    ]
    expand = [block.expand for block in blocks]
    depth = [len(found.blocks) - min(stage.depths) for found, stage in body]
    if body[0][1].kind == "bottleneck":
        stem = [0 if arch.stages[0].width == 24 else 2, _index(space, arch, 1)]
        widths = [_index(space, arch, i) for i in range(2, len(space.stages))]
        skip = 2 * (len(arch.stages[0].blocks) - 1)
        return {"d": [skip, *depth], "e": expand, "w": [*stem, *widths]}
    return {
        "ks": [block.kernel for block in blocks],
        "e": [int(ratio) for ratio in expand],
        "d": [len(found.blocks) for found, _ in body],
    }


def _index(space: Space, arch: Arch, stage: int) -> int:
    return space.stages[stage].widths.index(arch.stages[stage].width)


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest deviations over all archs; relative ones to the largest logit of the reference.

    Args:
        space: its name.
        archs: how many were compared.
        supernet64: supernet, float64.
        network64: extracted network, float64.
        supernet32: supernet, float32.
        network32: extracted network, float32.
        onnx: extracted network in ONNX Runtime, float32.
        macs: absolute, in MACs.
        params: absolute.
    """

    space: str
    archs: int
    supernet64: float
    network64: float
    supernet32: float
    network32: float
    onnx: float
    macs: int
    params: int


def released_file(space: str, folder: Path, *, seed: int) -> tuple[Any, Path]:
    """A reference network and a file of it, named and nested as the released ones are."""
    net = reference(space, seed=seed)
    tensors = {
        name.replace(".conv.", ".mobile_inverted_conv.", 1)
        if name.startswith("blocks.") and space != "ofa-resnet50"
        else name: tensor
        for name, tensor in net.state_dict().items()
    }
    path = folder / space
    torch.save({"epoch": 1, "state_dict": tensors}, path)
    return net, path


def compare(space: Space, archs: list[Arch], *, seed: int) -> Parity:
    """Compare archs of a released space.

    Args:
        space: a released space; its resolutions may be others.
        archs: of that space.
        seed: of weights and images.
    """
    with tempfile.TemporaryDirectory() as folder:
        net, path = released_file(space.name, Path(folder), seed=seed)
        supernet = import_supernet(path, space=space)
    generator = torch.Generator().manual_seed(seed)
    worst = [0.0] * 4
    onnx, macs, params = 0.0, 0, 0
    with torch.inference_mode():
        for arch in archs:
            images = torch.randn(1, 3, arch.resolution, arch.resolution, generator=generator)
            net.set_active_subnet(**settings(space, arch))
            wanted: dict[torch.dtype, Tensor] = {}
            for j, dtype in enumerate((torch.float64, torch.float32)):
                wanted[dtype] = net.to(dtype)(images.to(dtype))
                supernet.to(dtype)
                found = (supernet(images.to(dtype), arch), supernet.extract(arch)(images.to(dtype)))
                for k, logits in enumerate(found):
                    worst[2 * j + k] = max(worst[2 * j + k], deviation(logits, wanted[dtype]))
            in_onnx = run_onnx(supernet, arch, images)
            onnx = max(onnx, deviation(in_onnx, wanted[torch.float32]))
            counted = reference_counts(net.get_active_subnet(), arch.resolution)
            cost = total(space, arch)
            macs = max(macs, abs(cost.macs - counted[0]))
            params = max(params, abs(cost.params - counted[1]))
    double, double_plain, single, single_plain = worst
    return Parity(
        space.name, len(archs), double, double_plain, single, single_plain, onnx, macs, params
    )


def deviation(found: Tensor, wanted: Tensor) -> float:
    """The largest deviation, relative to the largest wanted value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def reference_counts(network: Any, resolution: int) -> tuple[int, int]:
    """MACs and parameters of an extracted network by the reference's own counters."""
    # Its counter adds in the default precision, and single precision rounds; shapes are enough.
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        macs = count_net_flops(network.to("meta", torch.float64), (1, 3, resolution, resolution))
    finally:
        torch.set_default_dtype(default)
    return int(macs), count_parameters(network)


def run_onnx(supernet: Supernet, arch: Arch, images: Tensor) -> Tensor:
    """The logits of the extracted network, exported to ONNX, in ONNX Runtime."""
    file = to_onnx(supernet.extract(arch), preprocessing={})
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(np.asarray(logits))


def tutorial(module: str) -> Any:
    """A module of the reference's tutorial, without the downloaders its package imports."""
    (found,) = ofa.__path__
    spec = importlib.util.spec_from_file_location(module, Path(found, "tutorial", f"{module}.py"))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def reference_latencies(folder: Path, archs: list[Arch]) -> list[float]:
    """Seconds of ``ofa-mbv3-w1.2`` archs by the reference's estimator over published tables."""
    kind = tutorial("latency_table").LatencyEstimator
    estimators: dict[int, Any] = {}
    for path in folder.glob("*_lookup_table.yaml"):
        # Its constructor calls yaml.load in a way that PyYAML 6 refuses.
        estimator = kind.__new__(kind)
        estimator.lut = yaml.safe_load(path.read_text())
        estimators[int(path.name.partition("_")[0])] = estimator
    space = load_space("ofa-mbv3-w1.2")
    specs = [{**settings(space, arch), "r": [arch.resolution]} for arch in archs]
    return [estimators[s["r"][0]].predict_network_latency_given_spec(s) / 1e3 for s in specs]


def reference_accuracies(path: Path, space: Space, archs: list[Arch]) -> list[float]:
    """Accuracies by the reference's predictor of a space."""
    if space.name == "ofa-resnet50":
        encoder = ResNetArchEncoder(image_size_list=list(space.resolutions))
        predictor: Any = nas_accuracy_predictor.AccuracyPredictor(
            encoder, checkpoint_path=str(path), device="cpu"
        )
        specs = [{**settings(space, arch), "image_size": arch.resolution} for arch in archs]
        return predictor.predict_acc(specs).tolist()
    predictor = tutorial("accuracy_predictor").AccuracyPredictor(pretrained=False, device="cpu")
    predictor.model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    specs = [{**settings(space, arch), "r": [arch.resolution]} for arch in archs]
    return predictor.predict_accuracy(specs)[:, 0].tolist()


def compare_published(folder: Path, *, n: int, seed: int) -> dict[str, float]:
    """Largest relative deviation from the reference over n random archs, by what is compared.

    Args:
        folder: with the published files: ``acc_predictor.pth``, ``note10/`` ...
        n: how many random archs.
        seed: of the archs.
    """
    deviations: dict[str, float] = {}
    mobile, resnet = load_space("ofa-mbv3-w1.2"), load_space("ofa-resnet50")
    archs = sampled(mobile, n, seed=seed)
    table = import_latency_tables(folder / "note10").compile(mobile)
    wanted = np.array(reference_latencies(folder / "note10", archs))
    deviations["Note10 latency"] = float(np.abs(table(mobile.encode(archs)) / wanted - 1).max())
    for space, name in ((mobile, "acc_predictor.pth"), (resnet, "resnet50_acc_predictor.pth")):
        archs = sampled(space, n, seed=seed)
        found = import_accuracy(folder / name, space=space).predict(space.encode(archs))
        wanted = np.array(reference_accuracies(folder / name, space, archs))
        deviations[f"accuracy, {space.name}"] = float(np.abs(found / wanted - 1).max())
    return deviations


def sampled(space: Space, n: int, *, seed: int) -> list[Arch]:
    """Random archs, every depth as likely as every other; the smallest and the largest first."""
    rows = space.sample(max(n - 2, 0), rng=np.random.default_rng(seed), by="gene")
    return [space.smallest(), space.largest(), *space.decode(rows)][:n]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", type=int, default=50, help="random archs per space")
    parser.add_argument("--space", choices=sorted(ADDRESSES), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published", type=Path, help="acc_predictor.pth, note10/ and the like")
    options = parser.parse_args()
    print("largest deviation from the reference over", options.archs, "random archs per space")
    print("| space | float64 | extracted | float32 | extracted | ONNX | MACs | params |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.space or ADDRESSES:
        space = load_space(name)
        row = compare(space, sampled(space, options.archs, seed=options.seed), seed=options.seed)
        print(
            f"| {row.space} | {row.supernet64:.1e} | {row.network64:.1e} | {row.supernet32:.1e} "
            f"| {row.network32:.1e} | {row.onnx:.1e} | {row.macs} | {row.params} |",
            flush=True,
        )
    if options.published:
        print("\n| published, 1,000 random archs | largest relative deviation |\n|---|---|")
        for what, value in compare_published(options.published, n=1000, seed=options.seed).items():
            print(f"| {what} | {value:.1e} |")


if __name__ == "__main__":
    main()
