"""Families of networks as values: spaces, archs, their layers and what these cost. No torch."""
