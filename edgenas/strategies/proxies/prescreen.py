"""The best of some networks by a proxy, with what is known of its worth."""

from dataclasses import dataclass

import numpy as np

from edgenas.basics.errors import EdgenasError
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.strategies.proxies.agreement import Agreement, measure_agreement
from edgenas.strategies.proxies.score import ProxyScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescreen:
    """What a pre-screen kept.

    Args:
        rows: canonical rows, the best score first.
        scores: theirs.
        proxy: its name.
        agreement: of the proxy with measured accuracies; None: not known in this space.
    """

    rows: Codes
    scores: Vector
    proxy: str
    agreement: Agreement | None

    def __str__(self) -> str:
        unknown = (
            "its agreement with accuracy is not known here: no network of the space was trained"
        )
        return f"{len(self.rows)} networks kept by {self.proxy}; {self.agreement or unknown}"


def prescreen(
    score: ProxyScore,
    rows: Codes,
    *,
    keep: int,
    measured: tuple[Codes, Vector] | None = None,
    of: str = "measured accuracy",
) -> Prescreen:
    """The best of some networks by a proxy, with what is known of its worth.

    Args:
        score: the proxy.
        rows: candidates, canonical rows, shape (n, genes).
        keep: how many are kept.
        measured: rows of the space with their measured accuracies; None: there are none.
        of: what those accuracies are.

    Raises:
        EdgenasError: nothing would be kept, or fewer than 10 networks are measured.
    """
    if not 1 <= keep <= len(rows):
        raise EdgenasError(f"keep must be from 1 to {len(rows)}, found {keep}")
    scores = score(rows)
    best = np.argsort(-scores, kind="stable")[:keep]
    agreement = None
    if measured is not None:
        agreement = measure_agreement(score(measured[0]), measured[1], of=of)
    return Prescreen(rows=rows[best], scores=scores[best], proxy=score.proxy, agreement=agreement)
