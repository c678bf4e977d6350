"""The file of a predictor: arrays and a JSON header in one safetensors file, and no code.

The header lies in the metadata of the file under ``edgenas``. It holds the schema, a hash of the
arrays, what the arrays mean, and five probes: networks with the values predicted for them when the
file was written. A file that gives other values for them here is refused.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import check_regular, check_schema, new_file, parse_json
from edgenas.basics.ranges import Length, Range
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space

Arrays = dict[str, NDArray[Any]]
_PROBES = 5


def make_probes(space: Space, predict: Callable[[Codes], Vector]) -> dict[str, Any]:
    """Predict values for five networks of a space."""
    rows = space.sample(_PROBES, rng=np.random.default_rng(0))
    return {"rows": rows.tolist(), "values": predict(rows).tolist()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Networks with the values that were predicted for them when the file was written."""

    rows: Annotated[tuple[tuple[Annotated[int, Range(0, 255, "count")], ...], ...], Length(1, 100)]
    values: tuple[Annotated[float, Range(-1e9, 1e9, "number")], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fields in the header of every predictor."""

    sha256: Annotated[str, Length(64, 64)]
    probes: Probes


Own = TypeVar("Own", bound=Header)


def check_probes(header: Header, *, predict: Callable[[Codes], Vector], path: Path) -> None:
    """Refuse a file that predicts other values here than where it was written.

    Raises:
        EdgenasError: with both values.
    """
    try:
        rows = np.array(header.probes.rows, np.uint8)
        expected = np.array(header.probes.values, float)
        values = predict(rows)
    except (TypeError, ValueError, IndexError) as error:
        raise EdgenasError(f"{path}: probes are damaged: {error}") from error
    # Single precision sums in another order on another processor.
    if values.shape != expected.shape or not np.allclose(values, expected, rtol=1e-4, atol=0):
        raise EdgenasError(
            f"{path}: probes must give {quote(expected.tolist())}, found {quote(values.tolist())}",
            hint="the file is damaged; fit it again",
        )


def save_arrays(path: Path, *, schema: str, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write arrays and header atomically."""
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    text = json.dumps({"schema": schema, "sha256": _hash(arrays), **header}, allow_nan=False)
    with new_file(path) as temporary:
        temporary.write_bytes(save(arrays, {"edgenas": text}))


def load_arrays(path: Path, *, schema: str, kind: type[Own]) -> tuple[Own, Arrays]:
    """Read header and arrays. Call ``check_numbers`` afterwards: the values are not checked here.

    Args:
        path: of the file.
        schema: that it must have.
        kind: the header of this predictor.

    Raises:
        EdgenasError: absent, damaged, another schema, or a missing or unknown field.
    """
    check_regular(path)
    hint = "restore the file or fit it again"
    try:
        with cast(Any, safe_open(path, framework="numpy")) as stream:
            metadata: dict[str, str] = stream.metadata() or {}
            arrays: Arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise EdgenasError(f"{path} is damaged or no predictor: {error}", hint=hint) from error
    value = parse_json(metadata.get("edgenas", "{}"), where=str(path))
    header = decode(kind, check_schema(value, schema=schema, where=str(path)), where=str(path))
    if header.sha256 != _hash(arrays):
        raise EdgenasError(
            f"{path} is damaged: its arrays do not have the hash in its header", hint=hint
        )
    return header, arrays


def check_numbers(arrays: Arrays, *, path: Path, nan: Literal["refused", "allowed"]) -> None:
    """Refuse arrays that hold anything but finite numbers. NaN may stand for an absent value.

    Raises:
        EdgenasError: names the array.
    """
    for name, array in arrays.items():
        numbers = array.dtype.kind in "fiu"
        if not numbers or np.isinf(array).any() or (nan == "refused" and np.isnan(array).any()):
            raise EdgenasError(f"{path}: the array {quote(name)} must have finite values")


def _hash(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def tables_to_arrays(tables: Tables) -> tuple[list[list[int]], Arrays]:
    """Write compiled tables as the columns that each place reads, and one array for each place."""
    return [list(c) for c in tables.columns], {
        f"places.{i}": values for i, values in enumerate(tables.values)
    }


def tables_from_arrays(
    columns: Sequence[Sequence[int]], arrays: Mapping[str, NDArray[Any]], *, constant: float
) -> Tables:
    """Read sums from what ``tables_to_arrays`` wrote. Raises KeyError if an array is missing."""
    return Tables(
        tuple(tuple(int(c) for c in place) for place in columns),
        tuple(arrays[f"places.{i}"] for i in range(len(columns))),
        "sum",
        constant,
    )
