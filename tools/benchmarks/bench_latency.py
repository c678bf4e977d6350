"""How far latency predictions are off, and how often their bounds hold.

On this machine: layers by three methods, random networks, groups of equal MACs, and networks that
a search chose. What is measured is in the journal of the profile at once, so the same command
goes on after any end::

    python -m tools.benchmarks.bench_latency --space mbv3-cifar
    python -m tools.benchmarks.bench_latency --space ofa-mbv3-w1.0 --resolutions 128,160,192,224

With ``--data TRAIN --test TEST`` (the images of the shipped supernet) the accuracy of the networks
that the search chose is measured as well. On networks that others published (5,000 networks of the
once-for-all MobileNetV3 on two GPUs; no clock is needed)::

    python -m tools.benchmarks.bench_latency --published \
        ../shared/data/published/ofa_gpu_latency.npz
"""

import argparse
import functools
import itertools
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from edgenas.accuracy.measured import measure_accuracies
from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.files import cache_folder, sha256
from edgenas.basics.held_out import compare_with_truth
from edgenas.clock import measure
from edgenas.clock.measure import DEFAULT, Measurement
from edgenas.images.loading import load_images
from edgenas.latency.device import Target, load
from edgenas.latency.fitting import learn_predictor, sum_layers
from edgenas.latency.line import fit_line
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.table import LatencyTable, Timing
from edgenas.model.saved import ACCURACY_FILE, find_supernet, load_supernet
from edgenas.onnx_graph.build import operators_graph
from edgenas.profiling.environment import environment_of
from edgenas.profiling.journal import open_journal
from edgenas.profiling.method import FEWER, MORE
from edgenas.profiling.networks import FURTHER, calibration_archs, random_archs
from edgenas.profiling.run import VISITS
from edgenas.profiling.timings import combine_visits, subtract_copies
from edgenas.profiling.units import Unit, layer_unit, network_unit, units_of
from edgenas.profiling.work import Work
from edgenas.runtime import registry as runtimes
from edgenas.runtime.contract import Method
from edgenas.space.arch import Arch, Block, Stage
from edgenas.space.cost import macs_table, total
from edgenas.space.genes import Codes
from edgenas.space.layer import Layer, Primitive
from edgenas.space.plan import layers, plan
from edgenas.space.presets import load_space
from edgenas.space.primitives import primitives
from edgenas.space.space import Space
from edgenas.strategies.constraint import Constraint, Limit
from edgenas.strategies.run import search
from edgenas.training.division import split_as_trained

Vector = NDArray[np.float64]
SumOf = Callable[[Arch], float]
TRAINED, SEEDS = 100, 5  # published networks
SPLITS, BOUND = 50, 40
ANCHORS = 20  # networks that are timed again with those of another hour
DISK = 4e9  # bytes: the graphs of one call of the clock lie on the disk meanwhile
SUPERNET = "mbv3-cifar10"
METHOD_OF: Mapping[str, Method] = {"layers alone": "alone", "copies of layers": "copies"}


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", type=Path, metavar="NPZ")
    parser.add_argument("--space", default="mbv3-cifar")
    parser.add_argument("--resolutions", help="of the space, e.g. 128,160; default: all")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--networks", type=int, default=200, help="random ones to test on")
    parser.add_argument("--groups", type=int, default=4, help="of equal MACs, 20 networks each")
    parser.add_argument("--searched", type=int, default=60, help="networks chosen by a search")
    parser.add_argument("--visits", type=int, default=VISITS, help="of each unit")
    parser.add_argument("--data", help="images the shipped supernet was trained on")
    parser.add_argument("--test", help="its test images")
    given = parser.parse_args()
    if given.published:
        published(given.published)
    else:
        on_host(given)


# --- this machine --------------------------------------------------------------------------------


class Clock:
    """Times units on one target, in the journal of its profile: what is there is not redone."""

    def __init__(self, target: Target, *, space: Space) -> None:
        self.target, self.environment = target, environment_of(target)
        self.chunk = max(1, int(DISK / (4 * total(space, space.largest()).weights)))
        self.started = time.monotonic()

    def __call__(
        self, units: Mapping[str, Unit], *, visits: int, beside: Mapping[str, Unit] | None = None
    ) -> dict[str, list[Measurement]]:
        """The sound measurements of each unit, oldest first.

        Some units of ``beside``, which were timed before, are timed again with all others, so that
        those of another hour are brought to the same level of the machine.
        """
        beside = beside or {}
        again = list(beside.values())[:ANCHORS]
        with open_journal(self.target) as journal:
            work = Work(
                {**beside, **units},
                journal=journal,
                environment=self.environment,
                visits=visits,
                gate=DEFAULT.gate,
                report=self._report,
                say=print,
            )
            work.select(units, visits=visits)
            while waiting := work.waiting():
                some = random.Random(len(waiting)).sample(waiting, min(len(waiting), self.chunk))
                settings = replace(DEFAULT, threads=self.target.threads)
                some = [*some, *(unit for unit in again if unit not in some)]
                work.measure(some, target=self.target, settings=settings, clock=measure)
            print(file=sys.stderr)
            work.say_doubts()
            return work.measurements()

    def _report(self, done: int, total: int, words: str) -> None:
        line = f"\r{done}/{total} visits, {time.monotonic() - self.started:.0f} s {words:40.40}"
        print(line, end="", file=sys.stderr)


@dataclass(frozen=True)
class Study:
    """What was measured of a space.

    Args:
        space: the space.
        clock: where.
        visits: of each unit; networks have as many again.
        timings: of layers' units.
        operators: names of the units of each layer's operators.
    """

    space: Space
    clock: Clock
    visits: int
    timings: Mapping[str, Timing]
    operators: Mapping[Layer, list[str]]

    def networks(
        self, archs: Sequence[Arch], *, beside: Sequence[Arch] = ()
    ) -> tuple[Vector, Vector]:
        """Seconds of networks, twice: from the first visits, and from as many later ones."""
        batch = self.clock.target.batch
        units = [network_unit(self.space, arch, batch=batch) for arch in archs]
        others = [network_unit(self.space, arch, batch=batch) for arch in beside]
        found = self.clock(
            {unit.name: unit for unit in units},
            visits=2 * self.visits,
            beside={unit.name: unit for unit in others},
        )
        first, again = np.empty(len(archs)), np.empty(len(archs))
        for i, unit in enumerate(units):
            visits = found[unit.name]
            first[i] = combine_visits(visits[: self.visits]).seconds
            again[i] = combine_visits(visits[self.visits :] or visits).seconds
        return first, again

    def layer(self, layer: Layer, way: str) -> Timing:
        """The timing of a layer, one way or the other."""
        if way == "copies":
            batch = self.clock.target.batch
            more, fewer = (
                self.timings[layer_unit(self.space, layer, copies=n, batch=batch).name]
                for n in (MORE, FEWER)
            )
            return subtract_copies(more, fewer)
        return self.timings[str(layer)]

    def table(self, method: Method) -> LatencyTable:
        """As a profile by this method makes it."""
        made = {layer: self.layer(layer, method) for layer in layers(self.space)}
        if method == "copies":
            alone = {layer: self.layer(layer, "alone").seconds for layer in made}
            made = {layer: replace(timing, alone=alone[layer]) for layer, timing in made.items()}
        return LatencyTable(target=self.clock.target, provenance="measured", layers=made)

    def sums(self) -> dict[str, SumOf]:
        """By the words for it: what a network is taken for by sums of its parts."""

        def parts(arch: Arch) -> list[Layer]:
            return [layer for _, layer in plan(self.space, arch)]

        def of_operators(arch: Arch) -> float:
            names = (name for layer in parts(arch) for name in self.operators[layer])
            return sum(self.timings[name].seconds for name in names)

        macs = macs_table(self.space)
        return {
            "operators alone": of_operators,
            "layers alone": lambda a: sum(self.layer(p, "alone").seconds for p in parts(a)),
            "copies of layers": lambda a: sum(self.layer(p, "copies").seconds for p in parts(a)),
            "MACs": lambda a: float(macs(self.space.encode([a]))[0]),
        }


def on_host(given: argparse.Namespace) -> None:
    """Measure, and print all tables of this machine."""
    space = load_space(given.space)
    if given.resolutions:
        space = space.restrict(resolution=[int(r) for r in given.resolutions.split(",")])
    target = load("host").target(runtime=given.runtime)
    if runtimes.get(target.runtime).method == "networks":
        raise SystemExit(f"on {target.runtime} no layer is timed, see edgenas profile")
    lines, further = calibration_archs(space), random_archs(space, FURTHER, seed=0)
    others = random_archs(space, given.networks + FURTHER, seed=1)
    tested = [arch for arch in others if arch not in set(further)][: given.networks]
    groups = equal_macs(space, groups=given.groups, size=20)

    clock = Clock(target, space=space)
    operators, named = operator_units(space, batch=target.batch)
    units = dict(operators)
    for method in ("alone", "copies"):
        units |= units_of(space, batch=target.batch, method=method)
    every = dict.fromkeys([*lines, *further, *tested, *itertools.chain(*groups)])
    networks = [network_unit(space, arch, batch=target.batch) for arch in every]
    # Layers and networks in turn, so that a drift of the machine is in both.
    found = clock(units | {unit.name: unit for unit in networks}, visits=given.visits)
    timings = {name: combine_visits(found[name]) for name in units}
    study = Study(space, clock, given.visits, timings, named)
    both = dict(zip(every, zip(*study.networks(list(every)), strict=True), strict=True))

    def of(archs: Sequence[Arch]) -> tuple[Vector, Vector]:
        first, again = np.array([both[arch] for arch in archs]).T
        return first, again

    print(f"\n{target}, {clock.environment['cpu']}, version {clock.environment['runtime_version']}")
    print(f"{space.name} at {', '.join(map(str, space.resolutions))} pixels, ", end="")
    print(f"{len(layers(space))} layers; {time.monotonic() - clock.started:.0f} s of measuring")
    truth, again = of(tested)
    low, high = 1e3 * truth.min(), 1e3 * truth.max()
    print(
        f"\n{len(tested)} random networks, {low:.2f} to {high:.2f} ms; lines through {len(lines)}"
    )
    print(f"{'':40}{'bias':>8}{'error':>8}{'worst':>8}{'in 10%':>8}{'tau':>7}")
    corrected: dict[str, Callable[[Sequence[Arch]], Vector]] = {}
    for way, sum_of in study.sums().items():
        if way != "MACs":
            print(row(f"{way}, summed", np.array([sum_of(arch) for arch in tested]), truth))
        corrected[f"{way}, a line"] = lined(sum_of, lines, of(lines)[0])
        print(row(f"{way}, a line", corrected[f"{way}, a line"](tested), truth))
        if way in METHOD_OF:
            plain = sum_layers(space, study.table(METHOD_OF[way]))
            fitted = plain.fit(lines, of(lines)[0], spared=([], []))
            if fitted.sums is plain.sums:
                continue  # networks left out are predicted no better than by the line
            chosen = f"{way}, line and weights"
            if way == "copies of layers":
                chosen = "what edgenas chooses of these"
            corrected[chosen] = fitted.predict
            print(row(chosen, fitted.predict(tested), truth))
    for archs in (lines, [*lines, *further]):
        learned = learn_predictor(space, archs, of(archs)[0], spared=([], []))
        print(row(f"learned from {len(archs)} networks", learned.predict(tested), truth))
    print(row("the clock again", again, truth))

    print(
        f"\n{len(groups)} groups of {len(groups[0])} networks of equal MACs (+-3%); tau: inside a"
    )
    print(f"group, mean over groups\n{'':40}{'error':>8}{'tau':>7}")
    for way, predict in corrected.items():
        predicted = [predict(group) for group in groups]
        print(group_row(way, predicted, [of(group)[0] for group in groups]))
    clocked = [of(group) for group in groups]
    print(group_row("the clock again", [b for _, b in clocked], [a for a, _ in clocked]))
    bounds(study, lines=lines, others=[*further, *tested], of=of, given=given)


def lined(
    sum_of: SumOf, archs: Sequence[Arch], seconds: Vector
) -> Callable[[Sequence[Arch]], Vector]:
    """Predictions by a line from sums to times, through some networks."""
    line = fit_line(np.array([sum_of(arch) for arch in archs]), seconds)
    return lambda others: line(np.array([sum_of(arch) for arch in others]))


def bounds(
    study: Study,
    *,
    lines: list[Arch],
    others: list[Arch],
    of: Callable[[Sequence[Arch]], tuple[Vector, Vector]],
    given: argparse.Namespace,
) -> None:
    """How often bounds hold: on random networks, and on those that a search chose under them."""
    space = study.space
    method = runtimes.get(study.clock.target.runtime).method
    plain = sum_layers(space, study.table(method))
    seconds, times = of(lines)[0], of(others)[0]
    rows = space.encode(others)
    held: list[float] = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(others))
        some, rest = order[:BOUND], order[BOUND:]
        bounded = plain.fit(lines, seconds, spared=(rows[some], times[some]))
        held.append(float((times[rest] <= bounded.upper(rows[rest])).mean()))
    print(f"\nbound of 95% ({method}, a fit to {len(lines)}, {BOUND} others for the bound)")
    print(f"holds for {np.mean(held):.1%} of the other {len(others) - BOUND}", end="")
    print(f" (mean of {SPLITS} splits, {min(held):.1%} to {max(held):.1%})")

    predictor = plain.fit(lines, seconds, spared=(rows[:FURTHER], times[:FURTHER]))
    supernet = load_supernet(find_supernet(SUPERNET))
    assert supernet.folder is not None
    ours = supernet.supernet.space.name == space.name
    accuracy = load_accuracy(supernet.folder / ACCURACY_FILE).on(space) if ours else None
    chosen = searched(predictor, maximize=accuracy or macs_table(space), count=given.searched)
    found, _ = study.networks(chosen, beside=others)
    off = compare_with_truth(predictor.predict(chosen), found, relative=True, method="")
    ratio = found / predictor.upper(chosen)
    best = "accuracy" if ours else "MACs"
    print(f"\n{len(chosen)} networks of most predicted {best}, chosen by a search under the bound")
    print(f"latency: bias {off.bias:+.1%}, error {off.error:.1%}; the bound holds for ", end="")
    print(f"{(ratio <= 1).mean():.1%}, worst {ratio.max() - 1:+.1%}")
    again: list[float] = []
    codes = space.encode(chosen)
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(chosen))
        some, rest = np.split(order, [len(chosen) // 2])
        bounded = plain.fit(lines, seconds, spared=(codes[some], found[some]))
        again.append(float((found[rest] <= bounded.upper(codes[rest])).mean()))
    print(f"with half of them for the bound: {np.mean(again):.1%} (mean of {SPLITS} splits)")
    if accuracy is None or not given.data or not given.test:
        return
    images = load_images(given.test, stored=supernet.preprocessing.stored)
    calibration, _ = split_as_trained(
        supernet, load_images(given.data, stored=supernet.preprocessing.stored)
    )
    state = sha256(supernet.folder / "weights.safetensors")[:16]
    measured = measure_accuracies(
        supernet,
        supernet.supernet.space.encode(chosen),
        images=images,
        calibration=calibration,
        split="test",
        journal=cache_folder() / f"check-{state}-{images.digest[:8]}.jsonl",
        progress=lambda step, done, total, words: print(
            f"\r{done}/{total} ", end="", file=sys.stderr
        ),
    )
    scored = compare_with_truth(accuracy.predict(codes), measured, method="")
    print(f"accuracy: predicted (validation) - measured (test, n={len(images)}): ", end="")
    print(f"{100 * scored.bias:+.2f} points, mean error {100 * scored.error:.2f}")


def operator_units(space: Space, *, batch: int) -> tuple[dict[str, Unit], dict[Layer, list[str]]]:
    """One unit for each distinct operator with its activation, and the names of each layer's."""
    units: dict[str, Unit] = {}
    names: dict[Layer, list[str]] = {}
    for layer in layers(space):
        groups: list[list[Primitive]] = []
        for part in primitives(layer):
            if part.op == "act" and groups[-1][-1].op == "conv":
                groups[-1].append(part)
            else:
                groups.append([part])
        names[layer] = [f"operators {'; '.join(map(words, group))}" for group in groups]
        for name, group in zip(names[layer], groups, strict=True):
            build = functools.partial(operators_graph, tuple(group), batch=batch)
            units[name] = Unit(name=name, of=layer, build=build)
    return units, names


def words(part: Primitive) -> str:
    """An operator in words, all of its shape in them."""
    shape = f"{part.inputs}x{part.in_size[0]} to {part.outputs}x{part.out_size[0]}"
    return f"{part.op} {part.activation} {shape} kernel {part.kernel[0]} groups {part.groups}"


def equal_macs(space: Space, *, groups: int, size: int) -> list[list[Arch]]:
    """Groups of networks of equal MACs (+-3%), resolutions in turn."""
    pool = np.unique(space.sample(40_000, rng=np.random.default_rng(3), by="gene"), axis=0)
    macs = macs_table(space)(pool)
    low, high = np.log(np.quantile(macs, [0.2, 0.8]))
    found: list[list[Arch]] = []
    for centre in np.exp(np.linspace(low, high, groups)):
        near = np.flatnonzero(np.abs(macs / centre - 1) <= 0.03)
        members = space.decode(pool[np.random.default_rng(4).permutation(near)[:2000]])
        turns: dict[int, int] = {}
        ranked: list[tuple[int, int]] = []
        for i, arch in enumerate(members):
            turns[arch.resolution] = turns.get(arch.resolution, 0) + 1
            ranked.append((turns[arch.resolution], i))
        found.append([members[i] for _, i in sorted(ranked)[:size]])
    return found


def searched(predictor: LatencyPredictor, *, maximize: Any, count: int) -> list[Arch]:
    """Networks that a search chose under bounds, over budgets and seeds; each once."""
    space = predictor.space
    some = space.sample(4000, rng=np.random.default_rng(0), by="gene")
    low, high = np.quantile(predictor.upper(some), [0.02, 0.9])
    found: dict[Arch, None] = {}
    for seed in range(2 * count):
        seconds = float(low + (high - low) * ((seed * 0.6180339887) % 1))
        limit = Limit(
            constraint=Constraint("latency", seconds, f"{1e3 * seconds:.4g}ms"),
            values=predictor.upper,
            guide=predictor.tables(),
        )
        chosen = search(space, maximize=maximize, subject_to=[limit], seed=seed, evaluations=20_000)
        found[chosen.best.arch] = None
        if len(found) == count:
            break
    return list(found)


def row(name: str, predicted: Vector, true: Vector) -> str:
    """One line of the comparison."""
    off = predicted / true - 1
    tau: Any = kendalltau(predicted, true)[0]
    numbers = (off.mean(), np.abs(off).mean(), np.abs(off).max(), (np.abs(off) <= 0.1).mean())
    return f"{name:40}{''.join(f'{x:>8.1%}' for x in numbers)}{tau:>7.2f}"


def group_row(name: str, predicted: list[Vector], true: list[Vector]) -> str:
    """Likewise, over groups."""
    error = np.mean([np.abs(p / t - 1).mean() for p, t in zip(predicted, true, strict=True)])
    taus: Any = [kendalltau(p, t)[0] for p, t in zip(predicted, true, strict=True)]
    return f"{name:40}{error:>8.1%}{np.nanmean(taus):>7.2f}"


# --- published networks --------------------------------------------------------------------------


def read_published(path: Path) -> tuple[Space, Codes, dict[str, Vector]]:
    """The space, the canonical rows, and seconds by GPU and batch of the published networks."""
    data: Mapping[str, Any] = np.load(path, allow_pickle=False)
    # Released in steps of 16 pixels, measured in steps of 4.
    space = replace(load_space("ofa-mbv3-w1.0"), resolutions=tuple(range(128, 225, 4)))
    fixed = [Stage(16, (Block(3, 1.0),))] * 2
    archs: list[Arch] = []
    columns = (data[name].tolist() for name in ("ks", "expand", "depth", "resolution"))
    for kernels, expands, depths, resolution in zip(*columns, strict=True):
        stages = list(fixed)
        for i, depth in enumerate(depths):
            at = slice(4 * i, 4 * i + depth)
            pairs = zip(kernels[at], expands[at], strict=True)
            blocks = tuple(Block(kernel, float(expand)) for kernel, expand in pairs)
            stages.append(Stage(space.stages[i + 2].widths[0], blocks))
        archs.append(Arch(resolution, tuple(stages)))
    rows = space.encode(archs)
    assert (macs_table(space)(rows) == data["macs"]).all(), "other networks than those published"
    prefix = "lat_ms__"
    seconds = {
        name.removeprefix(prefix): data[name].astype(np.float64) / 1e3
        for name in data
        if name.startswith(prefix)
    }
    return space, rows, seconds


def published(path: Path) -> None:
    """Train on a hundred random networks, test on all others; means over seeds."""
    space, rows, every = read_published(path)
    macs = macs_table(space)(rows)
    print(f"{len(rows)} networks of {space.name}, {path.name}")
    print(f"trained on {TRAINED} random ones, tested on the other {len(rows) - TRAINED}:")
    print(
        f"means over {SEEDS} seeds. 'half': fitted to half of the {TRAINED}, the other half gives"
    )
    print("the bound, as learn_predictor does on its own; 'all': fitted to all, no bound\n")
    head = ("error", "Spearman", "error", "Spearman", "held", "error", "Spearman")
    print(f"{'':16}{'learned, all':>18}{'learned, half':>26}{'MACs, a line':>18}")
    print(f"{'GPU, batch':16}" + "".join(f"{word:>9}" for word in head[:4]), end="")
    print(f"{head[4]:>8}" + "".join(f"{word:>9}" for word in head[5:]))
    for name, seconds in every.items():
        found: list[tuple[float, ...]] = []
        for seed in range(SEEDS):
            order = np.random.default_rng(seed).permutation(len(rows))
            train, test = order[:TRAINED], order[TRAINED:]
            line = fit_line(macs[train], seconds[train])
            predictor = learn_predictor(space, rows[train], seconds[train])
            whole = learn_predictor(
                space, rows[train], seconds[train], spared=(rows[:0], seconds[:0])
            )
            held = float((seconds[test] <= predictor.upper(rows[test])).mean())
            scores = [
                compare_with_truth(predicted, seconds[test], relative=True, method="")
                for predicted in (
                    whole.predict(rows[test]),
                    predictor.predict(rows[test]),
                    line(macs[test]),
                )
            ]
            numbers = [(score.error, score.spearman) for score in scores]
            found.append((*numbers[0], *numbers[1], held, *numbers[2]))
        mean = np.mean(found, axis=0)
        print(
            f"{name:16}{mean[0]:>9.2%}{mean[1]:>9.4f}{mean[2]:>9.2%}{mean[3]:>9.4f}{mean[4]:>8.1%}"
            f"{mean[5]:>9.2%}{mean[6]:>9.4f}"
        )


if __name__ == "__main__":
    main()
