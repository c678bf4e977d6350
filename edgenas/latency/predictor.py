"""Latency of networks on one target: predicted, with an upper bound, from what was measured.

`LatencyPredictor` is what all predictors offer. There are four, and what is known of a target
decides between them:

* `SumPredictor`: a table of layers and no measured networks. It adds up the layers.
* `EstimatedPredictor`: a device model. It adds up the layers too, and the model gives a bound.
* `LinePredictor`: layers and measured networks. A line through the networks corrects the sums, and
  so does a rate for each weight where that helps (`edgenas.latency.sums`).
* `LearnedPredictor`: measured networks alone. Layer costs are learned from them
  (`edgenas.latency.learned`).

Predictors are values. `edgenas.latency.fitting` builds them, `edgenas.latency.predictor_file` keeps
them on disk. Networks are canonical rows, shape (n, genes), or a list of Arch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut, compare_with_truth
from edgenas.latency.bound import BoundKind, check_confidence, split_networks
from edgenas.latency.device import Target
from edgenas.latency.line import Line, add_bound
from edgenas.latency.linear import check_measured, combine_tables
from edgenas.latency.source import EstimatedSource
from edgenas.latency.sums import fit_sums
from edgenas.latency.table import Provenance
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.narrow import narrow_tables
from edgenas.space.space import Space

Networks = Codes | Sequence[Arch]
Measurements = tuple[Networks, ArrayLike]  # networks, and the seconds of each


class LatencyPredictor(Protocol):
    """What every latency predictor offers."""

    @property
    def space(self) -> Space:
        """Whose networks it predicts."""
        ...

    @property
    def target(self) -> Target | None:
        """What the latencies belong to; None where nobody named it."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Where the times of the layers are from: ``measured``, ``published`` or ``estimated``."""
        ...

    @property
    def error(self) -> HeldOut | None:
        """The error on networks that were left out of the fit; None where it is not known."""
        ...

    @property
    def chosen(self) -> HeldOut | None:
        """The error on networks that a search chose by this predictor, measured afterwards."""
        ...

    def predict(self, networks: Networks) -> Vector:
        """The seconds of n networks, shape (n,)."""
        ...

    def upper(self, networks: Networks, *, confidence: float = 0.95) -> Vector:
        """The seconds that each network does not exceed with a confidence, shape (n,).

        Raises:
            EdgenasError: nothing gives a bound: ``bound_kind(confidence)`` is ``none``.
        """
        ...

    def bound_kind(self, confidence: float = 0.95) -> BoundKind:
        """What ``upper`` rests on.

        ``split-conformal`` and ``student-t`` come from measured networks, ``estimate`` from a
        device model.
        """
        ...

    def tables(self) -> Tables:
        """``predict`` as compiled tables, which give exact minima and fast neighbourhoods."""
        ...

    def on(self, narrow: Space) -> Self:
        """The same predictor for the networks of a narrower space.

        Raises:
            EdgenasError: the space is not a narrower one.
        """
        ...

    def with_chosen(self, networks: Networks, seconds: ArrayLike) -> Self:
        """The same predictor with its error on networks that a search chose by it."""
        ...


def rows_of(networks: Networks, space: Space) -> Codes:
    """The canonical rows of networks."""
    return networks if isinstance(networks, np.ndarray) else space.encode(networks)


def measure_error(predictor: LatencyPredictor, networks: Networks, seconds: ArrayLike) -> HeldOut:
    """The error of a predictor on networks that a search chose by it."""
    predicted = predictor.predict(networks)
    method = "chosen by a search, then measured"
    return compare_with_truth(predicted, seconds, relative=True, method=method)


def divide_measurements(
    space: Space, networks: Networks, seconds: ArrayLike, *, spared: Measurements | None
) -> tuple[Codes, Vector, tuple[Codes, Vector]]:
    """Divide measured networks into those for the fit and those for the bound.

    Returns:
        The rows and the seconds of the first, then both of the second; see ``SumPredictor.fit``.

    Raises:
        EdgenasError: there are no networks, or some times are not above zero.
    """
    rows, times = rows_of(networks, space), np.asarray(seconds, float)
    check_measured(len(rows), times)
    if spared is not None:
        return rows, times, (rows_of(spared[0], space), np.asarray(spared[1], float))
    fitted, others = split_networks(len(rows))
    return rows[fitted], times[fitted], (rows[others], times[others])


@dataclass(frozen=True, slots=True, kw_only=True)
class SumPredictor:
    """Predicts a network as the sum of its layers, see `LatencyPredictor`.

    Args:
        space: of the networks.
        sums: of the layers, compiled.
        target: what the latencies belong to.
        provenance: of the layers' times.
        alone: sums of the same layers timed alone, where they were timed both ways.
        chosen: the error on networks that a search chose.
    """

    space: Space
    sums: Tables
    target: Target | None
    provenance: Provenance
    alone: Tables | None = None
    chosen: HeldOut | None = None

    @property
    def error(self) -> HeldOut | None:
        """Always None: no whole network was measured."""
        return None

    def predict(self, networks: Networks) -> Vector:
        """The sums of the layers, in seconds."""
        return self.sums(rows_of(networks, self.space))

    def upper(self, networks: Networks, *, confidence: float = 0.95) -> Vector:
        """Always raises EdgenasError: no whole network was measured, so nothing gives a bound."""
        check_confidence(confidence)
        raise EdgenasError(
            f"the latencies of {self.target} have no bound: no whole network was measured",
            hint="measure whole networks: edgenas profile",
        )

    def bound_kind(self, confidence: float = 0.95) -> BoundKind:
        """Always ``none``."""
        return "none"

    def tables(self) -> Tables:
        """The sums of the layers."""
        return self.sums

    def on(self, narrow: Space) -> Self:
        """The same sums for a narrower space."""
        alone = self.alone and narrow_tables(self.alone, space=self.space, narrow=narrow)
        sums = narrow_tables(self.sums, space=self.space, narrow=narrow)
        return replace(self, space=narrow, sums=sums, alone=alone)

    def with_chosen(self, networks: Networks, seconds: ArrayLike) -> Self:
        """The same predictor with its error on networks that a search chose by it."""
        return replace(self, chosen=measure_error(self, networks, seconds))

    def fit(
        self, networks: Networks, seconds: ArrayLike, *, spared: Measurements | None = None
    ) -> "LinePredictor":
        """Fit a line from the sums to the times of measured networks.

        Args:
            networks: n of them.
            seconds: measured, shape (n,), above zero.
            spared: further networks and their seconds, for the bound and the error alone. None: a
                random half of the networks, where there are 40 or more.

        Raises:
            EdgenasError: there is nothing to fit to, or some times are not above zero.
        """
        rows, times, others = divide_measurements(self.space, networks, seconds, spared=spared)
        sums, line = fit_sums(self.space, self.sums, rows, seconds=times, alone=self.alone)
        if len(others[0]):
            line = add_bound(line, sums(others[0]), others[1])
        return LinePredictor(base=self, sums=sums, line=line)


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedPredictor(SumPredictor):
    """Predicts a network as the sum of its estimated layers, with the bound of a device model.

    Args:
        source: the device model.
    """

    source: EstimatedSource

    def upper(self, networks: Networks, *, confidence: float = 0.95) -> Vector:
        """The bound of the device model."""
        check_confidence(confidence)
        if self.source.upper_on is None:
            return SumPredictor.upper(self, networks, confidence=confidence)
        factors = self.source.upper_on(self.space)(rows_of(networks, self.space), confidence)
        return self.predict(networks) * factors

    def bound_kind(self, confidence: float = 0.95) -> BoundKind:
        """``estimate``, or ``none`` where the device model has no bound."""
        return "none" if self.source.upper_on is None else "estimate"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePredictor:
    """Predicts a network by a line from the sum of its layers, see `LatencyPredictor`.

    Args:
        base: the times of the layers; another line can be fitted to them.
        sums: what the line starts from: the sums of ``base``, or those with a rate for each weight.
        line: from sums to times, with the errors that it was seen to make.
        chosen: the error on networks that a search chose.
    """

    base: SumPredictor
    sums: Tables
    line: Line
    chosen: HeldOut | None = None

    @property
    def space(self) -> Space:
        """Whose networks it predicts."""
        return self.base.space

    @property
    def target(self) -> Target | None:
        """What the latencies belong to."""
        return self.base.target

    @property
    def provenance(self) -> Provenance:
        """Of the layers' times."""
        return self.base.provenance

    @property
    def error(self) -> HeldOut | None:
        """On measured networks that were held out of the fit; None where there were too few."""
        return self.line.error

    def predict(self, networks: Networks) -> Vector:
        """The seconds of networks."""
        return self.line(self.sums(rows_of(networks, self.space)))

    def upper(self, networks: Networks, *, confidence: float = 0.95) -> Vector:
        """The bound of the line.

        Where too few networks were measured for one, it is as far above the prediction as that of
        the device model is.
        """
        check_confidence(confidence)
        rows = rows_of(networks, self.space)
        if self.bound_kind(confidence) == "estimate":
            above = self.base.upper(rows, confidence=confidence) / self.base.predict(rows)
            return self.predict(rows) * above
        return self.line.upper(self.sums(rows), confidence=confidence)

    def bound_kind(self, confidence: float = 0.95) -> BoundKind:
        """That of the line, or else that of the layers."""
        kind = self.line.bound_kind(confidence)
        return self.base.bound_kind(confidence) if kind == "none" else kind

    def tables(self) -> Tables:
        """``predict`` as compiled tables."""
        return combine_tables([self.sums], [self.line.slope], constant=self.line.intercept)

    def on(self, narrow: Space) -> Self:
        """The same predictor for a narrower space."""
        sums = narrow_tables(self.sums, space=self.space, narrow=narrow)
        return replace(self, base=self.base.on(narrow), sums=sums)

    def with_chosen(self, networks: Networks, seconds: ArrayLike) -> Self:
        """The same predictor with its error on networks that a search chose by it."""
        return replace(self, chosen=measure_error(self, networks, seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPredictor(LinePredictor):
    """Predicts by layer costs that were learned from measured networks.

    Args:
        rates: seconds per unit of each feature, see `edgenas.latency.learned`.
    """

    rates: Mapping[str, float]
