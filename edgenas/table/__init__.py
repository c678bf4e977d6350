"""Latency tables: what each layer takes on one target, and where the numbers are from."""

from edgenas.table.file import SCHEMA, find_table, load_table, save_table, table_path
from edgenas.table.values import (
    MATCHED,
    Estimated,
    LatencySource,
    LatencyTable,
    MeasuredNetwork,
    Provenance,
    Statistic,
    Timing,
    environment_mismatches,
    merge,
    mismatches,
)

__all__ = [
    "MATCHED",
    "SCHEMA",
    "Estimated",
    "LatencySource",
    "LatencyTable",
    "MeasuredNetwork",
    "Provenance",
    "Statistic",
    "Timing",
    "environment_mismatches",
    "find_table",
    "load_table",
    "merge",
    "mismatches",
    "save_table",
    "table_path",
]
