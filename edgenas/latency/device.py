"""Device profiles: what a device is, how it is used and reached, and how fast it is.

A profile is one TOML file, ``device_profiles/<name>.toml``, schema ``edgenas.device/1``. Every
number in it says where it is from. Latency belongs to a ``Target``, never to a chip alone.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import data_folders, read_text, read_toml
from edgenas.basics.ranges import (
    ALWAYS,
    Batch,
    Count,
    Id,
    Length,
    Log,
    Macs,
    Name,
    Range,
    Stored,
    Threads,
    Words,
)

SCHEMA = "edgenas.device/1"

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Reach = Literal["local", "ssh", "none"]

MODEL = "prices/2"  # the version of the estimated device model, see edgenas.latency.estimate
FORMER = "prices/1"  # files of users may still hold it
Spread = Annotated[float, Range(0, 50, "number")]  # a standard deviation of logarithms
Counts = Annotated[tuple[Annotated[float, Range(0, 1e18, "number")], ...], Length(0, 100)]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9.]+)*")


@dataclass(frozen=True, slots=True)
class Target:
    """What a latency belongs to: a device and the way it is used."""

    device: Name
    runtime: Name
    precision: Name
    threads: Annotated[Threads, ALWAYS] = 1
    batch: Annotated[Batch, ALWAYS] = 1

    @property
    def slug(self) -> str:
        """The name of its latency table: ``tensorrt-fp16-t1-b1``."""
        return f"{self.runtime}-{self.precision}-t{self.threads}-b{self.batch}"

    def __str__(self) -> str:
        """For people: ``jetson-orin-nano-super / tensorrt fp16, 1 thread, batch 1``."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.device} / {self.runtime} {self.precision}, {threads}, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Fact:
    """A number of the data sheet, with its unit (such as ``GB/s``) and its source."""

    value: Annotated[float, Range(0, 1e18, "number")]
    unit: Name
    source: Name


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published measurement: the network, its MACs, its latency in seconds, the source."""

    network: Name
    macs: Macs
    seconds: Annotated[
        float, Range(0, 1e9, "milliseconds", above=True), Stored("latency_ms", times=1e3)
    ]
    source: Name


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the estimated device model in SI units.

    ``origin`` is ``fit`` (the device's own rows at least halve the doubt about it), ``pooled`` (it
    rests on the prior: the relatives of the device scaled by the data sheets, or how prices relate
    in general) or ``formula`` (zero: the runtime does no such work).
    """

    value: Annotated[float, Range(0, 1e6, "seconds")]
    origin: Literal["fit", "pooled", "formula"]


@dataclass(frozen=True, slots=True)
class FamilyEffect:
    """How much slower networks of a family are than their prices say, in log seconds.

    Args:
        effect: the mean.
        doubt: its standard deviation.
        prices: its covariance with their logarithms; empty: not known.
    """

    effect: Log
    doubt: Spread
    prices: Annotated[tuple[Log, ...], Length(0, 100)] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """The parameters of an estimated device model and the evidence for it.

    Args:
        model: the version of the model that was fitted, see ``edgenas.latency.estimate``.
        parameters: by name.
        fused: the operators that the runtime folds into the kernel before them. This and ``tile``
            to ``plain`` are explained in ``edgenas.latency.features.Kernels``.
        residuals: log(measured / predicted) of published rows, each predicted by a model that had
            not seen it; sorted. They say how far off the model is, the interval is not made of
            them.
        covariance: of the logarithms of the prices, a row for each price.
        method: how the residuals came about, in words.
        rows: published rows of this very target in the fit.
        smallest: the one of them with the fewest MACs.
        largest: the one of them with the most MACs.
        sources: every source of the rows in the fit, ``repository:path@commit``.
        noise: standard deviation of log(seconds) of one row.
        family: of the effect of a family that was not measured.
        family_own: the part of ``family`` that differs from board to board.
        families: the effects of those that were measured, by name.
        other_version: standard deviation of log(seconds) between two versions of the runtime.
        least: the smallest counts that the rows of this target have, in the order of the prices.
        most: the largest of them.
        power: mean wall power in watts while running, where it was published.
        tile: side of the output tiles of 3x3 convs.
        per_group: whether a grouped conv is a kernel for each group.
        vectors: whether operators on a single pixel start a kernel.
        fast3x3: whether only some 3x3 depthwise convs run in a fast kernel.
        row_threads: threads that share whole rows of a depthwise conv.
        plain: operators that run in plain code.
        measured: whether ``rows`` were measured by the user, not published.
        doubt: of prices/1: root mean square over the residuals of the standard deviation of
            log(seconds) that came from not knowing the prices.
    """

    model: Name
    parameters: Mapping[str, Parameter]
    fused: tuple[Id, ...]
    residuals: Annotated[tuple[Log, ...], Length(1)]  # an estimate has an error
    covariance: Annotated[tuple[Annotated[tuple[Log, ...], Length(0, 100)], ...], Length(0, 100)]
    method: Words
    rows: Count
    smallest: PublishedRow
    largest: PublishedRow
    sources: tuple[Name, ...]
    noise: Spread = 0.0
    family: Spread = 0.0
    family_own: Spread = 0.0
    families: Mapping[str, FamilyEffect] = field(default_factory=dict[str, FamilyEffect])
    other_version: Spread = 0.0
    least: Counts = ()
    most: Counts = ()
    power: Fact | None = None
    tile: Annotated[int, Range(1, 1000, "pixels")] = 1
    per_group: bool = False
    vectors: bool = True
    fast3x3: bool = False
    row_threads: Threads = 1
    plain: tuple[Id, ...] = ()
    measured: bool = False
    doubt: Spread | None = None

    def __post_init__(self) -> None:
        if self.model == FORMER and self.doubt is None:
            raise EdgenasError("the field 'doubt' is missing")
        if self.model == MODEL and not (self.noise and self.family):
            raise EdgenasError("noise and family must be above 0")

    @property
    def own(self) -> str:
        """The rows of this very target, in words."""
        return f"{self.rows} {'measured' if self.measured else 'published'} networks of its own"


@dataclass(frozen=True, slots=True)
class Use:
    """One way in which a device is used, as its profile lists it.

    The estimate holds for ``version`` of the runtime (empty: any), or ``no_estimate`` says why not.
    """

    target: Target
    version: str
    estimate: Estimate | None
    no_estimate: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device profile.

    Args:
        name: its file and the folder of its latency tables have this name too.
        title: its name for people.
        aliases: other names that people type.
        reach: ``local`` (this machine), ``ssh`` or ``none``.
        address: ``user@host`` for ssh, where the profile is of one board; may be empty.
        power_mode: the mode that estimates hold for and measurements expect; may be empty.
        notes: what a user should know.
        facts: the data sheet, by name.
        uses: the ways in which it is used; the default comes first.
        path: of the profile.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    reach: str
    address: str
    power_mode: str
    notes: str
    facts: Mapping[str, Fact]
    uses: tuple[Use, ...]
    path: Path

    def target(
        self,
        *,
        runtime: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
    ) -> Target:
        """Choose the first listed target with these fields.

        Where no target has them, they replace the fields of the nearest listed target. Such a
        target can be measured, but has no estimate.

        Raises:
            EdgenasError: the precision is unknown, or threads or batch are below one.
        """
        if precision is not None and precision not in get_args(Precision):
            raise unknown_name(
                "precision", precision, names=get_args(Precision), listing="edgenas list devices"
            )
        for name, number in (("threads", threads), ("batch", batch)):
            if number is not None and number < 1:
                raise EdgenasError(f"{name} must be at least 1, found {number}")
        wanted = {"runtime": runtime, "precision": precision, "threads": threads, "batch": batch}
        asked = {field: value for field, value in wanted.items() if value is not None}

        def matches(use: Use) -> list[bool]:
            return [getattr(use.target, field) == value for field, value in asked.items()]

        nearest = max(self.uses, key=matches).target
        return Target(
            self.name,
            runtime=runtime or nearest.runtime,
            precision=precision or nearest.precision,
            threads=threads or nearest.threads,
            batch=batch or nearest.batch,
        )

    def use(self, target: Target) -> Use | None:
        """What the profile says of a target; None: it does not list it."""
        return next((use for use in self.uses if use.target == target), None)


@dataclass(frozen=True, slots=True)
class _Target:
    """A target in the file of a profile, see ``Use``."""

    runtime: Name
    precision: Precision
    threads: Threads
    batch: Batch
    version: Words = ""
    estimate: Estimate | None = None
    no_estimate: Words = ""

    def __post_init__(self) -> None:
        if (self.estimate is None) == (not self.no_estimate):
            raise EdgenasError(
                "either estimate or no_estimate must be given",
                hint='write for example no_estimate = "profile it"',
            )

    def to_use(self, device: str) -> Use:
        """The use of a device that has this target."""
        estimate = self.estimate
        if estimate is not None:
            estimate = replace(estimate, residuals=tuple(sorted(estimate.residuals)))
        return Use(
            target=Target(
                device, self.runtime, self.precision, threads=self.threads, batch=self.batch
            ),
            version=self.version,
            estimate=estimate,
            no_estimate=self.no_estimate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """The contents of a profile's file, see ``Device``."""

    name: Id
    title: Name
    reach: Reach
    targets: Annotated[tuple[_Target, ...], Length(1, 1000)]
    aliases: Annotated[tuple[Id, ...], Length(0, 1000)] = ()
    address: Words = ""
    power_mode: Words = ""
    notes: Words = ""
    facts: Mapping[str, Fact] = field(default_factory=dict[str, Fact])


def load(name: str) -> Device:
    """Read the device of a name, an alias, or a path that ends in ``.toml``.

    Names are looked up in the folders of ``files.data_folders``, the user's first; the first match
    wins. So users can replace the profiles that edgenas ships.

    Raises:
        EdgenasError: the name is unknown, or the profile is damaged.
    """
    if name.endswith(".toml"):
        return read(Path(name))
    for folder in data_folders("device_profiles"):
        path = folder / f"{name}.toml"
        if "/" not in name and path.is_file():
            return read(path)
    for path in _profile_paths():
        # Only files that hold the word can have it as an alias: the others are not parsed.
        if name.lower() in read_text(path).lower():
            device = read(path)
            if name.lower() in (device.name, *device.aliases):
                return device
    names = [each for device in list_devices() for each in (device.name, *device.aliases)]
    raise unknown_name("device", name, names=names, listing="edgenas list devices")


def list_devices() -> tuple[Device, ...]:
    """Read all devices, sorted by name. Raises EdgenasError where a profile is damaged."""
    return tuple(read(path) for path in _profile_paths())


def _profile_paths() -> list[Path]:
    """The profile of each device, sorted by name; the user's own comes before a shipped one."""
    paths: dict[str, Path] = {}
    for folder in data_folders("device_profiles"):
        for path in folder.glob("*.toml"):
            paths.setdefault(path.stem, path)
    return [paths[name] for name in sorted(paths)]


def read(path: Path) -> Device:
    """Read the file of a profile.

    Raises:
        EdgenasError: the file is absent or of another schema, or a field is missing, unknown or
            wrong.
    """
    stat = path.stat() if path.is_file() else None
    return _read(path, state=stat and (stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=256)
def _read(path: Path, *, state: tuple[int, int] | None) -> Device:
    """The device of a profile file in a certain state: a file that changes is read again."""
    where = str(path)
    profile = decode(_Profile, read_toml(path, schema=SCHEMA), where=where)
    if profile.name != path.stem or not _NAME.fullmatch(profile.name):
        raise EdgenasError(
            f"{where}: name must be {path.stem!r}, the name of its file, found {profile.name!r}",
            hint="names are lower-case words joined by hyphens",
        )
    uses = tuple(target.to_use(profile.name) for target in profile.targets)
    targets = [use.target for use in uses]
    for target in targets:
        if targets.count(target) > 1:
            raise EdgenasError(f"{where}: targets lists {target.slug} twice")
    return Device(
        name=profile.name,
        title=profile.title,
        aliases=profile.aliases,
        reach=profile.reach,
        address=profile.address,
        power_mode=profile.power_mode,
        notes=profile.notes,
        facts=profile.facts,
        uses=uses,
        path=path,
    )
