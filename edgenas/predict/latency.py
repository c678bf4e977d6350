"""Latency of networks on one target: sums of layers, a line through measured networks, a bound."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgenas.cost import Tables, Vector, macs_table
from edgenas.device import Target
from edgenas.errors import EdgenasError
from edgenas.estimate import DeviceModel
from edgenas.predict.arrays import (
    check_probes,
    load_arrays,
    probes,
    save_arrays,
    tables_arrays,
    tables_of,
)
from edgenas.predict.errors import HeldOut, held_out
from edgenas.predict.line import BoundKind, Line, fit_line
from edgenas.predict.narrow import narrow_tables
from edgenas.space import Codes, Space
from edgenas.spaces import space_from_json, space_to_json
from edgenas.table import Estimated, LatencySource, LatencyTable, Provenance, Statistic

SCHEMA = "edgenas.latency-predictor/1"


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyPredictor:
    """Predicts seconds for rows of a space; made by ``over``, then perhaps fitted.

    Args:
        space: whose rows it takes; see ``on`` for narrower ones.
        sums: of layers, compiled.
        target: what the latencies belong to; None where nothing but measured networks is known.
        provenance: of the layers: ``measured``, ``published`` or ``estimated``; of the networks
            where there are no layers.
        line: from sums to times, fitted to measured networks; None: sums are taken as they are.
        factor: the bound of an estimated device model: confidence to upper / predicted.
        chosen: error on networks that a search chose by this predictor, measured afterwards.
    """

    space: Space
    sums: Tables
    target: Target | None
    provenance: Provenance
    line: Line | None = None
    factor: Callable[[float], float] | None = None
    chosen: HeldOut | None = None

    @staticmethod
    def over(
        space: Space,
        source: LatencySource | None = None,
        *,
        statistic: Statistic = "typical",
    ) -> "LatencyPredictor":
        """A predictor over a table or device model, fitted to the table's measured networks.

        Args:
            space: whose rows it will take.
            source: where layers' times are from. None: sums are MACs, and only after ``fit`` to
                measured networks are there seconds.
            statistic: of the measured networks: the typical time, or ``wall_p50`` or ``wall_p95``,
                what a user lives with while the machine does other things as well.

        Raises:
            EdgenasError: layers of the space are missing in the table, or no network of it was
                measured with the statistic asked for.
        """
        if source is None:
            return LatencyPredictor(
                space=space, sums=macs_table(space), target=None, provenance="measured"
            )
        predictor = LatencyPredictor(
            space=space,
            sums=source.compile(space),
            target=source.target,
            provenance=source.provenance,
            factor=source.upper_factor if isinstance(source, Estimated) else None,
        )
        pairs: list[tuple[float, float]] = []
        if isinstance(source, LatencyTable):
            found = source.network_sums(space, statistic=statistic)
            pairs = [(total, seconds) for _, total, seconds in found]
        if pairs:
            sums, seconds = np.array(pairs).T
            return replace(predictor, line=fit_line(sums, seconds))
        if statistic != "typical":
            raise EdgenasError(
                f"{statistic} needs measured networks of space {space.name}, the latencies of "
                f"{source.target} have none",
                hint=f"edgenas profile --device {source.target.device} --space {space.name}",
            )
        return predictor

    def fit(self, rows: Codes, seconds: ArrayLike) -> "LatencyPredictor":
        """The same predictor with a line fitted to measured networks.

        Args:
            rows: canonical rows, shape (n, genes).
            seconds: measured, shape (n,).
        """
        return replace(self, line=fit_line(self.sums(rows), np.asarray(seconds, float)))

    def predict(self, rows: Codes) -> Vector:
        """Seconds of canonical rows, shape (n, genes) -> (n,).

        Raises:
            EdgenasError: there are neither layer times nor measured networks.
        """
        sums = self.sums(rows)
        return sums if self.line is None and self._known() else self._line()(sums)

    def __call__(self, rows: Codes) -> Vector:
        """As ``predict``."""
        return self.predict(rows)

    def upper(self, rows: Codes, *, confidence: float = 0.95) -> Vector:
        """Seconds that a network's time does not exceed with a given confidence, shape (n,).

        ``bound_kind(confidence)`` says what it rests on.

        Raises:
            EdgenasError: no network was measured, and layers have no estimate of their error.
        """
        if not 0.5 <= confidence < 1:
            raise EdgenasError(f"confidence must be from 0.5 to below 1, found {confidence}")
        sums = self.sums(rows)
        if self.bound_kind(confidence) == "estimate":
            assert self.factor is not None
            return self.predict(rows) * self.factor(confidence)
        return self._line().upper(sums, confidence=confidence)

    def bound_kind(self, confidence: float = 0.95) -> BoundKind:
        """``split-conformal``, ``student-t``, ``estimate`` (of the device model) or ``none``."""
        kind = "none" if self.line is None else self.line.bound_kind(confidence)
        return "estimate" if kind == "none" and self.factor is not None else kind

    @property
    def error(self) -> HeldOut | None:
        """On measured networks, each left out once; None: too few were measured."""
        return None if self.line is None else self.line.error

    def with_chosen(self, rows: Codes, seconds: ArrayLike) -> "LatencyPredictor":
        """The same predictor with its error on networks that a search chose by it."""
        found = held_out(
            self.predict(rows),
            seconds,
            relative=True,
            method="chosen by a search, then measured",
        )
        return replace(self, chosen=found)

    def tables(self) -> Tables:
        """``predict`` as compiled tables: exact minima and fast neighbourhoods come from them."""
        if self.line is None:
            self._known()
            return self.sums
        slope = self.line.slope
        values = tuple(values * slope for values in self.sums.values)
        constant = self.line.intercept + slope * self.sums.constant
        return Tables(self.sums.columns, values, "sum", constant)

    def on(self, narrow: Space) -> "LatencyPredictor":
        """The same predictor for rows of a narrower space.

        Raises:
            EdgenasError: the space is no narrower one.
        """
        sums = narrow_tables(self.sums, space=self.space, narrow=narrow)
        return replace(self, space=narrow, sums=sums)

    def save(self, path: Path) -> None:
        """Write the predictor as one safetensors file, atomically.

        Raises:
            EdgenasError: it rests on an estimated device model, which lies in the device profile.
        """
        if self.factor is not None:
            raise EdgenasError(
                "an estimated latency predictor is not saved",
                hint="the device profile holds its parameters; build it from there",
            )
        columns, arrays = tables_arrays(self.sums)
        header: dict[str, Any] = {
            "space": space_to_json(self.space),
            "target": self.target and asdict(self.target),
            "provenance": self.provenance,
            "columns": columns,
            "constant": self.sums.constant,
            "line": self.line and asdict(self.line),
            "chosen": self.chosen and self.chosen.to_json(),
            "probes": probes(self.space, self.predict),
        }
        save_arrays(path, schema=SCHEMA, header=header, arrays=arrays)

    def _known(self) -> bool:
        if self.target is None and self.line is None:
            raise EdgenasError(
                "latency has neither layer times nor measured networks",
                hint="fit it to measured networks, or profile the device",
            )
        return True

    def _line(self) -> Line:
        self._known()
        if self.line is None:
            raise EdgenasError(
                f"the latencies of {self.target} have no bound: no whole network was measured",
                hint="measure whole networks: edgenas profile",
            )
        return self.line


def load_latency(path: Path) -> LatencyPredictor:
    """Read a predictor.

    Raises:
        EdgenasError: absent, damaged, of another kind, or its probes give other values here.
    """
    names = ("space", "target", "provenance", "columns", "constant", "line", "chosen")
    header, arrays = load_arrays(path, schema=SCHEMA, fields=names)
    space, line = space_from_json(header["space"], where=f"{path}: space"), header["line"]
    try:
        target = None if header["target"] is None else Target(**header["target"])
        predictor = LatencyPredictor(
            space=space,
            sums=tables_of(header["columns"], arrays, constant=float(header["constant"])),
            target=target,
            provenance=header["provenance"],
            line=None if line is None else Line.from_json(line, where=f"{path}: line"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EdgenasError(f"{path}: fields or arrays are missing or wrong: {error}") from error
    if header["chosen"] is not None:
        chosen = HeldOut.from_json(header["chosen"], where=f"{path}: chosen")
        predictor = replace(predictor, chosen=chosen)
    check_probes(header, predict=predictor.predict, path=path)
    return predictor
