"""The folder that is handed to an app team: written, read, and every claim of it checked.

``record`` holds the results, ``trace`` how they were found, ``manifest`` the format, ``card`` the
text for people, ``example`` the program that goes along.
"""

from edgenas.bundle.contents import Contents, read_contents
from edgenas.bundle.record import (
    Accuracy,
    MeasuredLatency,
    PredictedLatency,
    Promise,
    Record,
    Retrained,
    Retraining,
)
from edgenas.bundle.trace import Attempt, Found, Improvement, LayerTime, Search, Trace
from edgenas.bundle.verify import Check, verify_bundle
from edgenas.bundle.write import check_out, load_bundle, write_bundle

__all__ = [
    "Accuracy",
    "Attempt",
    "Check",
    "Contents",
    "Found",
    "Improvement",
    "LayerTime",
    "MeasuredLatency",
    "PredictedLatency",
    "Promise",
    "Record",
    "Retrained",
    "Retraining",
    "Search",
    "Trace",
    "check_out",
    "load_bundle",
    "read_contents",
    "verify_bundle",
    "write_bundle",
]
