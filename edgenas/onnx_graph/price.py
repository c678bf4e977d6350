"""A network that is known by its ONNX graph alone, with what it multiplies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.graph import Shape
from edgenas.onnx_graph.inputs import main_of
from edgenas.onnx_graph.model import load
from edgenas.onnx_graph.operators import Reader
from edgenas.onnx_graph.walk import infer
from edgenas.space.layer import Primitive

_SIZE_HINT = "say it: --size 224, or --size 320x224 (height x width)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignNetwork:
    """A network that is known by its ONNX graph alone.

    Args:
        operators: of one run, in order of execution.
        unknown: operators without multiplications whose extents depend on the data that they see,
            and how often they occur.
        inputs: shapes of the inputs.
        batch: images of a run.
    """

    operators: tuple[Primitive, ...]
    unknown: Mapping[str, int]
    inputs: Mapping[str, Shape]
    batch: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(p.macs for p in self.operators)

    @property
    def weights(self) -> int:
        """Weights of convs and matrix products, without biases."""
        return sum(p.weights for p in self.operators)

    def cautions(self) -> list[str]:
        """What a reader of numbers about it should know, one line each."""
        reasons: list[str] = []
        if self.unknown:
            named = ", ".join(f"{n} {kind}" for kind, n in sorted(self.unknown.items())[:6])
            more = ", ..." if len(self.unknown) > 6 else ""
            reasons.append(
                f"{sum(self.unknown.values())} operators without multiplications ({named}{more}) "
                "have sizes that depend on the data: their time is not in the numbers"
            )
        if self.batch > 1:
            reasons.append(
                f"a run is {self.batch} images: prices were fitted to runs of one, and a run of "
                "many is priced as one large image"
            )
        return reasons


def read_network(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> ForeignNetwork:
    """The operators of an ONNX file.

    Args:
        path: the file.
        size: height and width of the image, where the file leaves them open.
        batch: images of a run, where the file leaves them open; None: one.
        shapes: of inputs by name, where more is open.

    Raises:
        EdgenasError: as `edgenas.onnx_graph.load` and `edgenas.onnx_graph.infer`, a node that has
            no price, or no operator at all has one.
    """
    model = load(path)
    main = main_of(model.inputs)
    made_for = model.batch or 1
    if batch is None and not shapes and main is not None and main.is_image and made_for > 1:
        raise EdgenasError(
            f"{model.where}: the input {main.name[:60]} holds {made_for} images",
            hint=f"price a run of all of them with --batch {made_for}, or export it with a batch "
            "of one, or an open one",
        )
    try:
        graph = infer(model.closed(batch=batch, shapes=shapes, size=size, hint=_SIZE_HINT))
    except EdgenasError as error:
        if size is not None and not error.hint and "do not fit together" in error.message:
            raise EdgenasError(
                error.message, hint="give the size that the network is made for: --size 224"
            ) from error
        raise
    reader = Reader(graph)
    for node in graph.nodes:
        reader.read(node)
    if not reader.operators:
        kinds = ", ".join(sorted(reader.unknown)) or "none"
        raise EdgenasError(f"{model.where} has no operator with a price, found {kinds}")
    return ForeignNetwork(
        operators=tuple(reader.operators),
        unknown=dict(reader.unknown),
        inputs=graph.inputs,
        batch=graph.batch,
    )
