"""The full history of a search: a CSV file that pandas reads, and interrupted searches go on from.

- Line 1 is a comment: ``# edgenas.history/1`` and a JSON object of what was searched for.
- Line 2 names the columns: ``step,phase,evaluation,genes``, then ``score`` or the objectives of a
  front, and one for each limited metric that is no objective.
- Then one line for each network scored, in order: the step (a batch scored at once), its phase, a
  running number, the codes of the genes parted by spaces, the values.

Read it with ``pandas.read_csv(path, comment="#")``. A search is all chance from one seed, so one
that goes on asks for the same networks again; their scores are taken from the file, and scoring
starts where the file ends. A step that was half-written is scored again. So are the first network
of the file and the first without a value (NaN), which must come out as they stand there: else the
file was written with another function.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgenas.basics.errors import EdgenasError, quote
from edgenas.basics.files import disk_errors, parse_json, read_bytes
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.constraint import Limit
from edgenas.strategies.dominance import Matrix

SCHEMA = "edgenas.history/1"
_LARGEST = 256 << 20  # bytes: more than a million networks
_HEAD = 1 << 20  # characters of the comment
_MOST = 1e18  # of a value


class SearchHistory:
    """The history of one search, open for more.

    Args:
        path: the file.
        found: how many columns hold what the search asks for: the score, or the objectives.
        limits: whose values are written beside.
        steps: what the file holds: the lines of each step without their ends, in order.
        size: bytes of the file before the first step.
    """

    def __init__(
        self,
        path: Path,
        *,
        found: int,
        limits: Sequence[Limit],
        steps: list[list[str]],
        size: int,
    ) -> None:
        self._path = path
        self._found = found
        self._limits = tuple(limits)
        self._steps = steps
        self._at = size
        self._step = 0
        self._evaluation = 0
        self._odd = False  # whether a network without a value was scored again

    def scores(self, rows: Codes, *, phase: str, maximize: Callable[[Codes], Vector]) -> Vector:
        """The scores of the next step, as ``values``."""
        values = self.values(rows, phase=phase, score=lambda rows: _column(maximize(rows)))
        return values[:, 0]

    def values(self, rows: Codes, *, phase: str, score: Callable[[Codes], Matrix]) -> Matrix:
        """The values of the next step: from the file, or else from the function and written.

        Args:
            rows: of the step, shape (n, genes).
            phase: of the search, a word.
            score: rows to the score or the objectives, shape (n, genes) -> (n, columns).

        Raises:
            EdgenasError: the file holds other networks than those asked for, or other values.
        """
        step, first = self._step, self._evaluation
        self._step, self._evaluation = step + 1, first + len(rows)
        known = self._steps[step] if step < len(self._steps) else []
        genes = [" ".join(map(str, row)) for row in rows.tolist()]
        if len(known) == len(rows):
            fields = [line.split(",") for line in known]
            if [f[3] for f in fields] != genes:
                raise self._strange()
            found = np.array([[float(v) for v in f[4 : 4 + self._found]] for f in fields])
            # The first network of all, and the first one that has no value (NaN).
            odd = np.flatnonzero(np.isnan(found).any(axis=1))[: not self._odd]
            self._odd = self._odd or bool(len(odd))
            again = [*([0] if not step else []), *odd]
            if again and not np.allclose(found[again], score(rows[again]), 1e-3, equal_nan=True):
                raise EdgenasError(
                    f"{self._path} holds other scores than this search finds for the same networks",
                    hint="the predictors, the tables or the data are others: give another file",
                )
            self._at += sum(len(line) + 1 for line in known)
            return found
        if len(known) > len(rows) or step + 1 < len(self._steps):
            raise self._strange()
        found = score(rows)
        columns = [*found.T, *(limit.of(rows) for limit in self._limits)]
        lines = [
            f"{step},{phase},{first + 1 + i},{genes[i]},{','.join(map(repr, values))}\n"
            for i, values in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        ]
        with disk_errors(self._path), self._path.open("r+b") as stream:
            stream.seek(self._at)
            stream.truncate()
            stream.write("".join(lines).encode())
            self._at = stream.tell()
        return found

    def _strange(self) -> EdgenasError:
        return EdgenasError(
            f"{self._path} holds other networks than this search asks for",
            hint="it was written by another version, or changed since: give another file",
        )


def open_history(
    path: Path,
    *,
    space: Space,
    limits: Sequence[Limit],
    search: Mapping[str, Any],
    found: Sequence[str] = ("score",),
) -> SearchHistory:
    """The history of a search, new or to be continued.

    Args:
        path: a CSV file; made if absent.
        space: that is searched.
        limits: that are kept.
        search: what else decides the result, as JSON values.
        found: what the search asks of a network: its score, or the names of the objectives.

    Raises:
        EdgenasError: the file is no history, or one of another search.
    """
    asked = {
        "space": space.name,
        "space_digest": hashlib.sha256(repr(space).encode()).hexdigest()[:16],
        "limits": [str(limit.constraint) for limit in limits],
        **search,
    }
    beside = [limit for limit in limits if limit.constraint.name not in found]
    names = ["step", "phase", "evaluation", "genes", *found]
    names += [limit.constraint.name for limit in beside]
    head = f"# {SCHEMA} {json.dumps(asked)}\n{','.join(names)}\n"
    with disk_errors(path):
        text = read_bytes(path, most=_LARGEST).decode(errors="replace") if path.exists() else ""
        if head.startswith(text):  # new, or killed within its head
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head, encoding="utf-8")
            return SearchHistory(
                path, found=len(found), limits=beside, steps=[], size=len(head.encode())
            )
    if not text.startswith(head):
        raise _other(path, text.partition("\n")[0], asked)
    steps = list[list[str]]()
    lines = text[len(head) :].split("\n")[:-1]  # the last one is empty, or was cut off
    del text
    for line in lines:
        step, *fields = line.split(",")
        rule = _broken(fields, columns=len(names) - 1)
        if rule or step not in (str(len(steps) - 1), str(len(steps))):
            what = f"{quote(line)} {rule or f'is no line of step {len(steps)}'}"
            raise EdgenasError(f"{path} is damaged: {what}", hint="give another file")
        if step == str(len(steps)):
            steps.append([])
        steps[-1].append(line)
    size = len(head.encode())
    return SearchHistory(path, found=len(found), limits=beside, steps=steps, size=size)


def _broken(fields: Sequence[str], *, columns: int) -> str:
    """What is wrong with a line behind its step; empty: nothing. NaN is a network's missing value.

    Values have the units of their columns: fractions, seconds, bytes, joules or counts.
    """
    if len(fields) != columns:
        return f"must have {columns + 1} columns"
    try:
        values = [float(text) for text in fields[3:]]
    except ValueError:
        return "must have numbers as its values"
    if any(abs(value) > _MOST for value in values):
        return f"must have values from {-_MOST:g} to {_MOST:g}"
    return ""


def _column(values: Vector) -> Matrix:
    return np.asarray(values, float)[:, None]


def _other(path: Path, first: str, asked: Mapping[str, Any]) -> EdgenasError:
    """What differs between the search that a file tells of and the one asked for."""
    hint = "give another file, or search as it was begun"
    _, rest, text = first.partition(f"# {SCHEMA} ")
    try:
        begun: Any = parse_json(text, where=str(path)) if rest and len(text) < _HEAD else None
    except EdgenasError:
        begun = None
    if not isinstance(begun, dict):
        return EdgenasError(f"{path} is no history of a search", hint="give another file")
    fields: dict[str, Any] = dict(cast(dict[str, Any], begun))
    for name, value in asked.items():
        if fields.get(name) != value:
            told = f"its {name} is {quote(fields.get(name))}, asked for is {quote(value)}"
            return EdgenasError(f"{path} is the history of another search: {told}", hint=hint)
    return EdgenasError(f"{path} is the history of another search", hint=hint)
