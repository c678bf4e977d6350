"""Write the reference pages of verbs, Python and recipes from the code that defines them.

``python -m tools.docs.make_reference`` writes docs/reference/verbs.md, docs/reference/python.md and
the table of docs/reference/recipe.md; with ``--check`` it only compares, and exits with 1 where a
page differs.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import edgenas
from edgenas.basics.options import Option, RequestField, plain_type
from edgenas.cli import VERBS
from edgenas.cli.command import Verb, describe
from edgenas.training.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
VERBS_PAGE, RECIPE_PAGE = FOLDER / "verbs.md", FOLDER / "recipe.md"
PYTHON_PAGE = FOLDER / "python.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->\n"
HEAD = """\
# Verbs and options

`tools/docs/make_reference.py` makes this page from the requests in the code. Do not edit it by
hand.

For you if you look for an option. `edgenas VERB --help` prints the same.

| exit code | says |
|---|---|
| 0 | all is well |
| 1 | the answer is bad news: a device has drifted, an entry of a fleet failed |
| 2 | what was asked for cannot be done, or a bundle is not to be trusted |
| 130 | you pressed Ctrl-C |

Results go to stdout, progress and notes to stderr.

In Python most verbs are functions that take a request and return a value; a request has the
options as its fields. They print nothing. `edgenas.load(folder)` reads a bundle or a supernet.
"""
PYTHON_HEAD = """\
# Python

`tools/docs/make_reference.py` makes this page from the docstrings. Do not edit it by hand.

For you if you use edgenas from Python. Each verb is a function that takes one request and returns a
value. Functions print nothing. A user's mistake raises `edgenas.EdgenasError`: one line in
`message`, the next step in `hint`.

```python
from pathlib import Path

import edgenas

request = edgenas.PredictRequest(device="jetson", model=Path("model.onnx"))
try:
    answer = edgenas.predict(request)
    print(answer.seconds, answer.upper, answer.provenance)
except edgenas.EdgenasError as error:
    print(error.message, error.hint, sep="\\n")
```

A request is a frozen value whose fields are the options of its verb: [verbs](verbs.md) lists them
with their ranges and defaults. Names that are not on this page may change with any version.
"""
WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", Path: "path", bool: ""}


def load_verbs() -> dict[str, Verb]:
    """Every verb of the command line by its name, in the order of ``edgenas --help``."""
    modules = {name: f"edgenas.cli.{name.replace('-', '_')}" for name in VERBS}
    return {name: importlib.import_module(module).VERB for name, module in modules.items()}


def make_pages() -> dict[Path, str]:
    """The pages, with what their texts have to be."""
    return {
        VERBS_PAGE: write_verbs(load_verbs()),
        RECIPE_PAGE: write_recipe(RECIPE_PAGE),
        PYTHON_PAGE: write_python(),
    }


def write_python() -> str:
    """The page of the public functions and requests, from their docstrings."""
    verbs = {verb.kinds[0].__name__: name for name, verb in load_verbs().items()}
    public = {name: getattr(edgenas, name) for name in edgenas.__all__}
    parts = [PYTHON_HEAD, "## Functions\n"]
    for name, value in public.items():
        if not inspect.isclass(value):
            parts += [f"### `edgenas.{name}`\n", _signature(name, value), _in_markdown(value)]
    parts += ["## Requests\n", "| request | of |\n|---|---|"]
    for name in public:
        if verb := verbs.get(name):
            parts[-1] += f"\n| `edgenas.{name}` | [`edgenas {verb}`](verbs.md#edgenas-{verb}) |"
    return "\n".join(parts) + "\n"


def _signature(name: str, function: Any) -> str:
    """How a function is called, one parameter a line, without the modules of types."""
    lines = []
    keywords = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            lines.append("    *,")
            keywords = True
        default = "" if parameter.default is parameter.empty else " = ..."
        kind = parameter.annotation
        shown = kind if isinstance(kind, str) else inspect.formatannotation(kind)
        shown = re.sub(r"\b(?:\w+\.)+(?=\w)", "", shown)
        lines.append(f"    {parameter.name}: {shown}{default},")
    return "\n".join(["```", f"edgenas.{name}(", *lines, ")", "```", ""])


def _in_markdown(function: Any) -> str:
    """A docstring in Google's style as paragraphs and lists."""
    lines = []
    for line in inspect.cleandoc(function.__doc__ or "").replace("``", "`").splitlines():
        if line in ("Args:", "Returns:", "Raises:"):
            lines += [f"**{line[:-1]}**", ""]
        elif re.match(r"    \S+: ", line):
            name, _, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}")
        elif line.startswith("        "):
            lines.append("  " + line.strip())
        else:
            lines.append(line.strip())
    return "\n".join(lines) + "\n"


def write_recipe(page: Path) -> str:
    """The page of recipes with the table of fields between its marks."""
    words = read_arguments(Recipe)
    hints = get_type_hints(Recipe, include_extras=True)
    rows = ["| field | takes | default | is |", "|---|---|---|---|"]
    for field in dataclasses.fields(Recipe):
        option = RequestField(
            name=field.name,
            kind=hints[field.name],
            option=Option(words[field.name]),
            default=field.default,
        )
        rows.append(_cells(field.name, option))
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + "\n".join(rows) + "\n" + END + rest.partition(END)[2]


def read_arguments(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each of its fields, under ``Args``."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in entries}


def write_verbs(verbs: dict[str, Verb]) -> str:
    """The page of verbs."""
    listed = [f"- [`{name}`](#edgenas-{name}): {verb.help}" for name, verb in verbs.items()]
    parts = [HEAD, "\n".join(listed) + "\n"]
    parts += [_section(name, verb) for name, verb in verbs.items()]
    return "\n".join(parts)


def _section(name: str, verb: Verb) -> str:
    """One verb: what it does, how it is called, and what it can be asked for."""
    places = [f.name.upper() if f.required else f"[{f.name.upper()}]" for f in _arguments(verb)]
    lines = [f"## `edgenas {name}`", "", inspect.cleandoc(verb.run.__doc__ or ""), ""]
    lines += ["```", " ".join(["edgenas", name, *places, "[OPTIONS]"]), "```", ""]
    lines += _in_python(name, verb)
    lines += ["| option | takes | default | says |", "|---|---|---|---|"]
    lines += [_row(field) for field in verb.fields]
    return "\n".join(lines) + "\n"


def _in_python(name: str, verb: Verb) -> list[str]:
    """How Python asks for the same, where the function of the verb is public."""
    function, request = name.replace("-", "_"), verb.kinds[0].__name__
    if function not in edgenas.__all__:
        return []
    answer = inspect.signature(getattr(edgenas, function)).return_annotation
    returns = f"`{answer.__module__}.{answer.__qualname__}`"
    return [f"In Python, `edgenas.{function}(edgenas.{request}(...))` returns {returns}.", ""]


def _arguments(verb: Verb) -> list[RequestField]:
    return [field for field in verb.fields if field.option.positional]


def _row(field: RequestField) -> str:
    """One option as a row of a table."""
    name = field.name.upper() if field.option.positional else field.flag
    needs = field.option.needs.replace("_", "-")
    return _cells(name, field, more=f" Only with `--{needs}`." if needs else "")


def _cells(name: str, field: RequestField, *, more: str = "") -> str:
    """A row of a table: a name, what it takes, its default, and what it is."""
    cells = [f"`{name}`", _taken(field), _default(field), describe(field) + more]
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
    differ = 0
    for page, text in make_pages().items():
        if not arguments.check:
            page.write_text(text, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text:
            print(f"{page} differs: run python -m tools.docs.make_reference")
            differ = 1
    return differ


if __name__ == "__main__":
    sys.exit(main())
