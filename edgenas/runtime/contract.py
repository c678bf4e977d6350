"""The contract of a runtime: one value in one file, which says all that edgenas knows about it.

A file of a runtime may be its own board part (`edgenas.clock.board.part`), which boards import. So
this file needs Python >= 3.8 and the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Protocol

    from numpy.typing import NDArray

    from edgenas.onnx_graph.forms import Form

    Array = NDArray[Any]

    class Session(Protocol):
        """A graph that is ready to run."""

        def run(self, inputs: Mapping[str, Array]) -> list[Array]:
            """The outputs, in the order of the graph.

            Args:
                inputs: arrays by the names of the graph, with the graph's types and shapes.

            Raises:
                EdgenasError: a name, type or shape is not the graph's.
            """
            ...

        def facts(self) -> dict[str, str]:
            """What really runs: ``runtime``, ``version``, ``provider``, ``precision``, ``threads``.

            ``precision`` and ``provider`` are those really used.
            """
            ...

        def kernels(self) -> list[Kernel]:
            """The pieces of work of a run with made-up inputs, in the order of execution."""
            ...

    class Compile(Protocol):
        """Makes a session for this machine."""

        def __call__(
            self, onnx: bytes, *, precision: str | None, threads: int, batch: int
        ) -> Session:
            """A session for this machine.

            Args:
                onnx: the graph, in the form for the precision. Its free dimensions are the batch.
                precision: one of ``precisions``. A graph that would run in another one is refused.
                    None: the precision that the graph asks for, and fp32 where it asks for none.
                threads: threads of the processor; a runtime of a GPU may ignore it.
                batch: images a run.

            Raises:
                EdgenasError: the runtime is not available here, it refuses the graph, or the graph
                    would not run in the precision asked for.
            """
            ...

    class SaveExport(Protocol):
        """Writes an exported network to a folder."""

        def __call__(
            self, onnx: bytes, folder: Path, *, precision: str, batches: tuple[int, int, int]
        ) -> tuple[str, ...]:
            """Write the files of a network, and return notes about them for people.

            Args:
                onnx: the graph in the form of the format.
                folder: a folder that is there.
                precision: the precision of the format.
                batches: least, usual and largest images a run.

            Raises:
                EdgenasError: the network cannot be written in this format.
            """
            ...


# How a profile times the layers of a space: alone, as copies side by side or in a row ("slopes"),
# or not at all, because
# layer costs are learned from whole networks. On a GPU, starting a small layer takes longer than it
# runs, and the order of the work is decided for a network as a whole.
Method = Literal["alone", "copies", "networks", "slopes"]


@dataclass(frozen=True)
class Kernel:
    """A piece of work that a runtime does in a run.

    Args:
        name: its name, in the runtime's words.
        nodes: the nodes of the graph that it computes, as far as the runtime tells them.
        kind: the kind of kernel, in the runtime's words.
        precision: what it computes in: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        seconds: median over some runs that are watched. The sum is more than a run takes.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    precision: str
    seconds: float


@dataclass(frozen=True)
class ExportFormat:
    """A format that ``edgenas export`` writes.

    Args:
        kind: the name of the format on the command line.
        precision: the precision of the network in it.
        form: the form of its graph.
        about: what the format is for, in words.
        runs_here: whether the runtime itself runs and times the network here. Otherwise ONNX
            Runtime checks the graph, and nothing is timed.
        files: the names of the files that ``save`` may write.
        save: writes the network; None: the graph is written as ``model.onnx``.
        choose_form: the form where the library on this machine decides it. It raises EdgenasError
            where the format cannot be written here.
        runs_in: the precision that the network computes in, where only its weights are stored in
            ``precision``.
    """

    kind: str
    precision: str
    form: Form
    about: str
    runs_here: bool = True
    files: tuple[str, ...] = ("model.onnx",)
    save: SaveExport | None = None
    choose_form: Callable[[], Form] | None = None
    runs_in: str = ""


@dataclass(frozen=True)
class BundleFile:
    """A file that a bundle for a runtime holds beside the ONNX graph: what ``convert`` makes of it.

    Args:
        name: the name of the file.
        example: the name of the program in the bundle that shows how to run it.
    """

    name: str
    example: str


@dataclass(frozen=True)
class Runtime:
    """A backend that turns an ONNX graph into something that runs on a device.

    Args:
        name: its name in targets and latency tables.
        forms: the form of graph that it wants, for each precision that it can compute in. The
            processor may lack some of them.
        available: gives None, or the reason why it cannot be used here, in words that help.
        compile: makes a session, see `Compile`.
        choose_form: the form for a precision where the library on this machine decides it.
        method: how a profile times the layers of a space. "alone" is right for most; "networks"
            where layers cannot be timed one by one.
        on_gpu: whether runs go from GPU memory to GPU memory.
        part: the name of its board part, ``package.module:VALUE``; empty: the clock cannot time it.
        built_by_tool: whether a tool of the runtime, ``trtexec``, builds an engine of each graph on
            the device and times it; then it needs no board part.
        fit_version: writes a graph (bytes) so that a version of that runtime (text) reads it. Empty
            text: the version is not known.
        timing_hint: how people can time it themselves where edgenas cannot.
        convert: brings a graph (bytes) into the format that the board part loads. The keyword
            ``batch`` is the number of images a run. None: the board part loads ONNX.
        why_not_convert: gives None, or the reason why nothing can be converted here.
        bundle_file: what a bundle for it holds beside the ONNX graph; None: nothing.
        exports: the formats that it brings to ``edgenas export``.
        bundle_note: what the reader of a bundle for this runtime must know.
    """

    name: str
    forms: Mapping[str, Form]
    available: Callable[[], str | None]
    compile: Compile
    choose_form: Callable[[str], Form] | None = None
    method: Method = "alone"
    on_gpu: bool = False
    part: str = ""
    built_by_tool: bool = False
    fit_version: Callable[[bytes, str], bytes] | None = None
    timing_hint: str = ""
    convert: Callable[..., bytes] | None = None
    why_not_convert: Callable[[], str | None] | None = None
    bundle_file: BundleFile | None = None
    exports: tuple[ExportFormat, ...] = ()
    bundle_note: str = ""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that it can compute in."""
        return tuple(self.forms)

    def form_of(self, precision: str) -> Form:
        """The form of graph that it wants for one of its precisions."""
        return self.choose_form(precision) if self.choose_form else self.forms[precision]
