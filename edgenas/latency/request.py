"""What ``predict``, ``estimate`` and ``import-ofa-table`` can be asked for.

The options of a target (runtime, precision, threads, batch) and of the way to a board are here
too, for the verbs that share them. This module loads nothing heavy.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request
from edgenas.basics.ranges import Batch, Classes, Range, Threads

DeviceName = Annotated[
    str, Option("Device name or alias, or a profile; see: edgenas list devices.")
]
RuntimeName = Annotated[str | None, Option("Runtime of the target. Default: the device's first.")]
PrecisionName = Annotated[
    str | None,
    Option("Precision of weights and activations: fp32, fp16, bf16 or int8."),
]
ThreadCount = Annotated[Threads | None, Option("CPU threads of one run.")]
BatchSize = Annotated[Batch | None, Option("Images of one run.")]
ClassCount = Annotated[
    Classes | None, Option("Classes of the classifier. Default: those of the space.")
]
InputShapes = Annotated[
    tuple[str, ...], Option("Shape of an input of an ONNX file, e.g. image=1x3x224x224.")
]
BoardAddress = Annotated[
    str | None, Option("Address of the board: user@host, or a name that ssh knows.")
]
BoardPython = Annotated[str | None, Option("Python on that board. Default: python3.")]
Confidence = Annotated[
    Annotated[float, Range(0.5, 0.999, "fraction")], Option("Confidence of the upper bound.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """Which network, and the target that its latency is predicted for."""

    device: DeviceName
    arch: Annotated[
        Path | None, Option("The network: an arch.json file, for example of a bundle.")
    ] = None
    model: Annotated[Path | None, Option("Or any network: an ONNX file.")] = None
    size: Annotated[
        str | None,
        Option(
            "Pixels of an ONNX file's image where the file leaves them open, e.g. 224 or 320x224.",
            needs="model",
        ),
    ] = None
    shape: Annotated[
        tuple[str, ...],
        Option("Shape of an input of an ONNX file, e.g. image=1x3x224x224.", needs="model"),
    ] = ()
    space: Annotated[
        str | None,
        Option("Space of the network. Default: the shipped space that holds it.", needs="arch"),
    ] = None
    runtime: RuntimeName = None
    precision: PrecisionName = None
    threads: ThreadCount = None
    batch: BatchSize = None
    classes: ClassCount = None
    confidence: Confidence = 0.95

    @property
    def file(self) -> Path:
        """The file of the network; ``check`` has made sure that there is one."""
        return next(path for path in (self.arch, self.model) if path is not None)

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            EdgenasError: names the option, the rule and the value found.
        """
        check_request(self)
        if (self.arch is None) == (self.model is None):
            raise EdgenasError(
                "either arch or model must be given: the network",
                hint="add --arch FILE or --model FILE; see: edgenas predict --help",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRequest:
    """The networks that were timed on a board, and the device profile to write."""

    measured: Annotated[
        Path,
        Option(
            "CSV file with the columns model (path of an ONNX file), latency_ms and, if needed, "
            "size and family; or log, a file with what LiteRT's benchmark_model printed.",
            positional=True,
        ),
    ]
    runtime: Annotated[
        str, Option("Runtime that the networks were timed with, e.g. ncnn or onnxruntime.")
    ]
    precision: Annotated[
        str, Option("Precision that they were timed in: fp32, fp16, bf16 or int8.")
    ]
    threads: Annotated[Threads, Option("CPU threads of one run.")]
    out: Annotated[Path, Option("Device profile to write, e.g. my-board.toml.")]
    title: Annotated[str, Option("Title of the device, for people.")] = ""
    space: Annotated[
        str | None,
        Option("Space that will be searched: names the two networks to time next."),
    ] = None
    next: Annotated[
        Path | None, Option("Folder to write those two to, as ONNX files.", needs="space")
    ] = None

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            EdgenasError: names the option, the rule and the value found.
        """
        check_request(self)
        if self.out.suffix != ".toml":
            raise EdgenasError(
                f"--out must end in .toml, found {self.out}", hint="for example my-board.toml"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOfaTableRequest:
    """Published latency tables, and the file to write."""

    folder: Annotated[
        Path, Option("Folder with files <resolution>_lookup_table.yaml.", positional=True)
    ]
    out: Annotated[Path, Option("Latency table to write.")]
