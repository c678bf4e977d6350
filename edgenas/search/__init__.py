"""Search: the best network of a space under any set of constraints."""

from edgenas.search.constraint import METRICS, Constraint, Limit, parse_constraint
from edgenas.search.least import least
from edgenas.search.pareto import Front, Objective, Point, pareto
from edgenas.search.result import Candidate, SearchResult, Step
from edgenas.search.run import STRATEGIES, search

__all__ = [
    "METRICS",
    "STRATEGIES",
    "Candidate",
    "Constraint",
    "Front",
    "Limit",
    "Objective",
    "Point",
    "SearchResult",
    "Step",
    "least",
    "pareto",
    "parse_constraint",
    "search",
]
