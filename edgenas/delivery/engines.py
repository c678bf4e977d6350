"""Engines that a board builds for an export: compared with the model, and brought back."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenas.basics.errors import EdgenasError
from edgenas.clock.trtexec.building import BuiltEngine, build_engine
from edgenas.clock.trtexec.clock import TrtexecClock
from edgenas.model.export import run_onnx
from edgenas.onnx_graph.build import INPUT, OUTPUT
from edgenas.runtime.contract import ExportFormat, Runtime
from edgenas.runtime.engines import Fingerprint, save_engine

Array = NDArray[np.float32]

# How far the logits of an engine may be from those of the model that it was built of, as a part of
# the largest one. The tool prints six digits. In fp32 both sum in another order; in fp16 a sum has
# ten bits; in int8 a value at the border of a step may fall on its other side, layer after layer.
_FARTHEST = {"fp32": 2e-3, "fp16": 2e-2, "int8": 0.2}


def engine_of_board(
    onnx: bytes,
    folder: Path,
    *,
    kind: ExportFormat,
    by: tuple[Runtime, TrtexecClock],
    sample: Array,
) -> tuple[dict[str, Any], list[str]]:
    """Have a board build an engine; write it with its fingerprint and the model that it is of.

    Args:
        onnx: the graph in the form of the format.
        folder: that the files go to.
        kind: the format.
        by: TensorRT, and the clock of the board.
        sample: an input, shape (batch, inputs, height, width).

    Returns:
        The latency for ``export.json``, and notes for people.

    Raises:
        EdgenasError: the engine answers otherwise than the model, or there is none.
    """
    runtime, clock = by
    built = build_engine(
        clock,
        onnx,
        runtime=runtime,
        precision=kind.precision,
        input_name=INPUT,
        sample=sample.tobytes(),
    )
    difference = _compare(built, sample, precision=kind.precision, where=clock.where)
    around, times, batch = built.environment, built.times, len(sample)
    (folder / "model.onnx").write_bytes(built.onnx)
    made = Fingerprint(
        runtime=runtime.name,
        version=around["runtime_version"],
        gpu=str(around["board"] or around["gpu"] or "unknown"),
        driver=str(around["l4t"] or around["kernel"] or "unknown"),
        precision=kind.precision,
        batches=(batch, batch, batch),
        model=hashlib.sha256(built.onnx).hexdigest(),
    )
    save_engine(folder / "model.engine", built.engine, made=made)
    names = ("median", "p10", "p90", "n", "half_width", "wall_p50", "wall_p95", "wall_n", "flag")
    latency = {
        "runtime": runtime.name,
        "precision": kind.precision,
        "threads": 1,
        "batch": batch,
        **{name: getattr(times, name) for name in names},
        "environment": around,
    }
    notes = [
        f"engine built on {clock.where} by TensorRT {made.version}: it runs on that kind of GPU "
        "and that version alone",
        f"on the sample, the engine's logits are within {difference:.2g} of the largest of the "
        "model's, as ONNX Runtime computes it",
    ]
    if times.note:
        notes.append(f"the time is {times.note}" if not times.noisy else times.judgement())
    return latency, notes


def _compare(built: BuiltEngine, sample: Array, *, precision: str, where: str) -> float:
    """How far the engine's answers are from the model's, as a part of the largest logit."""
    wanted = run_onnx(built.onnx, sample)
    sizes, values = built.outputs.get(OUTPUT, ((), ()))
    largest = float(np.abs(wanted).max()) or 1.0
    if sizes != wanted.shape:
        raise EdgenasError(
            f"the engine built on {where} gives outputs of another shape: it is not delivered",
            hint="build it again; if it stays so, please report the version of TensorRT",
        )
    difference = float(np.abs(np.reshape(values, sizes) - wanted).max()) / largest
    if not difference <= _FARTHEST[precision]:  # NaN does not pass either
        raise EdgenasError(
            f"the engine built on {where} answers otherwise than the model: its logits differ by "
            f"{difference:.1%} of the largest, at most {_FARTHEST[precision]:.1%} is right for "
            f"{precision}; it is not delivered",
            hint="build it again, or in fp32: --to trt",
        )
    return difference
