"""A verb of the command line, made from the values that say what it can be asked for."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from edgenas.basics.options import Option, RequestField, check_request, request_fields
from edgenas.basics.ranges import Range

# An upper end beyond this says nothing to a person.
_PRACTICALLY_ANY = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How a verb shows its result."""

    json: Annotated[bool, Option("Print JSON.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb.

    Args:
        run: does it; called with one value of each of ``kinds``, in their order. The first line of
            its docstring is the help of the verb.
        kinds: request classes whose fields are the options, in the order of ``--help``.
    """

    run: Callable[..., None]
    kinds: tuple[type[Any], ...]

    @property
    def help(self) -> str:
        """What the verb does, in one sentence."""
        return (self.run.__doc__ or "").strip().split("\n")[0]

    @property
    def fields(self) -> tuple[RequestField, ...]:
        """All that can be asked for."""
        return tuple(field for kind in self.kinds for field in request_fields(kind))

    def command(self) -> Callable[..., None]:
        """The function that Typer calls: one parameter for each field."""

        def call(**values: Any) -> None:
            requests = [
                kind(**{field.name: _value(field, values) for field in request_fields(kind)})
                for kind in self.kinds
            ]
            for request in requests:
                check_request(request)
            self.run(*requests)

        parameters = [_parameter(field) for field in self.fields]
        call.__doc__ = self.run.__doc__
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        setattr(call, "__signature__", inspect.Signature(parameters))  # noqa: B010
        return call


def _parameter(field: RequestField) -> inspect.Parameter:
    """The parameter that Typer reads: its type, its name on the command line and its help."""
    kind, default = _typer_type(field), None if field.required else field.default
    if field.option.positional:
        rule = typer.Argument(help=describe(field), show_default=False)
    else:
        shown = default not in (None, False, (), "")
        rule = typer.Option(field.flag, help=describe(field), show_default=shown)
    if get_origin(field.plain) is tuple:
        default = list(default or ())
    annotation = Annotated[kind if field.required or default is not None else kind | None, rule]
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=inspect.Parameter.empty if field.required else default,
    )


def _typer_type(field: RequestField) -> Any:
    """What Typer reads from the text: ranges and words are checked with the request."""
    if get_origin(field.plain) is tuple:
        return list[str]
    return field.plain if field.plain in (int, float, bool, Path) else str


def _value(field: RequestField, values: dict[str, Any]) -> Any:
    """The value of a field from the command line; Typer gives lists where requests hold tuples."""
    value = values[field.name]
    return tuple(value or ()) if get_origin(field.plain) is tuple else value


def describe(field: RequestField) -> str:
    """The help of an option, with the words and the range that it takes."""
    parts = [field.option.help]
    if field.choices:
        parts.append(f"One of {', '.join(field.choices)}.")
    limits = _range_of(field.kind)
    if limits is not None:
        parts.append(_describe_range(limits))
    if get_origin(field.plain) is tuple:
        parts.append("Repeat it to give several.")
    return " ".join(parts)


def _describe_range(limits: Range) -> str:
    """The numbers that an option takes, e.g. ``[1 to 4096]`` or ``[0 or more]``."""
    unit = "" if limits.unit in ("count", "number", "fraction") else f" {limits.unit}"
    if limits.most > _PRACTICALLY_ANY:
        low = f"above {limits.least:.10g}" if limits.above else f"{limits.least:.10g} or more"
        return f"[{low}{unit}]"
    low = "above " if limits.above else ""
    return f"[{low}{limits.least:.10g} to {limits.most:.10g}{unit}]"


def _range_of(kind: Any) -> Range | None:
    """The range of a number, wherever it stands inside the annotation."""
    for rule in getattr(kind, "__metadata__", ()):
        if isinstance(rule, Range):
            return rule
    for inner in get_args(kind):
        if (limits := _range_of(inner)) is not None:
            return limits
    return None
