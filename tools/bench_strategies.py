"""Search strategies side by side: measured accuracy of the networks they choose for this host.

    python tools/bench_strategies.py --data TRAIN --test TEST [--seeds 3] [--budgets 3]

Budgets of latency spread evenly over the reachable range of the host (profiled first where it was
not). evolution, aging and random ask the accuracy predictor, with equal numbers of evaluations;
proxyless, gumbel and reinforce learn from the validation images with fixed weights of the supernet;
bayes measures networks on the validation images. Every chosen network is then calibrated and
measured on validation and test images; the test images decide nothing. Latencies are predictions
of the same table for all.

--macs takes budgets of MACs instead, for a machine that is too busy to be profiled.
"""

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from edgenas.accuracy import predictor_of
from edgenas.arch import Arch
from edgenas.cost import Tables, Vector, macs_table
from edgenas.data import Images, load_images
from edgenas.device import load
from edgenas.evaluate import evaluate
from edgenas.gradient import STRATEGIES as GRADIENT
from edgenas.gradient import Settings, ceilings_of, learn, most_preferred
from edgenas.predict import AccuracyPredictor
from edgenas.profiling import NoTableError, predictor_for, profile, table_for
from edgenas.search import Limit, parse_constraint, search
from edgenas.space import Codes
from edgenas.specialize import own_split
from edgenas.trained import TrainedSupernet, find_supernet, load_supernet

STRATEGIES = ("evolution", "proxyless", "gumbel", "reinforce", "random", "aging", "bayes")


@dataclass
class Bench:
    """A supernet and its images; what was measured is kept."""

    trained: TrainedSupernet
    predictor: AccuracyPredictor
    calibration: Tensor
    images: dict[str, Images]
    measured: dict[tuple[Arch, str], float] = field(default_factory=dict)

    def accuracy(self, arch: Arch, split: str) -> float:
        """Measured on a split, calibrated first."""
        if (arch, split) not in self.measured:
            (found,) = evaluate(
                self.trained.supernet,
                [arch],
                images=self.images[split],
                calibration=self.calibration,
                preprocessing=self.trained.preprocessing,
                split=split,
            )
            self.measured[arch, split] = found.value
        return self.measured[arch, split]

    def validation(self, rows: Codes) -> Vector:
        """Accuracies of rows on the validation images, shape (n,)."""
        archs = self.trained.supernet.space.decode(rows)
        return np.array([self.accuracy(arch, "validation") for arch in archs])

    def choose(
        self, strategy: str, limit: Limit, *, seed: int, evaluations: int, steps: int
    ) -> Arch:
        """The network that a strategy chooses."""
        space = self.trained.supernet.space
        if strategy in GRADIENT:
            found = learn(
                self.trained.supernet,
                strategy=strategy,
                images=self.images["validation"],
                preprocessing=self.trained.preprocessing,
                ceilings=ceilings_of(space, [limit]),
                seed=seed,
                settings=Settings(steps=steps),
            )
            preference = found.policy.preference()
            return most_preferred(space, preference, limits=[limit], seed=seed).best.arch
        if strategy == "bayes":
            self.measured.clear()  # every seed pays for its own evaluations
        return search(
            space,
            maximize=self.validation if strategy == "bayes" else self.predictor,
            subject_to=[limit],
            strategy=strategy,
            seed=seed,
            evaluations=40 if strategy == "bayes" else evaluations,
        ).best.arch


def host_tables(trained: TrainedSupernet) -> Tables:
    """Predicted seconds of networks on this machine."""
    space, target = trained.supernet.space, load("host").target()
    try:
        table = table_for(space, target=target)
    except NoTableError:
        table = profile(space, target=target, say=print)
    return predictor_for(table, space).tables()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--supernet", default="mbv3-cifar10")
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--budgets", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES[:5]))
    parser.add_argument("--evaluations", type=int, default=20_000, help="of the predictor")
    parser.add_argument("--steps", type=int, default=Settings().steps, help="of gradients")
    parser.add_argument("--macs", action="store_true", help="budgets of MACs")
    options = parser.parse_args()
    trained = load_supernet(find_supernet(options.supernet))
    space = trained.supernet.space
    stored = trained.preprocessing.stored
    calibration, validation = own_split(trained, load_images(options.data, stored=stored))
    images = {"validation": validation, "test": load_images(options.test, stored=stored)}
    bench = Bench(trained, predictor_of(trained), calibration, images)
    tables = macs_table(space) if options.macs else host_tables(trained)
    unit, scale = ("macs", 1e-6) if options.macs else ("latency", 1e3)
    low, high = tables(space.encode([space.smallest(), space.largest()]))
    print(
        f"{Path(options.data).name}: {len(validation)} validation images, "
        f"{len(images['test'])} test images; {options.seeds} seeds; {os.cpu_count()} processors, "
        f"load {os.getloadavg()[0]:.1f}\n\n"
        f"| {'M MACs' if options.macs else 'ms'} | strategy | used | validation % | test % "
        "| spread | points of evolution | s |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for part in np.linspace(0, 1, options.budgets + 2)[1:-1]:
        at = float(low + part * (high - low))
        text = f"{at:.0f}" if options.macs else f"{at * 1e3:.4f}ms"
        limit = Limit(constraint=parse_constraint(f"{unit}<={text}"), values=tables)
        base = float("nan")
        for strategy in options.strategies:
            archs: list[Arch] = []
            start = time.perf_counter()
            for seed in range(options.seeds):
                archs.append(
                    bench.choose(
                        strategy,
                        limit,
                        seed=seed,
                        evaluations=options.evaluations,
                        steps=options.steps,
                    )
                )
            seconds = (time.perf_counter() - start) / options.seeds
            used = tables(space.encode(archs)) / limit.constraint.limit
            assert (used <= 1).all()
            known = 100 * np.mean([bench.accuracy(arch, "validation") for arch in archs])
            tests = 100 * np.array([bench.accuracy(arch, "test") for arch in archs])
            if strategy == "evolution":
                base = float(tests.mean())
            print(
                f"| {limit.constraint.limit * scale:.3f} | {strategy} | {used.mean():.3f} "
                f"| {known:.2f} | {tests.mean():.2f} | {np.ptp(tests):.2f} "
                f"| {tests.mean() - base:+.2f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
