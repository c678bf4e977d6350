"""What every fit of published rows shares: pools of logs, the fit, rows left out of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgenas.latency.device import Estimate, Fact, PublishedRow, Target
from edgenas.latency.estimate import DeviceModel, NetworkEstimate, model_of
from edgenas.latency.features import AT, NAMES, Array, Kernels, features
from edgenas.latency.hierarchy import Fit, Population, Prior, Rows, Spreads, fit_population
from edgenas.latency.profile_text import Evidence, estimate_of
from tools.device_fits.published_rows import Row

# Typical values of a small CPU, seconds each: only the order of magnitude matters.
ANCHORS = {
    "run": 1e-4,
    "kernel": 1e-5,
    "dense": 1.5e-10,
    "winograd": 1.5e-10,
    "pointwise": 1.5e-10,
    "depthwise": 3e-10,
    "general": 6e-10,
    "activation": 5e-10,
    "weight": 1e-9,
    "vector_weight": 1e-9,
    "elementwise": 1e-9,
    "window": 1e-9,
    "exponential": 3e-9,
    "plain": 4e-9,
    "patch": 1e-9,
}


@dataclass(frozen=True, slots=True)
class Log:
    """Rows measured on one board in one way.

    Args:
        name: it starts with the device.
        rows: of the log.
        kernels: of its runtime.
        unit: seconds of each price that count as one, shape (15,).
    """

    name: str
    rows: tuple[Row, ...]
    kernels: Kernels
    unit: Array

    @property
    def device(self) -> str:
        """The device that the log is of."""
        return self.name.split(" / ")[0]

    def counts(self) -> Array:
        """What the networks are made of, shape (n, 15)."""
        return np.array([count(row, self.kernels) for row in self.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The logs of one runtime, which are fitted together.

    Args:
        name: of the runtime.
        logs: of it.
        used: indices of the prices that exist there.
        before: what is known of those without any row.
        spreads: of family effects and noise without any row.
    """

    name: str
    logs: tuple[Log, ...]
    used: tuple[int, ...]
    before: Prior
    spreads: Spreads = field(default_factory=Spreads)

    def select(self, keep: Callable[[Log, Row], bool]) -> "Pool":
        """The pool with those rows alone that are to be kept."""
        logs = [
            replace(log, rows=tuple(row for row in log.rows if keep(log, row))) for log in self.logs
        ]
        return replace(self, logs=tuple(log for log in logs if log.rows))

    def rows(self, log: Log) -> Rows:
        """A log as the fit takes it."""
        counts = (log.counts() * log.unit)[:, list(self.used)]
        seconds = np.array([row.seconds for row in log.rows])
        return Rows(counts, seconds, tuple(row.family for row in log.rows))

    def fit(self, *, rounds: int = 8) -> tuple[Population, dict[str, Fit]]:
        """The population, and the fit of each log by its name."""
        population, fits = fit_population(
            [self.rows(log) for log in self.logs],
            before=self.before,
            spreads=self.spreads,
            rounds=rounds,
        )
        return population, {log.name: fit for log, fit in zip(self.logs, fits, strict=True)}

    @property
    def families(self) -> list[str]:
        """Of the networks in it."""
        return sorted({row.family for log in self.logs for row in log.rows})


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row that the fit had not seen.

    Args:
        log: that it is of.
        row: what was measured.
        estimate: of the network, as the profile of this fit gives it.
    """

    log: str
    row: Row
    estimate: NetworkEstimate

    @property
    def error(self) -> float:
        """log(measured / predicted)."""
        return math.log(self.row.seconds / self.estimate.seconds)

    @property
    def spread(self) -> float:
        """The standard deviation that the estimate gives the error."""
        return self.estimate.spread


_counted: dict[tuple[int, Kernels], Array] = {}


def count(row: Row, kernels: Kernels) -> Array:
    """The features of a row, with one run."""
    key = (id(row.operators), kernels)
    if key not in _counted:
        counts = features(row.operators, kernels=kernels)
        counts[AT["run"]] = 1
        _counted[key] = counts
    return _counted[key]


def predict(
    pool: Pool,
    log: Log,
    fit: Fit,
    population: Population,
    *,
    seen: Sequence[Row] = (),
    measured: bool = False,
) -> list[Prediction]:
    """The rows of a log as a fit predicts them.

    Args:
        pool: of the runtime.
        log: to predict.
        fit: of its board.
        population: of the boards.
        seen: rows of this board that the fit saw; empty: it saw other boards alone.
        measured: whether these are a user's, who gave them to ``estimate``.
    """
    model = _model(pool, log, fit, population, seen=seen, measured=measured)
    return [
        Prediction(log.name, row, model.for_family(row.family).describe(row.operators))
        for row in log.rows
    ]


def _model(
    pool: Pool,
    log: Log,
    fit: Fit,
    population: Population,
    *,
    seen: Sequence[Row],
    measured: bool,
) -> DeviceModel:
    """What a profile with this fit would give, for the version of the rows."""
    rows = seen or [row for other in pool.logs for row in other.rows]
    first = PublishedRow(rows[0].network, 0, rows[0].seconds, rows[0].source)
    evidence = Evidence(
        kernels=log.kernels,
        used=pool.used,
        before=population.covariance,
        spreads=population.spreads,
        counts=np.array([count(row, log.kernels) for row in rows]),
        networks=(first,),  # nobody asks for the nearest one
        families=tuple({row.family for row in seen}),
        own=bool(seen),
        residuals=(0.0,),
        method="",
        sources=(),
        measured=measured,
    )
    estimate = estimate_of(fit, evidence, unit=log.unit)
    return model_of(estimate, Target(log.device, pool.name, ""), version="", where=log.name)


def families_out(pool: Pool, *, rounds: int = 6) -> list[Prediction]:
    """Each family of networks predicted by a fit that saw it on no board."""
    predictions: list[Prediction] = []
    for family in pool.families:
        seen = pool.select(lambda log, row, out=family: row.family != out)
        population, fits = seen.fit(rounds=rounds)
        hidden = pool.select(lambda log, row, out=family: row.family == out)
        rows = {log.name: log.rows for log in seen.logs}
        for log in hidden.logs:
            fit = fits.get(log.name, population.new_board)
            known = rows.get(log.name, ())
            predictions += predict(seen, log, fit, population, seen=known)
    return predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What goes into the profile of one target."""

    profile: str
    slug: str
    estimate: Estimate


def result(
    pool: Pool,
    log: Log,
    *,
    profile: str,
    slug: str,
    fit: Fit,
    population: Population,
    residuals: Sequence[float],
    method: str,
    sources: Sequence[str],
    networks: Sequence[PublishedRow] = (),
    power: Fact | None = None,
    other_version: float,
) -> Result:
    """The estimate of a log; ``networks`` of relatives where there is no row of its own."""
    rows = networks or [PublishedRow(r.network, r.macs, r.seconds, r.source) for r in log.rows]
    evidence = Evidence(
        kernels=log.kernels,
        used=pool.used,
        before=population.covariance,
        spreads=population.spreads,
        counts=log.counts(),
        networks=tuple(rows),
        families=tuple({row.family for row in log.rows}) if not networks else (),
        other_version=other_version,
        own=not networks,
        residuals=tuple(residuals),
        method=method,
        sources=tuple(sources),
    )
    return Result(
        profile=profile,
        slug=slug,
        estimate=estimate_of(fit, evidence, unit=log.unit, power=power),
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """Known before any row: log(price / other) is ``mean``, give or take ``spread``."""

    price: str
    other: str
    mean: float
    spread: float


# An element costs about the same wherever it moves; a MAC of one kind about as much as of another;
# a vectorised exponential is some 20 instructions; unfolding runs on one thread.
RATIOS = (
    Ratio("elementwise", "activation", 0.0, 0.5),
    Ratio("window", "elementwise", 0.0, 0.7),
    Ratio("vector_weight", "weight", 0.0, 0.7),
    Ratio("weight", "activation", 0.0, 1.0),
    Ratio("dense", "pointwise", 0.0, 0.7),
)


def ratios(used: Sequence[int], *, known: Sequence[Ratio]) -> Prior:
    """A prior that hardly knows the speed of a device, but how its prices relate.

    Args:
        used: indices of the prices; each is about its anchor to within a factor of seven or so
            (the standard deviation of its logarithm is 2).
        known: relations.
    """
    at = {NAMES[i]: place for place, i in enumerate(used)}
    sharp = np.eye(len(used)) / 4
    pull = sharp @ np.log([ANCHORS[NAMES[i]] for i in used])
    for ratio in known:
        row = np.zeros(len(used))
        row[at[ratio.price]], row[at[ratio.other]] = 1, -1
        sharp = sharp + np.outer(row, row) / ratio.spread**2
        pull = pull + row * ratio.mean / ratio.spread**2
    return Prior(np.linalg.solve(sharp, pull), np.linalg.inv(sharp))


def median_error(errors: Sequence[float]) -> float:
    """The median absolute error, as a fraction, of log(measured / predicted)."""
    return float(np.median(np.abs(np.expm1(-np.asarray(errors)))))


def relative_error(errors: Sequence[float]) -> float:
    """The mean absolute error, as a fraction, of log(measured / predicted)."""
    return float(np.mean(np.abs(np.expm1(-np.asarray(errors)))))


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """Print rows with what was predicted, and how far that was off."""
    for p in predictions:
        ms = p.row.seconds * 1e3
        print(
            f"   {p.log:52s} {p.row.network:34s} {ms:9.2f} ms, predicted "
            f"{ms * math.exp(-p.error):9.2f} ({100 * math.expm1(-p.error):+.0f}%, "
            f"{100 * math.expm1(p.spread):.0f}%)"
        )
    errors = [p.error for p in predictions]
    print(
        f"   {len(errors)} rows: mean error {100 * relative_error(errors):.1f}%, median "
        f"{100 * median_error(errors):.1f}%"
    )


def print_population(pool: Pool, population: Population) -> None:
    """Print what a population says of families, boards and noise."""
    spreads = population.spreads
    print(
        f"\n== {pool.name}: {len(pool.logs)} logs, {len(pool.families)} families; standard "
        f"deviations: family {spreads.family:.3f}, on one board {spreads.own:.3f}, noise "
        f"{spreads.noise:.3f}"
    )


Predictions = Mapping[str, list[Prediction]]


def by_log(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions by the name of their log."""
    logs: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        logs.setdefault(prediction.log, []).append(prediction)
    return logs
