"""What ``export`` and ``report`` can be asked for. This module loads nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgenas.basics.options import Option
from edgenas.basics.ranges import Range
from edgenas.latency.request import BoardAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Which bundle is written in which format."""

    bundle: Annotated[Path, Option("Folder of a bundle.", positional=True)]
    to: Annotated[str, Option("Format of the export, see edgenas list formats.")]
    ssh: BoardAddress = None
    dynamic_batch: Annotated[bool, Option("Leave the number of images of a run open.")] = False
    opset: Annotated[
        Annotated[int, Range(13, 20, "count")] | None,
        Option("Write ONNX in this opset, with operators that most programs read."),
    ] = None
    ir: Annotated[
        Annotated[int, Range(7, 10, "count")] | None,
        Option("Write ONNX in this version of the file format. Default: that of the opset."),
    ] = None
    reader: Annotated[
        str | None,
        Option("Write ONNX for this program, e.g. onnxruntime-1.16, tensorrt-8.2 or opencv."),
    ] = None
    supernet: Annotated[
        str | None,
        Option("Supernet of the bundle. Default: the one that the bundle names."),
    ] = None
    data: Annotated[
        str | None,
        Option("The training images: int8 is calibrated with them, and accuracy is measured."),
    ] = None
    test: Annotated[str | None, Option("Test images to measure accuracy on.")] = None
    allow_accuracy_drop: Annotated[bool, Option("Write the export whatever accuracy it loses.")] = (
        False
    )
    out: Annotated[
        Path | None,
        Option(
            "Folder of the export. Default: ./<bundle>-<format>, and <bundle>/<format> for engines "
            "of TensorRT."
        ),
    ] = None
    force: Annotated[bool, Option("Replace an export that is there.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """Whose page is written."""

    folder: Annotated[Path, Option("Folder of a bundle or of a training.", positional=True)]
    out: Annotated[
        Path | None, Option("HTML file to write. Default of a training: its report.html.")
    ] = None
    force: Annotated[bool, Option("Replace a file that is there.")] = False
