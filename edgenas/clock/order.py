"""Orders to the clock: what it times, on which runtime, and how carefully."""

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import WORK_SCHEMA, TimingSettings
from edgenas.clock.board.statistics import Baseline
from edgenas.clock.events import Event
from edgenas.clock.spool import Span


class TimedRuntime(Protocol):
    """What the clock must know of a runtime. `edgenas.runtime.contract.Runtime` is one."""

    @property
    def name(self) -> str:
        """The name of the runtime."""
        ...

    @property
    def part(self) -> str:
        """The name of its board part, see `edgenas.clock.board.part`; empty: it has none."""
        ...


def require_part(runtime: TimedRuntime) -> str:
    """The name of the board part of a runtime.

    Raises:
        EdgenasError: the runtime has none, so the clock cannot load it.
    """
    if not runtime.part:
        raise EdgenasError(
            f"the clock cannot time the runtime {runtime.name}: it has no board part"
        )
    return runtime.part


def make_order(
    units: Iterable[tuple[str, bytes | Path | Span]],
    *,
    runtime: TimedRuntime,
    settings: TimingSettings,
    batch: int,
    evict: Callable[[str], int] = lambda name: 0,
    baseline: Event | None = None,
) -> str:
    """The JSON object of work that `edgenas.clock.board.work` reads.

    Args:
        units: name and ONNX file of each. A path must be readable where the clock runs. A span must
            be readable by a child of this process that inherits its handle. Bytes travel inside the
            order.
        runtime: a runtime that has a board part.
        settings: how carefully to time.
        batch: the value of the free dimensions of the inputs.
        evict: bytes of other memory to read before each run of a unit, by its name.
        baseline: a ``baseline`` event of a moment ago, which saves measuring it again.

    Raises:
        EdgenasError: the runtime has no board part.
    """
    work: list[dict[str, Any]] = []
    for name, onnx in units:
        if isinstance(onnx, Path):
            source: dict[str, Any] = {"path": str(onnx)}
        elif isinstance(onnx, Span):
            source = {"handle": onnx.handle, "offset": onnx.offset, "bytes": onnx.size}
        else:
            source = {"data": base64.b64encode(onnx).decode()}
        work.append({"id": name, "batch": batch, "evict": evict(name), **source})
    assert len({unit["id"] for unit in work}) == len(work), "each unit needs a name of its own"
    order = {"schema": WORK_SCHEMA, "part": require_part(runtime), "settings": asdict(settings)}
    if baseline is not None:
        order["baseline"] = {f.name: baseline[f.name] for f in fields(Baseline)}
    return json.dumps({**order, "units": work})
