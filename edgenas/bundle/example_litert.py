"""Classify images with model.tflite. It needs only numpy, Pillow and ai-edge-litert.

It lies beside example.py, which prepares the images. Python 3.9 or newer, as ai-edge-litert asks.

    python example_litert.py photo.jpg ...   prints the five likeliest labels of each image
    python example_litert.py                 runs the sample image and checks the result
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

# The program beside this one: it needs onnxruntime only to run model.onnx. A folder of compiled
# programs would be no part of the bundle.
sys.dont_write_bytecode = True
example = importlib.import_module("example")


def open_model(manifest: dict[str, Any]) -> Any:
    """Load model.tflite; returns a function from an input (1, 3, height, width) to its logits."""
    library = importlib.import_module("ai_edge_litert.interpreter")
    # LiteRT hands its work to XNNPACK unless it is told not to. The target says which is meant.
    kinds, alone = library.OpResolverType, manifest["target"]["runtime"] == "tflite"
    interpreter = library.Interpreter(
        model_path=str(example.FOLDER / "model.tflite"),
        num_threads=manifest["target"]["threads"],
        experimental_op_resolver_type=(
            kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if alone else kinds.BUILTIN
        ),
    )
    classify = interpreter.get_signature_runner("serving_default")
    batch = classify.get_input_details()["image"]["shape"][0]

    def answer(x: np.ndarray) -> np.ndarray:
        # The channels of images come last. A model for a batch needs a full one.
        images = np.repeat(x.transpose(0, 2, 3, 1), batch, axis=0)
        return np.asarray(classify(image=np.ascontiguousarray(images))["logits"])[0]

    return answer


if __name__ == "__main__":
    sys.exit(example.main(sys.argv[1:], open_model))
