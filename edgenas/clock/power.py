"""The power that a board draws while something runs there.

The board's own sensor is read over a link of its own while a clock runs one network without a
pause. The sensor refreshes slowly (its period is not documented), so a run lasts seconds. What is
told counts by the moment at which it arrives.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import IO

from edgenas.basics.errors import EdgenasError
from edgenas.basics.units import duration
from edgenas.clock.events import plain
from edgenas.clock.measure import ClockStoppedError, WrongAnswerError
from edgenas.clock.power_text import POWER_TEXT
from edgenas.clock.shell import start_text
from edgenas.clock.ssh import Place, explain_ssh
from edgenas.clock.streams import Lines, Tail, TooLongError, write_all

# Rails of the whole module, by the names that boards have for them; elsewhere all are added.
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
FEWEST = 5  # samples that a number of watts rests on

_SILENCE = 20.0  # seconds until a board has told its rails, and between two samples
_LINE = 1 << 13
_NOISE = 1000  # lines that a login shell may print before
_MOST = 1_000_000  # samples that are kept
_HEAD = re.compile(rb"edgenas-power (rails|counters|tegrastats|none)((?:\t[^\t\n]{1,60}){0,32})\n")
# "VDD_IN 7120mW/6480mW" of JetPack 5 and later, "POM_5V_IN 4310/4102" of JetPack 4.
_TEGRASTATS = re.compile(
    r"\b((?:VDD|VIN|POM|VDDQ|VDDRQ|SYS|GPU|CPU|SOC|CV)\w*) (\d{1,6})(?:mW)?/\d{1,6}"
)


@dataclass(frozen=True, slots=True)
class Power:
    """The power of a board over some time.

    Args:
        watts: the mean of the middle half of the samples, so that a stray one does not count.
        drift: the later half of the time against the earlier, as a fraction.
        samples: how many there were.
    """

    watts: float
    drift: float
    samples: int


class PowerMeter:
    """The samples of a board's power, as they come. Made by ``open_meter``.

    Args:
        stream: of the text that tells them; the meter closes it.
        where: the board, for people.
    """

    def __init__(self, stream: IO[bytes], *, where: str) -> None:
        self._stream, self._lines, self._where = stream, Lines(stream, longest=_LINE), where
        self._samples: list[tuple[float, float]] = []
        self._counter: tuple[float, float] | None = None
        self._kind, self._chosen, self.sensor = "", list[int](), ""
        self._fault: EdgenasError | None = None

    def start(self) -> None:
        """Wait for the names of the rails, then collect samples in a thread.

        Raises:
            EdgenasError: the board has no sensor that this user may read.
        """
        try:
            self._begin()
        except BaseException:
            self._stream.close()
            raise
        threading.Thread(target=self._collect, daemon=True).start()

    def _begin(self) -> None:
        end = time.monotonic() + _SILENCE
        for _ in range(_NOISE):
            line = self._lines.next(seconds=max(0.0, end - time.monotonic()))
            if not line.endswith(b"\n"):
                raise EOFError
            if match := _HEAD.fullmatch(line):
                self._kind = match[1].decode()
                names = [plain(name) for name in match[2].decode(errors="replace").split("\t")[1:]]
                self._choose(names)
                return
        raise self.nonsense("it never begins")

    def _choose(self, names: Sequence[str]) -> None:
        if self._kind == "none":
            raise EdgenasError(
                f"{self._where} tells nobody its power: no sensor (ina3221, tegrastats, RAPL) that "
                "this user may read",
                hint="leave out energy, or measure it with a meter at the plug",
            )
        if self._kind == "tegrastats":
            self.sensor = "tegrastats"
            return
        total = [i for i, name in enumerate(names) if name in TOTAL_RAILS]
        own = [i for i, name in enumerate(names) if name != "NC"]
        self._chosen = total[:1] or own
        if self._kind == "counters":  # a package holds its cores; others stand beside it
            self._chosen = [i for i, name in enumerate(names) if name.startswith("package")] or own
        self.sensor = " + ".join(names[i] for i in self._chosen)

    def _collect(self) -> None:
        try:
            while line := self._lines.next(seconds=_SILENCE):
                now = time.monotonic()
                watts = self._watts(line.decode(errors="replace"), now=now)
                if watts is not None and len(self._samples) < _MOST:
                    self._samples.append((now, watts))
        except TimeoutError:
            self._fault = ClockStoppedError(f"{self._where} tells its power no more")
        except (TooLongError, ValueError, IndexError) as error:
            self._fault = self.nonsense(str(error))
        finally:
            self._stream.close()

    def _watts(self, line: str, *, now: float) -> float | None:
        if self._kind == "tegrastats":
            rails = {name: int(number) / 1e3 for name, number in _TEGRASTATS.findall(line)}
            total = [rails[name] for name in TOTAL_RAILS if name in rails]
            return total[0] if total else sum(rails.values()) if rails else None
        numbers = [int(text) for text in line.split()]
        value = sum(numbers[i] for i in self._chosen)
        if self._kind == "rails":
            return value / 1e3
        before, self._counter = self._counter, (now, value / 1e6)
        if before is None or value / 1e6 < before[1] or now <= before[0]:  # it began anew at zero
            return None
        return (value / 1e6 - before[1]) / (now - before[0])

    def power(self, begin: float, end: float) -> Power:
        """The mean power between two moments of the monotonic clock.

        Raises:
            EdgenasError: there were too few samples, or none any more.
        """
        found = [watts for at, watts in list(self._samples) if begin <= at <= end]
        if len(found) < FEWEST:
            if self._fault is not None:
                raise self._fault
            raise EdgenasError(
                f"{self._where} told its power {len(found)} times in {end - begin:.1f} s, "
                f"{FEWEST} are needed",
                hint="measure longer",
            )
        half = len(found) // 2
        first, second = _middle_mean(found[:half]), _middle_mean(found[half:])
        drift = second / first - 1 if first > 0 else 0.0
        return Power(watts=_middle_mean(found), drift=drift, samples=len(found))

    def nonsense(self, what: str) -> WrongAnswerError:
        """The error for an answer that tells no power."""
        return WrongAnswerError(
            f"{self._where} answers with something else than its power: {plain(what)}",
            hint="its login shell must not print anything for commands; see ~/.bashrc there",
        )


def _middle_mean(values: Sequence[float]) -> float:
    """The mean of the middle half (Tukey's midmean)."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


@contextlib.contextmanager
def open_meter(place: Place | None, *, interval: float = 0.1) -> Generator[PowerMeter]:
    """The power of a board, told until the block ends.

    Args:
        place: the board; None: this machine.
        interval: seconds between two samples.

    Raises:
        EdgenasError: the board cannot be reached, or has no sensor that this user may read.
    """
    program = start_text(POWER_TEXT, place=place)
    stdin, stdout, stderr = program.process.stdin, program.process.stdout, program.process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    said = Tail(stderr)
    where = "this machine" if place is None else place.address
    # The thread of the meter needs a handle of its own. The number of one that is closed here is
    # soon that of another pipe, from which the thread would take what others wait for.
    heard = os.fdopen(os.dup(stdout.fileno()), "rb", buffering=0)
    meter, over = PowerMeter(heard, where=where), False
    os.set_blocking(stdin.fileno(), False)
    try:
        try:
            with contextlib.suppress(BrokenPipeError):
                write_all(stdin, f"{POWER_TEXT}{interval:g}\n".encode(), seconds=_SILENCE)
            meter.start()
        except TooLongError as error:
            raise meter.nonsense(str(error)) from None
        except TimeoutError:
            raise ClockStoppedError(
                f"{where} does not tell its power within {duration(_SILENCE)}"
            ) from None
        except (EOFError, OSError):
            words = said.text()
            if place is not None:
                raise explain_ssh(words, where=where, dropped=False) from None
            raise ClockStoppedError(f"{where} does not tell its power: {plain(words)}") from None
        yield meter
        over = True
    finally:
        if not over:
            program.kill()
        with contextlib.suppress(OSError):
            stdin.close()
        program.wait(seconds=5.0)
        program.close()
