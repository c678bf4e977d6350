"""DARTS' genotypes: the cells of a network in the notation that the literature prints.

``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...],
reduce_concat=range(2, 6))``: two pairs a node, each an operation and the node that it takes. Some
papers write the nodes that are concatenated as a list. It is read as a value, never evaluated.
"""

import ast
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgenas.basics.errors import EdgenasError, quote
from edgenas.space.arch import Arch
from edgenas.space.cells import OPERATIONS, Term, cell_text, parse_cell
from edgenas.space.space import Space

_LONGEST = 10_000  # characters
_INPUTS, _TERMS = 2, 2
_HINT = (
    "it reads like Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], "
    "normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
)


def genotype(cells: Sequence[str]) -> str:
    """Write the cells of an arch of DARTS, the normal and the reducing one, as a genotype.

    Args:
        cells: as ``Arch.cells`` has them.
    """
    parts = list[str]()
    for name, text in zip(("normal", "reduce"), cells, strict=True):
        nodes = parse_cell(text)
        pairs = [pair for terms in nodes for pair in terms]
        parts.append(f"{name}={pairs!r}")
        parts.append(f"{name}_concat=range({_INPUTS}, {_INPUTS + len(nodes)})")
    return f"Genotype({', '.join(parts)})"


def arch_of_genotype(space: Space, text: str) -> Arch:
    """The arch of a space of DARTS that has the cells of a genotype.

    Raises:
        EdgenasError: the space has no two cells of DARTS, or not these.
    """
    largest = space.largest()
    if [cell.family for cell in space.cells] != ["darts"] * 2:
        raise EdgenasError(
            f"a genotype needs a space with a normal and a reducing cell of DARTS, "
            f"found {space.name}",
            hint="darts is one, and darts-20",
        )
    arch = replace(largest, cells=parse_genotype(text))
    space.check(arch)
    return arch


def parse_genotype(text: str) -> tuple[str, str]:
    """Read a genotype: the texts of the normal and of the reducing cell.

    Raises:
        EdgenasError: it is no genotype, or one that cells of DARTS cannot express.
    """
    call = _read(text)
    given = {word.arg: word.value for word in call.keywords}
    wanted = ("normal", "normal_concat", "reduce", "reduce_concat")
    if call.args or sorted(map(str, given)) != sorted(wanted):
        raise EdgenasError(
            f"a genotype must have {', '.join(wanted)}, found {', '.join(map(str, given))}",
            hint=_HINT,
        )
    one, other = (
        _cell(_list(given[name], name), _list(given[f"{name}_concat"], f"{name}_concat"), name)
        for name in ("normal", "reduce")
    )
    return one, other


def _read(text: str) -> ast.Call:
    try:
        tree = ast.parse(text.strip(), mode="eval").body if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    named = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    if not isinstance(tree, ast.Call) or not named or ast.unparse(tree.func) != "Genotype":
        raise EdgenasError(f"a genotype must be Genotype(...), found {quote(text)}", hint=_HINT)
    return tree


def _list(tree: ast.expr, name: str) -> list[Any]:
    """The values of a list, or the numbers of a range."""
    try:
        if isinstance(tree, ast.Call) and ast.unparse(tree.func) == "range" and not tree.keywords:
            first, last = map(ast.literal_eval, tree.args)
            return [*range(first, min(last, first + 100))]
        value = ast.literal_eval(tree)
        if isinstance(value, (list, tuple)):
            return list(value)  # pyright: ignore[reportUnknownArgumentType]
    except (TypeError, ValueError):
        pass
    raise EdgenasError(
        f"{name} of a genotype must be a list or a range, found {quote(ast.unparse(tree))}",
        hint=_HINT,
    )


def _cell(pairs: list[Any], joined: list[Any], name: str) -> str:
    """The text of a cell from its pairs and the nodes that its output is made of."""
    if len(pairs) % _TERMS or not pairs:
        raise EdgenasError(f"{name} of a genotype must be two pairs a node", hint=_HINT)
    terms = [_term(pair, f"{name}[{number}]") for number, pair in enumerate(pairs)]
    nodes = [sorted(terms[i : i + _TERMS], key=lambda term: term[1]) for i in _starts(terms)]
    for n, ((_, one), (_, other)) in enumerate(nodes, _INPUTS):
        if not 0 <= one < other < n:
            raise EdgenasError(
                f"{name} of a genotype must have two different nodes before node {n} at it, "
                f"found {one} and {other}"
            )
    last = _INPUTS + len(nodes)
    if sorted(map(repr, joined)) != sorted(map(repr, range(_INPUTS, last))):
        raise EdgenasError(
            f"{name}_concat of a genotype must be all nodes, range({_INPUTS}, {last}), "
            f"found {quote(repr(joined))}"
        )
    return cell_text(nodes)


def _starts(terms: list[Term]) -> range:
    return range(0, len(terms), _TERMS)


def _term(pair: Any, name: str) -> Term:
    text = repr(pair)
    values: list[Any] = list(pair) if isinstance(pair, (list, tuple)) else []  # pyright: ignore[reportUnknownArgumentType]
    if [type(value) for value in values] != [str, int] or values[0] not in OPERATIONS:
        raise EdgenasError(
            f"{name} of a genotype must be an operation and a node, found {quote(text)}",
            hint=f"operations: {', '.join(OPERATIONS)}",
        )
    return values[0], values[1]
