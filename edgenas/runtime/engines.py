"""Engines on disk, with a fingerprint of all that they depend on.

An engine of TensorRT is right for one GPU, driver and library version, and says nothing about them
that could be trusted before it is loaded. So a JSON file beside it does, and what differs is
refused, or built again from the model.
"""

import hashlib
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import (
    cache_folder,
    new_file,
    read_json,
    sha256,
    write_json,
)
from edgenas.basics.ranges import Batch, Length, Words
from edgenas.clock.board.machine import read_environment
from edgenas.runtime.trt import TensorRT, TimingCache

SCHEMA = "edgenas.engine/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What an engine depends on.

    Args:
        runtime: TensorRT or TensorRT-RTX.
        version: of it.
        gpu: its name, or that of the board; ``none`` where it was built without one.
        driver: of the GPU, or the release of the board's system.
        precision: of the engine.
        batches: least, usual and largest images a run.
        model: SHA-256 of the graph that it was built from, in hex.
    """

    runtime: Words
    version: Words
    gpu: Words
    driver: Words
    precision: Words
    batches: tuple[Batch, Batch, Batch]
    model: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class _EngineFile(Fingerprint):
    """The JSON file beside an engine: what it depends on, and the SHA-256 of its bytes."""

    sha256: Annotated[str, Length(64, 64)]


def fingerprint(
    runtime: TensorRT, onnx: bytes, *, precision: str, batches: tuple[int, int, int]
) -> Fingerprint:
    """The fingerprint of an engine that would be built here.

    Args:
        runtime: whose library is here.
        onnx: the graph.
        precision: of the engine.
        batches: least, usual and largest images a run.
    """
    around = read_environment(threads=1)
    name, _, driver = str(around["gpu"] or "").partition(", ")
    if around["l4t"]:  # a Jetson: the GPU is that of the board, its driver comes with the system
        name, driver = str(around["board"]), str(around["l4t"])
    return Fingerprint(
        runtime=runtime.name,
        version=runtime.version(),
        gpu=name or "none",
        driver=driver or "none",
        precision=precision,
        batches=batches,
        model=hashlib.sha256(onnx).hexdigest(),
    )


def save_engine(path: Path, plan: bytes, *, made: Fingerprint) -> None:
    """Write an engine and its fingerprint, ``<path>.json``, each atomically."""
    with new_file(path) as temporary:
        temporary.write_bytes(plan)
    value = {"schema": SCHEMA, **asdict(made), "sha256": hashlib.sha256(plan).hexdigest()}
    write_json(_beside(path), {**value, "batches": list(made.batches)})


def load_engine(path: Path, *, expected: Fingerprint) -> bytes:
    """An engine that is right for this machine.

    Args:
        path: of the engine.
        expected: what it must have been built for.

    Raises:
        EdgenasError: absent, damaged, or built for something else; names what differs.
    """
    facts = _beside(path)
    engine = decode(_EngineFile, read_json(facts, schema=SCHEMA), where=str(facts))
    differ = [
        f"{f.name} is {getattr(engine, f.name)!r}, here {getattr(expected, f.name)!r}"
        for f in fields(Fingerprint)
        if getattr(engine, f.name) != getattr(expected, f.name)
    ]
    if differ:
        raise EdgenasError(
            f"the engine {path} was built for something else: {'; '.join(differ)}",
            hint="build it again from the model on the device that runs it",
        )
    if not path.is_file() or sha256(path) != engine.sha256:
        raise EdgenasError(f"the engine {path} is missing or damaged", hint="build it again")
    return path.read_bytes()


def engine_for(
    path: Path,
    *,
    runtime: TensorRT,
    onnx: bytes,
    precision: str,
    batches: tuple[int, int, int] = (1, 1, 1),
) -> tuple[bytes, bool]:
    """The engine at a path where it is right for this machine, or else a new one there.

    Args:
        path: of the engine.
        runtime: the builder.
        onnx: the graph in the form for the precision.
        precision: of the engine.
        batches: least, usual and largest images a run, where the graph leaves that open.

    Returns:
        The engine, and whether it was built now.

    Raises:
        EdgenasError: it must be built and cannot.
    """
    missing = runtime.why_not_build()
    if missing:
        raise EdgenasError(f"{runtime.name} cannot build engines here: {missing}")
    expected = fingerprint(runtime, onnx, precision=precision, batches=batches)
    try:
        return load_engine(path, expected=expected), False
    except EdgenasError:
        kept = _timing_cache_path(expected)
        cache = None
        if runtime.module == "tensorrt":  # that of TensorRT-RTX does nothing
            cache = TimingCache(kept.read_bytes() if kept.exists() else b"")
        plan = runtime.build(onnx, precision=precision, batches=batches, timing_cache=cache)
        if cache is not None:
            with new_file(kept) as temporary:
                temporary.write_bytes(cache.data)
        save_engine(path, plan, made=expected)
        return plan, True


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _timing_cache_path(made: Fingerprint) -> Path:
    words = "-".join((made.runtime, made.version, made.gpu, made.driver))
    return cache_folder() / "timing_caches" / (re.sub(r"[^\w.]+", "-", words)[:150] + ".bin")
