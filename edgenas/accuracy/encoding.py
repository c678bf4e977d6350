"""Rows as points: what two networks have in common, as distances that a model can learn from.

The distance of an encoding is the sum of absolute differences of its features (Manhattan). Models
weigh encodings against each other by what they have seen, so an encoding that says nothing about
accuracy does no harm.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgenas.space.genes import Codes, Gene, layout
from edgenas.space.space import Space

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoding:
    """Rows as points.

    Args:
        name: for people.
        of: canonical rows to features, shape (n, genes) -> (n, features).
    """

    name: str
    of: Callable[[Codes], Matrix]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How the columns of rows are the edges of a cell, whose paths lead from its input to its end.

    Args:
        paths: the columns along each path from the input to the output, in order.
        cuts: codes of operations that let nothing through.
        passes: codes of operations that change nothing.
        operations: how many codes a column has.
    """

    paths: tuple[tuple[int, ...], ...]
    cuts: tuple[int, ...]
    passes: tuple[int, ...]
    operations: int


def encode_choices(choices: Sequence[int]) -> Encoding:
    """One feature for each code of each gene; two rows are as far apart as genes that differ.

    For cells this is the adjacency encoding: the operation on each edge.

    Args:
        choices: how many codes each gene has; code 0 (absent) is one more.
    """
    counts = np.array([count + 1 for count in choices])
    offsets = np.cumsum(counts) - counts

    def of(rows: Codes) -> Matrix:
        features = np.zeros((len(rows), int(counts.sum())))
        features[np.arange(len(rows))[:, None], offsets + rows] = 0.5
        return features

    return Encoding(name="choices", of=of)


def encode_pairs(choices: Sequence[int]) -> Encoding:
    """One feature for each pair of codes of each pair of genes."""
    counts = np.array([count + 1 for count in choices])
    one, other = np.triu_indices(len(choices), 1)
    sizes = counts[one] * counts[other]
    offsets = np.cumsum(sizes) - sizes

    def of(rows: Codes) -> Matrix:
        features = np.zeros((len(rows), int(sizes.sum())))
        codes = rows[:, one].astype(np.intp) * counts[other] + rows[:, other]
        features[np.arange(len(rows))[:, None], offsets + codes] = 0.5
        return features

    return Encoding(name="pairs", of=of)


def encode_values(space: Space) -> Encoding:
    """The values of the genes as parts of their range, so that kernel 5 is nearer to 7 than 3 is.

    A gene with two values says no more here than by its choice, and is left out; so is one whose
    values are whole blocks. An absent block
    counts as the middle of the range: that it is absent is the choice of another gene.
    """
    genes = [(column, gene) for column, gene in enumerate(space.genes) if _is_ordered(gene)]
    scales = list[Matrix]()
    for _, gene in genes:
        values = np.array(gene.values, float)
        parts = (values - values.min()) / np.ptp(values)
        scales.append(np.concatenate([[0.5], parts]))

    def of(rows: Codes) -> Matrix:
        features = np.empty((len(rows), len(genes)))
        for place, ((column, _), scale) in enumerate(zip(genes, scales, strict=True)):
            features[:, place] = scale[rows[:, column]]
        return features

    return Encoding(name="values", of=of)


def encode_paths(wiring: Wiring) -> Encoding:
    """How often a cell computes each sequence of operations on the way from its input to its end.

    The path encoding of BANANAS (arXiv 1910.11858, section 3), with two differences. Operations
    that change nothing are left out of a sequence, and a sequence that two paths share counts
    twice. So cells that compute the same function are at distance 0.
    """
    # A sequence of operations is a whole number whose digits are the codes.
    base = wiring.operations + 1
    longest = max(len(path) for path in wiring.paths)
    kept = np.array([code not in (*wiring.passes, 0) for code in range(base)])
    cut = np.array([code in wiring.cuts for code in range(base)])

    def of(rows: Codes) -> Matrix:
        features = np.zeros((len(rows), base**longest))
        lines = np.arange(len(rows))
        for path in wiring.paths:
            codes = rows[:, list(path)].astype(np.intp)
            word, open_ = np.zeros(len(rows), np.intp), ~cut[codes].any(1)
            for column in codes.T:
                word = np.where(kept[column], word * base + column, word)
            np.add.at(features, (lines, word), open_)
        return features

    return Encoding(name="paths", of=of)


def encodings_of(space: Space) -> tuple[Encoding, ...]:
    """The encodings that fit the networks of a space."""
    encodings = [encode_choices([len(gene.values) for gene in space.genes])]
    if any(map(_is_ordered, space.genes)):
        encodings.append(encode_values(space))
    return (*encodings, *map(encode_paths, wirings_of(space)))


def wirings_of(space: Space) -> list[Wiring]:
    """How the cells of a space are wired; those of DARTS choose that, and are left out."""
    columns, wirings = layout(space).cells, list[Wiring]()
    for number, cell in enumerate(space.cells):
        if cell.family != "nas-bench-201" or len(cell.operations) < 2:
            continue
        # The paths that end at each node, the input first; edges are numbered as they are seen.
        paths: list[list[tuple[int, ...]]] = [[()]]
        edge = itertools.count()
        for node in range(1, cell.nodes + 1):
            ending = list[tuple[int, ...]]()
            for source in range(node):
                column = columns[number, next(edge)]
                ending += [(*path, column) for path in paths[source]]
            paths.append(ending)
        codes = {name: code for code, name in enumerate(cell.operations, 1)}
        cuts, passes = (
            tuple(code for name, code in codes.items() if name == wanted)
            for wanted in ("none", "skip_connect")
        )
        wirings.append(
            Wiring(
                paths=tuple(sorted(paths[-1], key=lambda path: (len(path), path))),
                cuts=cuts,
                passes=passes,
                operations=len(codes),
            )
        )
    return wirings


def _is_ordered(gene: Gene) -> bool:
    return len(gene.values) > 2 and isinstance(gene.values[0], (int, float))
