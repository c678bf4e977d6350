"""Predictors of accuracy and latency: fitted arrays, scored on rows, with their held-out error."""

from edgenas.predict.accuracy import FEWEST, AccuracyPredictor, load_accuracy
from edgenas.predict.errors import HeldOut, held_out
from edgenas.predict.latency import LatencyPredictor, estimated, load_latency
from edgenas.predict.mlp import Mlp
from edgenas.predict.narrow import narrow_tables

__all__ = [
    "FEWEST",
    "AccuracyPredictor",
    "HeldOut",
    "LatencyPredictor",
    "Mlp",
    "estimated",
    "held_out",
    "load_accuracy",
    "load_latency",
    "narrow_tables",
]
