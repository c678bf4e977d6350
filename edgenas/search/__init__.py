"""Search: the best network of a space under any set of constraints."""

from edgenas.search.constraint import METRICS, Constraint, Limit, parse_constraint
from edgenas.search.least import least
from edgenas.search.result import Candidate, SearchResult, Step
from edgenas.search.run import STRATEGIES, search

__all__ = [
    "METRICS",
    "STRATEGIES",
    "Candidate",
    "Constraint",
    "Limit",
    "SearchResult",
    "Step",
    "least",
    "parse_constraint",
    "search",
]
