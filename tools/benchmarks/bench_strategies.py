"""Search strategies side by side: measured accuracy of the networks they choose for this host.

    python -m tools.benchmarks.bench_strategies --data TRAIN --test TEST [--macs] [--seeds 3]

Three budgets of latency (of the host, profiled first where it was not; with --macs of MACs), a
tight one, a middling one and a wide one. evolution, aging and random ask the accuracy predictor,
with equal numbers of evaluations; proxyless, gumbel and reinforce learn from the validation images
with fixed weights of the supernet and measure their finalists on them; bayes measures networks on
them. Every chosen network is then calibrated and measured on validation and test images; the test
images decide nothing. Latencies are predictions of the same table for all.

What is done is kept in the cache: a run that was killed goes on with the same command. Seconds are
those of the processor, so that other work beside it does not count.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from edgenas.accuracy.evaluation import evaluate_archs
from edgenas.accuracy.measured import evaluated_on, load_predictor, measure_accuracies
from edgenas.accuracy.predictor import AccuracyPredictor
from edgenas.basics.files import cache_folder, write_text
from edgenas.images.data import Images
from edgenas.images.loading import load_images
from edgenas.latency.device import load
from edgenas.model.saved import TrainedSupernet, find_supernet, load_supernet
from edgenas.profiling.run import profile
from edgenas.profiling.tables import NoTableError, predictor_for, table_for
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables, Vector, macs_table
from edgenas.space.genes import Codes
from edgenas.strategies.constraint import Limit, parse_constraint
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.strategies.gradient.choosing import find_most_preferred, list_ceilings
from edgenas.strategies.gradient.estimators import STRATEGIES as GRADIENT
from edgenas.strategies.gradient.run import SearchData, learn
from edgenas.strategies.gradient.step import GradientSettings
from edgenas.strategies.run import search
from edgenas.training.division import split_as_trained
from edgenas.training.memory import keep_memory

STRATEGIES = ("evolution", "aging", "random", "proxyless", "gumbel", "reinforce", "bayes")
BUDGETS = (0.125, 0.25, 0.5)  # parts of the way from the smallest network to the largest


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a strategy chose with one seed, and what it took.

    Args:
        arch: the network.
        seconds: of the processor.
        evaluations: networks that were predicted or measured.
        images: looked at: batches, and all images of every network measured.
    """

    arch: Arch
    seconds: float
    evaluations: int
    images: int


@dataclass
class Bench:
    """A supernet and its images; ``settings`` of gradients, ``evaluations`` of the predictor.

    In ``folder`` what is under way is kept.
    """

    trained: TrainedSupernet
    predictor: AccuracyPredictor
    calibration: Tensor
    images: dict[str, Images]
    settings: GradientSettings
    evaluations: int
    folder: Path

    def measured(self, rows: Codes) -> Vector:
        """Accuracies on the validation images, shape (n,); nothing is remembered."""
        found = evaluate_archs(
            self.trained.supernet,
            self.trained.supernet.space.decode(rows),
            images=self.images["validation"],
            calibration=self.calibration,
            preprocessing=self.trained.preprocessing,
            split="validation",
        )
        return np.array([accuracy.value for accuracy in found])

    def choose(self, strategy: str, limit: Limit, *, seed: int) -> Chosen:
        """The network that a strategy chooses."""
        before, n = 0.0, len(self.images["validation"])
        start = time.process_time()
        if strategy in GRADIENT:
            arch, evaluations, before = self._learnt(strategy, limit, seed=seed)
            images = self.settings.steps * self.settings.batch + evaluations * n
        else:
            bayes = strategy == "bayes"
            found = search(
                self.trained.supernet.space,
                maximize=self.measured if bayes else self.predictor,
                subject_to=[limit],
                strategy=strategy,
                seed=seed,
                evaluations=40 if bayes else self.evaluations,
            )
            arch, evaluations = found.best.arch, found.evaluations
            images = evaluations * n if bayes else 0
        seconds = before + time.process_time() - start
        return Chosen(arch=arch, seconds=seconds, evaluations=evaluations, images=images)

    def _learnt(self, strategy: str, limit: Limit, *, seed: int) -> tuple[Arch, int, float]:
        """The network, networks measured, and seconds spent before this went on."""
        watch = self.folder / f"{digest([strategy, str(limit.constraint), str(seed)], ())[:16]}.s"
        before = float(watch.read_text()) if watch.exists() else 0.0
        start = time.process_time()

        def tell(step: str, done: int, total: int, words: str) -> None:
            if done % 10 == 0:
                write_text(watch, str(before + time.process_time() - start))

        space = self.trained.supernet.space
        found = learn(
            self.trained.supernet,
            strategy=strategy,
            data=SearchData(
                images=self.images["validation"], preprocessing=self.trained.preprocessing
            ),
            ceilings=list_ceilings(space, [limit]),
            seed=seed,
            settings=self.settings,
            folder=self.folder,
            progress=tell,
        )
        preference = found.policy.preference()
        finalists = [
            c.arch for c in find_most_preferred(space, preference, limits=[limit], seed=seed)
        ]
        accuracies = self.measured(space.encode(finalists))
        return finalists[int(accuracies.argmax())], len(finalists), before

    def accuracies(self, archs: list[Arch], split: str, *, journal: Path) -> Vector:
        """Measured on a split, calibrated first; none is measured twice, ever."""
        return measure_accuracies(
            self.trained,
            self.trained.supernet.space.encode(archs),
            images=self.images[split],
            calibration=self.calibration,
            split=split,
            journal=journal,
        )


def host_tables(trained: TrainedSupernet) -> Tables:
    """Predicted seconds of networks on this machine."""
    space, target = trained.supernet.space, load("host").target()
    try:
        table = table_for(space, target=target)
    except NoTableError:
        table = profile(space, target=target, say=print)
    return predictor_for(table, space).tables()


def kept(journal: Path) -> dict[str, Chosen]:
    """What an interrupted run chose; the last line may have been left unfinished."""
    found: dict[str, Chosen] = {}
    text = journal.read_text() if journal.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            name, arch = entry.pop("of"), Arch.from_json(entry.pop("arch"))
            found[name] = Chosen(arch=arch, **entry)
        except (ValueError, KeyError, TypeError):
            continue  # chosen again
    if text and not text.endswith("\n"):
        with journal.open("a") as stream:
            stream.write("\n")
    return found


def results(
    bench: Bench, limits: list[Limit], strategies: list[str], *, seeds: int, journal: Path
) -> Iterator[tuple[Limit, str, list[Chosen]]]:
    """Every budget and strategy, with what was chosen of each seed."""
    known = kept(journal)
    for limit in limits:
        for strategy in strategies:
            found: list[Chosen] = []
            for seed in range(seeds):
                name = f"{limit.constraint} {strategy} {seed}"
                if name not in known:
                    print(name, file=sys.stderr)
                    known[name] = bench.choose(strategy, limit, seed=seed)
                    line = asdict(known[name]) | {"of": name, "arch": known[name].arch.to_json()}
                    with journal.open("a") as stream:
                        stream.write(json.dumps(line) + "\n")
                found.append(known[name])
            yield limit, strategy, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--supernet", default="mbv3-cifar10")
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="parts of range")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES[:-1]))
    parser.add_argument("--evaluations", type=int, default=20_000, help="of the predictor")
    parser.add_argument("--steps", type=int, default=GradientSettings().steps, help="of gradients")
    parser.add_argument(
        "--baseline", choices=["others", "average"], default="others", help="of reinforce"
    )
    parser.add_argument(
        "--entropy", type=float, default=GradientSettings().entropy, help="its weight"
    )
    parser.add_argument("--macs", action="store_true", help="budgets of MACs")
    options = parser.parse_args()
    keep_memory()
    trained = load_supernet(find_supernet(options.supernet))
    space, stored = trained.supernet.space, trained.preprocessing.stored
    calibration, validation = split_as_trained(trained, load_images(options.data, stored=stored))
    images = {"validation": validation, "test": load_images(options.test, stored=stored)}
    settings = GradientSettings(
        steps=options.steps, baseline=options.baseline, entropy=options.entropy
    )
    predictor = load_predictor(trained)
    tables = macs_table(space) if options.macs else host_tables(trained)
    unit, scale = ("macs", 1e-6) if options.macs else ("latency", 1e3)
    low, high = tables(space.encode([space.smallest(), space.largest()]))
    limits: list[Limit] = []
    for part in options.budgets:
        at = float(low + part * (high - low))
        text = f"{at:.0f}" if options.macs else f"{at * 1e3:.4f}ms"
        limits.append(Limit(constraint=parse_constraint(f"{unit}<={text}"), values=tables))

    folder = cache_folder() / "strategies"
    folder.mkdir(parents=True, exist_ok=True)
    data = [*trained.supernet.parameters(), validation.pixels, calibration]
    state = digest([repr(space)], data)[:16]
    asked = digest([state, str(settings), str(options.evaluations)], ())[:16]
    bench = Bench(
        trained, predictor, calibration, images, settings, options.evaluations, folder / asked
    )
    source, _, shown = evaluated_on(predictor)
    fitted = f"{0 if predictor.rows is None else len(predictor.rows)} networks"
    print(
        f"{Path(options.data).name}: {len(validation)} validation images, "
        f"{len(images['test'])} test images; mean of {options.seeds} seeds, spread: the largest "
        f"minus the smallest; {os.cpu_count()} processors\n"
        f"evaluations: networks predicted or measured; images: looked at while choosing; the "
        f"predictor was fitted once to {fitted} measured on {shown} images of {source}\n\n"
        f"| {'M MACs' if options.macs else 'ms'} | strategy | used | validation % | test % "
        "| spread | points of evolution | s | evaluations | images |\n" + "|---" * 10 + "|",
        flush=True,
    )
    base: dict[str, float] = {}
    for limit, strategy, found in results(
        bench,
        limits,
        options.strategies,
        seeds=options.seeds,
        journal=folder / f"chosen-{asked}.jsonl",
    ):
        archs = [one.arch for one in found]
        used = tables(space.encode(archs)) / limit.constraint.limit
        assert (used <= 1).all()
        known, tests = (
            100 * bench.accuracies(archs, split, journal=folder / f"{split}-{state}.jsonl")
            for split in ("validation", "test")
        )
        budget = str(limit.constraint)
        if strategy == "evolution":
            base[budget] = float(tests.mean())
        means = [np.mean([getattr(c, n) for c in found]) for n in ("evaluations", "images")]
        print(
            f"| {limit.constraint.limit * scale:.3f} | {strategy} | {used.mean():.3f} "
            f"| {known.mean():.2f} | {tests.mean():.2f} | {np.ptp(tests):.2f} "
            f"| {tests.mean() - base.get(budget, np.nan):+.2f} "
            f"| {np.mean([c.seconds for c in found]):.1f} | {means[0]:,.0f} | {means[1]:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
