"""Profiling a target: its latency table, made once, resumed at will, and what rests on it."""

from edgenas.profiling.journal import journal_path
from edgenas.profiling.networks import calibration_archs, random_archs
from edgenas.profiling.run import environment_of, profile
from edgenas.profiling.tables import NoTableError, measure_network, predictor_for, table_for
from edgenas.profiling.units import METHODS, Method
from edgenas.profiling.work import Clock

__all__ = [
    "METHODS",
    "Clock",
    "Method",
    "NoTableError",
    "calibration_archs",
    "environment_of",
    "journal_path",
    "measure_network",
    "predictor_for",
    "profile",
    "random_archs",
    "table_for",
]
