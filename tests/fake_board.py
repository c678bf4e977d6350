"""Boards that misbehave: programs that stand in for ssh, or for the Python of a real board."""

import json
import sys
import time
from pathlib import Path

# What every such program starts with. It runs on any Python, with nothing installed.
_HEAD = """#!{python} -IS
import json, os, signal, sys, time
open({pid!r}, "w").write(str(os.getpid()))

def lines():
    pending = b""
    while True:
        chunk = os.read(0, 1 << 16)
        if not chunk:
            sys.exit(0)
        *whole, pending = (pending + chunk).split(b"\\n")
        yield from filter(None, whole)

stdin = lines()

def started():
    while not next(stdin).startswith(b'"'):  # the text of board.py
        pass

def raw(data):
    while data:
        data = data[os.write(1, data):]

def say(event, **fields):
    raw(json.dumps({{"event": event, **fields}}).encode() + b"\\n")

def order():
    found = json.loads(next(stdin))
    return [unit["id"] for unit in found["units"]]

STATE = dict.fromkeys(["temperature", "frequency", "gpu_frequency", "load", "throttled"])
ENVIRONMENT = {environment!r}
RESULT = {result!r}
BASELINE = dict(seconds=[1e-5], p50_ratio=1.0, p95_ratio=1.0, quiet=1.0)
END = dict(unvisited=[], seconds=1.0, readings=1, passes=1, **STATE)

def ready():
    started()
    say("ready", schema="edgenas.work/1")

def tells_itself(**changes):
    ready()
    order()
    say("environment", **{{**ENVIRONMENT, **changes}})
    say("done")
    next(stdin)  # there is none: the session is over

def begins():
    ready()
    names = order()
    say("environment", **ENVIRONMENT)
    if not names:  # it was asked what it is
        say("done")
        next(stdin)
    say("baseline", **BASELINE)
    return names

def results(names):
    for name in names:
        say("result", id=name, **RESULT)

"""
ENVIRONMENT = {
    "machine": "x",
    "board": None,
    "cpu": "a fake",
    "cores": 4,
    "processors": [3],
    "virtual": False,
    "governor": "performance",
    "max_frequency": 1e9,
    "gpu": None,
    "power_mode": None,
    "l4t": None,
    "os": "x",
    "kernel": "x",
    "python": "3.8",
    "runtime": "onnxruntime",
    "runtime_version": "1",
    "temperature": 50.0,
    "frequency": None,
    "gpu_frequency": None,
    "load": 0.1,
    "throttled": None,
}
RESULT = {
    "median": 1e-3,
    "p10": 1e-3,
    "p90": 1e-3,
    "n": 6,
    "half_width": 0.0,
    "wall_p50": 1e-3,
    "wall_p95": 1e-3,
    "wall_n": 6,
    "flag": "",
    "canary": 1e-5,
    "visits": 1,
    "samples": [1_000_000] * 6,
    "wall_samples": [1_000_000] * 6,
}


def write(path: Path, body: str) -> Path:
    """Write such a program.

    Args:
        path: of the program; its process id goes into ``path.pid``.
        body: what it does.
    """
    head = _HEAD.format(
        python=sys.executable,
        pid=str(path.with_suffix(".pid")),
        environment=ENVIRONMENT,
        result=RESULT,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + body)
    path.chmod(0o755)
    return path


def runs(path: Path) -> bool:
    """Whether such a program runs."""
    try:
        pid = int(path.with_suffix(".pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state != "Z"


def ends(path: Path, *, seconds: float = 20.0) -> bool:
    """Whether such a program ends soon."""
    end = time.monotonic() + seconds
    while runs(path) and time.monotonic() < end:
        time.sleep(0.02)
    return not runs(path)


def event(kind: str, **fields: object) -> bytes:
    """A line of a clock."""
    return json.dumps({"event": kind, **fields}).encode() + b"\n"
