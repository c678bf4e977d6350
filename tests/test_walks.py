"""The two walks of docs/design.md: every stop is there, and one leads to the next."""

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import ROOT
from test_profiling import FEW, TARGET, TINY, Scripted

from edgenas.profiling.run import ProfilePlan, profile
from edgenas.profiling.tables import predictor_for, table_for

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
STARTS = ("One `Arch` on its way", "One measured time on its way")
STOP = re.compile(r"(\d+)\. `(edgenas[\w.]+)`: ")


def stops_of(start: str) -> list[tuple[int, str]]:
    """The numbered stops of a walk, with the dotted name that each begins with."""
    (text,) = re.findall(
        rf"^{re.escape(start)}.*?\n\n((?:\d+\. .*\n)+)", DESIGN, flags=re.MULTILINE
    )
    matches = [STOP.match(line) for line in text.splitlines()]
    assert all(matches), text
    return [(int(match[1]), match[2]) for match in matches if match]


def find_definition(name: str) -> ast.AST | None:
    """The function or class of a dotted name, read from its file without running it."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = ROOT / Path(*parts[:count]).with_suffix(".py")
        if path.is_file():
            break
    else:
        return None
    node: ast.AST | None = ast.parse(path.read_text(encoding="utf-8"))
    for part in parts[count:]:
        inside = getattr(node, "body", [])
        named = [one for one in inside if getattr(one, "name", None) == part]
        node = named[-1] if named else None
    return node


@pytest.mark.parametrize("start", STARTS)
def test_a_walk_has_few_stops_and_all_of_them_exist(start: str):
    stops = stops_of(start)
    assert [number for number, _ in stops] == list(range(1, len(stops) + 1))
    assert len(stops) <= 12
    for _, name in stops:
        assert isinstance(find_definition(name), ast.FunctionDef), name


def test_a_stop_that_is_gone_is_noticed():
    assert find_definition("edgenas.latency.line.fit_line") is not None
    assert find_definition("edgenas.latency.line.Line.upper") is not None
    assert find_definition("edgenas.latency.line.fit_curve") is None
    assert find_definition("edgenas.latency.nothing.fit_line") is None


def test_a_measured_time_takes_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The functions return in the order of the stops, from the journal to the upper bound."""
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    stops = [name for _, name in stops_of(STARTS[1])][1:-1]  # the clock is scripted here
    returned: list[str] = []

    def watch(frame: FrameType, event: str, value: Any) -> None:
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        if event == "return" and name in stops and name not in returned:
            returned.append(name)

    plan = ProfilePlan(**{**FEW, "networks": 4, "further": 4, "method": "copies"})
    clock = Scripted()
    sys.setprofile(watch)
    try:
        profile(TINY, target=TARGET, plan=plan, clock=clock)
        predictor = predictor_for(table_for(TINY, target=TARGET, clock=clock), TINY)
        bounds = predictor.upper([TINY.largest()], confidence=0.8)
    finally:
        sys.setprofile(None)
    assert returned == stops
    assert bounds[0] > 0
