"""Requests: everything that a user can ask of a verb, as one frozen value.

A request is a frozen dataclass. Each field is ``Annotated`` with an `Option`, and its type holds
the ranges of its numbers (`edgenas.basics.ranges`)::

    threads: Annotated[Threads, Option("CPU threads of one run.")] = 1

Everything else comes from the fields: the options of the command line (`edgenas.cli.command`), the
fields of a fleet file, the key of a bundle, and the reference page. Adding an option is adding one
field here and using it where it matters.
"""

import dataclasses
import functools
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from edgenas.basics.decode import decode
from edgenas.basics.errors import EdgenasError

Keyed = Literal["always", "changed", "never"]


@dataclass(frozen=True, slots=True)
class Option:
    """What a field of a request says beside its type and its default.

    Args:
        help: one sentence for the person who reads ``--help``.
        needs: the name of another option; this one says nothing unless that one is set.
        flag: the name on the command line; empty: two dashes and the name of the field.
        positional: whether the command line takes it as an argument without a flag.
        keyed: whether it decides what a bundle will be: ``always`` it is part of the bundle's key,
            ``changed`` only where it differs from its default, ``never``.
    """

    help: str
    needs: str = ""
    flag: str = ""
    positional: bool = False
    keyed: Keyed = "always"


@dataclass(frozen=True, slots=True)
class RequestField:
    """One field of a request class, taken apart.

    Args:
        name: of the field.
        kind: its annotation without the option: a type with its ranges.
        option: what it says.
        default: its value where nobody gives one; ``MISSING`` where it must be given.
    """

    name: str
    kind: Any
    option: Option
    default: Any

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.option.flag or "--" + self.name.replace("_", "-")

    @property
    def plain(self) -> Any:
        """Its type without ranges and without ``None``: str, int, float, bool, Path or a tuple."""
        return plain_type(self.kind)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it can be, or none where it can be any."""
        return get_args(self.plain) if get_origin(self.plain) is Literal else ()


def plain_type(kind: Any) -> Any:
    """The type inside ``Annotated`` and ``X | None``."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif NoneType in get_args(kind) and get_origin(kind) not in (tuple, Literal):
            (kind,) = (each for each in get_args(kind) if each is not NoneType)
        else:
            return kind


@functools.cache
def request_fields(kind: type[Any]) -> tuple[RequestField, ...]:
    """The fields of a request class, in their order. Fields without an `Option` are left out."""
    hints = get_type_hints(kind, include_extras=True)
    fields: list[RequestField] = []
    for field in dataclasses.fields(kind):
        rules: list[Any] = list(getattr(hints[field.name], "__metadata__", ()))
        options = [rule for rule in rules if isinstance(rule, Option)]
        if not options:
            continue
        rest = [rule for rule in rules if not isinstance(rule, Option)]
        inner = get_args(hints[field.name])[0]
        inner = Annotated[inner, *rest] if rest else inner
        fields.append(
            RequestField(name=field.name, kind=inner, option=options[0], default=field.default)
        )
    return tuple(fields)


def fields_of(request: Any) -> tuple[RequestField, ...]:
    """The fields of a request."""
    kind: type[Any] = type(request)
    return request_fields(kind)


def check_request(request: Any) -> None:
    """Refuse a value outside its range, an unknown word, or an option that says nothing.

    Raises:
        EdgenasError: names the option, the rule and the value found.
    """
    changed = changed_names(request)
    for field in fields_of(request):
        value = getattr(request, field.name)
        if field.plain is not Path and not (value is None and field.default is None):
            decode_field(field, value, where="")
        needs = field.option.needs
        if field.name in changed and needs and needs not in changed:
            raise EdgenasError(
                f"{field.name} has no effect without {needs}",
                hint=f"add --{needs.replace('_', '-')}, or leave out {field.flag}",
            )


def decode_field(field: RequestField, value: Any, *, where: str) -> Any:
    """The value of a field, checked as the field's type says.

    Args:
        field: of a request.
        value: what a file or a caller gives.
        where: the file and the place in it; empty: none.

    Raises:
        EdgenasError: names the place, the field, the rule and the value found.
    """
    try:
        return decode(field.kind, value, where=f"{where}: {field.name}" if where else field.name)
    except EdgenasError as error:
        if not field.choices or not isinstance(value, str):
            raise
        near = get_close_matches(value.lower(), field.choices, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else error.hint
        raise EdgenasError(error.message, hint=hint) from None


def changed_names(request: Any) -> set[str]:
    """The names of the options that differ from their defaults."""
    return {f.name for f in fields_of(request) if getattr(request, f.name) != f.default}


def key_values(request: Any) -> dict[str, Any]:
    """The options that decide what a bundle will be, by name."""
    changed = changed_names(request)
    return {
        field.name: getattr(request, field.name)
        for field in fields_of(request)
        if field.option.keyed == "always"
        or (field.option.keyed == "changed" and field.name in changed)
    }
