"""The folder that is handed to an app team: written, read, and every claim of it checked.

``record`` holds the results, ``manifest`` the format, ``card`` the page for people, ``example``
the program that goes along.
"""

from edgenas.bundle.record import (
    Accuracy,
    MeasuredLatency,
    PredictedLatency,
    Promise,
    Record,
)
from edgenas.bundle.verify import Check, verify_bundle
from edgenas.bundle.write import check_out, load_bundle, write_bundle

__all__ = [
    "Accuracy",
    "Check",
    "MeasuredLatency",
    "PredictedLatency",
    "Promise",
    "Record",
    "check_out",
    "load_bundle",
    "verify_bundle",
    "write_bundle",
]
