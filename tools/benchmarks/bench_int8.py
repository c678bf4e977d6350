"""What int8 costs in accuracy and wins in time, held against fp32 and the library's plain recipe.

    python -m tools.benchmarks.bench_int8 --data train.tar.xz --test test.tar.xz

For networks of a supernet, on each runtime here: top-1 on the test images, the part of the MACs
that the runtime computes in integer kernels by its own profile, and the latency of one image, all
forms of a network timed in turn. ``plain`` is what onnxruntime.quantization makes by itself, with
hard swishes in float. ``--parts`` adds forms that keep one part of the network in float: that
table decides what a space keeps in float (`edgenas.space.space.Space`): on mbv3-cifar nothing had
to be.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate
from edgenas.model.export import count, integer_share, run_onnx, to_onnx
from edgenas.model.saved import find_supernet, load_supernet
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.onnx_graph.quantize import quantized, with_integer_activations
from edgenas.runtime import registry as runtimes
from edgenas.space.space import PARTS
from edgenas.training.division import split_as_trained


def main() -> None:
    """Print one table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--supernet", default="mbv3-cifar10")
    parser.add_argument("--data", required=True, help="the training images")
    parser.add_argument("--test", required=True)
    parser.add_argument("--images", type=int, default=10_000, help="test images at most")
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--quick", action="store_true", help="rough latencies")
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_supernet(find_supernet(given.supernet))
    space, steps = trained.supernet.space, trained.preprocessing
    calibration, _ = split_as_trained(trained, load_images(given.data, stored=steps.stored))
    test = load_images(given.test, stored=steps.stored)
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: given.images]
    rng = np.random.default_rng(0)
    archs = [space.largest(), space.smallest(), *space.decode(space.sample(20, rng=rng))]
    settings = replace(measure.NETWORK, min_seconds=1.0) if given.quick else measure.NETWORK
    for arch in archs[: given.networks]:
        network = trained.supernet.extract(arch).to(memory_format=torch.channels_last)
        calibrate(network, calibration, preprocessing=steps)
        onnx = to_onnx(network, preprocessing=steps.to_json(), batch=1)
        images = steps.prepare(calibration[:250], resolution=arch.resolution).contiguous().numpy()
        x = steps.prepare(test.pixels[chosen], resolution=arch.resolution).contiguous().numpy()
        print(f"\n{arch}: {count(onnx).macs / 1e6:.1f}M MACs, {len(x)} test images")
        print(
            f"{'runtime':12} {'form':18} {'top-1':>7} {'drop':>6} {'int8 MACs':>9} {'ms':>8} {'':6}"
        )
        for runtime in ("onnxruntime", "openvino"):
            if why_not := runtimes.get(runtime).available():
                print(f"{runtime}: {why_not}")
                continue
            forms = dict(_forms(onnx, images, runtime=runtime, parts=given.parts))
            _table(runtime, forms, x=x, labels=test.labels[chosen].numpy(), settings=settings)


def _forms(
    onnx: bytes, images: NDArray[np.float32], *, runtime: str, parts: bool
) -> Iterator[tuple[str, bytes]]:
    yield "fp32", onnx
    wanted = runtimes.get(runtime).form_of("int8")
    yield "int8", convert_to_form(onnx, form=wanted, images=images)
    if wanted != "int8-unsigned":
        yield "int8 plain", convert_to_form(onnx, form="int8-unsigned", images=images)
    for part in PARTS if parts else ():
        made = quantized(onnx, signed=False, images=images, keep=(part,))
        yield (
            f"{part} in float",
            with_integer_activations(made) if wanted == "int8-integer" else made,
        )


def _table(
    runtime: str,
    forms: dict[str, bytes],
    *,
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    settings: TimingSettings,
) -> None:
    found = {
        m.name: m
        for m in measure.measure(forms.items(), runtime=runtimes.get(runtime), settings=settings)
    }
    reference, first = 0.0, found["fp32"].median
    for name, onnx in forms.items():
        top1 = float((run_onnx(onnx, x, runtime=runtime).argmax(1) == labels).mean())
        reference = reference or top1
        share = 0.0 if name == "fp32" else integer_share(onnx, runtime=runtime)
        seconds = found[name].median
        print(
            f"{runtime:12} {name:18} {top1:7.2%} {100 * (reference - top1):6.2f} {share:9.1%} "
            f"{seconds * 1e3:8.4f} {seconds / first:5.2f}x {found[name].flag}",
            flush=True,
        )


if __name__ == "__main__":
    main()
