"""Checks of a bundle's sample: its picture, the input made from it, and the models' answers."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgenas.basics.errors import EdgenasError
from edgenas.bundle import example
from edgenas.bundle.claim import ClaimCheck
from edgenas.bundle.contents import load_array
from edgenas.images.pictures import MOST_PIXELS
from edgenas.model.export import TOLERANCE, run_onnx
from edgenas.runtime import litert_cpu
from edgenas.runtime.litert_file import run_file
from edgenas.runtime.tflite.file import read_metadata

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = 40_000_000  # of a sample image: 160 MB as floats


def check_picture(folder: Path, fields: dict[str, Any]) -> ClaimCheck:
    """Check that the sample image holds pixels and nothing else: no text, no bytes at its end."""
    data = (folder / "sample_image.png").read_bytes()
    names, at = list[bytes](), 8
    while at + 12 <= len(data) and names[-1:] != [b"IEND"]:
        (size,) = struct.unpack(">I", data[at : at + 4])
        names.append(data[at + 4 : at + 8])
        if names[-1] == b"IHDR":
            width, height = struct.unpack(">II", data[at + 8 : at + 16])
            if width * height > _PIXELS:
                return ClaimCheck(
                    "picture", False, f"has {width} x {height} pixels, too many to check"
                )
        at += 12 + size
    extra = [name for name in names if name not in (b"IHDR", b"IDAT", b"IEND")]
    if extra:
        kind = extra[0].decode("ascii", "backslashreplace")
        return ClaimCheck(
            "picture", False, f"sample_image.png has a chunk {kind!r} beside its pixels"
        )
    if data[:8] != _PNG or names[:1] != [b"IHDR"] or names[-1:] != [b"IEND"]:
        return ClaimCheck(
            "contents", False, "cannot be read: sample_image.png is no whole PNG file"
        )
    if at != len(data):
        return ClaimCheck(
            "picture", False, f"sample_image.png has {len(data) - at} bytes behind its end"
        )
    return ClaimCheck("picture", True, "sample_image.png holds pixels and nothing else")


def check_sample(folder: Path, fields: dict[str, Any]) -> ClaimCheck:
    """Check that the preprocessing of the manifest makes the sample input from the image."""
    path = folder / "sample_image.png"
    with Image.open(path, formats=["PNG"]) as image:
        if image.width * image.height > MOST_PIXELS:
            return ClaimCheck("preprocessing", False, f"{path.name} has {image.size} pixels")
    x = example.load_image(path, fields["preprocessing"])
    stored = load_array(folder / "sample_input.npy")
    if stored.shape[1:] != x.shape[1:]:
        return ClaimCheck("preprocessing", False, f"input of shape {stored.shape}, not {x.shape}")
    if not np.issubdtype(stored.dtype, np.floating) or not np.isfinite(stored).all():
        return ClaimCheck("preprocessing", False, "sample_input.npy holds what is no finite number")
    levels = float(np.abs(stored - x).max()) * min(fields["preprocessing"]["std"]) * 255
    detail = f"sample image to input, largest difference {levels:.2g} of 255 levels"
    return ClaimCheck("preprocessing", levels <= 1.001, detail)


def check_output(folder: Path, fields: dict[str, Any]) -> ClaimCheck:
    """Check that the model answers the sample input as the bundle says."""
    x = load_array(folder / "sample_input.npy")
    expected = load_array(folder / "expected_output.npy")
    if x.dtype != np.float32 or x.shape[0] < 1:
        return ClaimCheck("output", False, f"sample_input.npy is {x.dtype}, not float32")
    logits = run_onnx((folder / "model.onnx").read_bytes(), x)
    return _compare("output", logits, expected, tolerance=fields["parity"]["tolerance"])


def check_tflite(folder: Path, fields: dict[str, Any]) -> ClaimCheck:
    """Check that ``model.tflite`` is of the same network and answers as the bundle says.

    It runs with the delegate and the threads of the target. Where LiteRT is not here, it is not
    run.
    """
    if reason := litert_cpu.available():
        return ClaimCheck("tflite", True, f"model.tflite was not run: {reason}")
    data, target = (folder / "model.tflite").read_bytes(), fields["target"]
    x = load_array(folder / "sample_input.npy")
    try:
        answer = run_file(data, x, name=target["runtime"], threads=target["threads"])
    except EdgenasError as error:
        return ClaimCheck("tflite", False, error.message)
    arch_id = read_metadata(data).get("arch_id")
    if arch_id != fields["arch_id"]:
        return ClaimCheck("tflite", False, f"model.tflite is of arch {arch_id}")
    expected = load_array(folder / "expected_output.npy")
    return _compare("tflite", answer, expected, tolerance=fields["parity"]["tolerance"])


def _compare(
    name: str, logits: NDArray[Any], expected: NDArray[Any], *, tolerance: float
) -> ClaimCheck:
    if logits.shape != expected.shape:
        return ClaimCheck(name, False, f"logits of shape {logits.shape}, not {expected.shape}")
    difference = float(np.abs(logits - expected).max())
    # The tolerance of lower precisions is large, and of the largest logit already.
    limit = max(tolerance, TOLERANCE * float(np.abs(expected).max()))
    same_top1 = bool((logits.argmax(1) == expected.argmax(1)).all())
    detail = f"largest difference of a logit {difference:.1e}, limit {limit:.0e}"
    if not same_top1:
        detail += ", another class is the likeliest"
    return ClaimCheck(name, difference <= limit and same_top1, detail)
