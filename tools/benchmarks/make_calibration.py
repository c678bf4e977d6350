"""Give a trained supernet its synthetic calibration images.

    python -m tools.benchmarks.make_calibration runs/mine --data TRAIN

writes ``calibration.safetensors`` into the folder of the supernet. They belong to its weights: make
them anew when the weights change, and check them with ``tools/benchmarks/check_calibration.py``.
"""

import argparse
import dataclasses
import sys

from edgenas.images.loading import load_images
from edgenas.model.calibration import BATCH
from edgenas.model.saved import add_calibration, find_supernet, load_supernet
from edgenas.model.synthetic import STEPS, SynthesisProgress, synthesise
from edgenas.training.division import split_as_trained
from edgenas.training.memory import keep_memory


def main() -> int:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("supernet", help="name or folder")
    parser.add_argument("--data", required=True, help="the images it was trained on")
    parser.add_argument("--count", type=int, default=BATCH, help=f"of images: {BATCH}, or times it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", action="store_true", help="go on from those that it has")
    arguments = parser.parse_args()

    keep_memory()
    folder = find_supernet(arguments.supernet)
    trained = load_supernet(folder)
    labelled = "labels" not in trained.training.get("data", {})  # else a teacher answered them
    stored = trained.preprocessing.stored
    images = load_images(arguments.data, stored=stored, labelled=labelled)
    images = dataclasses.replace(images, labelled=labelled)
    real, _ = split_as_trained(trained, images)
    pixels = synthesise(
        trained.supernet,
        real,
        preprocessing=trained.preprocessing,
        count=arguments.count,
        steps=arguments.steps,
        seed=arguments.seed,
        start=trained.calibration_images() if arguments.more else None,
        progress=_tell,
    )
    print(file=sys.stderr)
    add_calibration(folder, pixels)
    print(f"{len(pixels)} synthetic calibration images in {folder}")
    return 0


def _tell(progress: SynthesisProgress) -> None:
    text = f"{progress.step}/{progress.steps}  distance {progress.distance:.6f}"
    print(f"\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
