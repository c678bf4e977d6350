"""Several fine-tunings at once, each in a process of its own.

Small networks use one core better than several, so as many networks as there are cores learn at the
same time (`tools/benchmarks/bench_transfer.py` measures it).
"""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from edgenas.basics.errors import EdgenasError
from edgenas.basics.progress import Progress, Say, no_progress, say_nothing
from edgenas.basics.units import duration
from edgenas.training.fine_tuning import has_ended
from edgenas.training.memory import give_memory_back

LOG = "worker.log"
_KEPT = 300  # characters of what a process said before it broke down


def fine_tune_all(
    folders: Mapping[str, Path],
    *,
    images: Path,
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> None:
    """Do the work of several folders, as many at once as there are cores for torch.

    Args:
        folders: of fine-tunings, by the names that people know them by.
        images: that they learn from.
        progress: called with ("fine-tuning", steps done, steps in all, words).
        say: called with what the time allows, and why a training ended sooner.

    Raises:
        EdgenasError: a fine-tuning failed; the others were stopped, and go on when they are
            started again.
    """
    waiting = [name for name, folder in folders.items() if not has_ended(folder)]
    give_memory_back()
    cores = torch.get_num_threads()
    at_once = max(1, min(cores, len(waiting)))
    crew = _Crew(folders, images=images, threads=max(1, cores // at_once))
    shown = _Shown(len(waiting), progress=progress, say=say)
    with contextlib.closing(crew):
        while waiting or crew.running:
            while waiting and len(crew.running) < at_once:
                crew.start(waiting.pop(0))
            name, event = crew.events.get()
            if event is None:
                crew.end(name)
            elif "error" in event:
                raise EdgenasError(event["error"], hint=event["hint"])
            else:
                shown.show(name, event)


class _Crew:
    """The processes, and what they tell: None when one has ended."""

    def __init__(self, folders: Mapping[str, Path], *, images: Path, threads: int) -> None:
        self.folders, self.images, self.threads = folders, images, threads
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.events: queue.SimpleQueue[tuple[str, dict[str, Any] | None]] = queue.SimpleQueue()

    def start(self, name: str) -> None:
        """Start the process of a folder."""
        folder = self.folders[name]
        words = [str(folder), str(self.images), str(self.threads)]
        with (folder / LOG).open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgenas.training.worker", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.running[name] = process
        threading.Thread(target=self._listen, args=(name, process.stdout), daemon=True).start()

    def _listen(self, name: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that a kill cut off
                    self.events.put((name, json.loads(line)))
        self.events.put((name, None))

    def end(self, name: str) -> None:
        """Take leave of a process that has closed its output.

        Raises:
            EdgenasError: it has not done its work.
        """
        code = self.running.pop(name).wait()
        folder = self.folders[name]
        if code == 0 and has_ended(folder):
            return
        why = f"exit code {code}"
        if code < 0:
            why = f"killed by {signal.Signals(-code).name}"
        last = (folder / LOG).read_text(errors="replace").strip().splitlines()[-1:]
        raise EdgenasError(
            f"the fine-tuning of {name} broke off ({why}) {''.join(last)[:_KEPT]}".rstrip(),
            hint="run the same command again, it goes on; a lack of memory may end processes so",
        )

    def close(self) -> None:
        """End all that still runs."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()


class _Shown:
    """What a person sees of all processes together."""

    def __init__(self, count: int, *, progress: Progress, say: Say) -> None:
        self.count, self.progress, self.say = count, progress, say
        self.done: dict[str, tuple[int, int]] = {}
        self.first: dict[str, int] = {}
        self.begun = 0.0

    def show(self, name: str, event: Mapping[str, Any]) -> None:
        """One event of a process."""
        if "plan" in event:
            plan = event["plan"]
            epochs = plan["steps"] / plan["per_epoch"]
            self.say(
                f"{name}: {plan['step_seconds']:.2f} s a step, so the time allows {epochs:.1f} "
                f"epochs ({duration(plan['steps'] * plan['step_seconds'])})"
            )
        elif "accuracy" in event:
            line = event["accuracy"]
            if line["why"]:
                self.say(f"{name}: ends at step {line['steps']}: {line['why']}")
        elif "step" in event:
            self.begun = self.begun or time.monotonic()
            self.done[name] = event["step"], event["steps"]
            self.first.setdefault(name, event["step"] - 1)
            done, total = (sum(counts) for counts in zip(*self.done.values(), strict=True))
            # Those that have not begun are taken to be as long as the others.
            total = total * self.count // len(self.done)
            self.progress("fine-tuning", done, total, self._left(done, total))

    def _left(self, done: int, total: int) -> str:
        fresh = done - sum(self.first.values())
        names = "1 network" if self.count == 1 else f"{self.count} networks"
        if fresh <= len(self.done):  # nothing has been timed yet
            return names
        left = (time.monotonic() - self.begun) / fresh * (total - done)
        return f"{names}, {duration(left)} left"
