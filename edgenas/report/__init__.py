"""Pages for people: self-contained HTML, from what a bundle, a fleet, a front or a run says.

``markup`` writes trees that cannot be broken by any text, ``style`` the looks, ``charts`` and
``network`` the drawings.
"""

from edgenas.report.bundle import bundle_page
from edgenas.report.fleet import fleet_page, latency_words
from edgenas.report.fronts import PICTURES, draw_fronts, fronts_page
from edgenas.report.training import training_page

__all__ = [
    "PICTURES",
    "bundle_page",
    "draw_fronts",
    "fleet_page",
    "fronts_page",
    "latency_words",
    "training_page",
]
