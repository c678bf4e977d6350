"""Latency tables: what each layer takes on one target, and where the numbers are from.

Values are seconds. `edgenas.latency.table_file` keeps tables on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from edgenas.basics.errors import EdgenasError
from edgenas.basics.ranges import Count, Joules, Seconds, SecondsOrZero
from edgenas.latency.device import Target
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables, compile_tables
from edgenas.space.genes import layout
from edgenas.space.layer import Layer
from edgenas.space.plan import Slot, layers, plan, slots
from edgenas.space.space import Space

Provenance = Literal["measured", "published", "estimated"]
Statistic = Literal["typical", "wall_p50", "wall_p95"]

# Tables merge and apply only where these agree. The rest of the environment is only recorded.
MATCHED = ("cpu", "gpu", "power_mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The measured duration of one layer or network, in seconds.

    Args:
        median: at full speed of the machine; None where only a mean was published.
        mean: published tables have it instead of a median.
        std: the standard deviation that stands beside a mean.
        p10: 10th percentile at full speed.
        p90: 90th percentile at full speed.
        n: number of runs behind the median or mean.
        wall_p50: median of all runs, whatever else the machine did.
        wall_p95: 95th percentile of all runs.
        noisy: whether too few runs met the machine at full speed.
        alone: seconds of a layer in a graph of its own that runs again and again; only where the
            layer itself was timed as copies with cold caches.
    """

    median: Seconds | None = None
    mean: Seconds | None = None
    std: SecondsOrZero | None = None
    p10: Seconds | None = None
    p90: Seconds | None = None
    n: Count
    wall_p50: Seconds | None = None
    wall_p95: Seconds | None = None
    noisy: bool = False
    alone: Seconds | None = None

    def __post_init__(self) -> None:
        if (self.median is None) == (self.mean is None):
            raise EdgenasError("either median or mean must be given")

    @property
    def seconds(self) -> float:
        """The typical time: the median, or else the mean."""
        value = self.mean if self.median is None else self.median
        assert value is not None
        return value

    def statistic(self, name: Statistic) -> float | None:
        """``typical`` (see ``seconds``), ``wall_p50`` or ``wall_p95``; None where it is missing."""
        if name == "typical":
            return self.seconds
        return self.wall_p50 if name == "wall_p50" else self.wall_p95


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """A whole network, timed end to end.

    Args:
        space: the name that its space is filed under, ``Space.filed_as``.
        classes: its number of classes, part of the last layer.
        arch: the network.
        timing: its timing.
        joules: energy of one run, with all that the board draws meanwhile; None: not measured.
    """

    space: str
    classes: int
    arch: Arch
    timing: Timing
    joules: Joules | None = None

    def belongs_to(self, space: Space) -> bool:
        """Whether it is filed as a network of this space."""
        return (self.space, self.classes) == (space.filed_as, space.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """The timings of layers and networks on one target.

    Args:
        target: what the latencies belong to.
        provenance: ``measured`` (here), ``published`` (by others) or ``estimated``.
        runtime_version: of the target's runtime; None where nobody recorded it.
        environment: CPU, GPU, power mode, driver, clocks and more, as far as they can be read.
        method: how the numbers came about, or the source of a published table, in words.
        date: of the latest measurement, such as ``2025-01-31``.
        layers: the timing of each layer.
        layers_at: timings by the input resolution of the network and by layer. In networks of that
            resolution they replace those of ``layers``. Published tables have them, because they
            were measured once for each resolution.
        networks: whole networks measured on the same target. The line from sums of layers to
            networks is not stored: `edgenas.latency.predictor` fits it from them.
    """

    target: Target
    provenance: Provenance
    runtime_version: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    method: str = ""
    date: str = ""
    layers: Mapping[Layer, Timing] = field(default_factory=dict[Layer, Timing])
    layers_at: Mapping[tuple[int, Layer], Timing] = field(
        default_factory=dict[tuple[int, Layer], Timing]
    )
    networks: tuple[MeasuredNetwork, ...] = ()

    def seconds(self, layer: Layer) -> float:
        """The typical time of one layer.

        Raises:
            EdgenasError: the layer is missing; the hint names the command to fill it.
        """
        timing = self.layers.get(layer)
        if timing is None:
            raise EdgenasError(
                f"the latency table of {self.target} has no layer {layer}",
                hint=self._remedy("SPACE"),
            )
        return timing.seconds

    def missing(self, space: Space) -> list[Layer]:
        """The layers of a space that are missing in the table, in order."""
        return [layer for layer in layers(space) if layer not in self.layers]

    def compile(self, space: Space) -> Tables:
        """The sums of layers in seconds, for rows of a space, without any correction.

        Raises:
            EdgenasError: a layer is missing; the message names it, the hint the command to fill it.
        """
        missing = self.missing(space)
        if missing:
            raise EdgenasError(
                f"the latency table of {self.target} lacks {len(missing)} of {len(layers(space))} "
                f"layers of space {space.name}, first {missing[0]}",
                hint=self._remedy(space.name),
            )
        tables = compile_tables(space, self.seconds)
        if self.layers_at:
            for slot, values in zip(slots(space), tables.values, strict=True):
                for codes, layer in slot.layers.items():
                    at = (_resolution(space, slot, codes), layer)
                    if layer is not None and at in self.layers_at:
                        values[codes] = self.layers_at[at[0], layer].seconds
        return tables

    def compile_alone(self, space: Space) -> Tables | None:
        """The sums of layers timed alone, for rows of a space; None where some were not."""
        alone = {layer: t.alone for layer, t in self.layers.items() if t.alone is not None}
        if any(layer not in alone for layer in layers(space)):
            return None
        return compile_tables(space, alone.__getitem__)

    def _timing(self, layer: Layer, *, resolution: int) -> Timing | None:
        return self.layers_at.get((resolution, layer)) or self.layers.get(layer)

    def covered_resolutions(self, space: Space) -> tuple[int, ...]:
        """The resolutions of a space for which every layer is in the table."""
        bad = {
            _resolution(space, slot, codes)
            for slot in slots(space)
            for codes, layer in slot.layers.items()
            if layer is not None and layer not in self.layers
        }
        return tuple(r for r in space.resolutions if r not in bad)

    def _remedy(self, space: str) -> str:
        if self.provenance == "published":
            return (
                "a published table cannot be filled here; narrow the space to what it covers, or "
                f"measure your own: edgenas profile --device {self.target.device} --space {space}"
            )
        return (
            f"edgenas profile --device {self.target.device} --space {space} --runtime "
            f"{self.target.runtime} --precision {self.target.precision} --threads "
            f"{self.target.threads} --batch {self.target.batch}"
        )

    def network_sums(
        self, space: Space, *, statistic: Statistic = "typical"
    ) -> list[tuple[MeasuredNetwork, float, float]]:
        """The measured networks of a space, each with the sum of its layers and its measured time.

        A network is left out where one of its layers is missing, or where it lacks the statistic.
        """
        rows: list[tuple[MeasuredNetwork, float, float]] = []
        for network in self.networks:
            measured = network.timing.statistic(statistic)
            if not network.belongs_to(space) or measured is None:
                continue
            if len(network.arch.stages) != len(space.stages):
                continue
            timings = [
                self._timing(layer, resolution=network.arch.resolution)
                for _, layer in plan(space, network.arch)
            ]
            if all(timing is not None for timing in timings):
                total = sum(timing.seconds for timing in timings if timing is not None)
                rows.append((network, total, measured))
        return rows


def _resolution(space: Space, slot: Slot, codes: tuple[int, ...]) -> int:
    """The input resolution of the networks that fill a place with these codes."""
    column = layout(space).resolution
    return space.resolutions[0 if column is None else codes[slot.columns.index(column)] - 1]


def mismatches(first: LatencyTable, second: LatencyTable) -> list[str]:
    """The fields that keep two tables from being merged, one line each."""
    pairs: list[tuple[str, Any, Any]] = [
        (f"target.{f.name}", getattr(first.target, f.name), getattr(second.target, f.name))
        for f in fields(Target)
    ]
    pairs.append(("provenance", first.provenance, second.provenance))
    pairs.append(("runtime_version", first.runtime_version, second.runtime_version))
    return [
        *(f"{name}: {one!r} and {other!r}" for name, one, other in pairs if one != other),
        *environment_mismatches(first.environment, second.environment),
    ]


def environment_mismatches(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields of ``MATCHED`` in which two environments differ, one line each.

    The entry of a GPU is ``name, driver``. The names must match, the drivers need not.
    """
    lines: list[str] = []
    for name in MATCHED:
        pair = [environment.get(name) for environment in (first, second)]
        one, other = (v.partition(",")[0] if isinstance(v, str) else v for v in pair)
        if one != other:
            lines.append(f"environment.{name}: {one!r} and {other!r}")
    return lines


def merge(older: LatencyTable, newer: LatencyTable) -> LatencyTable:
    """Merge two tables; the newer timing wins where both have a layer or network.

    Raises:
        EdgenasError: the tables are not of the same target, machine or provenance.
    """
    differ = mismatches(older, newer)
    if differ:
        raise EdgenasError(
            f"latency tables of {older.target} do not merge, they differ in {'; '.join(differ)}",
            hint="keep them in separate files",
        )

    def key(network: MeasuredNetwork) -> tuple[str, int, Arch]:
        return network.space, network.classes, network.arch

    networks = {key(network): network for network in older.networks}
    for network in newer.networks:
        before = networks.get(key(network))
        if network.joules is None and before is not None:
            network = replace(network, joules=before.joules)
        networks[key(network)] = network
    return replace(
        newer,
        layers={**older.layers, **newer.layers},
        layers_at={**older.layers_at, **newer.layers_at},
        networks=tuple(networks.values()),
    )
