"""Write the reference page of verbs and options from the requests that define them.

``python -m tools.docs.make_reference`` writes docs/reference/verbs.md; with ``--check`` it only
compares, and exits with 1 where the page differs.
"""

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from edgenas import cli
from edgenas.basics.options import RequestField, plain_type
from edgenas.cli.command import Verb, describe

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "verbs.md"
HEAD = """\
# Verbs and options

`tools/docs/make_reference.py` makes this page from the requests in the code. Do not edit it by
hand.

Every verb ends with exit code 0 where all is well, 1 where the answer is bad news (a device has
drifted, an entry of a fleet failed), 2 where it cannot do what was asked, and 130 after Ctrl-C.
Results go to stdout, progress and notes to stderr.
"""
WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", Path: "path", bool: ""}


def load_verbs() -> dict[str, Verb]:
    """Every verb of the command line by its name, in the order of ``edgenas --help``."""
    names = getattr(cli, "VERBS", ("specialize", "verify"))
    modules = {name: f"edgenas.cli.{name.replace('-', '_')}" for name in names}
    return {name: importlib.import_module(module).VERB for name, module in modules.items()}


def page_text(verbs: dict[str, Verb]) -> str:
    """The whole page."""
    listed = [f"- [`{name}`](#edgenas-{name}): {verb.help}" for name, verb in verbs.items()]
    parts = [HEAD, "\n".join(listed) + "\n"]
    parts += [_section(name, verb) for name, verb in verbs.items()]
    return "\n".join(parts)


def _section(name: str, verb: Verb) -> str:
    """One verb: what it does, how it is called, and what it can be asked for."""
    places = [f.name.upper() if f.required else f"[{f.name.upper()}]" for f in _arguments(verb)]
    lines = [f"## `edgenas {name}`", "", inspect.cleandoc(verb.run.__doc__ or ""), ""]
    lines += ["```", " ".join(["edgenas", name, *places, "[OPTIONS]"]), "```", ""]
    lines += ["| option | takes | default | says |", "|---|---|---|---|"]
    lines += [_row(field) for field in verb.fields]
    return "\n".join(lines) + "\n"


def _arguments(verb: Verb) -> list[RequestField]:
    return [field for field in verb.fields if field.option.positional]


def _row(field: RequestField) -> str:
    """One option as a row of a table."""
    name = field.name.upper() if field.option.positional else field.flag
    words = describe(field)
    if field.option.needs:
        words += f" Only with `--{field.option.needs.replace('_', '-')}`."
    cells = [f"`{name}`", _taken(field), _default(field), words]
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    """A text as a cell of a table, where it shows as it is."""
    return text.replace("|", "\\|").replace("<", "\\<")


def _taken(field: RequestField) -> str:
    """What stands behind the option; nothing for one that is only there or not."""
    if field.choices:
        return "word"
    kind = field.plain
    if get_origin(kind) is tuple:
        return WORDS[plain_type(get_args(kind)[0])]
    return WORDS[kind]


def _default(field: RequestField) -> str:
    """The value of an option that nobody gives; ``required`` where there is none."""
    if field.required:
        return "required"
    if field.default is None or field.default is False or field.default in ((), ""):
        return ""
    return f"`{field.default}`"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    text = page_text(load_verbs())
    if not arguments.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE} differs: run python -m tools.docs.make_reference")
    return 1


if __name__ == "__main__":
    sys.exit(main())
