"""What a search answers."""

from dataclasses import dataclass
from typing import Any

from edgenas.space.arch import Arch


@dataclass(frozen=True, slots=True)
class SearchStep:
    """A line of the history: the phase, networks scored so far, the best score so far."""

    phase: str
    evaluations: int
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One network with its score and the values of the limited metrics.

    Args:
        arch: the network.
        score: what was maximized, e.g. accuracy as a fraction of 1.
        values: by the name of the constraint, e.g. ``latency`` in seconds.
    """

    arch: Arch
    score: float
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {"arch": self.arch.to_json(), "score": self.score, "values": self.values}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The outcome of a search.

    Args:
        best: the network with the highest score of all that were scored.
        front: networks not dominated in score and the first constraint's value, best score
            first; ``best`` alone where nothing was constrained.
        top: the networks with the highest scores, as many as were asked for, best first.
        history: one step for each batch of networks scored.
        evaluations: networks scored.
        seconds: the search took; the only part that differs between two runs of one seed.
        strategy: its name.
        seed: of all chance in it.
    """

    best: Candidate
    front: tuple[Candidate, ...]
    top: tuple[Candidate, ...]
    history: tuple[SearchStep, ...]
    evaluations: int
    seconds: float
    strategy: str
    seed: int
