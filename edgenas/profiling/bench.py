"""Timing any ONNX file with the clock and the statistics of the latency tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.events import Event
from edgenas.clock.measure import NETWORK, Measurement
from edgenas.clock.trtexec.heat import HeatedTimes, heat_engine
from edgenas.clock.trtexec.options import TensorrtVersion
from edgenas.latency.device import Target
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.onnx_graph.inputs import Input, check_runnable
from edgenas.onnx_graph.model import load, loads
from edgenas.onnx_graph.walk import check_sizes
from edgenas.profiling.environment import check_timed, environment_of
from edgenas.profiling.heat import check_heat
from edgenas.profiling.published import PublishedTimes
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The times of a model on one runtime.

    Args:
        path: the file.
        digest: SHA-256 of the file.
        facts: what really ran, see `edgenas.runtime.registry.Session`.
        batch: images of a run.
        inputs: the random inputs that the model ran on.
        times: of its runs.
        quiet: the part of the time before the first run in which the machine was at full speed;
            None: not known.
        environment: the machine and what else the numbers depend on.
        heat: its times under a steady load; None: that was not asked for.
        published: what others published for the device, or why there is nothing to compare with;
            None: the device is this machine, for which nobody publishes.
    """

    path: Path
    digest: str
    facts: Mapping[str, str]
    batch: int
    inputs: tuple[Input, ...]
    times: Measurement
    quiet: float | None
    environment: Mapping[str, Any]
    heat: HeatedTimes | None = None
    published: PublishedTimes | str | None = None


def bench(
    path: Path,
    *,
    target: Target,
    precision: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    settings: TimingSettings = NETWORK,
    clock: Clock = measure,
    steady: float | None = None,
) -> Bench:
    """Time an ONNX file on this machine, in a process of its own, or on a board.

    Args:
        path: the file.
        target: runtime, threads and batch.
        precision: the one that it must run in; None: the one of the graph, or else fp32.
        shapes: of inputs by name, where the model leaves more than the batch open.
        settings: of the clock.
        clock: where it is timed. Where an engine is built, an fp32 file is brought to the precision
            asked for.
        steady: seconds of steady load after which its times are told too; None: that is left out.

    Raises:
        EdgenasError: the file is no model, the runtime is not there or refuses it, it would run in
            another precision than the one asked for, or the clock cannot heat the device.
    """
    heated_by = None if steady is None else check_heat(clock, load=steady)
    closed = load(path).closed(batch=target.batch, shapes=shapes)
    check_runnable(closed.inputs, where=closed.where)
    check_sizes(closed)
    onnx, inputs = closed.serialized(), closed.inputs
    runtime = runtimes.get(target.runtime)
    check_timed(target.runtime)
    # A model of another batch than asked for is timed with its own.
    batch = closed.batch
    if clock is measure:
        ready = runtime.compile(onnx, precision=precision, threads=target.threads, batch=batch)
        facts = ready.facts()
    else:
        onnx, facts = _fit(onnx, target=target, precision=precision, clock=clock)
    hint = precision or (facts["precision"] if facts["precision"] in runtime.precisions else "fp32")
    timed = time_loadable(
        path,
        runtimes.convert_for_clock(target.runtime, onnx, batch=batch),
        facts=facts,
        inputs=inputs,
        batch=batch,
        settings=replace(settings, threads=target.threads, precision=hint),
        clock=clock,
    )
    if heated_by is None or steady is None:
        return timed
    heat = heat_engine(
        heated_by,
        (path.name, onnx),
        version=TensorrtVersion.parse(facts["version"]),
        precision=hint,
        run=timed.times.median,
        load=steady,
    )
    return replace(timed, heat=heat)


def time_loadable(
    path: Path,
    loadable: bytes | Path,
    *,
    facts: Mapping[str, str],
    inputs: tuple[Input, ...],
    batch: int,
    settings: TimingSettings,
    clock: Clock,
) -> Bench:
    """Time what a clock loads.

    Args:
        path: the file that it was made of.
        loadable: the bytes, or a file of them.
        facts: what runs; names the runtime.
        inputs: what it is run on.
        batch: images of a run.
        settings: of the clock, with threads and precision.
        clock: where it is timed.
    """
    events: dict[str, Event] = {}
    (times,) = clock.measure(
        [(path.name, loadable)],
        runtime=runtimes.get(facts["runtime"]),
        settings=settings,
        batch=batch,
        watch=lambda event: events.update({event["event"]: event}),
    )
    after = ("temperature", "frequency", "gpu_frequency", "load", "throttled")
    baseline = events.get("baseline")
    return Bench(
        path=path,
        digest=sha256(path),
        facts=facts,
        batch=batch,
        inputs=inputs,
        times=times,
        quiet=None if baseline is None else baseline["quiet"],
        environment={
            **{k: v for k, v in events["environment"].items() if k != "event"},
            "after": {name: events["end"].get(name) for name in after},
        },
    )


def _fit(
    onnx: bytes, *, target: Target, precision: str | None, clock: Clock
) -> tuple[bytes, Mapping[str, str]]:
    """The graph in the precision asked for, and the facts of a runtime that is not here."""
    around, runtime = environment_of(target, clock=clock), runtimes.get(target.runtime)
    own = loads(onnx).precision()
    asked = precision or own
    if asked not in runtime.precisions:
        raise EdgenasError(
            f"precision of {runtime.name} must be one of {', '.join(runtime.precisions)}, "
            f"found {asked!r}",
            hint="name another: --precision fp32",
        )
    if asked != own:
        if own != "fp32" or not runtime.built_by_tool:
            raise EdgenasError(f"the model is in {own}, and would not run in {asked}")
        onnx = convert_to_form(onnx, form=runtime.form_of(asked))
    return onnx, {
        "runtime": runtime.name,
        "version": str(around["runtime_version"]),
        "provider": str(around["gpu"] or around["cpu"]),
        "precision": asked,
        "threads": str(target.threads),
    }
