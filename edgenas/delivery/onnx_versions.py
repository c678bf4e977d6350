"""In which ONNX an export is written, and what reads it."""

from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.delivery.export_request import ExportRequest
from edgenas.onnx_graph.model import loads
from edgenas.onnx_graph.older import (
    WIDELY_LACKED,
    NoOlderFormError,
    choose_versions,
    fit_reader,
    lower,
)
from edgenas.onnx_graph.readers import name_readers, opset_of, read_reader
from edgenas.runtime.contract import ExportFormat


def check_versions(request: ExportRequest, kind: ExportFormat) -> None:
    """Refuse versions of ONNX for a format that is none, and two ways to say one thing.

    Raises:
        EdgenasError: so it is, or the reader is unknown.
    """
    told = [name for name in ("opset", "ir", "reader") if getattr(request, name) is not None]
    if not told:
        return
    if kind.save is not None:
        raise EdgenasError(
            f"--{told[0]} is for the ONNX formats, found --to {request.to}",
            hint="the other formats have no opset: leave it out, or take --to onnx",
        )
    if request.reader is not None and len(told) > 1:
        raise EdgenasError(
            f"--{told[0]} and --reader both say which ONNX is written",
            hint="give one of them",
        )
    if request.reader is not None:
        read_reader(request.reader)


def write_for_request(graph: bytes, request: ExportRequest) -> bytes:
    """Write a graph in the ONNX that is asked for.

    Raises:
        EdgenasError: the reader lacks an operator that has no other form.
    """
    if request.reader is not None:
        try:
            return fit_reader(graph, read_reader(request.reader))
        except NoOlderFormError as error:
            raise EdgenasError(
                f"{request.to} cannot be written for --reader {request.reader}: {error.message}",
                hint="take another format: --to onnx",
            ) from error
    if request.opset is None and request.ir is None:
        return graph
    opset, ir = choose_versions(opset=request.opset, ir=request.ir)
    return lower(graph, opset=opset, ir=ir, without=WIDELY_LACKED)


def tell_versions(graph: bytes, kind: ExportFormat) -> dict[str, Any]:
    """Opset and IR of an ONNX file, and what reads it; empty for other formats."""
    if kind.save is not None:
        return {}
    model = loads(graph).proto
    return {"opset": opset_of(model), "ir": model.ir_version, "read_by": name_readers(model)}
