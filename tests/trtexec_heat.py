"""How the board of the stand-in heats under load and cools, by a clock of its own: nobody waits.

The settings have ``heat``: ``slowdown``, by which part a hot board is slower; ``seconds``, in which
it heats by 63% of the way; and ``file``, in which it stays as hot between starts.
"""

import json
import math
import os

_COOLING = 5.0  # how many times slower it cools than it heats


class Board:
    """A board that heats from 0, cool, to 1."""

    def __init__(self, settings):
        self.settings, self.level = settings, 0.0
        if settings and os.path.exists(settings["file"]):
            with open(settings["file"], encoding="utf-8") as stream:
                self.level = json.load(stream)

    def slower(self):
        """By which factor a run takes longer now."""
        return 1 + self.settings["slowdown"] * self.level if self.settings else 1.0

    def work(self, seconds):
        """It works for some seconds."""
        if self.settings:
            self._set(1 - (1 - self.level) * math.exp(-seconds / self.settings["seconds"]))

    def rest(self, seconds):
        """It does not work for some seconds."""
        if self.settings:
            self._set(self.level * math.exp(-seconds / self.settings["seconds"] / _COOLING))

    def _set(self, level):
        self.level = level
        with open(self.settings["file"], "w", encoding="utf-8") as stream:
            json.dump(level, stream)


def means(board, *, seconds, duration, runs, noise):
    """The means of every so many runs, in seconds, while the board works for some seconds.

    Args:
        board: it is warmer afterwards.
        seconds: of one run on a cool board.
        duration: in seconds.
        runs: of each mean.
        noise: gives a factor.
    """
    found, passed = [], 0.0
    while passed < duration:
        mean = seconds * board.slower() * noise()
        board.work(mean * runs)
        passed += mean * runs
        found.append(mean)
    return found
