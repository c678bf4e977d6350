"""Gradient strategies on a supernet: one loop, one estimator a file."""
