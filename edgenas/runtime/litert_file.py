"""Any .tflite file, whoever made it, opened in a process of its own.

LiteRT reads a file in native code, and a damaged file can end the process that reads it. So another
process opens the file: it gets the order and the file on stdin, and it tells what it found on
stdout. A bundle's own files are run in this way as well, since others can have changed them.
"""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board import litert_cpu as board
from edgenas.clock.board.part import UnitError
from edgenas.runtime.checks import Array
from edgenas.runtime.litert_cpu import TFLITE, available, tell_facts
from edgenas.runtime.tflite.draft import TO_LAST

_PATIENCE = 300.0  # seconds for one run of a file
_COMMAND = ("-P", "-m", "edgenas.runtime.litert_file")
_REFUSED = 3  # exit code of the process where LiteRT refuses the file, in its words


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What LiteRT says of a .tflite file.

    Args:
        facts: what runs, see `Session`.
        inputs: name, shape and numpy's type of each.
        batch: images of a run.
    """

    facts: Mapping[str, str]
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    batch: int


def describe_file(data: bytes, *, name: str, threads: int, batch: int) -> FileFacts:
    """What a .tflite file runs as here, whoever made it.

    Args:
        data: the file.
        name: of the runtime, ``litert`` or ``tflite``.
        threads: threads of one operator.
        batch: what an open batch becomes.

    Raises:
        EdgenasError: LiteRT is not here, refuses the file, or is ended by it.
    """
    order = {"name": name, "threads": threads, "batch": batch}
    told = json.loads(_ask(order, data, b""))
    inputs = tuple((str(one), tuple(shape), str(kind)) for one, shape, kind in told["inputs"])
    shapes = [shape for _, shape, _ in inputs if shape]
    return FileFacts(told["facts"], inputs, batch=shapes[0][0] if shapes else 1)


def run_file(data: bytes, images: Array, *, name: str, threads: int) -> Array:
    """The answer of a .tflite file of one input to images, shape (n, channels, height, width).

    Args:
        data: the file.
        images: float32; as many as the file takes.
        name: of the runtime, ``litert`` or ``tflite``.
        threads: threads of one operator.

    Raises:
        EdgenasError: LiteRT is not here, refuses the file, or is ended by it; or the file takes
            other images.
    """
    turned = np.ascontiguousarray(images.transpose(TO_LAST), np.float32)
    answer = _ask({"name": name, "threads": threads}, data, _packed(turned))
    return np.load(io.BytesIO(answer), allow_pickle=False)


def _ask(order: dict[str, Any], data: bytes, images: bytes) -> bytes:
    name = order["name"]
    if reason := available():
        raise EdgenasError(f"runtime {name} is not available here: {reason}")
    head = json.dumps(order | {"model": len(data)}).encode()
    try:
        done = subprocess.run(
            [sys.executable, *_COMMAND],
            input=b"%s\n%s%s" % (head, data, images),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EdgenasError(f"{name} does not end with the file in {_PATIENCE:.0f} s") from error
    if done.returncode == _REFUSED:
        raise EdgenasError(f"{name} refuses the file: {done.stdout.decode(errors='replace')}")
    if done.returncode:
        why = f"code {done.returncode}"
        if done.returncode < 0:
            why = signal.Signals(-done.returncode).name
        raise EdgenasError(
            f"{name} refuses the file: its process ended with {why}",
            hint="the file is damaged, or LiteRT has a fault; make the file anew",
        )
    return done.stdout


def _packed(array: Array) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=False)
    return packed.getvalue()


def _answer(order: Mapping[str, Any], data: bytes, images: bytes) -> bytes:
    """What the process tells: the facts of a file, or its answer to images."""
    name, threads = order["name"], order["threads"]
    delegate = board.NO_DELEGATE if name == TFLITE else board.XNNPACK
    interpreter = board.open_interpreter(data, threads=threads, delegate=delegate)
    if images:
        inputs = interpreter.get_input_details()
        interpreter.set_tensor(inputs[0]["index"], np.load(io.BytesIO(images), allow_pickle=False))
        interpreter.invoke()
        return _packed(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    board.resize_batch(interpreter, batch=order["batch"], strict=False)
    inputs = [
        (str(one["name"]), [int(n) for n in one["shape"]], one["dtype"].__name__)
        for one in interpreter.get_input_details()
    ]
    facts = tell_facts(interpreter, name=name, delegate=delegate, threads=threads)
    return json.dumps({"inputs": inputs, "facts": facts}).encode()


def _serve() -> int:
    order = json.loads(sys.stdin.buffer.readline())
    data, images = sys.stdin.buffer.read(order["model"]), sys.stdin.buffer.read()
    try:
        said, code = _answer(order, data, images), 0
    except (UnitError, ValueError, RuntimeError) as error:
        said, code = " ".join(str(error).split()).encode(), _REFUSED
    sys.stdout.buffer.write(said)
    return code


if __name__ == "__main__":
    sys.exit(_serve())
