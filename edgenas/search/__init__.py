"""Search: the best network of a space under any set of constraints."""

from edgenas.search.compare import Compared, compare
from edgenas.search.constraint import METRICS, Constraint, Limit, parse_constraint
from edgenas.search.least import least
from edgenas.search.pareto import Front, Objective, Point, pareto
from edgenas.search.result import Candidate, SearchResult, Step
from edgenas.search.run import EVALUATIONS, EXPENSIVE, STRATEGIES, search

__all__ = [
    "EVALUATIONS",
    "EXPENSIVE",
    "METRICS",
    "STRATEGIES",
    "Candidate",
    "Compared",
    "Constraint",
    "Front",
    "Limit",
    "Objective",
    "Point",
    "SearchResult",
    "Step",
    "compare",
    "least",
    "pareto",
    "parse_constraint",
    "search",
]
