"""Which of some networks are trained further for how long, and what comes out of it.

All for the same time; or many for a short one, the best of them for a longer one, by the searches
over trainings of `edgenas.strategies.fidelity`. Each length is a training of its own. The trainings
themselves are kept elsewhere, so a command that was killed asks for the same ones again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.model.network import Network
from edgenas.space.arch import Arch
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.space import Space
from edgenas.strategies.fidelity.halving import DRAWING, plan_rungs
from edgenas.strategies.fidelity.problem import Trainings


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One training among all of a command.

    Args:
        before: epochs of the trainings before it.
        epochs: its own.
        all: epochs of all trainings together, at most.
        words: which training it is.
    """

    before: float
    epochs: int
    all: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortlisted:
    """A network after its longest training.

    Args:
        network: with its weights.
        epochs: of that training.
        accuracy: on validation images, a fraction.
    """

    network: Network
    epochs: int
    accuracy: float


Train = Callable[[Arch, Turn], Shortlisted]


def train_all(archs: Sequence[Arch], *, epochs: int, train: Train) -> list[Shortlisted]:
    """Train every network for the same time, in their order."""
    return [
        train(
            arch,
            Turn(
                before=i * epochs,
                epochs=epochs,
                all=len(archs) * epochs,
                words=f"network {i + 1} of {len(archs)}",
            ),
        )
        for i, arch in enumerate(archs)
    ]


def train_by_rungs(
    space: Space, archs: Sequence[Arch], *, strategy: str, epochs: int, train: Train, seed: int
) -> list[Shortlisted]:
    """Train many networks for a short time and few for long: those trained, by their archs' order.

    Args:
        space: of the networks.
        archs: candidates, the most promising first.
        strategy: of ``edgenas.strategies.fidelity.halving.DRAWING``.
        epochs: of the longest training.
        train: what trains a network.
        seed: of all chance of the strategy.
    """
    rungs, budget = plan_rungs(len(archs), epochs=epochs)
    longest: dict[str, Shortlisted] = {}
    spent = 0

    def score(rows: Codes, length: int) -> Vector:
        nonlocal spent
        scores: list[float] = []
        for arch in space.decode(rows):
            words = f"{strategy}, {arch.id} for {length} epochs"
            turn = Turn(before=spent, epochs=length, all=budget, words=words)
            longest[arch.id] = train(arch, turn)
            spent += length
            scores.append(longest[arch.id].accuracy)
        return np.array(scores)

    DRAWING[strategy](
        Trainings(
            space=space,
            train=score,
            rungs=rungs,
            budget=budget,
            seed=seed,
            candidates=space.encode(list(archs)),
        )
    )
    return [longest[arch.id] for arch in archs if arch.id in longest]


def describe_lengths(trained: Sequence[Shortlisted], *, strategy: str, candidates: int) -> str:
    """How many networks were trained for how long at last, in words."""
    counts = {e: sum(one.epochs == e for one in trained) for e in {one.epochs for one in trained}}
    parts = [f"{counts[e]} for {e}" for e in sorted(counts)]
    return (
        f"{strategy} of {candidates} networks: {', '.join(parts)} epochs at last; those with the "
        "longest training come first"
    )
