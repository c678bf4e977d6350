# pyright: standard
"""The published latency tables of once-for-all MobileNetV3."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import read_text
from edgenas.basics.ranges import Range
from edgenas.latency.device import Target
from edgenas.latency.table import LatencyTable, Timing
from edgenas.space.layer import Layer
from edgenas.space.stage import make_divisible

# The published tables: TensorFlow Lite, one thread, single precision (arXiv 1908.09791, section 4).
NOTE10 = Target("note10", "tflite", "fp32", threads=1, batch=1)

# Keys of the published MobileNetV3 tables.
_KEY = re.compile(
    r"(?P<kind>Conv|expanded_conv|Conv_1|AvgPool2D|Conv_2|Logits)"
    r"-input:(?P<size>\d{1,6})x(?P=size)x(?P<inputs>\d{1,6})"
    r"-output:(?:\d{1,6}x\d{1,6}x)?(?P<outputs>\d{1,6})"
    r"(?:-expand:(?P<mid>\d{1,6})-kernel:(?P<kernel>\d{1,6})-stride:(?P<stride>\d{1,6})"
    r"-idskip:(?P<skip>[01])-se:(?P<se>[01])-hs:(?P<hs>[01]))?"
)
_LARGEST, _DEEPEST = 2 << 20, 8  # bytes and levels of a file
_HEAD = ("Conv_1", "AvgPool2D", "Conv_2", "Logits")


def import_latency_tables(folder: Path, *, target: Target = NOTE10) -> LatencyTable:
    """Read the published tables, one file for each resolution, into one latency table.

    Reads every ``<resolution>_lookup_table.yaml`` of a folder, in the format of the MobileNetV3
    tables. Where a layer has a time in several files, each time holds for its own resolution. The
    mean of them, weighted by the number of runs, stands for all other resolutions. The head of a
    network is one layer here and four entries there: its mean is the sum of their means, and its
    variance the sum of their variances.

    Args:
        folder: with the files.
        target: what the latencies belong to.

    Raises:
        EdgenasError: there is no such file, the YAML reader is not installed, or an entry has
            another format.
    """
    layers: dict[Layer, dict[int, Timing]] = {}
    paths = sorted(folder.glob("*_lookup_table.yaml"))
    for path in paths:
        resolution = path.name.partition("_")[0]
        if not (resolution.isdecimal() and len(resolution) <= 5 and int(resolution)):
            raise EdgenasError(f"{path} must be named <resolution>_lookup_table.yaml")
        for layer, timing in _read_entries(_read_yaml(path), str(path)).items():
            layers.setdefault(layer, {})[int(resolution)] = timing
    if not paths:
        raise EdgenasError(f"{folder} must hold files named <resolution>_lookup_table.yaml")
    return LatencyTable(
        target=target,
        provenance="published",
        method="published with once-for-all (arXiv 1908.09791): means of isolated layers, "
        f"{len(paths)} resolutions",
        layers={layer: _pool(list(times.values())) for layer, times in layers.items()},
        layers_at={
            (resolution, layer): timing
            for layer, times in layers.items()
            if len(times) > 1
            for resolution, timing in times.items()
        },
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a published table."""

    mean: Annotated[float, Range(0, 1e9, "milliseconds", above=True)]
    std: Annotated[float, Range(0, 1e9, "milliseconds")]
    count: Annotated[float, Range(1, 2**53, "count")]


def _read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values; refuse aliases and depth, which its entries do not need."""
    try:
        import yaml
    except ImportError:
        raise EdgenasError(
            "reading published tables needs a YAML reader", hint="pip install 'edgenas[ofa]'"
        ) from None
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast

    class Loader(base):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) < len(node.value):
                raise yaml.YAMLError(f"a key is there twice\n{node.start_mark}")
            return mapping

    text, depth = read_text(path, most=_LARGEST), 0
    try:
        for event in yaml.parse(text, Loader=base):
            depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
            depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                what = "has an alias" if depth <= _DEEPEST else "is nested too deeply"
                raise yaml.YAMLError(f"it {what}\n{event.start_mark}")
        return Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        why = "an integer has too many digits" if "digits" in str(error) else str(error)
        why = " ".join(why.split())
        raise EdgenasError(f"{path} is no YAML file of plain entries: {why}") from error


def _read_entries(entries: Any, where: str) -> dict[Layer, Timing]:
    """The timings of one published table, by layer."""
    if not isinstance(entries, dict):
        raise EdgenasError(f"{where} must hold one entry a layer, found {type(entries).__name__}")
    layers: dict[Layer, Timing] = {}
    tail: dict[str, tuple[re.Match[str], Timing]] = {}
    for key, value in entries.items():
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise EdgenasError(f"{where}: {quote(key)} is no entry of a MobileNetV3 table")
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
        squeeze=make_divisible(mid / 4) if match["se"] == "1" else 0,
        residual=match["skip"] == "1",
    )


def _timing(value: Any, where: str) -> Timing:
    """The timing of an entry, whose numbers are milliseconds."""
    names = ("mean", "std", "count")
    if isinstance(value, dict):
        value = {name: value[name] for name in names if name in value}
    entry = decode(_Entry, value, where=where)
    return Timing(mean=entry.mean / 1e3, std=entry.std / 1e3, n=int(entry.count))


def _pool(timings: list[Timing]) -> Timing:
    """Pool all runs into one sample, and return its mean and its standard deviation."""
    if len(timings) == 1:
        return timings[0]
    n = sum(timing.n for timing in timings)
    mean = sum(timing.n * timing.seconds for timing in timings) / n
    square = sum(t.n * ((t.std or 0.0) ** 2 + (t.seconds - mean) ** 2) for t in timings) / n
    return Timing(mean=mean, std=math.sqrt(square), n=n)
