"""Orders: a JSON object of work, and the events that the clock answers with."""

from __future__ import annotations

import base64
import functools
import json
import os
from typing import TYPE_CHECKING, Any

from edgenas.clock.board.machine import read_environment, read_state
from edgenas.clock.board.part import BoardPart, import_part
from edgenas.clock.board.processors import choose_processors
from edgenas.clock.board.runs import choose_canary, evict_caches_before
from edgenas.clock.board.settings import WORK_SCHEMA, TimingSettings
from edgenas.clock.board.statistics import Baseline
from edgenas.clock.board.steady import run_steadily
from edgenas.clock.board.timing import time_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def do_work(text: str | bytes) -> Iterator[dict[str, Any]]:
    """Do the work that a JSON object describes.

    Args:
        text: ``{"schema": "edgenas.work/1", "part": ..., "settings": {...}, "units": [{"id": ...,
            "batch": ..., "path": ...}]}``. ``part`` names a board part. Instead of ``path`` a unit
            has ``handle`` (an open file that was inherited), ``offset`` and ``bytes``, or ``data``
            (base64) when the two sides share no disk. ``evict`` says how many bytes of other memory
            are read before each run. ``baseline`` repeats a ``baseline`` event of a moment ago.

    Yields:
        ``environment``, then the events of `time_units` or, where the settings say so, of
        `run_steadily`; ``end`` with the state of the machine.
    """
    order = json.loads(text)
    if order.get("schema") != WORK_SCHEMA:
        raise SystemExit("this clock reads {}, found {}".format(WORK_SCHEMA, order.get("schema")))
    part, settings = _find_part(order["part"]), TimingSettings(**order["settings"])
    units = [
        (unit["id"], _make_loader(unit, part=part, settings=settings)) for unit in order["units"]
    ]
    environment = read_environment(
        threads=settings.threads, runtime=part.runtime, library=part.library
    )
    yield {"event": "environment", **environment}
    baseline = None
    if order.get("baseline"):
        fields: dict[str, Any] = order["baseline"]
        baseline = Baseline(seconds=tuple(fields.pop("seconds")), **fields)
    processors = choose_processors(settings.threads)
    state = functools.partial(read_state, processors[-1] if processors else 0)
    del order  # it holds the graphs again, as text
    if not units:
        return
    if settings.steady:
        events = run_steadily(units, settings=settings)
    else:
        read = choose_canary(part)
        events = time_units(units, settings=settings, baseline=baseline, read=read)
    for event in events:
        yield {**event, **state()} if event["event"] == "end" else event


def _find_part(name: str) -> BoardPart:
    try:
        return import_part(name)
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"this clock has no part {name}: {error}") from None


def _make_loader(
    unit: dict[str, Any], *, part: BoardPart, settings: TimingSettings
) -> Callable[[], Callable[[], Any]]:
    """What loads a unit and returns its run."""
    evict = unit.get("evict", 0)
    span = (unit["handle"], unit["bytes"], unit["offset"]) if "handle" in unit else None
    graph = base64.b64decode(unit["data"]) if "data" in unit else unit.get("path")

    def load() -> Callable[[], Any]:
        run = part.load(
            graph if span is None else os.pread(*span),
            threads=settings.threads,
            precision=settings.precision,
            batch=unit["batch"],
        )
        return evict_caches_before(run, size=evict) if evict else run

    return load
