"""Timing: the clock that runs here and on boards, and the way to boards. No networks here."""
