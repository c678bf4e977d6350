"""Time a model with its runtime alone: a second opinion that shares no code with edgenas.

    python -m tools.benchmarks.retime MODEL.onnx [--seconds 6] [--spin MICROSECONDS]
    python -m tools.benchmarks.retime MODEL.tflite [--without-delegate]

ONNX models run on onnxruntime, .tflite files on LiteRT. One thread, all graph optimisations. A
batch of five runs counts when a fixed spin of Python before and after it ran at the machine's full
speed: the 2nd percentile of all spins, or ``--spin`` where an earlier call on this machine has seen
a faster one, +8%. While there are less than 200 such runs it goes on, up to ``--limit``. Prints
JSON: the median of the counted runs in milliseconds, their number, the median of all, and the spin.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

BLOCK = bytes(range(256)) * 64


def spin() -> float:
    """Seconds of a fixed piece of compiled code; a loop of Python varies by itself."""
    start = time.perf_counter()
    for _ in range(20):
        zlib.crc32(BLOCK)
    return time.perf_counter() - start


def load_onnx(path: str) -> Callable[[], Any]:
    """One run of an ONNX model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {
        i.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in i.shape]).astype(
            np.float32
        )
        for i in session.get_inputs()
    }
    return lambda: session.run(None, feed)


def load_tflite(path: str, *, with_delegate: bool) -> Callable[[], Any]:
    """One run of a .tflite file; without its delegate, LiteRT's own kernels run."""
    library: Any = importlib.import_module("ai_edge_litert.interpreter")
    kinds = library.OpResolverType
    interpreter = library.Interpreter(
        model_path=path,
        num_threads=1,
        experimental_op_resolver_type=(
            kinds.BUILTIN if with_delegate else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for one in interpreter.get_input_details():
        interpreter.set_tensor(one["index"], rng.standard_normal(one["shape"]).astype(np.float32))
    return interpreter.invoke


def main() -> int:
    """Time one model."""
    parser = argparse.ArgumentParser(description="Time a model with its runtime alone.")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds at most")
    parser.add_argument("--without-delegate", action="store_true", help="of LiteRT: no XNNPACK")
    parser.add_argument("--spin", type=float, help="microseconds of a spin at full speed")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    if arguments.model.endswith(".tflite"):
        run = load_tflite(arguments.model, with_delegate=not arguments.without_delegate)
    else:
        run = load_onnx(arguments.model)
    for _ in range(50):
        run()
    spins: list[float] = []
    until = time.monotonic() + 2
    while time.monotonic() < until:
        spins.append(spin())
    batches: list[tuple[float, list[float]]] = []
    kept: list[float] = []
    start = time.monotonic()
    while True:
        passed = time.monotonic() - start
        if passed > arguments.seconds:
            full = float(np.quantile(spins, 0.02))
            if arguments.spin is not None:
                full = min(full, arguments.spin * 1e-6)
            kept = [run for worst, runs in batches if worst <= 1.08 * full for run in runs]
            if len(kept) >= 200 or passed > arguments.limit:
                break
        for _ in range(20):
            before, runs = spin(), list[float]()
            for _ in range(5):
                begin = time.perf_counter()
                run()
                runs.append(time.perf_counter() - begin)
            after = spin()
            spins += [before, after]
            batches.append((max(before, after), runs))
    every = [run for _, runs in batches for run in runs]
    report = {
        "model": arguments.model,
        "median_ms": 1e3 * statistics.median(kept) if kept else None,
        "n": len(kept),
        "ungated_median_ms": 1e3 * statistics.median(every),
        "ungated_n": len(every),
        "spin_us": 1e6 * float(np.quantile(spins, 0.02)),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
