"""The machine that a target is timed on, and whether its runtime can be timed there."""

from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock import measure
from edgenas.latency.device import Target
from edgenas.onnx_graph.build import network_graph
from edgenas.onnx_graph.forms import convert_to_form
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.runtime.registry import form_of
from edgenas.space.space import Space


def environment_of(target: Target, *, clock: Clock = measure) -> dict[str, Any]:
    """Read what the numbers depend on: the machine that a target is timed on, and its runtime.

    Raises:
        EdgenasError: the runtime is unknown or not there.
    """
    runtime = runtimes.get(target.runtime)
    check_timed(target.runtime)
    if clock is not measure and (missing := runtimes.why_not_for_clock(target.runtime)):
        raise EdgenasError(
            f"{target.runtime} cannot be timed from here: {missing}",
            hint=f"or time another runtime: --runtime {runtimes.DEFAULT}",
        )
    why_not = runtime.available() if clock is measure else None
    environment = clock.environment(runtime, threads=target.threads)
    if environment.get("runtime_version") is None:
        raise EdgenasError(
            f"runtime {target.runtime} is not available on {target.device}"
            + (f": {why_not}" if why_not else ""),
            hint="see what is there with: edgenas list runtimes",
        )
    return environment


def check_timed(runtime: str) -> None:
    """Refuse a runtime that the clock cannot load.

    Raises:
        EdgenasError: names those that it can.
    """
    if not runtimes.can_be_timed(runtime):
        raise EdgenasError(
            f"{runtime} cannot be timed by edgenas yet, only {', '.join(runtimes.timed_names())}",
            hint=runtimes.get(runtime).timing_hint,
        )


def check_precision(space: Space, *, target: Target) -> None:
    """Refuse a runtime here that would run in another precision than the table says.

    Raises:
        EdgenasError: with the precision.
    """
    arch = space.smallest()
    graph = convert_to_form(
        network_graph(space, arch, batch=target.batch),
        form=form_of(target.runtime, target.precision),
        keep=space.kept_in_float,
    )
    runtimes.get(target.runtime).compile(
        graph, precision=target.precision, threads=target.threads, batch=target.batch
    )
