"""What programs read of ONNX, version by version: opset, IR, and operators that they lack.

A graph that goes to a program of a known version is written for it, see `edgenas.onnx_graph.older`.
Opset and IR of an ONNX release: ``VERSION_TABLE`` in ``onnx/helper.py`` of onnx.
"""

import itertools
import re
from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from edgenas.basics.errors import EdgenasError, unknown_name

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class OnnxReader:
    """A program that reads ONNX files, from one version up to the next row of its table.

    Args:
        name: of the program; a runtime of edgenas has the same name here.
        since: the first version, major and minor.
        opset: the highest that it reads.
        ir: the highest version of the file format that it reads.
        source: where that is known from.
        lacks: operators that it has not, or computes wrongly, of those in graphs of edgenas.
        signed: whether it reads quantised graphs only where all their integers are signed bytes.
    """

    name: str
    since: Version
    opset: int
    ir: int
    source: str
    lacks: frozenset[str] = frozenset()
    signed: bool = False

    def reads(self, model: ModelProto) -> bool:
        """Whether it reads a graph of edgenas."""
        operators = {node.op_type for node in model.graph.node}
        kinds = {tensor.data_type for tensor in model.graph.initializer}
        return (
            opset_of(model) <= self.opset
            and model.ir_version <= self.ir
            and not operators & self.lacks
            and not (self.signed and kinds & {TensorProto.UINT8, TensorProto.INT32})
        )


TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "opencv": "OpenCV's DNN module"}

_TENSORRT = "operators.md and the submodule third_party/onnx of onnx/onnx-tensorrt, branch "
_ONNXRUNTIME = "the versions that a wheel of onnxruntime loads, and those that it refuses: "
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")

# Each program from its oldest version on.
READERS = (
    # Its parser looks at no opset or IR, it fails at single operators (ModelImporter.cpp). The
    # numbers are those that a version was built with. HardSwish came to it with 8.4.
    OnnxReader(
        "tensorrt",
        (8, 0),
        13,
        7,
        _TENSORRT + "8.0-GA and 8.2-GA; builtin_op_importers.cpp has no HardSwish",
        frozenset({"HardSwish"}),
        signed=True,
    ),
    OnnxReader("tensorrt", (8, 4), 17, 8, _TENSORRT + "8.4-GA, 8.5-GA and 8.6-GA", signed=True),
    OnnxReader("tensorrt", (10, 0), 20, 10, _TENSORRT + "10.0-GA and 10.3-GA", signed=True),
    OnnxReader(
        "tensorrt", (10, 9), 22, 10, "lists of others for 10.9, not its source", signed=True
    ),
    OnnxReader("tensorrt", (11, 0), 25, 13, "NVIDIA's documentation of TensorRT 11", signed=True),
    # Older ones read opset 13 and IR 7 too: Versioning.md of microsoft/onnxruntime.
    OnnxReader("onnxruntime", (1, 8), 13, 7, "Versioning.md of microsoft/onnxruntime"),
    OnnxReader("onnxruntime", (1, 16), 19, 9, _ONNXRUNTIME + "1.16.3"),
    OnnxReader("onnxruntime", (1, 17), 20, 9, _ONNXRUNTIME + "1.17.3"),
    OnnxReader("onnxruntime", (1, 18), 21, 10, "Versioning.md of microsoft/onnxruntime"),
    # It looks at neither opset nor IR. It takes Mul(x, HardSigmoid(y)) for HardSwish(y), and so
    # computes squeeze-and-excitation wrongly without a word. Operators of quantised graphs are
    # refused in some orders.
    # It refuses a Clip whose ends are inputs.
    OnnxReader(
        "opencv",
        (4, 6),
        20,
        10,
        "answers of Debian's OpenCV 4.6.0 to a program in C++; parseClip in "
        "modules/dnn/src/onnx/onnx_importer.cpp of 4.6.0",
        frozenset({"Clip", "HardSigmoid", *_QUANTISED}),
    ),
    OnnxReader(
        "opencv",
        (4, 10),
        20,
        10,
        "answers of the wheels 4.10, 4.12, 4.14 and 5.0 of opencv-python-headless; "
        "HardSwishSubgraph in modules/dnn/src/onnx/onnx_graph_simplifier.cpp",
        frozenset({"HardSigmoid", *_QUANTISED}),
    ),
)


def opset_of(model: ModelProto) -> int:
    """The opset of a model's own operators; 0: it names none."""
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)


def find_reader(name: str, version: str) -> OnnxReader:
    """What a version of a program reads. A newer one than all known counts as the newest known.

    Args:
        name: of the program.
        version: as ``8.2.1``; empty or older than all known: that of the oldest known.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    asked = (int(match[1]), int(match[2])) if match else (0, 0)
    rows = [reader for reader in READERS if reader.name == name]
    return [rows[0], *(reader for reader in rows if reader.since <= asked)][-1]


def read_reader(words: str) -> OnnxReader:
    """The reader that a user names, e.g. ``onnxruntime-1.16``, ``tensorrt-8.2`` or ``opencv``.

    Raises:
        EdgenasError: there is no such program, or nothing is known of so old a version.
    """
    name, _, version = words.partition("-")
    if name not in TITLES:
        raise unknown_name("reader", name, names=TITLES, listing="edgenas export --help")
    if not re.fullmatch(r"(\d{1,4}(\.\d{1,4}){1,3})?", version):
        raise EdgenasError(
            f"--reader must be a program with a version, found {words!r}",
            hint=f"for example --reader {name}-{show_version(find_reader(name, '').since)}",
        )
    reader = find_reader(name, version)
    if version and tuple(int(part) for part in version.split(".")[:2]) < reader.since:
        raise EdgenasError(
            f"the oldest {TITLES[name]} that edgenas writes for is {show_version(reader.since)}, "
            f"found {version}"
        )
    return reader


def show_version(version: Version) -> str:
    """A version as people write it."""
    return f"{version[0]}.{version[1]}"


def readers_of(model: ModelProto) -> tuple[OnnxReader, ...]:
    """Of each program the oldest version from which on all versions read a graph of edgenas."""
    oldest: list[OnnxReader] = []
    for name in TITLES:
        rows = [reader for reader in reversed(READERS) if reader.name == name]
        good = list(itertools.takewhile(lambda reader: reader.reads(model), rows))
        oldest += good[-1:]
    return tuple(oldest)


def name_readers(model: ModelProto) -> str:
    """What reads a graph of edgenas, in words."""
    names = [f"{TITLES[one.name]} {show_version(one.since)} or newer" for one in readers_of(model)]
    return ", ".join(names)
