"""Labelled images: where they come from, how they are read, divided and prepared."""
