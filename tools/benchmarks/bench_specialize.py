"""What specialising is worth: at equal measured latency, against uniform and random networks.

    python -m tools.benchmarks.bench_specialize --data TRAIN --test TEST --out RESULTS.json

At three latencies measured on this CPU, networks of one supernet, same data, same test images, all
timed together: (a) the most accurate on validation images of all networks with one kernel, one
expand and one depth throughout, at any resolution; (b) random networks within 4% of the latency of
(c); (c) what ``edgenas specialize --device host`` delivers for it. A depth that a stage does not
offer becomes the nearest that it does.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.accuracy.measured import measure_accuracies
from edgenas.basics.files import cache_folder, sha256, write_json
from edgenas.clock.measure import DEFAULT, measure
from edgenas.delivery.request import SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.images.data import Images
from edgenas.images.loading import load_images
from edgenas.latency.device import Target, load
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet
from edgenas.onnx_graph.build import network_graph
from edgenas.profiling.run import profile
from edgenas.profiling.tables import NoTableError, predictor_for, table_for
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch, Block, Stage
from edgenas.space.space import Space
from edgenas.training.division import split_as_trained


def uniform(space: Space) -> list[Arch]:
    """All networks with one kernel, one expand and one depth throughout, at any resolution."""
    kernels = sorted({k for s in space.stages if len(s.kernels) > 1 for k in s.kernels})
    expands = sorted({e for s in space.stages if len(s.expands) > 1 for e in s.expands})
    depths = sorted({d for s in space.stages if len(s.depths) > 1 for d in s.depths})
    found: dict[Arch, None] = {}
    for resolution, kernel, expand, depth in itertools.product(
        space.resolutions, kernels, expands, depths
    ):
        stages = []
        for stage in space.stages:
            block = Block(
                kernel if kernel in stage.kernels else stage.kernels[0],
                expand if expand in stage.expands else stage.expands[0],
            )
            nearest = min(stage.depths, key=lambda d: abs(d - depth))
            stages.append(Stage(stage.widths[0], (block,) * nearest))
        found[Arch(resolution, tuple(stages))] = None
    return list(found)


def timed(space: Space, archs: Sequence[Arch], *, target: Target) -> np.ndarray:
    """Median seconds of networks on this machine, behind the canary's gate."""
    settings = replace(DEFAULT, min_samples=100, max_samples=400, threads=target.threads)
    graphs = [(arch.id, network_graph(space, arch, batch=target.batch)) for arch in archs]
    found = {
        m.name: m.median
        for m in measure(graphs, runtime=runtimes.get(target.runtime), settings=settings)
    }
    return np.array([found[arch.id] for arch in archs])


class Judge:
    """Accuracies of archs on one split, each evaluated once."""

    def __init__(self, trained: TrainedSupernet, images: Images, *, calibration: Any, split: str):
        assert trained.folder is not None
        self.trained, self.images, self.calibration = trained, images, calibration
        self.split = split
        state = sha256(trained.folder / "weights.safetensors")[:16]
        self.journal = cache_folder() / f"bench-{state}-{images.digest[:8]}-{split}.jsonl"
        self.journal.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, archs: Sequence[Arch]) -> np.ndarray:
        """Top-1 accuracies, shape (n,)."""
        return measure_accuracies(
            self.trained,
            self.trained.supernet.space.encode(archs),
            images=self.images,
            calibration=self.calibration,
            split=self.split,
            journal=self.journal,
            progress=lambda step, done, total, words: print(
                f"\r{done}/{total} ", end="", file=sys.stderr
            ),
        )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Specialised, uniform and random networks.")
    parser.add_argument("--supernet", default="mbv3-cifar10")
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--random", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    trained = load_supernet(find_supernet(arguments.supernet))
    space, stored = trained.supernet.space, trained.preprocessing.stored
    calibration, held_out = split_as_trained(trained, load_images(arguments.data, stored=stored))
    validation = Judge(trained, held_out, calibration=calibration, split="validation")
    test_images = load_images(arguments.test, stored=stored)
    test = Judge(trained, test_images, calibration=calibration, split="test")

    target = load("host").target()
    try:
        table = table_for(space, target=target)
    except NoTableError:
        table = profile(space, target=target, say=print)
    predictor = predictor_for(table, space)
    low, high = predictor.predict(space.encode([space.smallest(), space.largest()]))
    plain = uniform(space)
    accuracies, seconds = validation(plain), timed(space, plain, target=target)
    # How fast the machine is now, beside how fast it was when it was profiled.
    speed = float(np.median(seconds / predictor.predict(space.encode(plain))))
    rows: list[dict[str, Any]] = []
    for share in (0.25, 0.5, 0.75):
        budget = float(low + share * (high - low))
        fitting = np.flatnonzero(seconds <= budget)
        best = fitting[np.argmax(accuracies[fitting])]
        rng = np.random.default_rng((arguments.seed, round(share * 100)))
        pool = space.sample(20_000, rng=rng, by="gene")
        near = pool[np.abs(speed * predictor.predict(pool) / (0.98 * budget) - 1) < 0.01]
        drawn = space.decode(rng.permutation(near)[: 2 * arguments.random])
        with tempfile.TemporaryDirectory() as folder:
            request = SpecializeRequest(
                device="host",
                latency=f"{budget * 1e3:.4f}ms",
                supernet=arguments.supernet,
                data=arguments.data,
                test=arguments.test,
                seed=arguments.seed,
            )
            found = specialize(request, out=Path(folder) / "bundle", progress=lambda *_: None)
        # All in one go, in random order: what is compared was timed at the same speed.
        took = timed(space, [found.arch, plain[best], *drawn], target=target)
        ours_took, plain_took, *others = took.tolist()
        equal = [i for i, s in enumerate(others) if abs(s / ours_took - 1) <= 0.04]
        equal = equal[: arguments.random]
        random_test = test([drawn[i] for i in equal])
        row = {
            "budget_ms": budget * 1e3,
            "test_images": len(test_images),
            "specialised": {
                "arch": str(found.arch),
                "measured_ms": ours_took * 1e3,
                "test": found.record.accuracy.value,
            },
            "uniform": {
                "arch": str(plain[best]),
                "of": len(fitting),
                "measured_ms": plain_took * 1e3,
                "validation": accuracies[best],
                "test": float(test([plain[best]])[0]),
            },
            "random": {
                "n": len(equal),
                "measured_ms": [others[i] * 1e3 for i in equal],
                "test": random_test.tolist(),
            },
        }
        rows.append(row)
        print(file=sys.stderr)
        ours, plain_test = row["specialised"]["test"], row["uniform"]["test"]
        mean, spread = random_test.mean(), random_test.std(ddof=1)
        print(
            f"{budget * 1e3:.3f} ms: specialised {ours:.2%} "
            f"({row['specialised']['measured_ms']:.3f} ms), "
            f"best uniform of {len(fitting)} {plain_test:.2%} "
            f"({row['uniform']['measured_ms']:.3f} ms), random {mean:.2%} +- {spread:.2%} "
            f"(n={len(equal)}, best {random_test.max():.2%}); difference to uniform "
            f"{100 * (ours - plain_test):+.2f} points, to random {100 * (ours - mean):+.2f}",
            flush=True,
        )
    if arguments.out:
        environment = dict(table.environment)
        content = {"schema": "edgenas.bench-specialize/1", "date": table.date}
        write_json(arguments.out, {**content, "environment": environment, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
