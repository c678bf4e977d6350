"""A latency predictor on disk: one safetensors file, schema ``edgenas.latency-predictor/1``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut
from edgenas.basics.ranges import PredictedSeconds, Range
from edgenas.latency.device import Target
from edgenas.latency.line import Line
from edgenas.latency.predictor import (
    EstimatedPredictor,
    LearnedPredictor,
    LinePredictor,
    SumPredictor,
)
from edgenas.latency.table import Provenance
from edgenas.space.arrays import (
    Header,
    check_numbers,
    check_probes,
    load_arrays,
    make_probes,
    save_arrays,
    tables_from_arrays,
    tables_to_arrays,
)
from edgenas.space.presets import space_from_json, space_to_json

SCHEMA = "edgenas.latency-predictor/1"
_SAMPLED = 500  # networks whose latencies must be numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyHeader(Header):
    """The header of the file: the fields of the predictors in `edgenas.latency.predictor`."""

    space: Any
    target: Target | None
    provenance: Provenance
    columns: tuple[tuple[Annotated[int, Range(0, 10_000, "count")], ...], ...]
    constant: PredictedSeconds
    line: Line | None
    chosen: HeldOut | None
    rates: Mapping[str, Annotated[float, Range(-1e12, 1e12, "number")]] | None = None


def save_latency(predictor: SumPredictor | LinePredictor, path: Path) -> None:
    """Write a predictor, atomically.

    Raises:
        EdgenasError: it rests on a device model, whose parameters lie in the device profile.
    """
    line = predictor.line if isinstance(predictor, LinePredictor) else None
    base = predictor.base if isinstance(predictor, LinePredictor) else predictor
    if isinstance(base, EstimatedPredictor):
        raise EdgenasError(
            "an estimated latency predictor is not saved",
            hint="the device profile holds its parameters; build it from there",
        )
    columns, arrays = tables_to_arrays(predictor.sums)
    header: dict[str, Any] = {
        "space": space_to_json(predictor.space),
        "target": predictor.target and asdict(predictor.target),
        "provenance": predictor.provenance,
        "columns": columns,
        "constant": predictor.sums.constant,
        "line": line and asdict(line),
        "chosen": predictor.chosen and predictor.chosen.to_json(),
        "probes": make_probes(predictor.space, predictor.predict),
    }
    if isinstance(predictor, LearnedPredictor):
        header["rates"] = dict(predictor.rates)
    save_arrays(path, schema=SCHEMA, header=header, arrays=arrays)


def load_latency(path: Path) -> SumPredictor | LinePredictor:
    """Read a predictor.

    Raises:
        EdgenasError: the file is absent, damaged or of another kind, or its probes give other
            values here.
    """
    header, arrays = load_arrays(path, schema=SCHEMA, kind=LatencyHeader)
    check_numbers(arrays, path=path, nan="allowed")
    space = space_from_json(header.space, where=f"{path}: space")
    try:
        sums = tables_from_arrays(header.columns, arrays, constant=header.constant)
    except KeyError as error:
        raise EdgenasError(f"{path}: the array {error} is missing") from error
    base = SumPredictor(space=space, sums=sums, target=header.target, provenance=header.provenance)
    predictor: SumPredictor | LinePredictor
    if header.line is None:
        predictor = replace(base, chosen=header.chosen)
    elif header.rates is None:
        predictor = LinePredictor(base=base, sums=sums, line=header.line, chosen=header.chosen)
    else:
        predictor = LearnedPredictor(
            base=base, sums=sums, line=header.line, chosen=header.chosen, rates=header.rates
        )
    sampled = space.sample(_SAMPLED, rng=np.random.default_rng(0))
    try:
        check_probes(header, predict=predictor.predict, path=path)
        finite = np.isfinite(predictor.predict(sampled)).all()
    except IndexError as error:
        raise EdgenasError(f"{path} holds tables that do not fit {space.name}") from error
    if not finite:
        raise EdgenasError(f"{path} has no latency for some networks of {space.name}")
    return predictor
