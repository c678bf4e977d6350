"""Measuring a target: its latency table, resumed at will, and whether it has drifted."""
