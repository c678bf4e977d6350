"""Timing any ONNX file with the clock and the statistics of the latency tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.basics.files import sha256
from edgenas.clock import measure
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.events import Event
from edgenas.clock.measure import NETWORK, Measurement
from edgenas.latency.device import Target
from edgenas.onnx_graph.inputs import Input, check_runnable
from edgenas.onnx_graph.model import load
from edgenas.onnx_graph.walk import check_sizes
from edgenas.profiling.run import check_timed
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
        quiet: the part of the time before the first run in which the machine was at full speed.
        environment: the machine and what else the numbers depend on.
    """

    path: Path
    digest: str
    facts: Mapping[str, str]
    batch: int
    inputs: tuple[Input, ...]
    times: Measurement
    quiet: float
    environment: Mapping[str, Any]


def bench(
    path: Path,
    *,
    target: Target,
    precision: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    settings: TimingSettings = NETWORK,
) -> Bench:
    """Time an ONNX file on this machine, in a process of its own.

    Args:
        path: the file.
        target: runtime, threads and batch.
        precision: the one that it must run in; None: the one of the graph, or else fp32.
        shapes: of inputs by name, where the model leaves more than the batch open.
        settings: of the clock.

    Raises:
        EdgenasError: the file is no model, the runtime is not here or refuses it, or it would run
            in another precision than the one asked for.
    """
    closed = load(path).closed(batch=target.batch, shapes=shapes)
    check_runnable(closed.inputs, where=closed.where)
    check_sizes(closed)
    onnx, inputs = closed.serialized(), closed.inputs
    runtime = runtimes.get(target.runtime)
    check_timed(target.runtime)
    # A model of another batch than asked for is timed with its own.
    batch = closed.batch
    facts = runtime.compile(onnx, precision=precision, threads=target.threads, batch=batch).facts()
    events: dict[str, Event] = {}
    hint = precision or (facts["precision"] if facts["precision"] in runtime.precisions else "fp32")
    (times,) = measure.measure(
        [(path.name, runtimes.convert_for_clock(target.runtime, onnx, batch=batch))],
        runtime=runtime,
        settings=replace(settings, threads=target.threads, precision=hint),
        batch=batch,
        watch=lambda event: events.update({event["event"]: event}),
    )
    after = ("temperature", "frequency", "load", "throttled")
    return Bench(
        path=path,
        digest=sha256(path),
        facts=facts,
        batch=batch,
        inputs=inputs,
        times=times,
        quiet=events["baseline"]["quiet"],
        environment={
            **{k: v for k, v in events["environment"].items() if k != "event"},
            "after": {name: events["end"].get(name) for name in after},
        },
    )
