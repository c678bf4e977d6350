"""Boards that are silent, that flood, that lie: one line, soon, and nothing of it is kept."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import fake_board
import loopback
import pytest
from conftest import ROOT
from fake_board import ENVIRONMENT, RESULT, event
from hypothesis import given
from hypothesis import strategies as st

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.events import EventError, read_event
from edgenas.clock.measure import ClockStoppedError, WrongAnswerError
from edgenas.clock.remote import Board
from edgenas.clock.ssh import Place
from edgenas.clock.streams import Lines, Tail, TooLongError, write_all
from edgenas.latency.device import Target
from edgenas.latency.table_file import table_path
from edgenas.profiling.journal import journal_path
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.runtime import registry as runtimes
from edgenas.space import presets

TINY = presets.tiny()
TARGET = Target("sill", "onnxruntime", "fp32")
QUICK = TimingSettings(
    baseline_seconds=0.05, gate=1e6, min_samples=6, max_samples=6, min_seconds=0.0
)
FEW = {"networks": 3, "further": 2, "visits": 1, "settings": QUICK}
SILENCE = 1.0  # seconds; a fake board starts in a fiftieth of that


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts a program in the place of ssh."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return lambda body: fake_board.write(tmp_path / "bin" / "ssh", body)


def board(**changes) -> Board:
    return Board(place=Place(address="fake"), **({"silence": SILENCE, "pauses": ()} | changes))


def refused(clock: Board, **changes) -> EdgenasError:
    """The error of a profile; nothing is kept of the board."""
    with pytest.raises(EdgenasError) as caught:
        profile(TINY, target=TARGET, clock=clock, plan=ProfilePlan(**(FEW | changes)))
    error = caught.value
    assert len(error.message) <= 300
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert not table_path(TARGET).exists()
    path = journal_path(TARGET)
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    withdrawn = {line["run"] for line in kept if "withdrawn" in line}
    assert {line["run"] for line in kept if "unit" in line} <= withdrawn
    return error


# Each kind of misbehaviour, and what is said of it

SILENT = {
    "from the first moment": ("time.sleep(600)", "fake has said nothing for 1 s"),
    "and reads nothing": (
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nsignal.pause()",
        "fake has said nothing for 1 s",
    ),
    "once it is ready": ("ready()\ntime.sleep(600)", "the clock on fake has said nothing for 1 s"),
    "amid a line": (
        "ready()\norder()\nraw(b'{\"event')\ntime.sleep(600)",
        "the clock on fake has said nothing for 1 s",
    ),
    "once it is asked to time": ("begins()\ntime.sleep(600)", "has said nothing for 1 s"),
    "and drips": (
        "ready()\nwhile True:\n  raw(b'x')\n  time.sleep(0.1)",
        "the clock on fake has said nothing for 1 s",
    ),
    "and alive for ever": (
        "begins()\nwhile True:\n  say('alive')\n  time.sleep(0.1)",
        "the clock on fake is not done in the time that it has",
    ),
    "and waits for ever": (
        "ready()\nwhile True:\n  say('waiting')\n  time.sleep(0.2)",
        "the clock on fake is not done in the time that it has",
    ),
}


@pytest.mark.parametrize(
    "which",
    [pytest.param(w, marks=[pytest.mark.slow] * (w == "and alive for ever")) for w in SILENT],
)
def test_a_silent_board_is_given_up(fake, which):
    body, words = SILENT[which]
    program = fake(body)
    # A busy machine must come so far that it asks the board to time.
    seconds = 4.0 if body.startswith("begins()") else 0.5
    error = refused(board(seconds=seconds), time_budget=seconds)
    assert isinstance(error, ClockStoppedError)
    assert words in error.message
    assert fake_board.ends(program)


FLOODS = {
    "lines that are no events": (
        "ready()\nwhile True: raw(b'spam\\n' * 1000)",
        "answers with what is no event: a line must be one JSON object",
    ),
    "events": (
        'begins()\nwhile True: raw(b\'{"event": "alive"}\\n\' * 1000)',
        "there are more events than a clock has",
    ),
    "a line without an end": (
        "ready()\nwhile True: raw(b'x' * 65536)",
        "a line of it does not end",
    ),
    "greetings": (
        "while True: raw(b'welcome\\n' * 1000)",
        "fake answers with something else than the clock",
    ),
    "a greeting without an end": ("while True: raw(b'x' * 65536)", "a line of it does not end"),
    "nothing read, much said": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: raw(b'x\\n' * 30000)",
        "fake answers with something else than the clock",
    ),
}


@pytest.mark.parametrize("which", FLOODS)
def test_a_board_that_floods_is_given_up(fake, which):
    body, words = FLOODS[which]
    program = fake(body)
    assert words in refused(board(silence=30.0)).message
    assert fake_board.ends(program)


def test_a_board_that_reads_nothing_is_given_up(fake):
    program = fake(
        "started()\nsay('ready', schema='')\nwhile True:\n  say('alive')\n  time.sleep(0.1)"
    )
    ort = runtimes.get("onnxruntime")
    with pytest.raises(ClockStoppedError, match="does not read what it is sent"):
        # More than the pipe takes, so that the board has to read.
        list(board().measure([("a", b"x" * (1 << 20))], runtime=ort, settings=QUICK))
    assert fake_board.ends(program)


LIES = {
    "no object": ("raw(b'[1]\\n')", "a line must be one JSON object, found list"),
    "no text": ("raw(b'\\xff\\xfe\\n')", "a line must be one JSON object"),
    "too deep": ("raw(b'[' * 200000 + b'\\n')", "a line must be one JSON object"),
    "another kind": ("say('\\x1b[31mhello')", "event must be one of ready, alive"),
    "a kind that is no text": ("say(['ready'])", "event must be one of ready, alive"),
    "ready once more": ("say('ready', schema='')", "it is ready once more"),
    "a number too long": (
        "raw(b'{\"event\": \"end\", \"seconds\": ' + b'9' * 5000 + b'}\\n')",
        "a line must be one JSON object",
    ),
    "no run": (
        "say('result', **{**RESULT, 'id': names[0], 'wall_samples': [], 'wall_n': 0})",
        "result: there must be runs",
    ),
    "another unit": (
        "say('result', id='\\x1b]0;title', **RESULT)",
        "a result of a unit that was not sent, or that has one",
    ),
    "the same result twice": (
        "results(names[:1] * 2)",
        "a result of a unit that was not sent, or that has one",
    ),
    "an early end": ("say('done')", "it ends before all units have a result"),
    "a late lie": (
        "results(names[:3])\nsay('result', id=names[3], **{**RESULT, 'median': -1.0})",
        "result: median must be above 0 seconds, found -1.0",
    ),
}


@pytest.mark.parametrize("which", LIES)
def test_a_board_that_lies_is_refused(fake, which):
    body, words = LIES[which]
    program = fake(f"names = begins()\n{body}\ntime.sleep(600)")
    error = refused(board(silence=30.0))
    assert isinstance(error, WrongAnswerError)
    assert error.message.startswith("the clock on fake answers with what is no event: ")
    assert words in error.message
    assert fake_board.ends(program)


def test_a_board_that_changes_its_tale_at_the_end_is_not_relied_on(fake, tmp_path):
    asked = tmp_path / "asked"
    fake(
        "ready()\nnames = order()\n"
        f"if not names and os.path.exists({str(asked)!r}): say('environment', cpu=1)\n"
        f"open({str(asked)!r}, 'w').close()\n"
        "say('environment', **ENVIRONMENT)\n"
        "if names: say('baseline', **BASELINE); results(names); say('end', **END)\n"
        "say('done')\nnext(stdin)"
    )
    assert "environment: " in refused(board(silence=30.0)).message
    journal = [json.loads(line) for line in journal_path(TARGET).read_text().splitlines()]
    assert "answers with what is no event" in journal[-1]["withdrawn"]


def test_the_words_of_a_runtime_are_made_plain(fake):
    fake("names = begins()\nsay('error', id=names[0], message='\\x1b[31mno\\n' * 5000)")
    assert "the runtime refuses " in refused(board(silence=30.0)).message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpu": "x\x1b[2J"}, "cpu must be a text without control characters"),
        ({"cpu": "x\u202ey"}, "cpu must be a text without control characters"),
        ({"cpu": "\ud800"}, "cpu must be a text without control characters"),
        ({"cpu": "x" * 5000}, "cpu must have 0 to 4096 characters"),
        ({"cpu": ["x"]}, "cpu must be a text, found ['x']"),
        ({"runtime_version": 1.0}, "runtime_version must be a text, found 1.0"),
        ({"cores": True}, "cores must be an integer, found True"),
        ({"max_frequency": -1.0}, "max_frequency must be at least 0, found -1.0"),
        ({"max_frequency": float("nan")}, "max_frequency must be a finite number, found nan"),
        ({"processors": {}}, "processors must be a list, found {}"),
        ({"virtual": 1}, "virtual must be true or false, found 1"),
        ({"runtime": "other"}, "it was asked for onnxruntime"),
    ],
)
def test_what_a_board_says_of_itself_is_checked(fake, changes, words):
    fake(f"nan = float('nan')\ntells_itself(**{changes!r})")
    error = refused(board(silence=30.0))
    assert words in error.message
    assert not journal_path(TARGET).exists()


def test_a_board_that_fills_stderr_fills_no_disk_and_no_memory(fake, own_temporary):
    fake("for _ in range(2000): os.write(2, b'x' * 65536)\nos.write(2, b'\\nbye\\n')\nsys.exit(3)")
    error = refused(board(silence=60.0))
    assert error.message == "python3 on fake stopped with code 3: bye"
    assert list(own_temporary.iterdir()) == []


@pytest.mark.slow
def test_a_real_link_with_a_misbehaving_python(tmp_path, monkeypatch):
    """The same over a real sshd: the Python of the board is such a program."""
    with loopback.board_or_skip(tmp_path / "there") as there:
        monkeypatch.setenv("PATH", f"{there.folder / 'client'}:{os.environ['PATH']}")
        for body, words in [
            ("for _ in stdin: pass", "has said nothing for 2 s"),
            FLOODS["events"],
            LIES["a late lie"],
        ]:
            body = f"names = begins()\n{body}" if "names" in body else body
            python = fake_board.write(tmp_path / "python", body)
            place = Place(address="loop", python=str(python))
            assert words in refused(Board(place=place, silence=2.0)).message
            assert there.quiet()
        assert there.left() == []


# The reader of events: whatever a line is, it is an event or it is refused in words

STATE = ("temperature", "frequency", "gpu_frequency", "load", "throttled")
LINES = {
    "environment": ENVIRONMENT,
    "result": {"id": "a", **RESULT},
    "baseline": {"seconds": [1e-5], "p50_ratio": 1.0, "p95_ratio": 1.1, "quiet": 0.5},
    "end": {"unvisited": ["a"], "seconds": 1.0, "readings": 1, "passes": 0},
    "progress": {"round": 0, "finished": 1, "total": 2},
    "error": {"id": "a", "message": "b"},
    "done": {},
}
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([1e308, -1e-308, 10**4000, "\x1b[2J", "\ud800", "x" * 10000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", LINES)
def test_what_a_clock_says_is_read_whole_and_nothing_else(kind):
    found = read_event(event(kind, **LINES[kind]))
    assert found == {"event": kind, **LINES[kind]}
    for name in LINES[kind]:
        if name not in STATE:
            less = {other: value for other, value in LINES[kind].items() if other != name}
            with pytest.raises(EventError, match=f"^{kind}: .*{name}.*(missing|found None)"):
                read_event(event(kind, **less))
    with pytest.raises(EventError, match=f"^{kind}: unknown field 'extra'$"):
        read_event(event(kind, **LINES[kind], extra=1))


DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def told(line: bytes) -> tuple[dict, str]:
    """An event, or else the words with which it is refused."""
    try:
        return read_event(line), ""
    except EventError as error:
        return {}, str(error)


@given(data=st.data())
def test_any_change_of_an_event_is_an_event_or_is_refused(data):
    kind = data.draw(st.sampled_from(sorted(LINES)))
    fields = dict(LINES[kind])
    if fields:
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(ANYTHING)
    found, said = told(event(kind, **fields))
    assert len(said) <= 300
    assert said.isprintable()
    json.dumps(found, allow_nan=False)  # what a journal does
    for name, value in found.items():
        if name not in ("id", "unvisited") and isinstance(value, str):
            # No control characters, no lone surrogates, no marks that change the direction of text.
            # Code points that Unicode has not assigned may be there.
            kinds = {unicodedata.category(c) for c in value if c not in "\n\t"}
            assert not kinds & {"Cc", "Cs"}
            assert not {unicodedata.bidirectional(c) for c in value} & DIRECTIONS


@given(line=st.binary(max_size=200))
def test_any_bytes_are_no_event(line):
    with contextlib.suppress(EventError):
        assert read_event(line)["event"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 5}, "there must be as many samples as runs, 5, found 6"),
        ({"wall_n": 7}, "there must be as many wall_samples as runs, 7, found 6"),
        ({"median": 2e-3}, "median must lie among the runs, from 0.000999 to 0.001 s, found 0.002"),
        ({"p90": 1e-9}, "p90 must lie among the runs"),
        ({"half_width": None}, "half_width must be a number, found None"),
        ({"flag": "fine"}, "flag must be one of , wide, few, noisy, found 'fine'"),
        ({"samples": [1e6] * 6}, "samples[0] must be an integer, found 1000000.0"),
        ({"samples": [-1] * 6}, "samples[0] must be at least 0, found -1"),
        ({"samples": [1] * 5000}, "samples must have 0 to 4000 items"),
        ({"canary": 0}, "canary must be above 0 seconds, found 0"),
        ({"median": 1e999}, "median must be a finite number, found inf"),
        ({"median": "1"}, "median must be a number, found '1'"),
        ({"p10": 1e-3 + 5e-7, "p90": 1e-3}, "p10 must not be above p90"),
    ],
)
def test_a_result_obeys_its_laws(changes, words):
    with pytest.raises(EventError, match="result: ") as caught:
        read_event(event("result", **({"id": "a", **RESULT} | changes)))
    assert words in str(caught.value)


# Pipes


@contextlib.contextmanager
def pipe() -> Iterator[tuple]:
    out, into = os.pipe()
    with os.fdopen(out, "rb") as reader, os.fdopen(into, "wb", buffering=0) as writer:
        yield reader, writer


def test_lines_come_whole_and_the_rest_at_the_end():
    with pipe() as (reader, writer):
        lines = Lines(reader, longest=8)
        writer.write(b"ab\n\ncd")
        assert lines.next(seconds=5.0) == b"ab\n"
        assert lines.next(seconds=5.0) == b"\n"
        with pytest.raises(TimeoutError):
            lines.next(seconds=0.05)
        writer.close()
        assert lines.next(seconds=5.0) == b"cd"
        assert lines.next(seconds=5.0) == b""


def test_a_line_that_is_too_long_is_refused():
    with pipe() as (reader, writer):
        writer.write(b"x" * 8)
        with pytest.raises(TooLongError, match="at most 8 bytes"):
            Lines(reader, longest=8).next(seconds=5.0)


def test_the_tail_of_a_stream_is_kept():
    with pipe() as (reader, writer):
        tail = Tail(reader, size=10)
        for i in range(1000):
            writer.write(b"%d " % i)
        writer.close()
        assert tail.text(seconds=5.0) == "7 998 999"


def test_what_nobody_reads_is_not_written_for_ever():
    with pipe() as (_, writer):
        os.set_blocking(writer.fileno(), False)
        with pytest.raises(TimeoutError):
            write_all(writer, b"x" * (1 << 20), seconds=0.05)


# Kills and interrupts

ZYGOTE = """
import os, signal, sys
from tests.test_misbehaviour import *
from edgenas.clock import measure
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        where = eval(line)
        try:
            profile(TINY, target=TARGET, clock=where, plan=ProfilePlan(**(FEW | {"visits": 50})))
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Profiles:
    """A process that profiles in a child of its own whenever it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid, self.stdin, self._stdout = process.pid, process.stdin, process.stdout

    def begin(self, where: str) -> int:
        """Begin a profile; the process id of the child."""
        self.stdin.write(where + "\n")
        self.stdin.flush()
        return int(self._stdout.readline())

    def code(self) -> int:
        """How the child ended."""
        return int(self._stdout.readline())


@contextlib.contextmanager
def profiles(folder: Path) -> Iterator[Profiles]:
    """Such a process, whose temporary folder is given."""
    path = f"{ROOT}:{ROOT / 'tests'}"
    mark = {"PYTHONPATH": path, "TMPDIR": str(folder), "EDGENAS_TEST_MARK": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE],
        cwd=ROOT,
        env=os.environ | mark,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        found = Profiles(process)
        yield found
        found.stdin.close()


def marked(folder: Path, *, but: int) -> list[int]:
    """Processes that descend from one, however far, but that one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            mine = f"EDGENAS_TEST_MARK={folder}".encode() in (entry / "environ").read_bytes()
            if mine and state != "Z" and int(entry.name) != but:
                found.append(int(entry.name))
    return found


def settled(folder: Path, *, but: int) -> list[int]:
    """What is still there after a while."""
    end = time.monotonic() + 20.0
    while (found := marked(folder, but=but)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def killed(folder: Path, *, where: str, times: int) -> None:
    """Kill a profile at random moments; each time nothing is left but the lock of the machine."""
    moments = random.Random(0)
    with profiles(folder) as process:
        for _ in range(times):
            child = process.begin(where)
            time.sleep(moments.uniform(0.0, 0.8))
            os.kill(child, signal.SIGKILL)
            assert process.code() == -signal.SIGKILL
            assert settled(folder, but=process.pid) == []
            left = [path.name for path in folder.iterdir()]
            assert [name for name in left if not name.endswith(".timing.lock")] == []


def test_a_profile_that_is_killed_leaves_nothing_here(own_temporary):
    killed(own_temporary, where="measure", times=3)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["measure", "Board(place=Place(address='loop'))"])
def test_twenty_kills_leave_nothing(own_temporary, tmp_path, monkeypatch, where):
    with loopback.board_or_skip(tmp_path / "there") as there:
        monkeypatch.setenv("PATH", f"{there.folder / 'client'}:{os.environ['PATH']}")
        killed(own_temporary, where=where, times=20)
        assert there.quiet()
        assert there.left() == []


def test_a_profile_that_is_killed_leaves_no_ssh_that_waits_for_ever(fake, own_temporary):
    program = fake("signal.signal(signal.SIGHUP, signal.SIG_IGN)\nwhile True: signal.pause()")
    with profiles(own_temporary) as process:
        child = process.begin("board(silence=600.0)")
        while not fake_board.runs(program):
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert process.code() == -signal.SIGKILL
        assert settled(own_temporary, but=process.pid) == []
    assert fake_board.ends(program)
    assert list(own_temporary.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)",
        "ready()\nwhile True: time.sleep(60)",
        "ready()\nwhile True:\n  say('waiting')\n  time.sleep(1)",
    ],
)
def test_an_interrupt_ends_a_board_that_hangs(fake, own_temporary, body):
    program = fake(body)
    with profiles(own_temporary) as process:
        child = process.begin("board(silence=600.0)")
        while not fake_board.runs(program):
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(child, signal.SIGINT)
        assert process.code() == 130
        assert settled(own_temporary, but=process.pid) == []
    assert list(own_temporary.iterdir()) == []
