"""One decoder for every file: it turns what JSON, TOML or YAML hold into typed values.

A frozen dataclass says what a file holds, and its annotations are the rules
(`edgenas.basics.ranges`)::

    threads: Annotated[int, Range(1, 4096, "count")]

It reads numbers, texts, ``Literal``, ``X | None``, ``tuple``, ``Mapping[str, X]``, dataclasses and,
as ``Any``, free-form values. A field may be absent where the class has a default, unless it is
marked ``ALWAYS``. A rule about several fields belongs in ``__post_init__`` and raises EdgenasError.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as hints_of

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.ranges import (
    ALWAYS,
    FREE,
    KEY,
    Length,
    Range,
    Stored,
)

Kind = TypeVar("Kind")
Reader = Callable[[Any], Any]


class _Fault(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, message: str, hint: str = "", kind: str = "") -> None:
        self.message, self.hint, self.kind, self.path = message, hint, kind, ""

    def inside(self, place: str) -> "_Fault":
        self.path = place + self.path
        return self


def _require(rule: str, value: object) -> None:
    if rule:
        raise _Fault(f" must {rule}, found {quote(value)}")


def _require_kind(kind: str, value: object, *, fits: bool) -> None:
    if not fits:
        raise _Fault(f" must be {kind}, found {quote(value)}", kind=kind)


def decode(kind: type[Kind], value: Any, *, where: str) -> Kind:
    """Make a value of a kind from what ``json.loads`` or ``tomllib.loads`` returned.

    Raises:
        EdgenasError: names the file (``where``), the path inside it, the rule and the value.
    """
    try:
        return _reader(kind)(value)
    except _Fault as fault:
        path = fault.path.removeprefix(".")
        raise EdgenasError(
            f"{where}{path and ': '}{path}{fault.message}", hint=fault.hint
        ) from None


@functools.cache
def _reader(kind: Any) -> Reader:
    rules: list[Any] = []
    if get_origin(kind) is Annotated:
        kind, *rules = get_args(kind)
    origin, inner = get_origin(kind), get_args(kind)
    length = next((rule for rule in rules if isinstance(rule, Length)), Length())
    if kind in (int, float):
        (limits,) = (rule for rule in rules if isinstance(rule, Range))  # every number has a range
        return functools.partial(_number, kind=kind, limits=limits)
    if kind is str:
        return functools.partial(_text, length=length)
    if kind is Any:
        return _free
    if kind is bool or origin is Literal:
        return functools.partial(_word, words=inner or (True, False))
    if origin in (Union, UnionType):
        readers = [_reader(each) for each in inner if each is not NoneType]
        return functools.partial(_either, readers=readers, null=NoneType in inner)
    if origin is tuple:  # all items are of one kind, and as many as the annotation names
        length = length if inner[-1] is ... else Length(len(inner), len(inner))
        return functools.partial(_list, reader=_reader(inner[0]), length=length)
    if origin is Mapping:
        return functools.partial(_mapping, reader=lambda _: _reader(inner[1]), length=length)
    return _object(kind)


def _number(value: Any, *, kind: type, limits: Range) -> Any:
    fits = type(value) is kind or (kind is float and type(value) is int)
    _require_kind("an integer" if kind is int else "a number", value, fits=fits)
    _require(limits.broken_by(value), value)
    return kind(value)


def _text(value: Any, *, length: Length) -> str:
    _require_kind("a text", value, fits=isinstance(value, str))
    _require(length.broken_by(value, "characters"), value)
    return value


def _word(value: Any, *, words: tuple[Any, ...]) -> Any:
    kind = f"one of {', '.join(words)}" if isinstance(words[0], str) else "true or false"
    fits = any(type(value) is type(word) and value == word for word in words)
    _require_kind(kind, value, fits=fits)
    return value


def _either(value: Any, *, readers: list[Reader], null: bool) -> Any:
    if value is None and null:
        return None
    kinds: list[str] = []
    for reader in readers:
        try:
            return reader(value)
        except _Fault as fault:
            if fault.path or not fault.kind:  # the value is of this kind, but breaks a rule
                raise
            kinds.append(fault.kind)
    _require(f"be {' or '.join(kinds)}", value)


def _list(value: Any, *, reader: Reader, length: Length) -> tuple[Any, ...]:
    _require_kind("a list", value, fits=isinstance(value, (list, tuple)))
    _require(length.broken_by(value, "items"), value)
    items: list[Any] = []
    try:
        for item in value:
            items.append(reader(item))
    except _Fault as fault:  # of the item after those that could be read
        raise fault.inside(f"[{len(items)}]") from None
    return tuple(items)


def _mapping(value: Any, *, reader: Callable[[str], Reader], length: Length) -> dict[str, Any]:
    _require_kind("an object", value, fits=isinstance(value, Mapping))
    _require(length.broken_by(value, "entries"), value)
    entries: dict[str, Any] = {}
    for name, item in cast(Mapping[Any, Any], value).items():
        _text(name, length=KEY)
        each = reader(name)
        try:
            entries[name] = each(item)
        except _Fault as fault:
            raise fault.inside(f".{name}") from None
    return entries


def _object(kind: type[Any]) -> Reader:
    names: dict[str, Stored] = {}  # from the name in the file to the name in the class
    readers: dict[str, Reader] = {}
    needed: list[str] = []
    hints = hints_of(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        rules: tuple[Any, ...] = getattr(hint, "__metadata__", ())
        own = next((r for r in rules if isinstance(r, Stored)), Stored(field.name))
        names[own.name], readers[own.name] = Stored(field.name, own.times), _reader(hint)
        if ALWAYS in rules or field.default is field.default_factory:  # both are MISSING
            needed.append(own.name)

    def find_reader(name: str) -> Reader:
        if name not in readers:
            hint = f"known fields: {', '.join(readers)}"
            raise _Fault(f": unknown field {quote(name)}", hint)
        return readers[name]

    def read(value: Any) -> Any:
        entries = _mapping(value, reader=find_reader, length=Length())
        for name in needed:
            if name not in entries:
                raise _Fault(f": the field {name!r} is missing")
        try:
            return kind(**{names[n].name: names[n].of(item) for n, item in entries.items()})
        except EdgenasError as error:
            raise _Fault(f": {error.message}", error.hint) from None

    return read


def _free(value: Any, level: int = 0) -> Any:
    """Read JSON of any shape. Its numbers must be finite, and it must not be too deep."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(value, kind=type(value), limits=FREE)
    if isinstance(value, str):
        return _text(value, length=Length())
    _require("" if level < 16 else "be no deeper than 16 levels", value)
    inside = functools.partial(_free, level=level + 1)
    if isinstance(value, Mapping):
        return _mapping(value, reader=lambda _: inside, length=Length())
    return list(_list(value, reader=inside, length=Length()))
