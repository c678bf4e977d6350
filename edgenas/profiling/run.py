"""Profiling: time what a space is made of on one target, and write its latency table."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.clock import board, measure
from edgenas.clock.board import Settings
from edgenas.clock.measure import DEFAULT
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, merge, mismatches
from edgenas.latency.table_file import load_table, save_table, table_path
from edgenas.onnx_graph.build import network_graph
from edgenas.profiling.choice import Choice
from edgenas.profiling.journal import open_journal
from edgenas.profiling.networks import (
    CALIBRATION,
    FURTHER,
    MOST,
    calibration_archs,
    random_archs,
)
from edgenas.profiling.units import METHODS, Method, units_of
from edgenas.profiling.work import VISITS, Clock, Tell, Work
from edgenas.runtime import registry as runtimes
from edgenas.runtime.forms import form, formed
from edgenas.space.space import Space


def profile(
    space: Space,
    *,
    target: Target,
    networks: int | None = None,
    further: int = FURTHER,
    visits: int = VISITS,
    method: Method | None = None,
    seed: int = 0,
    time_budget: float | None = None,
    settings: Settings = DEFAULT,
    fresh: bool = False,
    tell: Tell = lambda done, total, name, note: None,
    say: Callable[[str], None] = lambda line: None,
    clock: Clock = measure,
) -> LatencyTable:
    """Time the layers of a space and some networks of it; write and return the latency table.

    Every finished unit is in the journal (`edgenas.profiling.journal`) at once, and what is there
    is not timed again: after any interruption the same call goes on, as ``say`` says on Ctrl-C.
    Units timed while the machine was slower than at its best, or too noisy, are timed once more.

    The table goes to ``table_path(target)`` in the user's cache, merged with one that is there;
    one of another machine or runtime version is kept beside it under another name.

    Args:
        space: whose layers.
        target: what they are timed on; its device is a name only, see ``clock``.
        networks: whole networks spread over the space, for the line from sums to networks; None:
            as many as the method needs.
        further: random networks for the bound; see ``predictor_for``.
        visits: how often each unit is timed, all others in between.
        method: how layers are timed, see `edgenas.profiling.units`; None: what is best known for
            the runtime.
        seed: of the order and of the random networks.
        time_budget: seconds after which no more units are timed, what says most coming first, see
            `edgenas.profiling.choice`; None: until all are.
        settings: of the clock; threads and seed are those given here.
        fresh: time everything, whatever was timed before.
        tell: called after each visit: visits done, visits in all, the unit's name, a note on it.
        say: called with lines that a person should read.
        clock: where units are timed.

    Raises:
        EdgenasError: an argument is wrong, the runtime is unknown or not there, the disk is full,
            or the machine changed meanwhile. What was timed before stays in the journal.
        ClockStoppedError: the process that times died.
    """
    started = time.monotonic()
    settings = replace(settings, threads=target.threads, precision=target.precision, seed=seed)
    environment = environment_of(target, clock=clock)
    _check(time_budget=time_budget, settings=settings)
    wanted = form(target.runtime, target.precision)
    usual = METHODS.get(target.runtime, "alone")
    # Copies are made of fp32 graphs; layers in other forms are timed alone.
    method = method or ("alone" if usual == "copies" and wanted != "fp32" else usual)
    if networks is None:
        networks = MOST if method == "networks" else CALIBRATION
    for name, value, least in (
        ("networks", networks, 0),
        ("further", further, 0),
        ("visits", visits, 1),
    ):
        if value < least:
            raise EdgenasError(f"{name} must be at least {least}, found {value}")
    random = random_archs(space, further, seed=seed)
    # With all the time of the world, ten networks and a whole table say more than fifty do.
    lines = calibration_archs(space, networks if time_budget is None else max(networks, MOST))
    archs = [*lines, *random]
    units = units_of(space, archs, batch=target.batch, method=method, form=wanted)
    if clock is measure:
        _check_precision(space, target=target)
    older = load_table(table_path(target)) if table_path(target).exists() else None
    waiting_for_other = f"waiting for another edgenas that profiles {target}"
    with open_journal(target, waiting=lambda: say(waiting_for_other)) as journal:
        if fresh:
            journal.withdraw_all(because="measured anew")
        elif changed := journal.outdated(environment):
            say(f"starting anew: measured before on another machine ({'; '.join(changed)})")
        work = Work(
            units,
            journal=journal,
            environment=environment,
            visits=visits,
            gate=settings.gate,
            tell=tell,
            say=say,
        )

        def left() -> float:
            spent = time.monotonic() - started
            return math.inf if time_budget is None else time_budget - spent

        parts = iter([(list(units), visits)])
        if time_budget is not None:
            baseline = min(settings.baseline_seconds, time_budget / 15)
            settings = replace(settings, baseline_seconds=baseline)
            choice = Choice(
                space,
                units=units,
                work=work,
                lines=lines,
                further=random,
                batch=target.batch,
                left=left,
            )
            parts = choice.parts(fewest=min(networks, CALIBRATION), visits=visits)
        try:
            for names, often in parts:
                work.among(names, visits=often)
                while (waiting := work.waiting()) and left() > settings.baseline_seconds:
                    seconds = 0.0 if time_budget is None else left()
                    settings = replace(settings, seconds=seconds)
                    work.measure(waiting, target=target, settings=settings, clock=clock)
            if work.waiting():
                say(f"time is over; to go on, run the same command again: {work.state()}")
        except KeyboardInterrupt:
            say(f"{work.state()}; to resume, run the same command again")
            raise
        newer = work.table(space, target=target, method=method)
        table = _merged(older, newer, say=say)
        save_table(table, table_path(target))
    work.report()
    return table


def environment_of(target: Target, *, clock: Clock = measure) -> dict[str, Any]:
    """The machine that a target is timed on, and its runtime.

    Raises:
        EdgenasError: the runtime is unknown or not there.
    """
    runtime = runtimes.get(target.runtime)
    check_timed(target.runtime)
    if clock is not measure and (missing := runtimes.why_not_for_clock(target.runtime)):
        raise EdgenasError(
            f"{target.runtime} cannot be timed from here: {missing}",
            hint="or time another runtime: --runtime onnxruntime",
        )
    why_not = runtime.available() if clock is measure else None
    environment = clock.environment(target.runtime, threads=target.threads)
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
    if runtime not in board.LOADERS:
        raise EdgenasError(
            f"{runtime} cannot be timed by edgenas yet, only {', '.join(board.LOADERS)}",
            hint="time its engines with trtexec, see docs/guides/tensorrt.md",
        )


def _check(*, time_budget: float | None, settings: Settings) -> None:
    least = settings.baseline_seconds
    if time_budget is not None and time_budget <= least:
        raise EdgenasError(
            f"time_budget must be above {least:g} s, which the canary alone takes, "
            f"found {time_budget:g} s"
        )


def _check_precision(space: Space, *, target: Target) -> None:
    """Refuse what would run in another precision than the table says."""
    arch = space.smallest()
    graph = formed(
        network_graph(space, arch, batch=target.batch),
        wanted=form(target.runtime, target.precision),
        keep=space.kept_in_float,
    )
    runtimes.get(target.runtime).compile(
        graph, precision=target.precision, threads=target.threads, batch=target.batch
    )


def _merged(
    older: LatencyTable | None, newer: LatencyTable, *, say: Callable[[str], None]
) -> LatencyTable:
    """Both in one; an older table that does not compare is kept beside the new one."""
    if older is None:
        return newer
    differ = mismatches(older, newer)
    if older.method != newer.method:  # times of layers that do not add up together
        differ.append("method")
    if not differ:
        return merge(older, newer)
    path = table_path(newer.target)
    names = (path.with_name(f"{path.stem}.old{n}.json") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    save_table(older, aside)
    say(f"the table before is kept as {aside}, it differs in {'; '.join(differ)}")
    return newer
