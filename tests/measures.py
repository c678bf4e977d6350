"""Counts of the source that tests/test_house.py holds against bars."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

MOST_LINES = 400  # of a module
MOST_CODE = 60  # lines of code of a function
MOST_PARAMETERS = 8  # of a function

MUTABLE = {"list", "dict", "set", "bytearray", "MutableMapping", "MutableSequence", "defaultdict"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function of a module, those inside classes and functions included."""
    yield from (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def code_lines(function: Function, text: str) -> int:
    """The lines of a function that hold code: no blank lines, no comments, no docstring."""
    lines = text.splitlines()[function.lineno - 1 : function.end_lineno]
    skipped: set[int] = set()
    if ast.get_docstring(function) is not None:
        words = function.body[0]
        skipped = set(range(words.lineno, (words.end_lineno or words.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in enumerate(lines, function.lineno)
        if number not in skipped
    )


def parameter_count(function: Function) -> int:
    """The parameters of a function; ``self`` and ``cls`` do not count."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    bound = bool(named) and named[0].arg in ("self", "cls")
    return len(named) + len(arguments.kwonlyargs) - bound


def is_frozen(node: ast.ClassDef) -> bool:
    """Whether a class is a frozen dataclass."""
    return any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)


def names_in(annotation: ast.expr) -> set[str]:
    """The names that an annotation is made of; one that is quoted is read too."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def mutable_fields(tree: ast.AST) -> list[str]:
    """The fields of frozen dataclasses whose type can be changed in place."""
    return [
        f"{node.name}.{ast.unparse(field.target)}: {ast.unparse(field.annotation)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and is_frozen(node)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and MUTABLE & names_in(field.annotation)
    ]


def assertions_of_a_value(tree: ast.AST) -> int:
    """How often ``assert ... is not None`` stands in a module."""
    return sum(
        isinstance(node, ast.Assert) and ast.unparse(node.test).endswith("is not None")
        for node in ast.walk(tree)
    )


def word_count(texts: Sequence[str], word: str, *, but: str = "") -> int:
    """How often a whole word stands in texts, whatever its case; not where ``but`` matches."""
    rule = re.compile(rf"\b(?:{word})\b" + (f"(?!{but})" if but else ""), re.IGNORECASE)
    return sum(len(rule.findall(text)) for text in texts)


def repeated_classes(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """The names of classes that stand in more than one module, with those modules."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    return {name: where for name, where in places.items() if len(where) > 1}
