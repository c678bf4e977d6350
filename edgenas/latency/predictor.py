"""Latency of networks on one target: predicted, with an upper bound, from what was measured.

Three ways to predict behind one interface, told apart by what there is:

* a table (or device model) and no measured networks: sums of layers, as they are;
* a table and measured networks: sums of layers, corrected by a line through the networks, and by
  a rate for each weight where that helps (`edgenas.latency.sums`);
* measured networks alone: layer costs learned from them (`edgenas.latency.learned`).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut, held_out
from edgenas.basics.ranges import PredictedSeconds, Range
from edgenas.latency.device import Target
from edgenas.latency.estimate import DeviceModel
from edgenas.latency.learned import learn
from edgenas.latency.line import (
    BoundKind,
    Line,
    check_measured,
    halves,
    with_spared,
    without_line,
)
from edgenas.latency.sums import fit_sums
from edgenas.latency.table import (
    Estimated,
    LatencySource,
    LatencyTable,
    MeasuredNetwork,
    Provenance,
    Statistic,
)
from edgenas.space.arch import Arch
from edgenas.space.arrays import (
    Header,
    check_numbers,
    check_probes,
    load_arrays,
    probes,
    save_arrays,
    tables_arrays,
    tables_of,
)
from edgenas.space.cost import Tables, Vector
from edgenas.space.narrow import narrow_tables
from edgenas.space.presets import space_from_json, space_to_json
from edgenas.space.space import Codes, Space

SCHEMA = "edgenas.latency-predictor/1"

Networks = Codes | Sequence[Arch]


def estimated(model: DeviceModel) -> Estimated:
    """The latencies of an estimated device model, with its bound."""

    def factor(confidence: float) -> float:
        return model.upper(1.0, confidence=confidence)

    return Estimated(
        target=model.target,
        layer_seconds=model.seconds,
        constant=model.run_overhead,
        upper_factor=factor,
    )


class LatencyPredictor:
    """Predicts seconds of networks of a space. Methods that learn return a new predictor.

    Networks are canonical rows, shape (n, genes), or a list of Arch.

    Args:
        space: of the networks; see ``on`` for narrower ones.
        table: layers' times, measured or estimated. A table's own measured networks are fitted to
            at once. None: only after ``fit`` are there seconds.
        statistic: of the table's measured networks: the typical time, or ``wall_p50`` or
            ``wall_p95``, what a user lives with while the machine does other things as well.
        target: what the latencies belong to, where there is no table that says so.

    Attributes:
        space: whose networks it predicts.
        layers: sums of layers as the table has them, compiled; None: there is no table.
        alone: sums of the same layers timed alone, where they were timed both ways.
        sums: those of either way, with what weights cost beside them, or learned; None: not known
            yet.
        target: what the latencies belong to; None where nothing but measured networks is known.
        provenance: of the layers: ``measured``, ``published`` or ``estimated``; of the networks
            where there is no table.
        line: from sums to times, with what is known of its errors; None: sums as they are.
        factor: the bound of an estimated device model: confidence to upper / predicted.
        rates: learned from networks alone, see `edgenas.latency.learned`; None: not learned.
        chosen: error on networks that a search chose by this predictor, measured afterwards.

    Raises:
        EdgenasError: layers of the space are missing in the table, or no network of it was
            measured with the statistic asked for.
    """

    def __init__(
        self,
        space: Space,
        table: LatencySource | None = None,
        *,
        statistic: Statistic = "typical",
        target: Target | None = None,
    ) -> None:
        self.space = space
        self.layers: Tables | None = None if table is None else table.compile(space)
        self.alone = table.compile_alone(space) if isinstance(table, LatencyTable) else None
        self.sums = self.layers
        self.target: Target | None = target if table is None else table.target
        self.provenance: Provenance = "measured" if table is None else table.provenance
        self.line: Line | None = None
        self.factor: Callable[[float], float] | None = None
        self.rates: Mapping[str, float] | None = None
        self.chosen: HeldOut | None = None
        if table is None:
            return
        if isinstance(table, Estimated):
            self.factor = table.upper_factor
        found: list[tuple[MeasuredNetwork, float, float]] = []
        if isinstance(table, LatencyTable):
            found = table.network_sums(space, statistic=statistic)
        if found:
            fitted = self.fit([network.arch for network, _, _ in found], [s for _, _, s in found])
            self.sums, self.line = fitted.sums, fitted.line
        elif statistic != "typical":
            raise EdgenasError(
                f"{statistic} needs measured networks of space {space.name}, the latencies of "
                f"{table.target} have none",
                hint=f"edgenas profile --device {table.target.device} --space {space.name}",
            )

    def fit(
        self,
        networks: Networks,
        seconds: ArrayLike,
        *,
        spared: tuple[Networks, ArrayLike] | None = None,
        priors: Mapping[str, Tables] | None = None,
    ) -> "LatencyPredictor":
        """The same predictor fitted to measured networks: a line over a table, or layer costs.

        Args:
            networks: n of them.
            seconds: measured, shape (n,), above zero.
            spared: further networks and their seconds, for the bound and the stated error alone;
                None: from 40 networks on, a random half of those given.
            priors: latencies of other devices, see `edgenas.latency.learned.learn`; unused where
                there is a table.

        Raises:
            EdgenasError: nothing to fit to, or times that are not above zero.
        """
        rows, measured = self._rows(networks), np.asarray(seconds, float)
        check_measured(len(rows), measured)
        if spared is None:
            fitted, rest = halves(len(rows))
            rows, others = rows[fitted], rows[rest]
            measured, further = measured[fitted], measured[rest]
        else:
            others, further = self._rows(spared[0]), np.asarray(spared[1], float)
        rates: Mapping[str, float] | None = None
        if self.layers is not None:
            sums, line = fit_sums(self.space, self.layers, rows, seconds=measured, alone=self.alone)
        else:
            found = learn(self.space, rows, seconds=measured, priors=priors)
            sums, rates = found.sums, found.rates
            line = without_line(found.left_out, measured)
        if len(others):
            line = with_spared(line, sums(others), further)
        return self._with(sums=sums, rates=rates, line=line)

    def predict(self, networks: Networks) -> Vector:
        """Seconds of n networks, shape (n,).

        Raises:
            EdgenasError: there are neither layer times nor measured networks.
        """
        sums = self._sums()(self._rows(networks))
        return sums if self.line is None else self.line(sums)

    def __call__(self, networks: Networks) -> Vector:
        """As ``predict``."""
        return self.predict(networks)

    def upper(self, networks: Networks, *, confidence: float = 0.95) -> Vector:
        """Seconds that a network's time does not exceed with a given confidence, shape (n,).

        ``bound_kind(confidence)`` says what it rests on.

        Raises:
            EdgenasError: no network was measured, and layers have no estimate of their error.
        """
        if not 0.5 <= confidence < 1:
            raise EdgenasError(f"confidence must be from 0.5 to below 1, found {confidence}")
        sums = self._sums()(self._rows(networks))
        if self.bound_kind(confidence) == "estimate":
            assert self.factor is not None
            return self.predict(networks) * self.factor(confidence)
        if self.line is None:
            raise EdgenasError(
                f"the latencies of {self.target} have no bound: no whole network was measured",
                hint="measure whole networks: edgenas profile",
            )
        return self.line.upper(sums, confidence=confidence)

    def bound_kind(self, confidence: float = 0.95) -> BoundKind:
        """``split-conformal``, ``student-t``, ``estimate`` (of the device model) or ``none``."""
        kind = "none" if self.line is None else self.line.bound_kind(confidence)
        return "estimate" if kind == "none" and self.factor is not None else kind

    @property
    def error(self) -> HeldOut | None:
        """On measured networks that were held out of the fit; None: too few were measured."""
        return None if self.line is None else self.line.error

    def with_chosen(self, networks: Networks, seconds: ArrayLike) -> "LatencyPredictor":
        """The same predictor with its error on networks that a search chose by it."""
        found = held_out(
            self.predict(networks),
            seconds,
            relative=True,
            method="chosen by a search, then measured",
        )
        return self._with(chosen=found)

    def tables(self) -> Tables:
        """``predict`` as compiled tables: exact minima and fast neighbourhoods come from them."""
        sums = self._sums()
        if self.line is None:
            return sums
        slope = self.line.slope
        values = tuple(values * slope for values in sums.values)
        constant = self.line.intercept + slope * sums.constant
        return Tables(sums.columns, values, "sum", constant)

    def on(self, narrow: Space) -> "LatencyPredictor":
        """The same predictor for networks of a narrower space.

        Raises:
            EdgenasError: the space is no narrower one.
        """
        layers, alone, sums = (
            None if tables is None else narrow_tables(tables, space=self.space, narrow=narrow)
            for tables in (self.layers, self.alone, self._sums())
        )
        return self._with(space=narrow, layers=layers, alone=alone, sums=sums)

    def save(self, path: Path) -> None:
        """Write the predictor as one safetensors file, atomically.

        Raises:
            EdgenasError: it rests on an estimated device model, which lies in the device profile,
                or there is nothing to write yet.
        """
        if self.factor is not None:
            raise EdgenasError(
                "an estimated latency predictor is not saved",
                hint="the device profile holds its parameters; build it from there",
            )
        sums = self._sums()
        columns, arrays = tables_arrays(sums)
        header: dict[str, Any] = {
            "space": space_to_json(self.space),
            "target": self.target and asdict(self.target),
            "provenance": self.provenance,
            "columns": columns,
            "constant": sums.constant,
            "line": self.line and asdict(self.line),
            "chosen": self.chosen and self.chosen.to_json(),
            "probes": probes(self.space, self.predict),
        }
        if self.rates is not None:
            header["rates"] = dict(self.rates)
        save_arrays(path, schema=SCHEMA, header=header, arrays=arrays)

    def _rows(self, networks: Networks) -> Codes:
        return networks if isinstance(networks, np.ndarray) else self.space.encode(networks)

    def _with(self, **changes: Any) -> "LatencyPredictor":
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def _sums(self) -> Tables:
        if self.sums is None:
            raise EdgenasError(
                "latency has neither layer times nor measured networks",
                hint="fit it to measured networks, or profile the device",
            )
        return self.sums


_DRAWN = 500  # networks whose latencies must be numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class _File(Header):
    """What the header of a latency predictor has, see ``LatencyPredictor``."""

    space: Any
    target: Target | None
    provenance: Provenance
    columns: tuple[tuple[Annotated[int, Range(0, 10_000, "count")], ...], ...]
    constant: PredictedSeconds
    line: Line | None
    chosen: HeldOut | None
    rates: Mapping[str, Annotated[float, Range(-1e12, 1e12, "number")]] | None = None


def load_latency(path: Path) -> LatencyPredictor:
    """Read a predictor.

    Raises:
        EdgenasError: absent, damaged, of another kind, or its probes give other values here.
    """
    header, arrays = load_arrays(path, schema=SCHEMA, kind=_File)
    check_numbers(arrays, path=path, nan="allowed")
    predictor = LatencyPredictor(space_from_json(header.space, where=f"{path}: space"))
    try:
        predictor.sums = tables_of(header.columns, arrays, constant=header.constant)
    except KeyError as error:
        raise EdgenasError(f"{path}: the array {error} is missing") from error
    predictor.target = header.target
    predictor.provenance = header.provenance
    predictor.layers = predictor.sums if header.rates is None else None
    predictor.rates = header.rates
    predictor.line = header.line
    predictor.chosen = header.chosen
    check_probes(header, predict=predictor.predict, path=path)
    drawn = predictor.space.sample(_DRAWN, rng=np.random.default_rng(0))
    if not np.isfinite(predictor.predict(drawn)).all():
        raise EdgenasError(f"{path} has no latency for some networks of {predictor.space.name}")
    return predictor
