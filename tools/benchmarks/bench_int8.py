"""What int8 costs in accuracy and wins in time, held against fp32 and the library's plain recipe.

    python -m tools.benchmarks.bench_int8 --data train.tar.xz --test test.tar.xz
    python -m tools.benchmarks.bench_int8 --data train.tar.xz --test test.tar.xz --fine-tune out

For networks of a supernet, on each runtime here: top-1 on the test images, the part of the MACs
that the runtime computes in integer kernels by its own profile, and the latency of one image, all
forms of a network timed in turn. ``plain`` is what onnxruntime.quantization makes by itself, with
hard swishes in float. ``--parts`` adds forms that keep one part of the network in float: that
table decides what a space keeps in float (`edgenas.space.space.Space`): on mbv3-cifar nothing had
to be.

With ``--fine-tune`` no time is measured. Each network is fine-tuned for the integers of each of
``--runtimes`` too, as ``specialize --precision int8 --data`` does. A table for each runtime says
what both lose there. Its folder keeps the trainings: a run that was ended goes on.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.images.data import Images, Split
from edgenas.images.loading import load_images
from edgenas.model.calibration import calibrate
from edgenas.model.export import count, integer_share, run_onnx, to_onnx
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.onnx_graph.integers import with_weights
from edgenas.onnx_graph.quantize import quantized, with_integer_activations
from edgenas.runtime import registry as runtimes
from edgenas.runtime.registry import form_of
from edgenas.space.arch import Arch
from edgenas.space.check import PARTS
from edgenas.space.cost import total
from edgenas.training.division import divide_as_trained, recipe_of
from edgenas.training.quantised import fine_tune_quantised, plan_quantised

RUNTIMES = ("onnxruntime", "openvino", "litert", "tflite")
_BATCH = 50  # images of a run, where no time is measured


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
    parser.add_argument("--fine-tune", type=Path, help="fine-tune too, in this folder")
    parser.add_argument("--epochs", type=float, help="of that; default: as specialize")
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_supernet(find_supernet(given.supernet))
    space, steps = trained.supernet.space, trained.preprocessing
    parts, calibration = divide_as_trained(trained, load_images(given.data, stored=steps.stored))
    test = load_images(given.test, stored=steps.stored)
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: given.images]
    rng = np.random.default_rng(0)
    archs = [space.largest(), space.smallest(), *space.decode(space.sample(20, rng=rng))]
    if given.fine_tune is not None:
        for runtime in _available(given.runtimes):
            _compare(
                trained,
                archs[: given.networks],
                runtime=runtime,
                parts=parts,
                calibration=calibration,
                test=test.take(chosen),
                epochs=given.epochs,
                folder=given.fine_tune,
            )
        return
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
        for runtime in _available(given.runtimes):
            forms = dict(_forms(onnx, images, runtime=runtime, parts=given.parts))
            _table(runtime, forms, x=x, labels=test.labels[chosen].numpy(), settings=settings)


def _available(names: Sequence[str]) -> Iterator[str]:
    """Those that can be used here; why others can't is printed."""
    for name in names:
        if why_not := runtimes.get(name).available():
            print(f"{name}: {why_not}")
        else:
            yield name


def _compare(
    trained: TrainedSupernet,
    archs: Sequence[Arch],
    *,
    runtime: str,
    parts: Split,
    calibration: Tensor,
    test: Images,
    epochs: float | None,
    folder: Path,
) -> None:
    """One line for each network, the smallest first: what int8 loses before and after learning."""
    steps, space = trained.preprocessing, trained.supernet.space
    form = form_of(runtime, "int8")
    print(f"\nint8 on {runtime}, points lost against fp32 on {len(test)} test images")
    print(
        f"{'MACs':>7} {'fp32':>7} {'calibrated':>10} {'fine-tuned':>10} {'images':>8} {'CPU s':>6}"
    )
    losses: list[tuple[float, float]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for arch in sorted(archs, key=lambda one: total(space, one).macs):
        begun, macs = time.process_time(), total(space, arch).macs
        network = trained.supernet.extract(arch).to(memory_format=torch.channels_last)
        calibrate(network, calibration, preprocessing=steps)
        plain = to_onnx(network, preprocessing=steps.to_json(), batch=_BATCH)
        images = steps.prepare(calibration[:250], resolution=arch.resolution).contiguous().numpy()
        int8 = convert_to_form(plain, form=form, images=images)
        recipe, lesson = plan_quantised(recipe_of(trained), parts.train, macs=macs, epochs=epochs)
        learnt = fine_tune_quantised(
            network,
            lesson,
            int8=int8,
            recipe=recipe,
            preprocessing=steps,
            state=folder / f"{arch.id}-{form}-{recipe.epochs}-{len(lesson)}.safetensors",
        )
        tuned = with_weights(int8, to_onnx(learnt, preprocessing=steps.to_json(), batch=_BATCH))
        x = steps.prepare(test.pixels, resolution=arch.resolution).contiguous().numpy()
        fp32, calibrated, fine_tuned = (
            float((run_onnx(onnx, x, runtime=runtime).argmax(1) == test.labels.numpy()).mean())
            for onnx in (plain, int8, tuned)
        )
        losses.append((100 * (fp32 - calibrated), 100 * (fp32 - fine_tuned)))
        print(
            f"{macs / 1e6:6.1f}M {fp32:7.2%} {losses[-1][0]:10.2f} {losses[-1][1]:10.2f} "
            f"{recipe.epochs * len(lesson):8} {time.process_time() - begun:6.0f}  {arch}",
            flush=True,
        )
    for word, of in (("mean", np.mean), ("largest", np.max)):
        calibrated, fine_tuned = (float(of(column)) for column in zip(*losses, strict=True))
        print(f"{word:15} {calibrated:10.2f} {fine_tuned:10.2f}")


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


def _measured(
    runtime: str, forms: dict[str, bytes], *, settings: TimingSettings
) -> Iterator[measure.Measurement]:
    """The times of all forms, in turn; one after the other where the clock loads other files."""
    backend = runtimes.get(runtime)
    if backend.convert is None:
        yield from measure.measure(forms.items(), runtime=backend, settings=settings)
        return
    for name, onnx in forms.items():
        unit = [(name, runtimes.convert_for_clock(runtime, onnx, batch=1))]
        precise = replace(settings, precision="fp32" if name == "fp32" else "int8")
        yield from measure.measure(unit, runtime=backend, settings=precise)


def _table(
    runtime: str,
    forms: dict[str, bytes],
    *,
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    settings: TimingSettings,
) -> None:
    found = {m.name: m for m in _measured(runtime, forms, settings=settings)}
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
