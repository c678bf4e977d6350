"""The inputs of a model: which extent of each is the batch, what is open, and what is a state.

ONNX names none of these roles, so they are read from what exporters write. The first extent of the
main input is the batch, unless another extent is called so. States (what a recurrent network
carries from run to run), sizes and prompts have a batch only where they say so, by the name of an
extent. Minus one, zero at the front and an extent without a value are all open.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from edgenas.basics.errors import EdgenasError
from edgenas.onnx_graph.file import shown

Extent = int | str | None
LARGEST_EXTENT = 2**31 - 1
LONGEST_SHAPE = 32  # extents of a tensor
_LARGEST_INPUTS = 2**28  # elements of all inputs: what is made up to run a model must fit

KINDS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_BATCH_NAME = re.compile(r"(?i)^(n|b|bs|bsz)$|batch|num_?images")
_STATE_NAME = re.compile(
    r"(?i)(^|[_./])(h|c|h0|c0|h_?in|c_?in|hx|cx|sr|state|states|hidden|cell|past|cache|mem|memory"
    r"|mems)\d*($|[_./])|past_key|orig|size|length|scale|threshold"
)
_FIRST_STATE = {"LSTM": 5, "GRU": 5, "RNN": 5, "DynamicQuantizeLSTM": 5, "Scan": 99}
_CARRIERS = ("Split", "Slice", "Squeeze", "Unsqueeze", "Identity", "Transpose", "Gather", "Cast")


@dataclass(frozen=True, slots=True)
class Declared:
    """An input as a file declares it.

    Args:
        name: of the input.
        element: its type, a value of ``TensorProto.DataType``.
        extents: a number where it is fixed, a symbol where it is open and has a name, None where
            it is open; None instead of a tuple where even the rank is open.
        state: whether it only goes along: a recurrent state, a size, a length.
        batch_at: which extent is the batch; None: none of them.
    """

    name: str
    element: int
    extents: tuple[Extent, ...] | None
    state: bool = False
    batch_at: int | None = None

    @property
    def kind(self) -> str:
        """Numpy's name of its type; empty for a type that cannot be made up."""
        return KINDS.get(self.element, "")

    @property
    def is_image(self) -> bool:
        """Whether it has the four extents of images."""
        return self.extents is not None and len(self.extents) == 4 and not self.state

    def __str__(self) -> str:
        if self.extents is None:
            return f"{shown(self.name)} (no shape)"
        return f"{shown(self.name)} ({', '.join(_text(e) for e in self.extents)})"


@dataclass(frozen=True, slots=True)
class Input:
    """An input whose sizes are all known, as it is made up to run a model.

    Whole numbers are 0 or 1, others normal.

    Args:
        name: of the input.
        shape: with the sizes that were filled in.
        kind: numpy's name of its type; empty for a type that cannot be made up.
        filled: whether sizes were left open by the model.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    filled: bool = False

    def __str__(self) -> str:
        how = "0 or 1" if "int" in self.kind or self.kind == "bool" else "normal numbers"
        return f"{shown(self.name)} {self.kind}[{', '.join(map(str, self.shape))}], {how}"


def _text(extent: Extent) -> str:
    return "?" if extent is None else shown(extent, most=20)


# What a file declares


def values_of(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that a model has no values for: files before IR 4 list weights as inputs too."""
    held = {tensor.name for tensor in model.graph.initializer}
    held |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in held]


def declared(model: ModelProto) -> tuple[Declared, ...]:
    """The inputs of a model, told apart.

    Raises:
        EdgenasError: an input is no tensor, is there twice, or has more than 32 extents.
    """
    declared: list[Declared] = []
    for value in values_of(model):
        if value.type.WhichOneof("value") != "tensor_type":
            raise EdgenasError(
                f"the input {shown(value.name)} has a type that cannot be made up: it is no tensor"
            )
        if any(other.name == value.name for other in declared):
            raise EdgenasError(f"the input {shown(value.name)} is declared twice")
        extents = _extents(value)
        if extents is None:
            extents = _read_by_conv(model, value.name)
        declared.append(Declared(value.name, value.type.tensor_type.elem_type, extents))
    states = {one.name for one in declared} & _carried(model.graph.node)
    if states == {one.name for one in declared}:
        states = set()
    named = {one.name for one in declared if _STATE_NAME.search(one.name)}
    if named | states != {one.name for one in declared}:
        states |= named
    if not declared:
        return ()
    main = _main([one for one in declared if one.name not in states] or declared)
    symbol = _batch_symbol(main)
    return tuple(
        Declared(
            one.name,
            one.element,
            one.extents,
            state=one.name in states,
            batch_at=_batch_at(one, symbol=symbol, is_main=one is main, state=one.name in states),
        )
        for one in declared
    )


def main_of(inputs: Sequence[Declared]) -> Declared | None:
    """The input that tells the batch: an image where there is one, else the first that is no state.

    None: there is no input.
    """
    return _main([one for one in inputs if not one.state] or inputs) if inputs else None


def _main(inputs: Sequence[Declared]) -> Declared:
    images = [one for one in inputs if one.is_image and one.element in _FLOATS]
    shaped = [one for one in inputs if one.extents is None or len(one.extents) > 1]
    return (images or shaped or inputs)[0]


def _extents(value: ValueInfoProto) -> tuple[Extent, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if len(dims) > LONGEST_SHAPE:
        raise EdgenasError(
            f"the input {shown(value.name)} must have at most {LONGEST_SHAPE} extents, "
            f"found {len(dims)}"
        )
    extents: list[Extent] = []
    for dim in dims:
        if dim.dim_value > LARGEST_EXTENT:
            raise EdgenasError(
                f"the input {shown(value.name)} has an extent of {dim.dim_value}, "
                f"at most {LARGEST_EXTENT} is read"
            )
        extents.append(dim.dim_value if dim.dim_value > 0 else dim.dim_param or None)
    return tuple(extents)


def _read_by_conv(model: ModelProto, name: str) -> tuple[Extent, ...] | None:
    """The rank and the channels of an input without a shape, by the weight of the conv it meets."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in weights:
            dims = weights[node.input[1]]
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            if 2 < len(dims) <= LONGEST_SHAPE:
                return (None, int(dims[1]) * groups, *[None] * (len(dims) - 2))
    return None


def _carried(nodes: Sequence[NodeProto]) -> set[str]:
    """Names that reach a recurrent cell as the state it starts from, and nothing else."""
    states: set[str] = set()
    others: set[str] = set()
    for node in reversed(nodes):
        first = _FIRST_STATE.get(node.op_type, 99)
        for i, name in enumerate(node.input):
            carries = i == 0 and node.op_type in _CARRIERS and node.output
            passes = carries and all(out in states for out in node.output)
            (states if i >= first or passes else others).add(name)
    return states - others


def _batch_symbol(main: Declared) -> str | None:
    if not main.extents:
        return None
    named = [e for e in main.extents if isinstance(e, str) and _BATCH_NAME.search(e)]
    first = main.extents[0]
    return named[0] if named else first if isinstance(first, str) else None


def _batch_at(one: Declared, *, symbol: str | None, is_main: bool, state: bool) -> int | None:
    if not one.extents:
        return None
    for i, extent in enumerate(one.extents):
        if isinstance(extent, str) and (extent == symbol or _BATCH_NAME.search(extent)):
            return i
    if state and len(one.extents) == 3 and not isinstance(one.extents[1], int):
        return 1  # the state of a recurrent cell: (layers, batch, units)
    return 0 if is_main or (not state and not isinstance(one.extents[0], int)) else None


# Sizes that are filled in


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and sizes of a text like ``image=1x3x224x224``.

    Raises:
        EdgenasError: the text reads otherwise.
    """
    name, equals, sizes = text.rpartition("=")
    if not equals or not name or not re.fullmatch(r"\d{1,10}(x\d{1,10})*", sizes):
        raise EdgenasError(
            f"--shape must read like image=1x3x224x224, found {shown(text)!r}",
            hint="one for each input whose sizes are open",
        )
    return name, tuple(int(size) for size in sizes.split("x"))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of a text like ``224`` or ``320x224``; None for None.

    Raises:
        EdgenasError: the text reads otherwise.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if match is None:
        raise EdgenasError(
            f"--size must be pixels like 224, or 320x224 (height x width), found {text!r}"
        )
    return int(match[1]), int(match[2] or match[1])


def fill(
    inputs: Sequence[Declared],
    *,
    where: str,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    size: tuple[int, int] | None = None,
    hint: str = "",
) -> tuple[Input, ...]:
    """The inputs with every size known.

    Args:
        inputs: as the file declares them.
        where: the name of the file.
        batch: what an open batch becomes.
        shapes: of inputs by name, where more is open than the batch. An extent of the same symbol
            in another input becomes the same.
        size: height and width of images, whatever the file says of them.
        hint: what else than ``--shape`` gives the size of an image.

    Raises:
        EdgenasError: a size stays open, contradicts the file, or belongs to no input.
    """
    given = dict(shapes or {})
    if unknown := sorted(set(given) - {one.name for one in inputs}):
        known = shown(", ".join(shown(one.name) for one in inputs), most=120)
        raise EdgenasError(f"inputs of {where} are {known}, found {shown(unknown[0])!r} in --shape")
    symbols: dict[str, int] = {}
    for one in inputs:
        for extent, length in zip(one.extents or (), given.get(one.name, ()), strict=False):
            if isinstance(extent, str):
                symbols[extent] = length
    values = tuple(
        Input(
            one.name,
            _filled(one, batch, given.get(one.name), size, symbols, where=where, hint=hint),
            one.kind,
            filled=one.extents is None or any(not isinstance(e, int) for e in one.extents),
        )
        for one in inputs
    )
    return values


def _filled(
    one: Declared,
    batch: int,
    given: Sequence[int] | None,
    size: tuple[int, int] | None,
    symbols: Mapping[str, int],
    *,
    where: str,
    hint: str,
) -> tuple[int, ...]:
    if given is not None:
        return _checked(one, tuple(given))
    extents = list(one.extents) if one.extents is not None else None
    if extents is not None and size is not None and one.is_image:
        # Channels come last where the last extent is that small.
        last = extents[3] in (1, 3, 4) and extents[1] not in (1, 3, 4)
        at = (1, 2) if last else (2, 3)
        for i, length in zip(at, size, strict=True):
            extents[i] = length
    filled: list[Extent] = []
    for i, extent in enumerate(extents or ()):
        known = symbols.get(extent) if isinstance(extent, str) else extent
        filled.append(batch if known is None and i == one.batch_at else known)
    if extents is None or None in filled:
        example = "x".join("?" if length is None else str(length) for length in filled) or "1x?"
        asked = f"give it: --shape {shown(one.name)}={example}"
        also = f"{hint}, or " if hint and one.is_image else ""
        what = "has no shape" if extents is None else "leaves its size open"
        raise EdgenasError(f"{where}: the input {one} {what}", hint=also + asked)
    return tuple(length for length in filled if isinstance(length, int))


def _checked(one: Declared, given: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes that were given for an input, where they fit what the file says."""
    extents = one.extents if one.extents is not None else (None,) * len(given)
    fits = len(given) == len(extents) and all(
        not isinstance(extent, int) or extent == length
        for extent, length in zip(extents, given, strict=True)
    )
    text = "x".join(map(str, given))
    if not fits:
        wanted = "x".join("?" if not isinstance(e, int) else str(e) for e in extents)
        raise EdgenasError(
            f"the input {shown(one.name)} must have the shape {wanted or 'of a scalar'}, found "
            f"--shape {shown(one.name)}={text}"
        )
    if max(given, default=1) > LARGEST_EXTENT or 0 in given[:1]:
        raise EdgenasError(
            f"the sizes of --shape must be from 1 to {LARGEST_EXTENT}, found "
            f"{shown(one.name)}={text}"
        )
    return given


def check_runnable(inputs: Sequence[Input], *, where: str) -> None:
    """Refuse inputs that cannot be made up to run a model.

    Raises:
        EdgenasError: one is a text or another type without numbers, or all are too large.
    """
    for one in inputs:
        if not one.kind:
            raise EdgenasError(f"the input {shown(one.name)} has a type that cannot be made up")
    total = sum(math.prod(one.shape) for one in inputs)
    if total > _LARGEST_INPUTS:
        raise EdgenasError(
            f"the inputs of {where} have {total:.3g} elements, more than {_LARGEST_INPUTS:,}",
            hint="give smaller sizes",
        )
