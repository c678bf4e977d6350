"""A fit as a device profile holds it: the estimate as a value, and as the text of a TOML file."""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.latency.device import MODEL, Estimate, Fact, FamilyEffect, Parameter, PublishedRow
from edgenas.latency.features import NAMES, Array, Kernels
from edgenas.latency.hierarchy import Fit, Spreads

Origin = Literal["fit", "pooled", "formula"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the fit of one target rests on.

    Args:
        kernels: how its runtime cuts networks into kernels.
        used: indices of the prices that exist there.
        before: covariance of the prices without the rows of this target, shape (d, d).
        spreads: of the population.
        counts: of the networks, shape (n, 15).
        networks: the n networks with their sources.
        families: whose effects are worth keeping; those of the fit are.
        other_version: standard deviation of log seconds between versions of the runtime; 0: the
            networks were timed with the version that is used.
        own: whether they were measured on this very target; False: on its relatives.
        residuals: log(measured / predicted) of rows that their fits had not seen.
        method: how the residuals came about, in words.
        sources: of all rows, those of relatives included.
        measured: whether the networks were measured by the user, not published.
    """

    kernels: Kernels
    used: tuple[int, ...]
    before: Array
    spreads: Spreads
    counts: Array
    networks: tuple[PublishedRow, ...]
    families: tuple[str, ...]
    other_version: float = 0.0
    own: bool = True
    residuals: tuple[float, ...]
    method: str
    sources: tuple[str, ...]
    measured: bool = False


def estimate_of(
    fit: Fit,
    evidence: Evidence,
    *,
    unit: Array | None = None,
    scale: float = 1.0,
    power: Fact | None = None,
) -> Estimate:
    """The estimate of a target.

    Args:
        fit: of its board.
        evidence: what the fit rests on.
        unit: seconds of each price that count as one in the fit, shape (15,); None: one second.
        scale: what standard deviations are multiplied by.
        power: mean wall power, where it is known.
    """
    used = list(evidence.used)
    width = len(used)
    values, covariance = np.zeros(len(NAMES)), np.zeros((len(NAMES), len(NAMES)))
    values[used] = fit.prices
    values *= np.ones(len(NAMES)) if unit is None else unit
    covariance[np.ix_(used, used)] = fit.covariance[:width, :width] * scale**2
    halved = np.diag(fit.covariance)[:width] < np.diag(evidence.before)[:width] / 4
    origin = dict.fromkeys(range(len(NAMES)), "formula")
    origin |= {at: "fit" if own else "pooled" for at, own in zip(used, halved, strict=True)}
    least = np.where(evidence.counts > 0, evidence.counts, np.inf).min(axis=0)
    by_size = sorted(evidence.networks, key=lambda network: network.macs)
    kernels = evidence.kernels
    return Estimate(
        model=MODEL,
        parameters={
            name: Parameter(float(values[i]), cast(Origin, origin[i]))
            for i, name in enumerate(NAMES)
        },
        fused=tuple(sorted(kernels.fused)),
        residuals=tuple(sorted(evidence.residuals)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        method=evidence.method,
        rows=len(evidence.networks) if evidence.own else 0,
        smallest=by_size[0],
        largest=by_size[-1],
        sources=evidence.sources,
        noise=fit.noise * scale,
        family=evidence.spreads.unseen * scale,
        family_own=evidence.spreads.own * scale,
        families=_effects(fit, evidence, scale=scale),
        other_version=evidence.other_version,
        least=tuple(map(float, np.where(np.isfinite(least), least, 0.0))),
        most=tuple(map(float, evidence.counts.max(axis=0))),
        power=power,
        tile=kernels.tile,
        per_group=kernels.per_group,
        vectors=kernels.vectors,
        fast3x3=kernels.fast3x3,
        row_threads=kernels.rows,
        plain=tuple(sorted(kernels.plain)),
        measured=evidence.measured,
    )


def _effects(fit: Fit, evidence: Evidence, *, scale: float) -> dict[str, FamilyEffect]:
    """The effects of families; with their covariances where a user's networks are such a family."""
    width = len(evidence.used)
    doubts = np.sqrt(np.diag(fit.covariance)[width:]) * scale
    along = np.zeros((len(fit.families), len(NAMES)))
    along[:, list(evidence.used)] = fit.covariance[width:, :width] * scale**2
    return {
        family: FamilyEffect(
            float(fit.logs[width + i]),
            float(doubts[i]),
            tuple(map(float, along[i])) if evidence.measured else (),
        )
        for i, family in enumerate(fit.families)
        if family in evidence.families
    }


def estimate_text(estimate: Estimate) -> str:
    """The TOML lines of an estimate, as a device profile holds them."""
    plain = Kernels()
    lines = [
        "[targets.estimate]",
        f"model = {quoted(estimate.model)}",
        f"fused = [{', '.join(quoted(name) for name in sorted(estimate.fused))}]",
        *([f"tile = {estimate.tile}"] if estimate.tile != plain.tile else []),
        *(["per_group = true"] if estimate.per_group else []),
        *([] if estimate.vectors else ["vectors = false"]),
        *(["fast3x3 = true"] if estimate.fast3x3 else []),
        *([f"row_threads = {estimate.row_threads}"] if estimate.row_threads > 1 else []),
        *([f"plain = [{', '.join(map(quoted, estimate.plain))}]"] if estimate.plain else []),
        *(["measured = true"] if estimate.measured else []),
        f"rows = {estimate.rows}",
        f"method = {quoted(estimate.method)}",
        f"noise = {estimate.noise:.3g}",
        f"family = {estimate.family:.3g}",
        f"family_own = {estimate.family_own:.3g}",
        *([f"other_version = {estimate.other_version:.3g}"] if estimate.other_version else []),
        f"residuals = [{', '.join(f'{r:.3f}' for r in sorted(estimate.residuals))}]",
        f"least = [{', '.join(f'{c:.5g}' for c in estimate.least)}]",
        f"most = [{', '.join(f'{c:.5g}' for c in estimate.most)}]",
        "covariance = [",
        *(f"  [{', '.join(f'{c:.3g}' for c in row)}]," for row in estimate.covariance),
        "]",
        "sources = [",
        *(f"  {quoted(source)}," for source in estimate.sources),
        "]",
    ]
    for name, row in (("smallest", estimate.smallest), ("largest", estimate.largest)):
        lines.append(
            f"{name} = {{ network = {quoted(row.network)}, macs = {row.macs:.0f}, "
            f"latency_ms = {row.seconds * 1e3:.6g}, source = {quoted(row.source)} }}"
        )
    if estimate.power is not None:
        power = estimate.power
        lines.append(
            f"power = {{ value = {power.value:.2f}, unit = {quoted(power.unit)}, "
            f"source = {quoted(power.source)} }}"
        )
    lines.append("[targets.estimate.parameters]")
    for name, parameter in estimate.parameters.items():
        value = f"{parameter.value:.3g}"
        lines.append(f"{name} = {{ value = {value}, origin = {quoted(parameter.origin)} }}")
    if estimate.families:
        lines.append("[targets.estimate.families]")
    for name, family in estimate.families.items():
        known = f"effect = {family.effect:.3g}, doubt = {family.doubt:.3g}"
        if family.prices:
            known += f", prices = [{', '.join(f'{c:.3g}' for c in family.prices)}]"
        lines.append(f"{quoted(name)} = {{ {known} }}")
    return "\n".join(lines)


def quoted(value: str) -> str:
    """A TOML string. Raises EdgenasError where it holds what such a string cannot."""
    if not value.isprintable() or '"' in value or "\\" in value:
        raise EdgenasError(
            f"texts in a device profile must be free of quotes and backslashes, found {value!r}",
            hint="rename it",
        )
    return f'"{value}"'


def profile_text(
    estimate: Estimate, *, name: str, title: str, runtime: str, precision: str, threads: int
) -> str:
    """A device profile of one target with an estimate; ``edgenas.latency.device.read`` reads it."""
    return "\n".join(
        [
            'schema = "edgenas.device/1"',
            f"name = {quoted(name)}",
            f"title = {quoted(title)}",
            'reach = "none"',
            "",
            "[[targets]]",
            f"runtime = {quoted(runtime)}",
            f"precision = {quoted(precision)}",
            f"threads = {threads}",
            "batch = 1",
            estimate_text(estimate),
            "",
        ]
    )
