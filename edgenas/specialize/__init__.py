"""The main job: a supernet, a device and budgets in, a verified bundle out.

``run`` reads top to bottom as the pipeline; ``request`` says what can be asked for, ``latency``
what latencies rest on, ``images`` what is calibrated with and judged on, ``choosing`` how the
network is searched for and corrected by measurements, ``building`` how it becomes a checked model,
``recording`` what is reported; ``fronts`` what there is to choose from, ``fleet`` many
devices at once.
"""

from edgenas.specialize.fleet import Entry, Outcome, read_fleet, specialize_fleet
from edgenas.specialize.fronts import DeviceFront, FrontPoint, Fronts, fronts
from edgenas.specialize.images import own_split
from edgenas.specialize.latency import Latency, latency_of
from edgenas.specialize.request import SUPERNET, Request, Result, Tell
from edgenas.specialize.run import specialize
from edgenas.specialize.shared import Shared

__all__ = [
    "SUPERNET",
    "DeviceFront",
    "Entry",
    "FrontPoint",
    "Fronts",
    "Latency",
    "Outcome",
    "Request",
    "Result",
    "Shared",
    "Tell",
    "fronts",
    "latency_of",
    "own_split",
    "read_fleet",
    "specialize",
    "specialize_fleet",
]
