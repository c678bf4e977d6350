"""The law that every hostile input has to keep, and what is seen when it does not.

Exit code 0 or 2 (1 where a verb documents it); a refusal is one line of at most 300 characters and
a hint; no traceback; at most ``SECONDS`` of computing and ``MEMORY`` bytes; nothing is left behind.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 5.0  # of computing: on a busy machine the clock on the wall says little
PATIENCE = 120.0  # seconds on the wall after which an input counts as a hang, however busy
MEMORY = 1 << 30  # bytes in memory, the libraries of the product included
LINE = 300  # characters of a message
MEASURING = ("export", "bench", "check", "profile")  # verbs that time networks
_PROGRESS = re.compile(r"[a-z ]+: \d+/\d+")
_LATENCIES = ("latency_ms", "latency_upper_ms")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one input did.

    Args:
        code: exit code; None: an exception came through.
        out: what was said on stdout.
        said: what was said on stderr, by native libraries too.
        error: the traceback of that exception, or an empty string.
        seconds: of computing, by this process and its children.
        memory: the largest resident set, bytes.
        left: files that were not there before and should not be, by name.
    """

    code: int | None
    out: str
    said: str
    error: str
    seconds: float
    memory: int
    left: tuple[str, ...]


def broken(seen: Seen, *, verb: str, good: bool = False) -> list[str]:
    """How an input breaks the law, a word and its evidence each; empty: it keeps it.

    Args:
        seen: what it did.
        verb: that read it; empty: a reader alone.
        good: whether it has to be accepted, because nothing in it was changed.
    """
    faults = list[str]()
    if good and seen.code != 0:
        faults.append(f"good: refused: {_short(seen.said)}")
    if seen.error or "Traceback (most recent call last)" in seen.said + seen.out:
        faults.append(f"traceback: {_place(seen.error or seen.said + seen.out)}")
    elif seen.code not in ((0, 1, 2) if verb == "check" else (0, 2)):
        faults.append(f"exit: code {seen.code}")
    # A verb that accepts its input and times a network computes as long as timing takes.
    if seen.seconds > SECONDS and not (seen.code == 0 and verb in MEASURING):
        faults.append("slow: more seconds of computing than allowed")
    if seen.memory > MEMORY:
        faults.append("memory: more than allowed")
    if seen.left:
        faults.append(f"left: {', '.join(seen.left[:3])}")
    if seen.code == 2 and not seen.error:
        faults += _said(seen, verb=verb)
    if seen.code == 0 and seen.out.startswith("{"):
        faults += _answered(seen.out)
    if any(not (c.isprintable() or c in "\n\t") for c in seen.said + seen.out):
        faults.append("control: control characters of a file are said as they stand")
    return faults


def _said(seen: Seen, *, verb: str) -> list[str]:
    lines = [line for line in seen.said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if verb == "verify" and not errors:
        return [] if "NOT" in seen.out or '"passed": false' in seen.out else ["silent: no reason"]
    if len(errors) != 1:
        return [f"lines: {len(errors)} lines of errors"]
    faults = list[str]()
    if len(errors[0]) - len("error: ") > LINE:
        faults.append("long: a message of more characters than allowed")
    if any(len(line) - len("hint: ") > LINE for line in lines if line.startswith("hint: ")):
        faults.append("long: a hint of more characters than allowed")
    # Progress of work that was begun is no error: "searching: 0/1 ...".
    others = [
        line
        for line in lines
        if not line.startswith(("error: ", "hint: ")) and not _PROGRESS.match(line)
    ]
    if others:
        faults.append(f"lines: beside the error stands {_short(others[0])}")
    return faults


def _answered(text: str) -> list[str]:
    """Latencies that are none, in what a verb prints under --json."""
    try:
        found = json.loads(text)
    except ValueError:
        return ["answer: what is printed is no JSON"]
    return [f"answer: {name} is {value}" for name, value in _latencies(found) if not _time(value)]


def _latencies(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        own = [(name, value[name]) for name in _LATENCIES if value.get(name) is not None]
        return own + [pair for inner in value.values() for pair in _latencies(inner)]
    return []


def _time(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 < value < 1e12


def _place(text: str) -> str:
    """The exception of a traceback, and the last line of edgenas that it went through."""
    lines = text.strip().splitlines()
    own = [line for line in lines if "/edgenas/" in line and line.strip().startswith("File")]
    place = own[-1].strip() if own else ""
    name = place.split('"')[1].rpartition("/edgenas/")[2] if '"' in place else ""
    number = place.split("line ")[1].split(",")[0] if "line " in place else ""
    return f"{_short(lines[-1].partition(':')[0])} in {name}:{number}"


def _short(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def listing(folder: Path) -> set[str]:
    """The files of a folder, by their path in it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
