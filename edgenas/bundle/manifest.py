"""The manifest of a bundle: which files it has, byte for byte, and how to use them.

Format ``edgenas.bundle/2``: one JSON object, written in exactly one way (fields in order, one
space of indentation, ASCII), so that a change of any byte can be seen. ``bundle_id`` is the SHA-256
of the manifest written without the id, and ``files`` holds size and SHA-256 of every other file of
the folder. So the id stands for the whole bundle. It shows damage. It shows a forgery only to those
who know the right id from elsewhere.

``weights`` is there only if the network has other weights than the supernet.

Format ``edgenas.bundle/3`` is the same with the files of a bundle for LiteRT. Only such bundles are
written in it.

History: format 1 had neither ``search.json`` nor ``report.html``; it is still read.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import check_fields, check_schema, read_bytes, sha256
from edgenas.basics.ranges import (
    Bytes,
    Classes,
    Count,
    Deviation,
    Fraction,
    Id,
    Length,
    Name,
    Pixels,
    Positive,
    Range,
    Words,
)
from edgenas.basics.units import sides_to_json
from edgenas.bundle.record import Promise
from edgenas.latency.device import Target
from edgenas.space.framing import FILL, CropFraction, Fit, Framing, find_filter

if TYPE_CHECKING:  # it needs torch, a bundle does not
    from edgenas.images.preprocessing import Preprocessing

SCHEMA = "edgenas.bundle/2"
WITH_TFLITE = "edgenas.bundle/3"
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
# What a bundle for LiteRT holds beside.
TFLITE_FILES = ("model.tflite", "example_litert.py")
_FORMATS = {
    SCHEMA: FILES,
    WITH_TFLITE: (*FILES, *TFLITE_FILES),
    "edgenas.bundle/1": tuple(n for n in FILES if n not in ("search.json", "report.html")),
}
_Side = Pixels | tuple[Pixels, Pixels]  # of a square; height and width
_Level = Annotated[int, Range(0, 255, "count")]  # of a colour


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    input: Name
    input_shape: Annotated[tuple[Pixels | Literal["n"], ...], Length(4, 4)]
    output: Name
    output_shape: Annotated[tuple[Classes | Literal["n"], ...], Length(2, 2)]
    # Where there is a model.tflite, whose images have their channels last.
    tflite_input_shape: Annotated[tuple[Pixels, ...], Length(4, 4)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreprocessingSteps:
    decode: Words
    crop: Words
    resize: tuple[_Side, _Side]
    interpolation: Words
    channel_order: Id
    scale: Annotated[float, Range(0, 1, "number", above=True)]
    mean: tuple[Fraction, Fraction, Fraction]
    std: tuple[Deviation, Deviation, Deviation]
    layout: Id
    dtype: Id
    fit: Fit = "crop"
    crop_fraction: CropFraction = 1.0
    fill: tuple[_Level, _Level, _Level] | None = None

    def __post_init__(self) -> None:
        Framing(fit=self.fit, crop_fraction=self.crop_fraction)  # refuses what does not fit
        if (self.fit == "pad") != (self.fill is not None):
            raise EdgenasError("fill must be given with fit pad, and with no other")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parity:
    max_abs_difference: Annotated[float, Range(0, 1e6, "number")]
    same_top1: Count
    n: Positive
    tolerance: Annotated[float, Range(0, 1e6, "number")]  # of logits; of integers it is large
    share: Fraction = 1.0  # of quantised models


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    bytes: Bytes
    sha256: Annotated[str, Length(64, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    bundle_id: Annotated[str, Length(64, 64)]
    versions: Mapping[str, Words]
    arch_id: Id
    arch_text: Words
    space: Mapping[str, Any]
    model: _Model
    preprocessing: _PreprocessingSteps
    labels: tuple[Words, ...]
    target: Target
    promises: tuple[Promise, ...]
    parity: _Parity
    request: Mapping[str, Any]
    files: Mapping[str, _Fact]
    weights: Mapping[str, Any] = field(default_factory=dict[str, Any])


def describe_preprocessing(preprocessing: "Preprocessing", *, resolution: int) -> dict[str, Any]:
    """List every step from an image file to the input of the model, in order.

    ``fit``, ``crop_fraction`` and ``fill`` are there only where they say something. They are what
    ``example.py`` goes by; ``crop`` says the same in words.
    """
    told = preprocessing.to_json()
    framing = {name: told[name] for name in ("fit", "crop_fraction") if name in told}
    if preprocessing.framing.fit == "pad":
        framing["fill"] = list(FILL)
    return {
        "decode": "8-bit RGB, turned as its EXIF orientation says; transparency is dropped",
        "crop": _describe_framing(preprocessing),
        "resize": [
            sides_to_json(preprocessing.kept),
            sides_to_json(preprocessing.size(resolution)),
        ],
        "interpolation": told["interpolation"],
        "channel_order": "RGB",
        "scale": 1 / 255,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "layout": "NCHW",
        "dtype": "float32",
        **framing,
    }


def find_framing(steps: Mapping[str, Any], *, where: str) -> Framing:
    """How pictures get the shape of the inputs, as the ``preprocessing`` of a manifest says.

    Raises:
        EdgenasError: the fields contradict each other, or the interpolation is not ours.
    """
    return Framing(
        fit=steps.get("fit", "crop"),
        crop_fraction=steps.get("crop_fraction", 1.0),
        filter=find_filter(steps["interpolation"], where=where),
    )


def _describe_framing(preprocessing: "Preprocessing") -> str:
    framing = preprocessing.framing
    height, width = preprocessing.kept
    if framing.fit == "stretch":
        return "nothing is cut: the whole picture is stretched to the first size"
    if framing.fit == "pad":
        return (
            "nothing is cut: the whole picture is brought inside the first size, in its own shape, "
            f"and centred on the colour {list(FILL)}; offsets rounded down"
        )
    if framing.crop_fraction != 1:
        high, wide = (math.floor(side / framing.crop_fraction) for side in (height, width))
        whole = f"shorter side has {high}" if high == wide else f"sides have at least {high}x{wide}"
        return (
            f"centre of {height}x{width} pixels, once the picture is resized so that its {whole} "
            "pixels and the other side the same share, rounded down; offsets rounded half to even"
        )
    height, width = (size // math.gcd(*preprocessing.kept) for size in preprocessing.kept)
    if height == width:
        return "centre square of the shorter side, offsets rounded down"
    return (
        f"largest centre part of {height}:{width} (height to width), sizes and offsets rounded down"
    )


def to_text(manifest: Mapping[str, Any]) -> str:
    """Write a manifest as text, in the only form that is accepted."""
    return json.dumps(manifest, indent=1, allow_nan=False) + "\n"


def compute_id(manifest: Mapping[str, Any]) -> str:
    """Compute the id of a manifest: the SHA-256 of its text without the id."""
    rest = {name: value for name, value in manifest.items() if name != "bundle_id"}
    return hashlib.sha256(to_text(rest).encode()).hexdigest()


def add_hashes(manifest: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """Add the hashes of the files of a folder, and the id, to a manifest."""
    schema = WITH_TFLITE if (folder / TFLITE_FILES[0]).exists() else SCHEMA
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in _FORMATS[schema]
    }
    complete = {"schema": schema, "bundle_id": "", **manifest, "files": files}
    return {**complete, "bundle_id": compute_id(complete)}


def read(folder: Path) -> dict[str, Any]:
    """Read the manifest of a bundle, and check every byte of it.

    Raises:
        EdgenasError: there is no bundle, its manifest was changed, or it has another schema.
    """
    path = folder / NAME
    if not path.exists():
        raise EdgenasError(
            f"no bundle at {folder}: there is no {NAME}",
            hint="give the folder that edgenas specialize wrote",
        )
    data = read_bytes(path)
    damaged = EdgenasError(
        f"{path} was changed or damaged after it was written",
        hint="make the bundle anew, or restore the file",
    )
    try:
        value = json.loads(data.decode("ascii"))
        intact = to_text(value).encode() == data
    except (ValueError, TypeError, RecursionError):
        raise damaged from None
    if not intact:
        raise damaged
    schema = value.get("schema") if isinstance(value, dict) else None
    schema = schema if isinstance(schema, str) and schema in _FORMATS else SCHEMA
    fields = check_schema(value, schema=schema, where=str(path))
    if compute_id(value) != fields.get("bundle_id"):
        raise damaged
    decode(_Manifest, fields, where=str(path))
    check_fields(fields["files"], required=_FORMATS[schema], where=f"{path}: files")
    return fields
