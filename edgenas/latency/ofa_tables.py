# pyright: standard
"""The published latency tables of once-for-all MobileNetV3."""

import math
import re
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, Timing
from edgenas.space.plan import Layer
from edgenas.space.stage import divisible

# The published tables: TensorFlow Lite, one thread, single precision (arXiv 1908.09791, section 4).
NOTE10 = Target("note10", "tflite", "fp32", threads=1, batch=1)

# Keys of the published MobileNetV3 tables.
_KEY = re.compile(
    r"(?P<kind>Conv|expanded_conv|Conv_1|AvgPool2D|Conv_2|Logits)"
    r"-input:(?P<size>\d+)x(?P=size)x(?P<inputs>\d+)-output:(?:\d+x\d+x)?(?P<outputs>\d+)"
    r"(?:-expand:(?P<mid>\d+)-kernel:(?P<kernel>\d+)-stride:(?P<stride>\d+)"
    r"-idskip:(?P<skip>[01])-se:(?P<se>[01])-hs:(?P<hs>[01]))?"
)
_HEAD = ("Conv_1", "AvgPool2D", "Conv_2", "Logits")


def import_latency_tables(folder: Path, *, target: Target = NOTE10) -> LatencyTable:
    """One latency table of the published ones, which are one file for each resolution.

    Reads every ``<resolution>_lookup_table.yaml`` of a folder, in the format of the MobileNetV3
    tables. The same layer can have a time in several of them; then its entry holds for one
    resolution only, and their mean, weighted by the number of runs, stands for all others. The head
    of a network is one layer here and four there: the mean is the sum of theirs, and so is the
    variance.

    Args:
        folder: with the files.
        target: what the latencies belong to.

    Raises:
        EdgenasError: no such file, no YAML reader, or an entry that is not of that format.
    """
    try:
        import yaml
    except ImportError:
        raise EdgenasError(
            "reading published tables needs a YAML reader", hint="pip install 'edgenas[ofa]'"
        ) from None
    found: dict[Layer, dict[int, Timing]] = {}
    paths = sorted(folder.glob("*_lookup_table.yaml"))
    for path in paths:
        resolution = path.name.partition("_")[0]
        if not resolution.isdecimal():
            raise EdgenasError(f"{path} must be named <resolution>_lookup_table.yaml")
        try:
            entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise EdgenasError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
        for layer, timing in _timings(entries, str(path)).items():
            found.setdefault(layer, {})[int(resolution)] = timing
    if not paths:
        raise EdgenasError(f"{folder} must hold files named <resolution>_lookup_table.yaml")
    return LatencyTable(
        target=target,
        provenance="published",
        method="published with once-for-all (arXiv 1908.09791): means of isolated layers, "
        f"{len(paths)} resolutions",
        layers={layer: _pooled(list(times.values())) for layer, times in found.items()},
        layers_at={
            (resolution, layer): timing
            for layer, times in found.items()
            if len(times) > 1
            for resolution, timing in times.items()
        },
    )


def _timings(entries: Any, where: str) -> dict[Layer, Timing]:
    """The layers of one published table."""
    if not isinstance(entries, dict):
        raise EdgenasError(f"{where} must hold one entry a layer, found {type(entries).__name__}")
    layers: dict[Layer, Timing] = {}
    tail: dict[str, tuple[re.Match[str], Timing]] = {}
    for key, value in entries.items():
        match = _KEY.fullmatch(str(key))
        if match is None:
            raise EdgenasError(f"{where}: {key!r} is no entry of a MobileNetV3 table")
        timing = _timing(value, f"{where}: {key}")
        if match["kind"] == "expanded_conv":
            layers[_mbconv(match, f"{where}: {key}")] = timing
        elif match["kind"] == "Conv":
            size, inputs, outputs = (int(match[name]) for name in ("size", "inputs", "outputs"))
            layer = Layer(
                kind="conv",
                inputs=inputs,
                outputs=outputs,
                size=size,
                kernel=3,
                stride=2,
                activation="hswish",
            )
            layers[layer] = timing
        else:
            tail[match["kind"]] = (match, timing)
    for kind in _HEAD:
        if kind not in tail:
            raise EdgenasError(f"{where}: the entry {kind} of the head is missing")
    first, mix, logits = (tail[kind][0] for kind in ("Conv_1", "Conv_2", "Logits"))
    head = Layer(
        kind="head",
        inputs=int(first["inputs"]),
        outputs=int(logits["outputs"]),
        size=int(first["size"]),
        activation="hswish",
        final=int(first["outputs"]),
        mix=int(mix["outputs"]),
    )
    parts = [timing for _, timing in tail.values()]
    layers[head] = Timing(
        mean=sum(part.seconds for part in parts),
        std=math.sqrt(sum((part.std or 0.0) ** 2 for part in parts)),
        n=min(part.n for part in parts),
    )
    return layers


def _mbconv(match: re.Match[str], where: str) -> Layer:
    if match["mid"] is None:
        raise EdgenasError(f"{where}: expand, kernel, stride, idskip, se and hs are missing")
    mid = int(match["mid"])
    return Layer(
        kind="mbconv",
        inputs=int(match["inputs"]),
        outputs=int(match["outputs"]),
        size=int(match["size"]),
        kernel=int(match["kernel"]),
        stride=int(match["stride"]),
        mid=mid,
        activation="hswish" if match["hs"] == "1" else "relu",
        squeeze=divisible(mid / 4) if match["se"] == "1" else 0,
        residual=match["skip"] == "1",
    )


def _timing(value: Any, where: str) -> Timing:
    """Milliseconds as published, in seconds."""
    fields = ("mean", "std", "count")
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), (int, float)) for name in fields
    ):
        raise EdgenasError(f"{where} must have numbers for {', '.join(fields)}, found {value!r}")
    return Timing(mean=value["mean"] / 1e3, std=value["std"] / 1e3, n=int(value["count"]))


def _pooled(timings: list[Timing]) -> Timing:
    """All runs as one sample: its mean and its standard deviation."""
    if len(timings) == 1:
        return timings[0]
    n = sum(timing.n for timing in timings)
    mean = sum(timing.n * timing.seconds for timing in timings) / n
    square = sum(t.n * ((t.std or 0.0) ** 2 + (t.seconds - mean) ** 2) for t in timings) / n
    return Timing(mean=mean, std=math.sqrt(square), n=n)
