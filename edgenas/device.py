"""Device profiles: what a device is, how it is used and reached, and what is known of its speed.

A profile is one TOML file, ``device_profiles/<name>.toml``, schema ``edgenas.device/1``. Every
number in it says where it is from. Latency belongs to a ``Target``, never to a chip alone.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgenas.errors import EdgenasError, unknown
from edgenas.files import check_fields, data_folders, read_toml

SCHEMA = "edgenas.device/1"

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Reach = Literal["local", "ssh", "none"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9.]+)*")


@dataclass(frozen=True, slots=True)
class Target:
    """What a latency belongs to: a device and the way it is used."""

    device: str
    runtime: str
    precision: str
    threads: int = 1
    batch: int = 1

    @property
    def slug(self) -> str:
        """The part of a table's path that names the way of use: ``tensorrt-fp16-t1-b1``."""
        return f"{self.runtime}-{self.precision}-t{self.threads}-b{self.batch}"

    def __str__(self) -> str:
        """For people: ``jetson-orin-nano-super / tensorrt fp16, 1 thread, batch 1``."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.device} / {self.runtime} {self.precision}, {threads}, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Fact:
    """A number of the data sheet: its unit (of people, e.g. ``GB/s``) and its source."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published measurement: the network, its MACs, its latency in seconds, the source."""

    network: str
    macs: float
    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the estimated device model in SI units.

    ``origin`` is ``fit`` (the device's own rows at least halve the doubt about it), ``pooled`` (it
    rests on the prior: the relatives of the device scaled by the data sheets, or how prices relate
    in general) or ``formula`` (zero: the runtime does no such work).
    """

    value: float
    origin: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The parameters of an estimated device model and the evidence for it.

    Args:
        model: the name of the formula, see ``edgenas.estimate``.
        parameters: by name.
        fused: the operators that the runtime folds into the kernel before them.
        tile: of its fast 3x3 convs; see ``edgenas.estimate.Kernels``, also for the next two.
        per_group: whether a grouped conv is a kernel for each group.
        vectors: whether operators on a single pixel start a kernel.
        measured: whether ``rows`` were measured by the user, not published.
        residuals: log(measured / predicted) of published rows, each predicted by a model that had
            not seen it; sorted.
        doubt: root mean square over those rows of the standard deviation of log(seconds) that
            came from not knowing the prices.
        covariance: of the logarithms of the prices, a row for each price.
        method: how the residuals came about, in words.
        rows: published rows of this very target in the fit.
        smallest: the one of them with the fewest MACs.
        largest: the one of them with the most MACs.
        sources: every source of the rows in the fit, ``repository:path@commit``.
        power: mean wall power in watts while running, where it was published.
    """

    model: str
    parameters: Mapping[str, Parameter]
    fused: tuple[str, ...]
    residuals: tuple[float, ...]
    doubt: float
    covariance: tuple[tuple[float, ...], ...]
    method: str
    rows: int
    smallest: PublishedRow
    largest: PublishedRow
    sources: tuple[str, ...]
    power: Fact | None = None
    tile: int = 1
    per_group: bool = False
    vectors: bool = True
    measured: bool = False

    @property
    def own(self) -> str:
        """The rows of this very target, in words."""
        return f"{self.rows} {'measured' if self.measured else 'published'} networks of its own"


@dataclass(frozen=True, slots=True)
class Use:
    """One way a device is used, as its profile lists it.

    ``version`` is the runtime version that the estimate is of. Either there is an ``estimate``, or
    ``no_estimate`` says why not.
    """

    target: Target
    version: str
    estimate: Estimate | None
    no_estimate: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device profile.

    Args:
        name: also the name of its file and of the folder of its latency tables.
        title: for people.
        aliases: other names people type.
        reach: ``local`` (this machine), ``ssh`` or ``none``.
        address: ``user@host`` for ssh, where the profile is of one board; may be empty.
        power_mode: the mode the estimates are of and measurements expect; may be empty.
        notes: what a user should know.
        facts: the data sheet, by name.
        uses: the ways it is used; the default first.
        path: the file.
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
        """The first listed target that has what is asked for.

        Where none has, the asked fields replace those of the nearest listed target: such a target
        can be measured, but has no estimate.

        Raises:
            EdgenasError: an unknown precision, or threads or batch below one.
        """
        if precision is not None and precision not in get_args(Precision):
            raise unknown(
                "precision", precision, known=get_args(Precision), listing="edgenas list devices"
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


def load(name: str) -> Device:
    """The device of a name, an alias, or a path that ends in ``.toml``.

    Profiles are looked for in ``files.data_folders``; the first found wins, so users override ours.

    Raises:
        EdgenasError: unknown (names the nearest), or a damaged profile (names the field).
    """
    if name.endswith(".toml"):
        return read(Path(name))
    for folder in data_folders("device_profiles"):
        path = folder / f"{name}.toml"
        if "/" not in name and path.is_file():
            return read(path)
    devices = list_devices()
    for device in devices:
        if name.lower() in (device.name, *device.aliases):
            return device
    names = [known for device in devices for known in (device.name, *device.aliases)]
    raise unknown("device", name, known=names, listing="edgenas list devices")


def list_devices() -> tuple[Device, ...]:
    """All devices, by name. Raises EdgenasError where a profile is damaged."""
    found: dict[str, Device] = {}
    for folder in data_folders("device_profiles"):
        for path in sorted(folder.glob("*.toml")):
            if path.stem not in found:
                found[path.stem] = read(path)
    return tuple(found[name] for name in sorted(found))


def read(path: Path) -> Device:
    """The device of a profile file.

    Raises:
        EdgenasError: absent, another schema, or a field that is missing, unknown or wrong.
    """
    fields = read_toml(path, schema=SCHEMA)
    where = str(path)
    check_fields(
        fields,
        required=("name", "title", "reach", "targets"),
        optional=("aliases", "address", "power_mode", "notes", "facts"),
        where=where,
    )
    name = _text(fields, "name", where=where)
    if name != path.stem or not _NAME.fullmatch(name):
        raise EdgenasError(
            f"{where}: name must be {path.stem!r}, the name of its file, found {name!r}",
            hint="names are lower-case words joined by hyphens",
        )
    facts = _table(fields.get("facts", {}), f"{where}: facts")
    uses = [
        _use(use, device=name, where=f"{where}: targets[{i}]")
        for i, use in enumerate(_list(fields["targets"], f"{where}: targets"))
    ]
    if not uses:
        raise EdgenasError(f"{where}: targets must list at least one target")
    targets = [use.target for use in uses]
    for target in targets:
        if targets.count(target) > 1:
            raise EdgenasError(f"{where}: targets lists {target.slug} twice")
    return Device(
        name=name,
        title=_text(fields, "title", where=where),
        aliases=_texts(fields.get("aliases", []), f"{where}: aliases"),
        reach=_choice(fields, "reach", choices=get_args(Reach), where=where),
        address=_text(fields, "address", where=where, default=""),
        power_mode=_text(fields, "power_mode", where=where, default=""),
        notes=_text(fields, "notes", where=where, default=""),
        facts={key: _fact(value, f"{where}: facts.{key}") for key, value in facts.items()},
        uses=tuple(uses),
        path=path,
    )


def _use(value: Any, *, device: str, where: str) -> Use:
    fields = _table(value, where)
    check_fields(
        fields,
        required=("runtime", "precision", "threads", "batch"),
        optional=("version", "estimate", "no_estimate"),
        where=where,
    )
    if ("estimate" in fields) == ("no_estimate" in fields):
        raise EdgenasError(
            f"{where} must have either estimate or no_estimate",
            hint='write for example no_estimate = "profile it"',
        )
    return Use(
        target=Target(
            device,
            runtime=_text(fields, "runtime", where=where),
            precision=_choice(fields, "precision", choices=get_args(Precision), where=where),
            threads=_integer(fields, "threads", where=where),
            batch=_integer(fields, "batch", where=where),
        ),
        version=_text(fields, "version", where=where, default=""),
        estimate=_estimate(fields["estimate"], f"{where}.estimate")
        if "estimate" in fields
        else None,
        no_estimate=_text(fields, "no_estimate", where=where, default=""),
    )


def _estimate(value: Any, where: str) -> Estimate:
    fields = _table(value, where)
    check_fields(
        fields,
        required=(
            "model",
            "parameters",
            "fused",
            "residuals",
            "doubt",
            "covariance",
            "method",
            "rows",
            "smallest",
            "largest",
            "sources",
        ),
        optional=("power", "tile", "per_group", "vectors", "measured"),
        where=where,
    )
    parameters: dict[str, Parameter] = {}
    for name, raw in _table(fields["parameters"], f"{where}.parameters").items():
        here = f"{where}.parameters.{name}"
        item = _table(raw, here)
        check_fields(item, required=("value", "origin"), where=here)
        origins = ("fit", "pooled", "formula")
        origin = _choice(item, "origin", choices=origins, where=here)
        parameters[name] = Parameter(_number(item, "value", where=here), origin)
    residuals = _list(fields["residuals"], f"{where}.residuals")
    if not residuals:
        raise EdgenasError(f"{where}.residuals must not be empty: an estimate has an error")
    return Estimate(
        model=_text(fields, "model", where=where),
        parameters=parameters,
        fused=_texts(fields["fused"], f"{where}.fused"),
        residuals=tuple(sorted(_numbers(residuals, f"{where}.residuals"))),
        doubt=_number(fields, "doubt", where=where),
        covariance=tuple(
            _numbers(row, f"{where}.covariance[{i}]")
            for i, row in enumerate(_list(fields["covariance"], f"{where}.covariance"))
        ),
        method=_text(fields, "method", where=where),
        rows=_integer(fields, "rows", where=where, least=0),
        smallest=_row(fields["smallest"], f"{where}.smallest"),
        largest=_row(fields["largest"], f"{where}.largest"),
        sources=_texts(fields["sources"], f"{where}.sources"),
        power=_fact(fields["power"], f"{where}.power") if "power" in fields else None,
        tile=_integer({"tile": 1} | fields, "tile", where=where),
        per_group=_flag(fields, "per_group", where=where, default=False),
        vectors=_flag(fields, "vectors", where=where, default=True),
        measured=_flag(fields, "measured", where=where, default=False),
    )


def _row(value: Any, where: str) -> PublishedRow:
    fields = _table(value, where)
    check_fields(fields, required=("network", "macs", "latency_ms", "source"), where=where)
    return PublishedRow(
        network=_text(fields, "network", where=where),
        macs=_number(fields, "macs", where=where),
        seconds=_number(fields, "latency_ms", where=where) / 1e3,
        source=_text(fields, "source", where=where),
    )


def _fact(value: Any, where: str) -> Fact:
    fields = _table(value, where)
    check_fields(fields, required=("value", "unit", "source"), where=where)
    return Fact(
        value=_number(fields, "value", where=where),
        unit=_text(fields, "unit", where=where),
        source=_text(fields, "source", where=where),
    )


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EdgenasError(f"{where} must be a table, found {value!r}")
    return cast(dict[str, Any], value)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise EdgenasError(f"{where} must be a list, found {value!r}")
    return cast(list[Any], value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    items = _list(value, where)
    for item in items:
        if not isinstance(item, str) or not item:
            raise EdgenasError(f"{where} must list texts, found {item!r}")
    return tuple(items)


def _text(fields: Mapping[str, Any], name: str, *, where: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or (not value and default is None):
        raise EdgenasError(f"{where}: {name} must be a text, found {value!r}")
    return value


def _choice(fields: Mapping[str, Any], name: str, *, choices: tuple[str, ...], where: str) -> str:
    value = fields[name]
    if value not in choices:
        raise EdgenasError(f"{where}: {name} must be one of {', '.join(choices)}, found {value!r}")
    return value


def _flag(fields: Mapping[str, Any], name: str, *, where: str, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise EdgenasError(f"{where}: {name} must be true or false, found {value!r}")
    return value


def _integer(fields: Mapping[str, Any], name: str, *, where: str, least: int = 1) -> int:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise EdgenasError(f"{where}: {name} must be an integer >= {least}, found {value!r}")
    return value


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    items = {str(i): item for i, item in enumerate(_list(value, where))}
    return tuple(_number(items, key, where=where) for key in items)


def _number(fields: Mapping[str, Any], name: str, *, where: str) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EdgenasError(f"{where}: {name} must be a number, found {value!r}")
    return float(value)
