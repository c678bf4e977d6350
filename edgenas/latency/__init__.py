"""Latency: devices, tables, predictors with bounds, and models of devices that nobody measured."""
