"""THE clock: times what runs on a processor, here and on a remote board.

One self-contained file for Python >= 3.8 and nothing but the standard library (numpy and the
runtime are imported by the loader that needs them). It is used in three ways:

* in-process: `time_units` with callables;
* as a worker: ``python board.py`` reads one line of stdin, a JSON object of work
  (`edgenas.work/1`), and streams JSON lines on stdout: ``environment``, ``baseline``,
  ``progress``, ``result``, ``error`` and ``end``; it ends at once when its stdin ends;
* on a board: ``python board.py serve`` reads such objects line by line, see `serve`;
  `edgenas.remote` sends this file there.

Processors of shared machines and of warm boards run at several speeds and change between them
within a second. So mini-batches of runs stand between two canaries, a fixed piece of work on the
same core; a batch counts only when both canaries ran at the processor's full speed (their
baseline). What was measured without that gate is kept too: it is what a user lives with.

Everything is bounded: a machine that never reaches its baseline again ends in a flagged result.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import errno
import functools
import gc
import importlib
import io
import json
import math
import os
import platform
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

SCHEMA = "edgenas.work/1"

# What `edgenas/__init__.py` says of ONNX Runtime's telemetry: on a board this file runs alone.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_STORED_SAMPLES = 2000
_FASTER_READINGS = 20
# Full speed: the fastest readings within 15% of each other that are a tenth of all, or more.
_SPEED_BAND, _OFTEN = 1.15, 0.1
_BLOCK = bytes(range(256)) * 64
_BEAT = 5.0  # seconds between two signs of life
_RARE = 0.1  # batches kept; with a smaller part of them the baseline is doubted


@dataclass(frozen=True)
class Settings:
    """How carefully to time. Times are seconds, tolerances are ratios.

    Attributes:
        threads: threads of the runtime; the process is pinned to as many processors.
        precision: what the runtime is to compute in; most take it from the graph.
        seed: of the random order of units.
        gate: a canary passes up to this multiple of the baseline.
        baseline_seconds: how long the canary runs before the first unit.
        batch_runs: runs between two canaries, at most ...
        batch_seconds: ... and at most this long, so that the canaries stay close to the runs.
        tolerance: a unit is finished when the half width of the interval of its median is below
            this part of the median.
        confidence: of that interval.
        min_samples: gated runs that a finished unit has at least.
        max_samples: gated runs after which a unit is finished with a wide interval.
        visit_seconds: how long one unit is tried before the next gets its turn.
        visit_runs: a visit is never shorter than this many runs of a slow unit.
        rounds: visits that a unit gets at most.
        min_seconds: how long a unit is observed at least; a distribution that users live with
            needs seconds, the gated median does not.
        stale_seconds: where hardly a batch is kept for so long, the baseline is taken anew.
        seconds: end of everything; 0 is no end. Units not visited by then have no result.
    """

    threads: int = 1
    precision: str = "fp32"
    seed: int = 0
    gate: float = 1.08
    baseline_seconds: float = 6.0
    batch_runs: int = 5
    batch_seconds: float = 0.01
    tolerance: float = 0.01
    confidence: float = 0.95
    min_samples: int = 25
    max_samples: int = 200
    visit_seconds: float = 0.8
    visit_runs: int = 12
    rounds: int = 5
    min_seconds: float = 0.0
    stale_seconds: float = 20.0
    seconds: float = 0.0


# --- numbers -------------------------------------------------------------------------------------


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation between order statistics, as numpy's default."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


@functools.lru_cache(maxsize=None)
def median_rank(n: int, confidence: float) -> int | None:
    """The largest k such that the k-th smallest and k-th largest of n enclose the median.

    Distribution-free: the number of samples below the median is Binomial(n, 1/2), so the interval
    of the order statistics k and n-1-k (from zero) misses it with probability 2 P(B <= k).

    Returns:
        k, or None where n is too small for any interval of that confidence.
    """
    missed, rank = 0.0, None
    for k in range((n + 1) // 2):
        missed += 2 * math.comb(n, k) / 2**n
        if missed > 1 - confidence:
            break
        rank = k
    return rank


def half_width(samples: Sequence[float], *, confidence: float) -> float:
    """Half the width of the median's interval as a part of the median; infinite if n is small."""
    rank = median_rank(len(samples), confidence)
    if rank is None:
        return math.inf
    ordered = sorted(samples)
    return (ordered[-1 - rank] - ordered[rank]) / 2 / quantile(ordered, 0.5)


@dataclass(frozen=True)
class Baseline:
    """The canary at full speed.

    Attributes:
        seconds: its typical time on each processor used, see `full_speed`.
        p50_ratio: its median over everything as a multiple of that, on the worst processor.
        p95_ratio: the same for the 95th percentile.
        quiet: part of the readings that would pass the gate on all processors.
    """

    seconds: tuple[float, ...]
    p50_ratio: float
    p95_ratio: float
    quiet: float


def full_speed(readings: Sequence[float]) -> float:
    """The typical reading of a processor at full speed.

    A shared machine has several speeds, a factor of 1.1 to 1.8 apart, while a canary at one of
    them varies by a tenth. So: the median of the fastest readings that lie close together and are
    no rarity. The very fastest may be a blip of turbo that does not last; a baseline of blips
    would let nothing pass.
    """
    ordered = sorted(readings)
    enough = max(1, int(_OFTEN * len(ordered)))
    for start, fastest in enumerate(ordered):
        end = bisect.bisect_right(ordered, _SPEED_BAND * fastest)
        if end - start >= enough:
            return quantile(ordered[start:end], 0.5)
    return quantile(ordered, 0.5)


def baseline_of(readings: Sequence[Sequence[float]], *, gate: float) -> Baseline:
    """The baseline from readings of shape (readings, processors)."""
    columns = [[row[i] for row in readings] for i in range(len(readings[0]))]
    seconds = tuple(full_speed(column) for column in columns)
    passing = sum(worst_ratio(row, seconds) <= gate for row in readings)
    return Baseline(
        seconds=seconds,
        p50_ratio=max(quantile(c, 0.5) / seconds[i] for i, c in enumerate(columns)),
        p95_ratio=max(quantile(c, 0.95) / seconds[i] for i, c in enumerate(columns)),
        quiet=passing / len(readings),
    )


def worst_ratio(reading: Sequence[float], baseline: Sequence[float]) -> float:
    """How many times slower than its baseline the slowest processor is."""
    return max(value / baseline[i] for i, value in enumerate(reading))


class _Samples:
    """Nanoseconds of runs, thinned evenly over the time observed once they are many."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._n, self._stride = 0, 1

    def extend(self, batch: Sequence[int]) -> None:
        for value in batch:
            if self._n % self._stride == 0:
                self.values.append(value)
            self._n += 1
        if len(self.values) > _STORED_SAMPLES:
            self.values = self.values[::2]
            self._stride *= 2


@dataclass
class _Record:
    """What is known of one unit so far."""

    name: str
    load: Callable[[], Callable[[], Any]]
    kept: _Samples = field(default_factory=_Samples)
    wall: _Samples = field(default_factory=_Samples)
    spent: float = 0.0
    visits: int = 0

    def done(self, settings: Settings, *, spent: float) -> bool:
        n = len(self.kept.values)
        if n < settings.min_samples or self.spent + spent < settings.min_seconds:
            return False
        if n >= settings.max_samples:
            return True
        return half_width(self.kept.values, confidence=settings.confidence) <= settings.tolerance


def summary(kept: Sequence[int], wall: Sequence[int], *, settings: Settings) -> dict[str, Any]:
    """The statistics of one unit from its nanoseconds, in seconds.

    ``flag`` is empty for a sound result, ``wide`` when the interval of the median stayed above the
    tolerance, ``few`` when too few gated runs were to be had, and ``noisy`` when there were hardly
    any: then the median is the 5th percentile of all runs, and p10 and p90 are of all runs too.
    """
    assert wall
    n, width = len(kept), half_width(kept, confidence=settings.confidence)
    flag = ""
    if math.isinf(width):
        flag = "noisy"
    elif n < settings.min_samples:
        flag = "few"
    elif width > settings.tolerance:
        flag = "wide"
    source = wall if flag == "noisy" else kept
    return {
        "median": quantile(source, 0.05 if flag == "noisy" else 0.5) * 1e-9,
        "p10": quantile(source, 0.1) * 1e-9,
        "p90": quantile(source, 0.9) * 1e-9,
        "n": n,
        "half_width": None if math.isinf(width) else width,
        "wall_p50": quantile(wall, 0.5) * 1e-9,
        "wall_p95": quantile(wall, 0.95) * 1e-9,
        "wall_n": len(wall),
        "flag": flag,
    }


# --- the canary ----------------------------------------------------------------------------------


def spin() -> float:
    """Seconds that a fixed piece of arithmetic takes on the processor this thread runs on.

    A checksum of 16 KiB, which the first cache of every processor holds, and compiled code: a
    loop of Python takes up to 20% longer or shorter from one state of the interpreter to the
    next. The shortest of three: one alone varies by as much as the gate lets through.
    """
    best = 1 << 62
    for _ in range(3):
        start = time.perf_counter_ns()
        for _ in range(4):
            zlib.crc32(_BLOCK)
        best = min(best, time.perf_counter_ns() - start)
    return best * 1e-9


def spin_on(processors: tuple[int, ...]) -> tuple[float, ...]:
    """The canary on each processor in turn. Without processors: wherever this thread runs."""
    if len(processors) < 2:
        return (spin(),)
    seconds: list[float] = []
    for processor in processors:
        os.sched_setaffinity(0, {processor})  # of this thread only
        seconds.append(spin())
    os.sched_setaffinity(0, processors)
    return tuple(seconds)


def choose_processors(threads: int, *, folder: str = "/sys/devices/system/cpu") -> tuple[int, ...]:
    """The processors to time on: the biggest cores, one per physical core, last numbers first.

    Processor 0 comes last because it serves most interrupts. Empty where pinning is impossible.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))

    def rank(processor: int) -> tuple[bool, float, int]:
        own = f"{folder}/cpu{processor}/"
        size = _number(own + "cpu_capacity") or _number(own + "cpufreq/cpuinfo_max_freq") or 0.0
        siblings = _text(own + "topology/thread_siblings_list") or str(processor)
        first = int(siblings.replace("-", ",").split(",")[0])
        return (first != processor and first in allowed, -size, -processor)

    chosen = sorted(allowed, key=rank)[:threads]
    return tuple(sorted(chosen)) if len(chosen) == threads else ()


@contextlib.contextmanager
def pinned(processors: tuple[int, ...]) -> Generator[None, None, None]:
    """Pin this thread, and those it starts, to processors; undone afterwards. () pins nothing."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- timing --------------------------------------------------------------------------------------


class UnitError(Exception):
    """A unit that the runtime will not load or run."""


class _Gate:
    """The canary and its baseline, which is taken anew when it has become stale."""

    def __init__(
        self,
        read: Callable[[], Sequence[float]],
        *,
        settings: Settings,
        now: Callable[[], int],
        baseline: Baseline | None,
    ) -> None:
        self._read, self._settings, self._now = read, settings, now
        self._faster = self._kept = self._tried = self.readings = self.passes = 0
        self.baseline = baseline or self._take()
        self._since = now()

    def _take(self) -> Baseline:
        readings: list[Sequence[float]] = []
        end = self._now() + self._settings.baseline_seconds * 1e9
        while len(readings) < 10 or self._now() < end:
            readings.append(self._read())
        return baseline_of(readings, gate=self._settings.gate)

    def event(self) -> dict[str, Any]:
        """The baseline as an event."""
        return {"event": "baseline", **asdict(self.baseline)}

    def open(self) -> bool:
        """One canary: does the processor run at full speed?"""
        gate = self._settings.gate
        ratio = worst_ratio(self._read(), self.baseline.seconds)
        # Much faster than full speed is another speed too. A little faster is the canary's noise.
        faster, slower = ratio < 1 / gate**2, ratio > gate
        self._faster = self._faster + 1 if faster else 0
        self.readings += 1
        self.passes += not (faster or slower)
        return not (faster or slower)

    def tried(self, *, kept: bool) -> None:
        """Called after each batch, whether it was kept."""
        if self._over() and not self._rare():
            self._since, self._kept, self._tried = self._now(), 0, 0
        self._kept += kept
        self._tried += 1

    def _over(self) -> bool:
        return (self._now() - self._since) * 1e-9 > self._settings.stale_seconds

    def _rare(self) -> bool:
        return self._kept < _RARE * self._tried

    def stale(self) -> bool:
        """Whether hardly anything passes any more, or the processor has got faster for good."""
        return (self._over() and self._rare()) or self._faster >= _FASTER_READINGS

    def renew(self) -> bool:
        """Take the baseline anew.

        Returns:
            Whether it moved, so that gated samples of old must not mix with new ones.
        """
        old, new = self.baseline, self._take()
        self._since, self._kept, self._tried, self._faster = self._now(), 0, 0, 0
        moved = max(worst_ratio(new.seconds, old.seconds), worst_ratio(old.seconds, new.seconds))
        if moved <= self._settings.gate:
            return False
        self.baseline = new
        return True


def _visit(
    record: _Record,
    *,
    settings: Settings,
    gate: _Gate,
    now: Callable[[], int],
    deadline: float,
) -> None:
    """Time one unit until it is done or its turn ends; at least one batch."""
    run = record.load()
    start = now()
    quickest = math.inf
    # Two warm-up runs at least, five if they are short: first runs allocate and pack weights.
    for i in range(5):
        if i >= 2 and now() - start > 5e7:
            break
        before = now()
        run()
        quickest = min(quickest, max(now() - before, 1))
    size = int(min(max(settings.batch_seconds * 1e9 / quickest, 1), settings.batch_runs))
    turn = max(settings.visit_seconds, settings.min_seconds / settings.rounds) * 1e9
    end = min(start + max(turn, settings.visit_runs * quickest), deadline)
    was_open = gate.open()
    while True:
        batch: list[int] = []
        for _ in range(size):
            batch.append(_nanoseconds(run, now=now))
        is_open = gate.open()
        # Runs behind a closed gate count for the distribution that users live with; running only
        # while it is open would make that one look better than it is.
        record.wall.extend(batch)
        if was_open and is_open:
            record.kept.extend(batch)
        gate.tried(kept=was_open and is_open)
        was_open = is_open
        spent = (now() - start) * 1e-9
        if now() >= end or gate.stale() or record.done(settings, spent=spent):
            break
    record.spent += spent
    record.visits += 1


def time_units(
    units: Sequence[tuple[str, Callable[[], Callable[[], Any]]]],
    *,
    settings: Settings,
    read: Callable[[tuple[int, ...]], Sequence[float]] = spin_on,
    now: Callable[[], int] = time.perf_counter_ns,
    baseline: Baseline | None = None,
) -> Iterator[dict[str, Any]]:
    """Time units in random order, round after round, and tell each result as soon as it is known.

    Args:
        units: name and loader of each; the loader returns the callable to time, and is called
            once a visit so that only one unit is in memory. A run that gives a whole number tells
            its own nanoseconds, by the clock of a GPU for example.
        settings: see `Settings`.
        read: the canary: seconds on each of the processors.
        now: a monotonic clock in nanoseconds.
        baseline: of the canary, where it was taken a moment ago; None: it is taken first.

    Yields:
        Events: ``baseline`` (first, and whenever it moved), ``progress`` (about once a second),
        ``result`` or ``error`` once for each unit, ``end``. All times in seconds, samples in ns.
    """
    processors = choose_processors(settings.threads)
    started = now()
    deadline = started + settings.seconds * 1e9 if settings.seconds else math.inf
    with pinned(processors), _without_gc():
        gate = _Gate(lambda: read(processors), settings=settings, now=now, baseline=baseline)
    yield gate.event()
    waiting = [_Record(name=name, load=load) for name, load in units]
    told, finished = now(), 0
    for number in range(settings.rounds):
        random.Random(f"{settings.seed}/{number}").shuffle(waiting)
        unfinished: list[_Record] = []
        for record in waiting:
            if now() >= deadline:
                unfinished.append(record)
                continue
            moved, baseline = False, gate.baseline
            try:
                with pinned(processors), _without_gc():
                    _visit(record, settings=settings, gate=gate, now=now, deadline=deadline)
                    moved = gate.stale() and gate.renew()
            except UnitError as error:
                finished += 1
                yield {"event": "error", "id": record.name, "message": str(error)}
                continue
            # A unit that is done leaves before a moved baseline makes its samples incomparable.
            if record.done(settings, spent=0.0):
                finished += 1
                yield _result(record, settings=settings, baseline=baseline)
            else:
                unfinished.append(record)
            if moved:
                yield gate.event()
                for other in waiting:
                    other.kept = _Samples()
            if now() - told > 1e9:
                told = now()
                yield {
                    "event": "progress",
                    "round": number,
                    "finished": finished,
                    "total": len(units),
                }
        waiting = unfinished
    for record in waiting:
        if record.visits:
            yield _result(record, settings=settings, baseline=gate.baseline)
    yield {
        "event": "end",
        "unvisited": [record.name for record in waiting if not record.visits],
        "seconds": (now() - started) * 1e-9,
        "readings": gate.readings,
        "passes": gate.passes,
    }


def _result(record: _Record, *, settings: Settings, baseline: Baseline) -> dict[str, Any]:
    kept, wall = record.kept.values, record.wall.values
    return {
        "event": "result",
        "id": record.name,
        **summary(kept, wall, settings=settings),
        "canary": sum(baseline.seconds) / len(baseline.seconds),
        "visits": record.visits,
        "samples": kept,
        "wall_samples": wall,
    }


@contextlib.contextmanager
def _without_gc() -> Generator[None, None, None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --- runtimes ------------------------------------------------------------------------------------


CPU = "CPUExecutionProvider"
# An option of ONNX Runtime's sessions. Processors of the x86 family without VNNI add products of
# 8-bit integers in 16 bits, and cut off what does not fit: seen to double the error of int8
# networks. With this option they add in 32 bits, which is slower and exact. Others take no notice.
EXACT_INT8 = ("session.x64quantprecision", "1")
# What a runtime is called, and what ONNX Runtime calls it.
PROVIDERS = {
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}


def onnxruntime() -> Any:
    """ONNX Runtime with its telemetry switched off."""
    ort: Any = importlib.import_module("onnxruntime")
    ort.disable_telemetry_events()
    return ort


def provider_options(provider: str, *, precision: str) -> dict[str, str]:
    """How a provider is asked for a precision.

    fp32 is fp32: by default, the multiplications of new GPUs would have ten bits (TF32). For
    TensorRT there is only a variable for that, which is read when the libraries are loaded.

    Args:
        provider: a name of ONNX Runtime.
        precision: of the graph.
    """
    if provider == "CUDAExecutionProvider":
        return {"device_id": "0", "use_tf32": "0"}
    if provider == "TensorrtExecutionProvider":
        return {
            "device_id": "0",
            # Graphs come in their precision; TensorRT before 11 must be allowed it, too.
            "trt_fp16_enable": str(precision == "fp16"),
            "trt_int8_enable": str(precision == "int8"),
            "trt_max_workspace_size": str(1 << 30),
        }
    return {}


def onnxruntime_session(
    source: bytes | str,
    *,
    threads: int,
    batch: int,
    optimized: str = "",
    profile: str = "",
    provider: str = CPU,
    precision: str = "fp32",
) -> Any:
    """A session of ONNX Runtime, with the options that edgenas times and ships with.

    Integers are multiplied exactly on every processor, see ``EXACT_INT8``.

    Sequential execution; all graph optimisations, among them the blocked layout that is worth a
    factor of three; threads spin during a run, as is the default, but not beyond its end, where
    they would burn the processors that the canary looks at.

    Args:
        source: the ONNX file's bytes or path.
        threads: of one operator; operators never run side by side.
        batch: what free dimensions of inputs become.
        optimized: where to write the graph that really runs; empty: nowhere.
        profile: how the file begins that the time of each operator goes to; empty: none.
        provider: what all operators run on; what would run elsewhere is refused.
        precision: of the graph, where the provider must be told.

    Raises:
        UnitError: the runtime refuses the graph, in the runtime's words.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = optimized
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*EXACT_INT8)
    if provider != CPU:
        if provider not in ort.get_available_providers():
            raise UnitError(f"this onnxruntime was built without {provider}")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN where they were installed as wheels

    def made() -> Any:
        asked = [(provider, provider_options(provider, precision=precision))]
        session = ort.InferenceSession(source, options, providers=asked)
        if session.get_providers()[0] != provider:
            raise UnitError(f"it would run on {session.get_providers()[0]}, not on {provider}")
        session.disable_fallback()
        return session

    with _onnxruntime_refusals():
        session = made()
        sizes = {size for value in session.get_inputs() for size in value.shape}
        if None in sizes:
            raise UnitError("an input has a free dimension without a name")
        free = sorted(size for size in sizes if isinstance(size, str))
        if not free:
            return session
        for name in free:
            options.add_free_dimension_override_by_name(name, batch)
        return made()


@contextlib.contextmanager
def _onnxruntime_refusals() -> Generator[None, None, None]:
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    refusals = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    refusals += (state.InvalidArgument, state.NoSuchFile, state.RuntimeException, state.EPFail)
    try:
        yield
    except refusals as error:
        raise UnitError(" ".join(str(error).split())) from error


NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def made_up(wanted: Sequence[tuple[str, Sequence[int], str]]) -> dict[str, Any]:
    """Fixed random inputs, by name.

    Normal numbers; integers are 0 or 1, which is legal as pixels, as indices and as switches.

    Args:
        wanted: name, shape and numpy type of each.
    """
    numpy: Any = importlib.import_module("numpy")
    generator = numpy.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for name, shape, kind in wanted:
        values = generator.standard_normal(tuple(shape))
        whole = "int" in kind or kind == "bool"
        inputs[name] = (values > 0 if whole else values).astype(kind)
    return inputs


def load_onnxruntime(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of an ONNX graph on the CPU, with fixed random inputs, called as users call it.

    Bound inputs and outputs save some microseconds a run, which is several percent of a small
    network: a budget held to them would be missed by all who call the model plainly.

    Args:
        source: the ONNX file's bytes or path.
        threads: of one operator.
        batch: what free dimensions become.
        precision: is that of the graph here.
    """
    session = onnxruntime_session(source, threads=threads, batch=batch)
    inputs = _inputs_of(session)
    names = [value.name for value in session.get_outputs()]
    with _onnxruntime_refusals():
        session.run(names, inputs)
    return lambda: session.run(names, inputs)


def _inputs_of(session: Any) -> dict[str, Any]:
    wanted: list[tuple[str, Sequence[int], str]] = []
    for value in session.get_inputs():
        if value.type not in NUMPY_TYPES:
            raise UnitError(f"input {value.name} has the type {value.type}")
        wanted.append((value.name, value.shape, NUMPY_TYPES[value.type]))
    return made_up(wanted)


def bound(session: Any, *, device: str) -> Callable[[], Any]:
    """One run of a session whose inputs and outputs stay on a device, to its end.

    Args:
        session: of ONNX Runtime, with made-up inputs.
        device: ``cuda`` or ``cpu``, in the words of ONNX Runtime.
    """
    values = onnxruntime().OrtValue
    binding, inputs = session.io_binding(), _inputs_of(session)
    # The binding keeps no inputs alive.
    held = {name: values.ortvalue_from_numpy(array, device, 0) for name, array in inputs.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for value in session.get_outputs():
        binding.bind_output(value.name, device)

    def run(_held: Any = held) -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    with _onnxruntime_refusals():
        run()
    return run


def _on_gpu(runtime: str) -> Callable[..., Callable[[], Any]]:
    def load(
        source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
    ) -> Callable[[], Any]:
        """One run of an ONNX graph on the GPU, from GPU memory to GPU memory."""
        session = onnxruntime_session(
            source,
            threads=threads,
            batch=batch,
            provider=PROVIDERS[runtime],
            precision=precision,
        )
        return bound(session, device="cuda")

    return load


# An int8 graph says itself what is int8; the hint is for the rest of it.
OPENVINO_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}


def openvino_model(
    source: bytes | str, *, threads: int, batch: int, precision: str, profile: bool = False
) -> Any:
    """A graph compiled by OpenVINO for the CPU, in a precision that is always set.

    Its own default is the fastest the processor has, bf16 on new ones.

    Args:
        source: the ONNX file's bytes or path.
        threads: of one operator.
        batch: what free dimensions of inputs become.
        precision: a key of `OPENVINO_HINTS`.
        profile: whether it is to time each operator, which slows it down.

    Raises:
        UnitError: the runtime refuses the graph, in the runtime's words.
    """
    openvino: Any = importlib.import_module("openvino")
    if isinstance(source, str):
        with open(source, "rb") as stream:
            source = stream.read()
    options = {
        "INFERENCE_PRECISION_HINT": OPENVINO_HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the clock pins
        "PERF_COUNT": profile,
    }
    core = openvino.Core()
    try:
        model = core.read_model(source)
        if model.is_dynamic():
            free = {
                port: [batch if size.is_dynamic else size for size in port.partial_shape]
                for port in model.inputs
            }
            model.reshape(free)
        return core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        # "Exception from FILE:LINE:" comes once for each level of calls; the cause comes last.
        lines = [line.strip() for line in str(error).splitlines()]
        said = [line for line in lines if line and not line.startswith("Exception from")]
        raise UnitError(" ".join(said) or "OpenVINO does not say why") from error


def load_openvino(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of an ONNX graph on OpenVINO's CPU plugin; see `load_onnxruntime`."""
    openvino: Any = importlib.import_module("openvino")
    model = openvino_model(source, threads=threads, batch=batch, precision=precision)
    inputs = made_up([(p.any_name, p.shape, str(p.element_type.to_dtype())) for p in model.inputs])
    request = model.create_infer_request()
    for name, array in inputs.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    return lambda _=inputs: request.infer(share_outputs=True)


NCNN_SCHEMA = "edgenas.ncnn/1"
# All that a precision needs is switched on, everything else off: the default is fp16 where it can.
NCNN_OPTIONS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"),
    "bf16": ("use_bf16_packed", "use_bf16_storage"),
}
_NCNN_WITH_MACS = ("Convolution", "ConvolutionDepthWise", "InnerProduct", "Gemm")


@dataclass(frozen=True)
class NcnnNet:
    """A network that ncnn has loaded.

    Attributes:
        net: of the library.
        inputs: name in the ONNX graph, blob and shape of one image, of each.
        outputs: likewise.
    """

    net: Any
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]


def ncnn_net(source: bytes | str, *, threads: int, precision: str, light: bool = True) -> NcnnNet:
    """A network loaded by ncnn for the processor, in a precision that is always set.

    Args:
        source: what `edgenas.runtime.ncnn_cpu` makes of an ONNX graph, as bytes or a path: a line
            of JSON (inputs, outputs, length of the text), ncnn's ``.param`` text, its ``.bin``.
        threads: of one operator.
        precision: a key of `NCNN_OPTIONS`.
        light: whether values within the network are given up as soon as they are used.

    Raises:
        UnitError: ncnn lacks an operator, or this is not such a file.
    """
    ncnn: Any = importlib.import_module("ncnn")
    if isinstance(source, str):
        with open(source, "rb") as stream:
            source = stream.read()
    head, _, rest = source.partition(b"\n")
    try:
        given = json.loads(head)
        if given["schema"] != NCNN_SCHEMA:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UnitError("this is no network that was converted for ncnn") from None
    text = rest[: given["text"]].decode()
    kinds = [line.split()[0] for line in text.splitlines()[2:]]
    if lacking := sorted({kind for kind in kinds if ncnn.layer_to_index(kind) < 0}):
        raise UnitError("ncnn has no operator " + ", ".join(lacking))
    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode = threads, light
    for name in {name for names in NCNN_OPTIONS.values() for name in names}:
        if hasattr(net.opt, name):  # older versions lack some
            setattr(net.opt, name, name in NCNN_OPTIONS[precision])
    with memory_file(rest[given["text"] :]) as path:
        if net.load_param_mem(text) or net.load_model(path):
            raise UnitError("ncnn cannot load the network")
    values = [
        tuple((name, blob, tuple(shape)) for name, blob, shape in given[which])
        for which in ("inputs", "outputs")
    ]
    return NcnnNet(net, values[0], values[1])


@contextlib.contextmanager
def memory_file(data: bytes = b"") -> Generator[str, None, None]:
    """The path of a file that is on no disk, where that can be, and goes with this process.

    Args:
        data: what the file holds.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as stream:
            stream.write(data)
            stream.flush()
            yield stream.name
        return
    handle = os.memfd_create("edgenas")
    with open(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        yield f"/proc/self/fd/{handle}"


def ncnn_precision(net: Any) -> str:
    """What most convs and matrix products of a loaded network are stored and computed in.

    A layer that lacks a precision on this processor falls back to fp32 and does not say so.
    """
    used: dict[str, int] = {"fp32": 0}
    for layer in net.layers():
        if layer.type in _NCNN_WITH_MACS:
            kind = ncnn_layer_precision(net, layer)
            used[kind] = used.get(kind, 0) + 1
    return max(used, key=lambda kind: used[kind])


def ncnn_layer_precision(net: Any, layer: Any) -> str:
    """What one layer is stored and computed in."""
    if net.opt.use_fp16_storage and layer.support_fp16_storage:
        return "fp16"
    return "bf16" if net.opt.use_bf16_storage and layer.support_bf16_storage else "fp32"


def ncnn_run(loaded: NcnnNet, mats: Sequence[Any]) -> list[Any]:
    """The outputs of one image, in the order of the graph.

    Args:
        loaded: of `ncnn_net`.
        mats: one for each input.
    """
    extractor = loaded.net.create_extractor()
    for (_, blob, _), mat in zip(loaded.inputs, mats):
        extractor.input(blob, mat)
    return [extractor.extract(blob)[1] for _, blob, _ in loaded.outputs]


def load_ncnn(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], Any]:
    """One run of a network on ncnn: image after image, as ncnn knows no batches.

    Args:
        source: see `ncnn_net`.
        threads: of one operator.
        batch: images a run.
        precision: a key of `NCNN_OPTIONS`; where this processor lacks it, the unit is refused.
    """
    # Threads wait for work by spinning, for milliseconds, on processors that the canary looks at
    # between runs. So many rounds are still longer than any pause between two operators.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    ncnn: Any = importlib.import_module("ncnn")
    loaded = ncnn_net(source, threads=threads, precision=precision)
    used = ncnn_precision(loaded.net)
    if used != precision:
        raise UnitError(f"it would run in {used}, not in {precision}")
    inputs = made_up([(name, (batch, *shape), "float32") for name, _, shape in loaded.inputs])
    images = [
        [ncnn.Mat(inputs[name][i]).clone() for name, _, _ in loaded.inputs] for i in range(batch)
    ]

    def run() -> None:
        for mats in images:
            ncnn_run(loaded, mats)

    return run


TORCH_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TORCH_HEAD = "edgenas.json"  # beside the program: names and shapes of its inputs


def torch_program(
    source: bytes | str, *, device: str, precision: str
) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """A program of PyTorch on a device, channels last, in a precision; names, shapes of its inputs.

    fp32 is fp32: by default, the convs of new GPUs would have ten bits (TF32).

    Args:
        source: what `edgenas.runtime.torch_cuda` makes of an ONNX graph, as bytes or a path.
        device: ``cuda`` or ``cpu``.
        precision: a key of `TORCH_TYPES`.

    Raises:
        UnitError: this is no such program, or one of a PyTorch that this one cannot read.
    """
    torch: Any = importlib.import_module("torch")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def stream() -> Any:
        return io.BytesIO(source) if isinstance(source, bytes) else source

    held = {TORCH_HEAD: ""}
    if not zipfile.is_zipfile(stream()):
        raise UnitError("this is no program that PyTorch can read")
    try:
        program = torch.export.load(stream(), extra_files=held)
        head = json.loads(held[TORCH_HEAD])
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        said = " ".join(str(error).split())[:200]
        raise UnitError(f"this is no program that PyTorch can read: {said}") from None
    module = program.module()
    module.to(device=device, dtype=getattr(torch, TORCH_TYPES[precision]))
    module.to(memory_format=torch.channels_last)
    return module, [(name, tuple(shape)) for name, shape in head["inputs"]]


def torch_tensor(value: Any, *, device: str, precision: str) -> Any:
    """An array as an input of such a program."""
    torch: Any = importlib.import_module("torch")
    made = torch.from_numpy(value).to(device=device, dtype=getattr(torch, TORCH_TYPES[precision]))
    return made.to(memory_format=torch.channels_last) if made.dim() == 4 else made


def load_torch_cuda(
    source: bytes | str, *, threads: int, batch: int, precision: str = "fp32"
) -> Callable[[], int]:
    """One run of a program of PyTorch on the GPU: a captured graph, by the GPU's own clock.

    Args:
        source: see `torch_program`.
        threads: of the processor, which only starts the graph.
        batch: images a run; is that of the program here.
        precision: a key of `TORCH_TYPES`.

    Returns:
        A run that tells its nanoseconds.
    """
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise UnitError("torch finds no NVIDIA GPU here")
    torch.backends.cudnn.benchmark = True  # shapes never change: the fastest kernels are looked for
    module, wanted = torch_program(source, device="cuda", precision=precision)
    made = made_up([(name, shape, "float32") for name, shape in wanted])
    inputs = [torch_tensor(value, device="cuda", precision=precision) for value in made.values()]
    return _captured(torch, lambda: module(*inputs))


def _captured(torch: Any, work: Callable[[], Any]) -> Callable[[], int]:
    """Some work on the GPU as one graph, timed with events around it."""
    with torch.inference_mode():
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            for _ in range(3):  # what is chosen or allocated once must not be captured
                work()
        aside.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(_kept: Any = kept) -> int:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return round(start.elapsed_time(end) * 1e6)

    return run


def _torch_product() -> Callable[[], int]:
    torch: Any = importlib.import_module("torch")
    x = torch.ones(1024, 1024, device="cuda")
    return _captured(torch, lambda: x @ x)


LOADERS: dict[str, Callable[..., Callable[[], Any]]] = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "ncnn": load_ncnn,
    **{name: _on_gpu(name) for name in PROVIDERS},
    "torch-cuda": load_torch_cuda,
}
_MODULES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    **dict.fromkeys(PROVIDERS, "onnxruntime"),
    "torch-cuda": "torch",
}
# Timed from GPU memory to GPU memory; data that is copied in and out is not in the numbers.
ON_GPU = frozenset([*PROVIDERS, "torch-cuda"])


# --- the canary of a GPU -------------------------------------------------------------------------

# y = x x, of 1024 x 1024 numbers: the graph as bytes, since boards have no onnx to make it with.
PRODUCT = base64.b64decode(
    "CAo6SgoRCgF4CgF4EgF5IgZNYXRNdWwSB3Byb2R1Y3RaFQoBeBIQCg4IARIKCgMIgAgKAwiACGIVCgF5"
    "EhAKDggBEgoKAwiACAoDCIAIQgQKABAU"
)


def canary_of(runtime: str) -> Callable[[tuple[int, ...]], Sequence[float]]:
    """The canary that tells how fast a runtime's processor is: `spin_on`, or a product on the GPU.

    Args:
        runtime: a key of `LOADERS`.

    Raises:
        UnitError: the runtime cannot be used here.
    """
    if runtime not in ON_GPU:
        return spin_on
    if runtime == "torch-cuda":
        run = _torch_product()
    else:
        run = LOADERS[runtime](PRODUCT, threads=1, batch=1)
    return lambda _: (min(_timed(run) for _ in range(3)),)


def _timed(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    return 1e-9 * _nanoseconds(run)


def _nanoseconds(run: Callable[[], Any], *, now: Callable[[], int] = time.perf_counter_ns) -> int:
    """Of one run: its own, where it tells them, or else those of a clock."""
    before = now()
    told = run()
    return told if isinstance(told, int) else now() - before


# --- the machine ---------------------------------------------------------------------------------


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().replace("\0", " ").strip() or None
    except OSError:
        return None


def _number(path: str) -> float | None:
    text = _text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _answer(*command: str) -> str | None:
    environment = dict(os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip() or None


def _after(text: str | None, label: str) -> str | None:
    """The values behind ``label:`` in lines of text, each once, joined by " + "."""
    found = [
        line.split(":", 1)[1].strip()
        for line in (text or "").splitlines()
        if line.split(":", 1)[0].strip() == label and ":" in line
    ]
    return " + ".join(dict.fromkeys(value for value in found if value)) or None


def _frequency_folder(processor: int) -> str:
    return f"/sys/devices/system/cpu/cpu{processor}/cpufreq/"


def machine_state(processor: int = 0) -> dict[str, Any]:
    """What changes while a machine works: temperature (Celsius), frequencies (Hz), load.

    Args:
        processor: whose frequency.
    """
    zones = "/sys/class/thermal"
    names = sorted(os.listdir(zones)) if os.path.isdir(zones) else []
    heat = [_number(f"{zones}/{name}/temp") for name in names if name[:7] == "thermal"]
    # Absent sensors of some boards answer with absurd numbers, e.g. -256000 for a GPU asleep.
    sane = [value / 1000 for value in heat if value is not None and 0 < value < 150_000]
    kilohertz = _number(_frequency_folder(processor) + "scaling_cur_freq")
    engines = "/sys/class/devfreq"
    gpus = sorted(n for n in os.listdir(engines) if "gpu" in n) if os.path.isdir(engines) else []
    return {
        "temperature": max(sane) if sane else None,
        "frequency": None if kilohertz is None else kilohertz * 1e3,
        "gpu_frequency": _number(f"{engines}/{gpus[0]}/cur_freq") if gpus else None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "throttled": _answer("vcgencmd", "get_throttled"),
    }


def environment(runtime: str, *, threads: int) -> dict[str, Any]:
    """What the numbers depend on; None where this machine does not tell.

    Where the runtime cannot be imported, its version is None and ``runtime_missing`` says why.

    Args:
        runtime: a key of `LOADERS`.
        threads: that will be used, for the processors chosen.
    """
    cpuinfo = _text("/proc/cpuinfo")
    cpu = _after(cpuinfo, "model name") or _after(_answer("lscpu"), "Model name")
    processors = choose_processors(threads)
    # The biggest core that is used: the first core of many boards is a small one.
    frequency = _frequency_folder(processors[-1] if processors else 0)
    kilohertz = _number(frequency + "cpuinfo_max_freq")
    gpu = _answer("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    release = (_text("/etc/os-release") or "").replace("=", ":").replace('"', "")
    version, missing = None, {}
    try:
        version = getattr(importlib.import_module(_MODULES[runtime]), "__version__", None)
    except ImportError as error:
        missing = {"runtime_missing": str(error)}
    return {
        "machine": platform.machine(),
        "board": _text("/proc/device-tree/model") or _text("/sys/class/dmi/id/product_name"),
        "cpu": cpu or platform.processor() or None,
        "cores": os.cpu_count(),
        "processors": list(processors),
        "virtual": None if cpuinfo is None else " hypervisor" in cpuinfo,
        "governor": _text(frequency + "scaling_governor"),
        "max_frequency": None if kilohertz is None else kilohertz * 1e3,
        "gpu": gpu,
        "power_mode": _after(_answer("nvpmodel", "-q"), "NV Power Mode"),
        "l4t": _text("/etc/nv_tegra_release"),
        "os": _after(release, "PRETTY_NAME"),
        "kernel": platform.platform(),
        "python": platform.python_version(),
        "runtime": runtime,
        "runtime_version": version,
        **missing,
        **machine_state(processors[-1] if processors else 0),
    }


# --- the worker ----------------------------------------------------------------------------------


def _loader(
    unit: dict[str, Any], *, runtime: str, settings: Settings
) -> Callable[[], Callable[[], Any]]:
    given = {"threads": settings.threads, "precision": settings.precision, "batch": unit["batch"]}
    evict = unit.get("evict", 0)
    place = (unit["handle"], unit["bytes"], unit["offset"]) if "handle" in unit else None
    known = base64.b64decode(unit["data"]) if "data" in unit else unit.get("path")

    def load() -> Callable[[], Any]:
        source = known if place is None else os.pread(*place)
        run = LOADERS[runtime](source, **given)
        return behind_other_memory(run, size=evict) if evict else run

    return load


def behind_other_memory(run: Callable[[], Any], *, size: int) -> Callable[[], int]:
    """A run after which caches hold other things, as a run of the rest of a network leaves them.

    Args:
        run: what is timed.
        size: bytes of other memory that are read before each run, outside its time.

    Returns:
        A callable that does both and returns the nanoseconds of the run alone.
    """
    other, absent = _other_memory(size), b"\x00"

    def timed() -> int:
        other.find(absent)  # reads all of it, at the speed of memory
        return _nanoseconds(run)

    return timed


@functools.lru_cache(maxsize=1)
def _other_memory(size: int) -> bytearray:
    # Written once: pages that were never written to are one and the same page, and stay in a cache.
    return bytearray(b"\x01") * size


def work(text: str | bytes) -> Iterator[dict[str, Any]]:
    """Do the work that a JSON object describes.

    Args:
        text: ``{"schema": "edgenas.work/1", "runtime": ..., "settings": {...}, "units": [{"id":
            ..., "batch": ..., "path": ...}]}``; instead of ``path`` a unit has ``handle`` (of an
            open file that was inherited), ``offset`` and ``bytes``, or ``data`` (base64) when the
            two sides share no disk, and ``evict`` where so many bytes of other memory
            are to be read before each run. ``baseline``, where there is one, is that of a
            ``baseline`` event of a moment ago.

    Yields:
        ``environment``, then the events of `time_units`, ``end`` with the state of the machine.
    """
    given = json.loads(text)
    if given.get("schema") != SCHEMA:
        raise SystemExit("this clock reads {}, found {}".format(SCHEMA, given.get("schema")))
    runtime, settings = given["runtime"], Settings(**given["settings"])
    if runtime not in LOADERS:
        raise SystemExit("this clock knows {}, not {}".format(", ".join(LOADERS), runtime))
    units = [
        (unit["id"], _loader(unit, runtime=runtime, settings=settings)) for unit in given["units"]
    ]
    yield {"event": "environment", **environment(runtime, threads=settings.threads)}
    baseline = None
    if given.get("baseline"):
        known = given["baseline"]
        known["seconds"] = tuple(known["seconds"])
        baseline = Baseline(**known)
    processors = choose_processors(settings.threads)
    state = functools.partial(machine_state, processors[-1] if processors else 0)
    del given  # the graphs again, as text
    if not units:
        return
    read = canary_of(runtime)
    for event in time_units(units, settings=settings, baseline=baseline, read=read):
        yield {**event, **state()} if event["event"] == "end" else event


def _told(events: Callable[[], Iterator[dict[str, Any]]], *, beat: float = 0.0) -> int:
    """Events as JSON lines on stdout; whatever libraries print goes to stderr. The exit code.

    Args:
        events: what to tell.
        beat: seconds between two ``alive`` events, which come whatever else happens; 0: none.
    """
    out, writing = os.dup(1), threading.Lock()
    os.dup2(2, 1)

    def tell(event: dict[str, Any]) -> None:
        # Not through a buffer: a thread that ends amid a write would hold its lock at exit.
        left = memoryview(json.dumps(event).encode() + b"\n")
        with writing:
            while left:
                left = left[os.write(out, left) :]

    def live() -> None:
        with contextlib.suppress(OSError):
            while True:
                time.sleep(beat)
                tell({"event": "alive"})

    if beat:
        threading.Thread(target=live, daemon=True).start()
    try:
        for event in events():
            tell(event)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who asked is gone
        return 141
    return 0


def main() -> int:
    """Do the work that the first line of stdin describes; JSON lines on stdout."""
    orders: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(orders.put, lambda: None), daemon=True).start()
    return _told(lambda: work(orders.get()))


def _listen(take: Callable[[bytes], None], heard: Callable[[], None]) -> None:
    """Take the lines of stdin; at its end, end this process at once: who asked is gone.

    Args:
        take: called with each line that is not empty.
        heard: called whenever something comes.
    """
    # os.read: a reader blocked in sys.stdin would hold a lock that the exit needs.
    pending = bytearray()
    while True:
        try:
            chunk = os.read(0, 1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            os._exit(0)
        heard()
        pending += chunk
        if b"\n" in chunk:
            *lines, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                if line:
                    take(line)


# --- a session with another machine --------------------------------------------------------------


def serve(*, silence: float = 60.0) -> int:
    """Work for another machine: orders on stdin, one a line, and events on stdout.

    ``ready`` comes first and ``done`` after each order; ``waiting`` comes about once a second while
    another session times here, and ``alive`` every few seconds, whatever happens. Nothing is
    written to a disk. The process ends at once, whatever it is at, when stdin ends or is silent for
    too long, as it is behind a link that was cut; empty lines are signs of life.

    Args:
        silence: seconds.
    """
    orders: queue.Queue[bytes] = queue.Queue()
    heard = [time.monotonic()]

    def hear() -> None:
        heard[0] = time.monotonic()

    def watch() -> None:
        while time.monotonic() - heard[0] < silence:
            time.sleep(silence / 4)
        os._exit(1)

    def events() -> Iterator[dict[str, Any]]:
        yield {"event": "ready", "schema": SCHEMA}
        while True:
            order = orders.get()
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as holder:
                while not _held(holder):
                    yield {"event": "waiting"}
                    time.sleep(1.0)
                yield from work(order)
            yield {"event": "done"}

    threading.Thread(target=_listen, args=(orders.put, hear), daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()
    return _told(events, beat=_BEAT)


def _held(holder: socket.socket) -> bool:
    """Take this machine, until the socket is closed: two sessions never time at once.

    A name of Linux's abstract sockets is no file, and goes with the process that has it.
    """
    if sys.platform != "linux":
        return True
    try:
        holder.bind("\0edgenas-timing")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1:] == ["serve"] else main())
