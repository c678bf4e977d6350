"""The manifest of a bundle: what is in it, byte for byte, and how to use it.

Format ``edgenas.bundle/2``: one JSON object, written in exactly one way (fields in order, one
space of indentation, ASCII), so that any changed byte shows. ``bundle_id`` is the SHA-256 of the
manifest written without it, and ``files`` holds size and SHA-256 of every other file of the
folder: the id names the whole bundle. It guards against damage; against a forger it does so where
the id is known from elsewhere.

``weights`` is there only where they are not the supernet's own.

History: format 1 had neither ``search.json`` nor ``report.html``; it is still read.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields, check_schema, sha256
from edgenas.basics.units import in_file

if TYPE_CHECKING:  # it needs torch, a bundle does not
    from edgenas.images.data import Preprocessing

SCHEMA = "edgenas.bundle/2"
NAME = "manifest.json"
FILES = (
    "arch.json",
    "model.onnx",
    "report.json",
    "search.json",
    "report.html",
    "MODEL_CARD.md",
    "sample_image.png",
    "sample_input.npy",
    "expected_output.npy",
    "example.py",
)
_FORMATS = {
    SCHEMA: FILES,
    "edgenas.bundle/1": tuple(n for n in FILES if n not in ("search.json", "report.html")),
}
_LARGEST = 16384  # pixels

# Every field and its type; of objects that are not free-form, their fields.
_FIELDS: Mapping[str, type] = {
    "bundle_id": str,
    "versions": dict,
    "arch_id": str,
    "arch_text": str,
    "space": dict,
    "model": dict,
    "preprocessing": dict,
    "labels": list,
    "target": dict,
    "promises": list,
    "parity": dict,
    "request": dict,
    "files": dict,
}
_INSIDE = {
    "model": "input input_shape output output_shape".split(),
    "preprocessing": (
        "decode crop resize interpolation channel_order scale mean std layout dtype".split()
    ),
    "parity": "max_abs_difference same_top1 n tolerance".split(),
}


def preprocessing_in_full(preprocessing: "Preprocessing", *, resolution: int) -> dict[str, Any]:
    """Every step from an image file to the input of the model, in order."""
    return {
        "decode": "8-bit RGB, turned as its EXIF orientation says; transparency is dropped",
        "crop": _crop(preprocessing),
        "resize": [in_file(preprocessing.kept), in_file(preprocessing.size(resolution))],
        "interpolation": preprocessing.to_json()["interpolation"],
        "channel_order": "RGB",
        "scale": 1 / 255,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "layout": "NCHW",
        "dtype": "float32",
    }


def _crop(preprocessing: "Preprocessing") -> str:
    height, width = (size // math.gcd(*preprocessing.kept) for size in preprocessing.kept)
    if height == width:
        return "centre square of the shorter side, offsets rounded down"
    return (
        f"largest centre part of {height}:{width} (height to width), sizes and offsets rounded down"
    )


def text(manifest: Mapping[str, Any]) -> str:
    """The one way to write a manifest."""
    return json.dumps(manifest, indent=1, allow_nan=False) + "\n"


def identity(manifest: Mapping[str, Any]) -> str:
    """The id of a manifest: the SHA-256 of its text without the id."""
    rest = {name: value for name, value in manifest.items() if name != "bundle_id"}
    return hashlib.sha256(text(rest).encode()).hexdigest()


def sign(manifest: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """The manifest with the hashes of the files of a folder and its own id."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in FILES
    }
    complete = {"schema": SCHEMA, "bundle_id": "", **manifest, "files": files}
    return {**complete, "bundle_id": identity(complete)}


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, checked to the byte.

    Raises:
        EdgenasError: there is no bundle, its manifest was changed, or another schema.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise EdgenasError(
            f"no bundle at {folder}: there is no {NAME}",
            hint="give the folder that edgenas specialize wrote",
        ) from None
    except OSError as error:
        raise EdgenasError(f"cannot read {path}: {error.strerror}") from error
    damaged = EdgenasError(
        f"{path} was changed or damaged after it was written",
        hint="make the bundle anew, or restore the file",
    )
    try:
        found = json.loads(data.decode("ascii"))
        intact = text(found).encode() == data
    except (ValueError, TypeError, RecursionError):
        raise damaged from None
    if not intact:
        raise damaged
    schema = found.get("schema") if isinstance(found, dict) else None
    schema = schema if isinstance(schema, str) and schema in _FORMATS else SCHEMA
    fields = check_schema(found, schema=schema, where=str(path))
    check_fields(fields, required=_FIELDS, optional=("weights",), where=str(path))
    if identity(found) != fields["bundle_id"]:
        raise damaged
    _check_types(fields, where=str(path))
    check_fields(fields["files"], required=_FORMATS[schema], where=f"{path}: files")
    return fields


def _flat(sizes: list[Any]) -> list[Any]:
    """Sides of squares, and heights and widths of others, one after the other."""
    pairs: list[list[Any]] = [s if isinstance(s, list) and len(s) == 2 else [s] for s in sizes]
    return [value for pair in pairs for value in pair]


def _check_types(fields: Mapping[str, Any], *, where: str) -> None:
    """Refuse what no edgenas wrote, before anything is done with it."""
    for name, kind in _FIELDS.items():
        if not isinstance(fields[name], kind):
            raise EdgenasError(f"{where}: {name} must be of type {kind.__name__}")
    for name, inside in _INSIDE.items():
        optional = ("share",) if name == "parity" else ()  # of quantised models
        check_fields(fields[name], required=inside, optional=optional, where=f"{where}: {name}")
    for name, fact in fields["files"].items():
        if not isinstance(fact, dict):
            raise EdgenasError(f"{where}: files.{name} must be an object, found {fact!r}")
        check_fields(fact, required=("bytes", "sha256"), where=f"{where}: files.{name}")
    if not isinstance(fields.get("weights", {}), dict):
        raise EdgenasError(f"{where}: weights must be of type dict")
    if not all(isinstance(label, str) for label in fields["labels"]):
        raise EdgenasError(f"{where}: labels must be texts")
    steps = fields["preprocessing"]
    for name, size, least in (("resize", 2, 1), ("mean", 3, 0), ("std", 3, 1e-6)):
        values = steps[name]
        fits = isinstance(values, list) and len(values) == size
        if name == "resize" and fits:
            values = _flat(values)
        limit = _LARGEST if name == "resize" else 1
        kinds = (int,) if name == "resize" else (int, float)
        if not fits or not all(type(v) in kinds and least <= v <= limit for v in values):
            raise EdgenasError(
                f"{where}: preprocessing.{name} must be {size} numbers from {least:g} to "
                f"{limit:g}, found {values!r}"
            )
    if not isinstance(fields["parity"]["tolerance"], float):
        raise EdgenasError(f"{where}: parity.tolerance must be a number")
