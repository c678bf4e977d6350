"""What networks answer, as a program: it runs here and on an emulated board, on the same files.

    python arm_answers.py FOLDER ANSWERS

FOLDER has ``images.npy`` and files named ``RUNTIME-PRECISION``, as boards get them. ANSWERS, an
.npz file, gets the logits of each that runs in the very precision.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.clock.board import litert_cpu, ncnn_cpu, onnx_runtime


def answer(path: Path, images: np.ndarray) -> np.ndarray | None:
    """The logits of all images; None where they are not computed in the precision."""
    runtime, precision = path.name.split("-")
    if runtime == "onnxruntime":
        session = onnx_runtime.open_session(path.read_bytes(), threads=1, batch=1)
        return np.concatenate([session.run(None, {"image": one[None]})[0] for one in images])
    if runtime == "ncnn":
        ncnn: Any = importlib.import_module("ncnn")
        loaded = ncnn_cpu.load_network(path.read_bytes(), threads=1, precision=precision)
        if ncnn_cpu.find_precision(loaded.net) != precision:
            return None
        mats = [ncnn.Mat(one).clone() for one in images]
        return np.stack([np.array(ncnn_cpu.run_image(loaded, [mat])[0]) for mat in mats])
    made = litert_cpu.open_interpreter(path.read_bytes(), threads=1, delegate=litert_cpu.XNNPACK)
    if litert_cpu.find_operators_outside(made):
        return None
    classify, found = made.get_signature_runner("serving_default"), []
    for one in images:
        (logits,) = classify(image=np.ascontiguousarray(one[None].transpose(0, 2, 3, 1))).values()
        found.append(logits[0])
    return np.stack(found)


def main(folder: Path, answers: Path) -> None:
    images = np.load(folder / "images.npy")
    found = {path.name: answer(path, images) for path in sorted(folder.glob("*-*"))}
    logits: dict[str, Any] = {name: one for name, one in found.items() if one is not None}
    np.savez(answers, **logits)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
