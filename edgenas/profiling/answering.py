"""``profile``, ``bench`` and ``check``: from a request to what was measured."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.basics.held_out import HeldOut
from edgenas.basics.progress import Progress, Say, no_progress, say_nothing
from edgenas.clock import measure
from edgenas.clock.measure import NETWORK
from edgenas.latency import benchmark_log
from edgenas.latency.benchmark_log import BenchmarkLog
from edgenas.latency.device import Device, Target, load
from edgenas.latency.energy import fit_energy
from edgenas.latency.table import LatencyTable
from edgenas.latency.table_file import table_path
from edgenas.onnx_graph.inputs import parse_shape
from edgenas.profiling import reach, tflite_bench
from edgenas.profiling.bench import Bench
from edgenas.profiling.bench import bench as bench_model
from edgenas.profiling.check import check as check_target
from edgenas.profiling.drift import DriftCheck
from edgenas.profiling.heat import HeatedBoard, check_heat, heat_in
from edgenas.profiling.published import PublishedTimes, find_published
from edgenas.profiling.request import BenchRequest, CheckRequest, ProfileRequest
from edgenas.profiling.run import ProfilePlan
from edgenas.profiling.run import profile as profile_space
from edgenas.profiling.tables import predictor_for
from edgenas.runtime import registry as runtimes
from edgenas.space.presets import load_space


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileResult:
    """A latency table that was measured.

    Args:
        path: of the table.
        table: what it holds.
        error: expected of predictions from it; None where too few networks are in it.
        energy_error: the same for predicted energies; None where too few have one.
    """

    path: Path
    table: LatencyTable
    error: HeldOut | None
    energy_error: HeldOut | None = None

    @property
    def heat(self) -> HeatedBoard | None:
        """The times of some networks on a hot board; None: that was not measured."""
        return heat_in(self.table)

    @property
    def noisy(self) -> int:
        """How many timings are noisy."""
        networks = (network.timing for network in self.table.networks)
        return sum(timing.noisy for timing in (*self.table.layers.values(), *networks))

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first."""
        return {
            "schema": "edgenas.profile/1",
            "table": str(self.path),
            "layers": len(self.table.layers),
            "networks": len(self.table.networks),
            "error": self.error and self.error.to_json(),
            "energies": sum(n.joules is not None for n in self.table.networks),
            "energy_error": self.energy_error and self.energy_error.to_json(),
            "heat": self.heat and dataclasses.asdict(self.heat),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """A model that was timed: on one runtime, or on two, or elsewhere by LiteRT's own program.

    Args:
        model: the file.
        timings: one for each runtime; none where a log was read.
        log: the output of ``benchmark_model`` that the file holds.
    """

    model: Path
    timings: tuple[Bench, ...] = ()
    log: BenchmarkLog | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object, schema first; times in seconds."""
        if self.log is not None:
            return {"schema": "edgenas.bench-log/1", "log": str(self.model), **self.log.to_json()}
        return {
            "schema": "edgenas.bench/1",
            "model": str(self.model),
            "sha256": self.timings[0].digest,
            "results": [_timing_to_json(timing) for timing in self.timings],
        }


def profile(
    request: ProfileRequest, *, progress: Progress = no_progress, say: Say = say_nothing
) -> ProfileResult:
    """Measure the layers of a space, and some whole networks, into a latency table.

    Safe to interrupt: the same request goes on where it was.

    Raises:
        EdgenasError: the device, the space or the runtime is unknown, or the device cannot be
            reached; see ``edgenas.profiling.run.profile``.
    """
    request.check()
    device = load(request.device)
    clock = reach.clock_at_hand(
        device,
        runtime=request.runtime,
        ssh=request.ssh,
        python=request.python,
        seconds=request.seconds,
        say=say,
    )
    space = load_space(request.space)
    if request.classes is not None:
        space = space.with_classes(request.classes)
    target = _choose_target(device, request)
    table = profile_space(
        space,
        target=target,
        plan=ProfilePlan(
            seed=request.seed,
            time_budget=request.seconds,
            fresh=request.fresh,
            energy=request.energy,
            heat=request.load,
        ),
        clock=clock,
        progress=progress,
        say=say,
    )
    predictor = predictor_for(table, space)
    energy = fit_energy(space, table, latency=predictor)
    return ProfileResult(
        path=table_path(target),
        table=table,
        error=predictor.error,
        energy_error=energy and energy.error,
    )


def check(
    request: CheckRequest, *, progress: Progress = no_progress, say: Say = say_nothing
) -> DriftCheck:
    """Time a few layers and networks of a latency table again, and compare.

    Raises:
        EdgenasError: there is no measured table, or the device cannot be reached; see
            ``edgenas.profiling.check.check``.
    """
    request.check()
    device = load(request.device)
    clock = reach.clock_at_hand(
        device, runtime=request.runtime, ssh=request.ssh, python=request.python, say=say
    )
    target = _choose_target(device, request)
    return check_target(
        target,
        clock=clock,
        space=None if request.space is None else load_space(request.space),
        tolerance=request.allowed,
        progress=progress,
    )


def _choose_target(device: Device, request: ProfileRequest | CheckRequest) -> Target:
    return reach.timed_target(
        device,
        runtime=request.runtime,
        precision=request.precision,
        threads=request.threads,
        batch=request.batch,
    )


def bench(request: BenchRequest) -> BenchResult:
    """Time a file with the clock and the statistics of the latency tables, or read such times.

    ONNX files and .tflite files are timed. The output of LiteRT's ``benchmark_model`` is read.

    Raises:
        EdgenasError: the device cannot be reached, a runtime is unknown or not there, or the file
            cannot be run.
    """
    request.check()
    others = (*benchmark_log.SUFFIXES, tflite_bench.SUFFIX)
    if request.load is not None and request.model.suffix in others:
        check_heat(measure, load=request.load)
    if request.model.suffix in benchmark_log.SUFFIXES:
        return BenchResult(model=request.model, log=benchmark_log.read_log(request.model))
    if request.model.suffix == tflite_bench.SUFFIX:
        return BenchResult(model=request.model, timings=_bench_tflite(request))
    device = load(request.device)
    names = [request.runtime] if request.compare is None else [request.runtime, request.compare]
    for name in names:
        if name is not None:
            runtimes.get(name)
    shapes = dict(parse_shape(text) for text in request.shape)
    timings = [
        _beside_published(
            bench_model(
                request.model,
                target=reach.timed_target(
                    device, runtime=name, threads=request.threads, batch=request.batch
                ),
                clock=reach.clock_at_hand(
                    device, runtime=name, ssh=request.ssh, python=request.python
                ),
                precision=request.precision,
                shapes=shapes,
                settings=dataclasses.replace(NETWORK, min_seconds=request.seconds),
                steady=request.load,
            ),
            device=device,
            shapes=shapes,
        )
        for name in names
    ]
    return BenchResult(model=request.model, timings=tuple(timings))


def _bench_tflite(request: BenchRequest) -> tuple[Bench, ...]:
    device = load(request.device)
    given = [request.runtime or tflite_bench.RUNTIMES[0], request.compare]
    return tuple(
        tflite_bench.bench_tflite(
            request.model,
            target=reach.timed_target(
                device, runtime=name, threads=request.threads, batch=request.batch
            ),
            precision=request.precision,
            settings=dataclasses.replace(NETWORK, min_seconds=request.seconds),
            clock=reach.clock_at_hand(device, runtime=name, ssh=request.ssh, python=request.python),
        )
        for name in given
        if name is not None
    )


def _beside_published(
    timing: Bench, *, device: Device, shapes: Mapping[str, tuple[int, ...]]
) -> Bench:
    """The times with what others published for the device, where it is a board."""
    if device.reach == "local":
        return timing
    facts = timing.facts
    target = Target(device.name, facts["runtime"], facts["precision"], batch=timing.batch)
    published = find_published(timing.path, device=device, target=target, shapes=shapes)
    return dataclasses.replace(timing, published=published)


def _timing_to_json(timing: Bench) -> dict[str, Any]:
    hidden = ("name", "samples", "wall_samples")
    names = [field.name for field in dataclasses.fields(timing.times)]
    return {
        **timing.facts,
        "threads": int(timing.facts["threads"]),
        "batch": timing.batch,
        "inputs": [dataclasses.asdict(value) for value in timing.inputs],
        "latency": {name: getattr(timing.times, name) for name in names if name not in hidden},
        "judgement": timing.times.judgement(),
        "quiet": timing.quiet,
        "environment": dict(timing.environment),
        **({} if timing.heat is None else {"heat": dataclasses.asdict(timing.heat)}),
        **_published_to_json(timing.published),
    }


def _published_to_json(published: PublishedTimes | str | None) -> dict[str, Any]:
    if published is None:
        return {}
    if isinstance(published, str):
        return {"published": None, "why_not_published": published}
    return {"published": dataclasses.asdict(published)}
