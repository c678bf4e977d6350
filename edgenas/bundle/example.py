"""Classify images with the model of this folder. It needs only numpy, Pillow and onnxruntime.

It runs on Python 3.8 or newer with numpy 1.21, Pillow 9.1 and the onnxruntime that MODEL_CARD.md
names, or newer ones.

    python example.py photo.jpg ...   prints the five likeliest labels of each image
    python example.py                 runs the sample image and checks the result

Copy what you need into your app: ``load_image`` does all of the preprocessing.
"""

# JetPack 5 has Python 3.8, which cannot evaluate dict[str, Any]; with this it never tries.
from __future__ import annotations

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Callable

# ONNX Runtime sends usage data to its makers, unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
from PIL import Image, ImageOps

# Only these are opened, whatever the name of the file: for an EPS file Pillow runs a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
# JPEG files with more pixels are decoded at half their size, as in training.
MOST_PIXELS = 2**26
FOLDER = Path(__file__).resolve().parent
Answer = Callable[[np.ndarray], np.ndarray]


def load_image(path: Path, preprocessing: dict[str, Any]) -> np.ndarray:
    """Read an image file as the model needs it: float32, shape (1, 3, height, width).

    Args:
        path: of an image in one of ``FORMATS``.
        preprocessing: the field of that name in manifest.json.

    Raises:
        ValueError: the image is grey with 16 or 32 bits, or with floats. You must decide how it
            becomes 8 bits.
    """
    Image.init()  # a Pillow of before 11.3 has no AVIF
    with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        if image.width * image.height > MOST_PIXELS:
            image.draft(None, (image.width // 2, image.height // 2))
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{path}: grey of more than 8 bits (Pillow's mode {image.mode})")
        pixels = ImageOps.exif_transpose(image).convert("RGB")
    # A number is the side of a square, a list holds height and width.
    sizes = [s if isinstance(s, list) else [s, s] for s in preprocessing["resize"]]
    bicubic = preprocessing["interpolation"].startswith("bicubic")
    resampling = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    # In two steps, as in training: to the size of stored images, then to the size of the model.
    pixels = frame(pixels, preprocessing, sizes[0], resampling)
    for height, width in sizes:
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), resampling)
    x = np.asarray(pixels, np.float32) / np.float32(255)
    x = (x - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def frame(
    pixels: Image.Image, preprocessing: dict[str, Any], size: list[int], resampling: Any
) -> Image.Image:
    """Bring an RGB picture to the shape (height, width) of ``size``, as the manifest says."""
    height, width = size
    fit, fraction = preprocessing.get("fit", "crop"), preprocessing.get("crop_fraction", 1)
    if fit == "stretch":
        return pixels  # what follows resizes it
    if fit == "pad":
        high = max(1, (2 * pixels.height * width + pixels.width) // (2 * pixels.width))
        wide = max(1, (2 * pixels.width * height + pixels.height) // (2 * pixels.height))
        if pixels.width * height >= pixels.height * width:
            wide = width
        else:
            high = height
        if pixels.size != (wide, high):
            pixels = pixels.resize((wide, high), resampling)
        padded = Image.new("RGB", (width, height), tuple(preprocessing["fill"]))
        padded.paste(pixels, ((width - wide) // 2, (height - high) // 2))
        return padded
    if fraction == 1:
        high = max(1, min(pixels.height, pixels.width * height // width))
        wide = max(1, min(pixels.width, pixels.height * width // height))
        return cut(pixels, high, wide, (pixels.height - high) // 2, (pixels.width - wide) // 2)
    # Resize, then cut. Of a picture that is extremely long, the ends are cut off first.
    high, wide = min(pixels.height, 16 * pixels.width), min(pixels.width, 16 * pixels.height)
    pixels = cut(pixels, high, wide, (pixels.height - high) // 2, (pixels.width - wide) // 2)
    high, wide = math.floor(height / fraction), math.floor(width / fraction)
    if pixels.width * high >= pixels.height * wide:
        wide = max(wide, int(high * pixels.width / pixels.height))
    else:
        high = max(high, int(wide * pixels.height / pixels.width))
    pixels = pixels.resize((wide, high), resampling)
    return cut(pixels, height, width, round((high - height) / 2), round((wide - width) / 2))


def cut(pixels: Image.Image, high: int, wide: int, top: int, left: int) -> Image.Image:
    """Cut a part out of a picture."""
    return pixels.crop((left, top, left + wide, top + high))


def open_model(manifest: dict[str, Any], folder: Path = FOLDER) -> Answer:
    """Load model.onnx; returns a function from an input (1, 3, height, width) to its logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Without it, int8 models are less accurate on x86 processors that lack VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    batch = session.get_inputs()[0].shape[0]

    def answer(x: np.ndarray) -> np.ndarray:
        # A model for a fixed batch needs a full one; an app would fill it with other images.
        x = np.repeat(x, batch if isinstance(batch, int) else 1, axis=0)
        (logits,) = session.run(["logits"], {"image": x})
        return np.asarray(logits)[0]

    return answer


def check(answer: Answer, manifest: dict[str, Any]) -> bool:
    """Check that the sample image gives the stored input, and the input the stored output."""
    x = load_image(FOLDER / "sample_image.png", manifest["preprocessing"])
    wanted_input = np.load(FOLDER / "sample_input.npy")
    wanted = np.load(FOLDER / "expected_output.npy")[0]
    # One of 255 levels: image libraries differ in how they round a resized pixel.
    level = 1.001 / 255 / min(manifest["preprocessing"]["std"])
    same_input = float(np.abs(x - wanted_input).max()) <= level
    difference = float(np.abs(answer(wanted_input[:1]) - wanted).max())
    same_output = difference <= max(manifest["parity"]["tolerance"], 1e-4 * np.abs(wanted).max())
    print(f"sample input: {'as expected' if same_input else 'DIFFERENT'}")
    print(
        f"sample output: {'as expected' if same_output else 'DIFFERENT'}"
        f" (largest difference {difference:.1e})"
    )
    return same_input and same_output


def main(paths: list[str], open_model: Callable[[dict[str, Any]], Answer] = open_model) -> int:
    """Classify images, or check the bundle if there are none; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack characters of the labels
        sys.stdout.reconfigure(errors="backslashreplace")
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    answer = open_model(manifest)
    for path in map(Path, paths or [str(FOLDER / "sample_image.png")]):
        logits = answer(load_image(path, manifest["preprocessing"]))
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        print(path.name)
        for label in np.argsort(-logits)[:5]:
            print(f"  {shares[label]:6.1%}  {manifest['labels'][label]}")
    return 0 if paths or check(answer, manifest) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
