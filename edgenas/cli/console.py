"""What the verbs share: two consoles, one table, one progress bar, one way to report an error.

Results go to stdout, progress and logs to stderr. rich drops colours for NO_COLOR and pipes.
"""

import json
import sys
import textwrap
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgenas.basics.progress import Progress
from edgenas.basics.units import duration, milliseconds

if TYPE_CHECKING:
    from edgenas.accuracy.predictor import AccuracyPredictor

_SOON = 20.0  # seconds
_WIDEST = 100  # columns of a text for people

# What a result is, line by line: the name of a fact, and the fact.
Facts = list[tuple[str, str]]

# Without a terminal rich takes 80 columns for granted, fewer than a text for people has.
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDEST)
log = Console(stderr=True, highlight=False)


class ShowBar(Protocol):
    """Shows how far a piece of work is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` units; ``note`` is a few words beside the bar."""
        ...


def print_json(value: Mapping[str, Any]) -> None:
    """The result of a verb under ``--json``: one object on stdout and nothing else."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; without a header where no column has a name.

    It has the columns of the screen. The widest texts are folded for that, but never the names in
    front: a name is what people copy.
    """
    table = Table(header_style="bold", box=None, pad_edge=False, show_header=any(columns))
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not i)
    for row in rows:
        table.add_row(*map(escape, row))
    with out.capture() as captured:
        out.print(table, width=screen_width())
    # rich fills every line up to the width of the table.
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def screen_width() -> int:
    """The columns of a text for people: those of the terminal, and at most 100."""
    return min(out.width, _WIDEST)


def fold(text: str, width: int) -> list[str]:
    """The lines of a text, folded between words."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Facts on stdout, one a line, with their names in front; long ones are folded."""
    rows = list(facts)
    indent = 2 + max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        for line in fold(text, screen_width() - indent):
            print_line(f"{name:<{indent}}{line}".rstrip())
            name = ""


def print_text(text: str) -> None:
    """A sentence on stdout; the further lines of a long one are indented."""
    first, *others = fold(text, screen_width() - 2)
    for line in (first, *(f"  {other}" for other in others)):
        print_line(line)


def print_command(name: str, command: str) -> None:
    """A command to copy, with its name in front; the lines of a long one end as shells ask."""
    first, *others = fold(command, screen_width() - len(name) - 4)
    lines = [f"{name}{first}", *(f"{'':<{len(name) + 2}}{other}" for other in others)]
    for line in (*(f"{line} \\" for line in lines[:-1]), lines[-1]):
        print_line(line)


def print_line(text: str) -> None:
    """A line on stdout, never folded. Control characters of a name are not obeyed."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
    out.print(text, markup=False, soft_wrap=True)


def print_accuracy_fit(predictor: "AccuracyPredictor") -> None:
    """How far an accuracy predictor is off, on stdout."""
    error, chosen = predictor.error, predictor.chosen
    assert error is not None  # it was fitted just now
    if chosen is None:
        words = "not known for networks that a search chooses: it was fitted to all of them"
    else:
        words = (
            f"{100 * chosen.error:.2f} points on {chosen.n} networks that a search chose, "
            f"predicted {100 * abs(chosen.bias):.2f} too {'high' if chosen.bias > 0 else 'low'} "
            "on average"
        )
    print_text(
        f"accuracy predictor: mean error {100 * error.error:.2f} points on {error.n} networks "
        f"({error.method}), rank correlation {error.spearman:.2f}; {words}; {predictor.source}"
    )


def latency_words(seconds: float, upper: float | None, *, provenance: str) -> str:
    """A predicted latency and its bound, in words.

    Args:
        seconds: of one run.
        upper: seconds that it does not exceed; None where there is no bound.
        provenance: of the numbers that the prediction comes from.
    """
    how = provenance if provenance == "estimated" else f"predicted from {provenance} numbers"
    bound = "error not known" if upper is None else f"at most {milliseconds(upper)}"
    return f"{milliseconds(seconds)} {how}, {bound}"


def note(text: str) -> None:
    """A line of progress on stderr."""
    log.print(text, markup=False, soft_wrap=True)


def time_left(done: int, to_do: int, seconds: float) -> str:
    """How long the rest will take, in words; nothing where that is soon or not known yet.

    Args:
        done: units done in ``seconds``.
        to_do: units that are left.
        seconds: since the first word about this work.
    """
    left = seconds / done * to_do if done > 0 else 0.0
    return f"about {duration(left)} left" if left >= _SOON else ""


@contextmanager
def bar(title: str) -> Generator[ShowBar]:
    """A bar on stderr with its rate and the time that is left; without a TTY, lines."""
    if not log.is_terminal:
        shown, begun = -1, (0, 0.0)

        def show_line(done: int, total: int, note: str = "") -> None:
            nonlocal shown, begun
            tenth = 10 * done // max(total, 1)
            if tenth == shown:
                return
            if shown < 0:
                begun = done, time.monotonic()
            shown = tenth
            left = time_left(done - begun[0], total - done, time.monotonic() - begun[1])
            text = f"{title}: {done}/{total} {note}".rstrip()
            log.print(f"{text}  {left}".rstrip(), markup=False, soft_wrap=True)

        yield show_line
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=log,
    )
    with bars:
        task = bars.add_task(title, total=None, note="", rate="")

        def move_bar(done: int, total: int, note: str = "") -> None:
            speed = bars.tasks[task].speed
            rate = f"{speed:.3g}/s" if speed else ""
            bars.update(task, completed=done, total=total, note=note, rate=rate)

        yield move_bar


@contextmanager
def steps() -> Generator[Progress]:
    """One bar after the other: the function takes (step, done, total, words).

    A step of 0 units has no bar: a person may be asked something meanwhile.
    """
    with ExitStack() as shown:
        current: tuple[str, ShowBar] | None = None

        def show(step: str, done: int, total: int, words: str) -> None:
            nonlocal current
            if not total:
                shown.close()
                current = None
                return
            if current is None or current[0] != step:
                shown.close()
                current = step, shown.enter_context(bar(step))
            current[1](done, total, words)

        yield show
