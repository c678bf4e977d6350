"""Mutations of trees: the values of JSON and TOML files, and the texts that hold them."""

import copy
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Unchanged(random.Random):
    """Chance that chooses among good inputs, and with which no mutation changes anything."""


@dataclass(frozen=True)
class Raw:
    """A piece of a file that no value gives: it is written as it stands."""

    text: str


@dataclass(frozen=True)
class Doubled:
    """An object whose first key stands in it twice."""

    value: dict[str, Any]


Node = tuple[Any, Any]  # a dict or list, and the key or index of a value in it

NUMBERS: tuple[Any, ...] = (
    *(Raw(text) for text in ("NaN", "Infinity", "-Infinity", "1" + "0" * 5000, "1e999")),
    *(-1, 0, 1, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30),
)
TEXTS: tuple[str, ...] = (
    "",
    "x" * 100_000,
    "\x1b[2J\x07\x00\r\n\tend",
    "../../../etc/passwd",
    "/dev/zero",
    "NaN",
    "1e400",
    "９９",  # digits, but not those of ASCII
    "\ud800",  # half a character: JSON can hold it, UTF-8 cannot
    "[bold]a[/bold] [/]",
    "a,b\nc",
    "\u202eabc",  # turns the direction of writing
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": {}}, [0] * 3, {"a": 1})
_DEEP = 100_000
_MOST_NODES = 20_000
_LARGE = 10_000  # characters


def leaf(rng: random.Random) -> Any:
    """A value that no field expects."""
    group = rng.choice((NUMBERS, NUMBERS, TEXTS, OTHERS))
    if rng.random() < 0.03:
        return Raw("[" * _DEEP + "]" * _DEEP)
    # A copy: a later change of a list or an object must not reach the next input.
    return copy.deepcopy(rng.choice(group))


def mutated(tree: Any, rng: random.Random) -> Any:
    """A copy of a tree with one to three changes."""
    tree = json.loads(json.dumps(tree))
    if isinstance(rng, Unchanged):
        return tree
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _changed(tree, rng)
    return tree


def _changed(tree: Any, rng: random.Random) -> Any:
    nodes = list(itertools.islice(_nodes(tree), _MOST_NODES))
    if len(nodes) == _MOST_NODES:  # large enough: a repeated repetition would take minutes to write
        return tree
    if not nodes or rng.random() < 0.01:
        return leaf(rng)
    # Every depth is equally likely, so that a long list does not draw all the changes.
    depths = sorted({depth for depth, _, _ in nodes})
    depth = rng.choice(depths)
    parent, key = rng.choice([(p, k) for d, p, k in nodes if d == depth])
    rng.choice((_replace, _replace, _tweak, _tweak, _delete, _add, _repeat, _swap, _double))(
        parent, key, nodes, rng
    )
    return tree


def _nodes(tree: Any, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    children: Any = ()
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list):
        children = enumerate(tree)
    for key, value in children:
        yield depth, tree, key
        yield from _nodes(value, depth + 1)


def _replace(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    parent[key] = leaf(rng)


def _tweak(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    """A near relative of the value: right in kind, or nearly."""
    value = parent[key]
    if isinstance(value, bool) or value is None:
        parent[key] = rng.choice((0, 1, "true", None, not value))
    elif isinstance(value, int | float):
        near = (-value, value * 10, value + 0.5, value * 1e12, str(value), [value], value / 1e12)
        parent[key] = rng.choice((*near, *NUMBERS))
    elif isinstance(value, str):
        near = (value + "x", value[:-1], value.upper(), value * 1000, f" {value}", f"{value}\x00")
        parent[key] = rng.choice((*near, [value], *TEXTS))
    elif isinstance(value, list):
        near = (value[:-1], value[::-1], value * 2, {str(i): v for i, v in enumerate(value)})
        parent[key] = rng.choice(near) if len(value) < 1000 else value[:-1]
    elif isinstance(value, dict):
        parent[key] = rng.choice((list(value.values()), list(value), {}, None))


def _delete(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    del parent[key]


def _add(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    if isinstance(parent, dict):
        parent[rng.choice(("unknown", "", "x" * 10_000, "a\x1bb", "schema"))] = leaf(rng)
    else:
        parent.insert(key, leaf(rng))


def _repeat(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    # A large value is repeated twice at most: the file would have hundreds of megabytes.
    many = 3000 if len(json_text(parent[key])) < _LARGE else 2
    if isinstance(parent, list) and len(parent) < 1000:
        parent[key:key] = [parent[key]] * rng.choice((1, 2, many))
    else:
        parent[key] = [parent[key]] * rng.choice((0, 2, many))


def _swap(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    """The value of another place; never one that holds this place."""
    _, other, at = rng.choice(nodes)
    parent[key] = json.loads(json.dumps(other[at], default=lambda raw: None))


def _double(parent: Any, key: Any, nodes: Any, rng: random.Random) -> None:
    if isinstance(parent[key], dict) and parent[key]:
        parent[key] = Doubled(parent[key])
    else:
        _replace(parent, key, nodes, rng)


def json_text(tree: Any) -> str:
    """A tree as JSON, with what no value gives."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Doubled):
        inner = json_text(tree.value)
        first = next(iter(tree.value))
        return f"{inner[:-1]}, {json.dumps(first)}: {json_text(tree.value[first])}}}"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {json_text(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(json_text, tree)) + "]"
    return json.dumps(tree)


def toml_text(tree: Any) -> str:
    """A tree as TOML: one line a key, everything below it in its line."""
    if not isinstance(tree, dict):
        return _toml(tree)
    return "".join(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in tree.items())


def _toml(value: Any) -> str:
    words = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    if isinstance(value, Raw):
        return words.get(value.text, value.text)
    if isinstance(value, Doubled):
        first = next(iter(value.value))
        return f"{_toml(value.value)[:-1]}, {json.dumps(first)} = {_toml(value.value[first])}}}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        return '"none"'
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and "\ud800" in value:
        return '"\\ud800"'
    return json.dumps(value)
