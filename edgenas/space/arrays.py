"""The file of a predictor: arrays and a JSON header in one safetensors file, and nothing that runs.

The header lies in the metadata of the file under ``edgenas``. It holds the schema, a hash of the
arrays, what the arrays mean, and five probes: networks with the values predicted when the file was
written. A file whose probes come out otherwise here is refused.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields, check_schema, writing
from edgenas.space.cost import Tables, Vector
from edgenas.space.space import Codes, Space

Arrays = dict[str, NDArray[Any]]
_PROBES = 5
_COMMON = ("sha256", "probes")


def probes(space: Space, predict: Callable[[Codes], Vector]) -> dict[str, Any]:
    """Five networks of a space with their predictions."""
    rows = space.sample(_PROBES, rng=np.random.default_rng(0))
    return {"rows": rows.tolist(), "values": predict(rows).tolist()}


def check_probes(header: Mapping[str, Any], *, predict: Callable[[Codes], Vector], path: Path):
    """Refuse a file that predicts other values here than where it was written.

    Raises:
        EdgenasError: with both values.
    """
    try:
        rows = np.array(header["probes"]["rows"], np.uint8)
        wanted = np.array(header["probes"]["values"], float)
        found = predict(rows)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise EdgenasError(f"{path}: probes are damaged: {error}") from error
    # Single precision sums in another order on another processor.
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4, atol=0):
        raise EdgenasError(
            f"{path}: probes must give {wanted.tolist()}, found {found.tolist()}",
            hint="the file is damaged; fit it again",
        )


def save_arrays(path: Path, *, schema: str, header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write arrays and header atomically."""
    kept = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    text = json.dumps({"schema": schema, "sha256": _hash(kept), **header}, allow_nan=False)
    with writing(path) as temporary:
        temporary.write_bytes(save(kept, {"edgenas": text}))


def load_arrays(
    path: Path, *, schema: str, fields: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[dict[str, Any], Arrays]:
    """Read header and arrays.

    Args:
        path: of the file.
        schema: that it must have.
        fields: of the header, beside those every predictor has.
        optional: fields that the header may have as well.

    Raises:
        EdgenasError: absent, damaged, another schema, or a missing or unknown field.
    """
    if not path.is_file():
        raise EdgenasError(f"no file {path}")
    try:
        with cast(Any, safe_open(path, framework="numpy")) as stream:
            metadata: dict[str, str] = stream.metadata() or {}
            arrays: Arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        header = check_schema(
            json.loads(metadata.get("edgenas", "{}")), schema=schema, where=str(path)
        )
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise EdgenasError(
            f"{path} is damaged or no predictor: {error}", hint="restore the file or fit it again"
        ) from error
    check_fields(header, required=(*_COMMON, *fields), optional=optional, where=str(path))
    if header["sha256"] != _hash(arrays):
        raise EdgenasError(
            f"{path} is damaged: its arrays do not have the hash in its header",
            hint="restore the file or fit it again",
        )
    return header, arrays


def _hash(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def tables_arrays(tables: Tables) -> tuple[list[list[int]], Arrays]:
    """Compiled tables as the columns that places read and an array a place."""
    return [list(c) for c in tables.columns], {
        f"places.{i}": values for i, values in enumerate(tables.values)
    }


def tables_of(columns: Any, arrays: Mapping[str, NDArray[Any]], *, constant: float) -> Tables:
    """The inverse of ``tables_arrays``, for sums."""
    return Tables(
        tuple(tuple(int(c) for c in place) for place in columns),
        tuple(arrays[f"places.{i}"] for i in range(len(columns))),
        "sum",
        constant,
    )
