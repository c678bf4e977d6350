"""Hostile input for every reader of edgenas, under structure-aware and seeded mutation.

``python -m tools.fuzz --inputs 10000`` runs it; ``tests/test_fuzz.py`` runs a part of it. The law
that every input has to keep stands in ``tools/fuzz/law.py``.
"""
