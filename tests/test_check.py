"""The drift check, on clocks whose noise and drift are known; time is never looked at."""

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
import yaml
from conftest import ROOT

from edgenas.basics.errors import EdgenasError
from edgenas.clock.board.settings import TimingSettings
from edgenas.clock.board.statistics import summarize
from edgenas.clock.measure import Measurement, measurement
from edgenas.latency.device import Target
from edgenas.latency.table_file import load_table, save_table, table_path
from edgenas.profiling import check as checks
from edgenas.profiling import reach
from edgenas.profiling.check import check
from edgenas.profiling.drift import DriftCheck, Sentinel, assess_drift, find_causes
from edgenas.profiling.journal import journal_path
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.profiling.tables import NoTableError
from edgenas.space import presets as spaces

SPACE = spaces.tiny()
TARGET = Target("host", "onnxruntime", "fp32")
MACHINE = {
    "cpu": "this",
    "governor": "performance",
    "cores": 2,
    "load": 0.1,
    "runtime_version": "1.0",
    "python": "3.11.7",
}


class Resampled:
    """A machine at two speeds whose runs are drawn anew each time, and that may have drifted.

    Loading a graph anew changes its time: by 1.5% for networks and 5% for layers, with heavy tails,
    as this project has measured. Runs vary by 3% at full speed. A seventh of them are half as fast
    again; the gate keeps most of those out.
    """

    def __init__(
        self,
        seed: int,
        drift: Callable[[str], float] = lambda name: 1.0,
        *,
        canary: float = 1e-4,
        **machine: object,
    ) -> None:
        self.random, self.drift, self.canary = np.random.default_rng(seed), drift, canary
        self.machine = MACHINE | machine
        self.calls = 0

    def environment(self, runtime: str, *, threads: int):
        return dict(self.machine)

    def measure(
        self, units, *, runtime, settings, batch, watch, evict=None
    ) -> Iterator[Measurement]:
        self.calls += 1
        for name, _ in units:
            yield self.timed(name, settings)
        watch({"event": "end", "load": self.machine["load"]})

    def timed(self, name: str, settings: TimingSettings) -> Measurement:
        draw = self.random
        is_layer = "(" in name
        loading = draw.standard_t(4) * (0.035 if is_layer else 0.011)
        typical = seconds(name) * self.drift(name) * np.exp(loading)
        runs = typical * np.exp(draw.normal(0, 0.03, 60))
        slow = draw.random(60) < 1 / 7
        runs[slow] *= 1.5
        kept = runs[~slow | (draw.random(60) < 0.1)]
        nanoseconds = [[round(t * 1e9) for t in times] for times in (kept, runs)]
        told = summarize(*nanoseconds, settings=settings)
        return measurement(
            {
                "event": "result",
                "id": name,
                **told,
                "canary": self.canary,
                "samples": nanoseconds[0],
                "wall_samples": nanoseconds[1],
            }
        )


def seconds(name: str) -> float:
    """The true time of a unit: of a layer, of some copies of it, or of a network."""
    layer = re.fullmatch(r"(.*\))(?: x(\d+) behind \d+ MB)?", name)
    if layer is None:
        return 1e-3 * (1 + zlib.crc32(name.encode()) % 1000 / 1000)
    own = 5e-5 * (1 + zlib.crc32(layer[1].encode()) % 1000 / 250)
    return own * int(layer[2] or 1) + (2e-5 if layer[2] else 0.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a machine whose table is measured."""
    folder = tmp_path_factory.mktemp("profiled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_CACHE", str(folder))
        profile(
            SPACE, target=TARGET, plan=ProfilePlan(networks=8, further=4), clock=Resampled(1000)
        )
    return folder


@pytest.fixture
def profiled(tables: Path, own_cache: Path) -> None:
    shutil.copytree(tables, own_cache, dirs_exist_ok=True)


def run(seed: int = 0, drift=lambda name: 1.0, **changes) -> DriftCheck:
    return check(TARGET, clock=Resampled(seed, drift, **changes))


# The verdict


@pytest.mark.parametrize("runs", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_clean_runs_are_quiet(profiled, runs: int):
    found = [run(seed) for seed in range(runs)]
    assert [one.drifted for one in found] == [False] * runs
    assert all(one.causes == () for one in found)
    kinds = [row.kind for row in found[0].rows]
    assert kinds.count("network") == checks.NETWORKS
    assert kinds.count("layer") >= 3


@pytest.mark.parametrize(
    ("factor", "runs"),
    [
        (1.10, 5),
        pytest.param(1 / 1.10, 5, marks=pytest.mark.slow),
        pytest.param(1.10, 20, marks=pytest.mark.slow),
    ],
)
def test_runs_that_are_ten_percent_off_are_found(profiled, factor: float, runs: int):
    found = [run(seed, lambda name: factor) for seed in range(runs)]
    assert [one.drifted for one in found] == [True] * runs
    for one in found:
        assert [group.name for group in one.groups] == ["networks", "layers"]
        assert all(group.low <= group.change <= group.high for group in one.groups)
    for i in (0, 1):
        changes = [one.groups[i].change for one in found]
        assert np.mean(changes) == pytest.approx(factor - 1, abs=0.02)


def test_a_wider_tolerance_lets_it_pass(profiled):
    slower = Resampled(0, lambda name: 1.10)
    assert not check(TARGET, clock=slower, tolerance=0.2).drifted


def test_one_layer_that_is_far_off_is_found_alone(profiled):
    chosen = [row.name for row in run().rows if row.kind == "layer"][-1]
    found = run(1, lambda name: 1.5 if name.startswith(chosen) else 1.0)
    assert found.drifted
    assert found.alone == (chosen,)
    assert abs(found.groups[0].change) < 0.05
    assert found.verdict().endswith(f"alone by far more: {chosen}")


def test_a_drift_of_all_names_three_of_them(profiled):
    found = run(1, lambda name: 1.5)
    count = len(found.alone)
    assert count > 4
    assert found.verdict().endswith(f"{', '.join(found.alone[:3])} and {count - 3} more")
    assert found.to_json()["alone"] == list(found.alone)


def test_a_drift_that_a_second_look_does_not_see_is_none(profiled):
    clock = Resampled(0)
    clock.drift = lambda name: 1.1 if clock.calls <= checks.VISITS else 1.0
    found = check(TARGET, clock=clock)
    assert clock.calls == 2 * checks.VISITS
    assert not found.drifted


def test_a_check_changes_neither_table_nor_journal(profiled):
    paths = (table_path(TARGET), journal_path(TARGET))
    before = [path.read_bytes() for path in paths]
    run()
    assert [path.read_bytes() for path in paths] == before


def test_the_interval_is_that_of_the_sign_test():
    """With 18 sentinels the 5th and the 14th enclose the median with at least 95%."""
    rows = [row(1.0, 1 + i / 500) for i in range(18)]
    (found,) = assess_drift(rows, tolerance=0.05).groups
    assert (found.low, found.high) == (pytest.approx(0.008), pytest.approx(0.026))
    assert found.change == pytest.approx(0.017)
    assert str(found) == "18 sentinels 1.7% slower (+0.8% to +2.6%)"
    # All of the interval has to be beyond, not its middle.
    off = [row(1.0, 1.049 if i < 5 else 1.2) for i in range(18)]
    assert not assess_drift(off, tolerance=0.05).drifted
    assert assess_drift([row(1.0, 1.051)] * 18, tolerance=0.05).drifted
    assert assess_drift([row(1.0, 1 / 1.051)] * 18, tolerance=0.05).drifted


def row(stored: float, now: float, *, noisy: bool = False) -> Sentinel:
    return Sentinel(kind="layer", name="a", stored=stored, now=now, noisy=noisy)


# The cause


@pytest.mark.parametrize(
    ("machine", "cause"),
    [
        ({"runtime_version": "1.1"}, "versions: runtime_version was 1.0, is 1.1"),
        ({"python": "3.12.1"}, "versions: python was 3.11.7, is 3.12.1"),
        ({"governor": "powersave"}, "clocks: governor was performance, is powersave"),
        ({"cpu": "that"}, "another machine: cpu was this, is that"),
        ({"canary": 1.1e-4}, "clocks: the processor itself is 10.0% slower: its frequency"),
        ({"load": 9.5}, "noise: 0 of"),
        ({}, "no cause is known"),
    ],
)
def test_the_likely_cause_is_told(profiled, machine: dict, cause: str):
    found = run(0, lambda name: 1.1, **machine)
    assert found.drifted
    assert found.causes[0].startswith(cause)


def test_the_heat_of_the_board_is_told(profiled):
    table = load_table(table_path(TARGET))
    state = {"temperature": 81.4, "throttled": "throttled=0x50005"}
    environment = {**table.environment, "canary": 2e-4, "after": state}
    causes, _ = find_causes(table, replace(table, environment=environment), [row(1, 2)])
    assert causes == (
        "clocks: the processor itself is 100.0% slower, 81 degrees: its frequency, heat or a limit "
        "of power",
        "clocks: the board reports throttled=0x50005",
    )


def test_a_new_version_that_costs_nothing_is_a_note(profiled):
    found = run(0, runtime_version="1.1")
    assert not found.drifted
    assert found.notes[0] == "changed since the table was made: runtime_version was 1.0, is 1.1"


def test_noisy_sentinels_do_not_count_alone_and_are_told():
    rows = [row(1.0, 1.0)] * 9 + [row(1.0, 2.0, noisy=True)]
    assert not assess_drift(rows, tolerance=0.05).drifted


# What it writes


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_junit_says_the_same(profiled, factor: float):
    found = run(0, lambda name: factor)
    suites = ElementTree.fromstring(found.to_junit())
    (suite,) = suites
    cases = list(suite)
    failures = suite.findall("./testcase/failure")
    assert suite.get("tests") == str(len(cases)) == str(len(found.rows) + 1)
    assert suite.get("failures") == str(len(failures)) == str(int(factor > 1))
    if found.drifted:
        assert failures[0].get("message") == found.verdict()
        assert failures[0].text == "\n".join(found.causes)


def test_the_verb_ends_with_one_on_drift(profiled, tmp_path, monkeypatch, capsys):
    from edgenas.cli.check import VERB

    verb = VERB.command()
    shared = {field.name: field.default for field in VERB.fields} | {"device": "host"}
    clock = Resampled(0)
    monkeypatch.setattr(reach, "clock_at_hand", lambda *a, **k: clock)
    verb(**shared | {"json": True})
    quiet = json.loads(capsys.readouterr().out)
    assert (quiet["schema"], quiet["drifted"]) == ("edgenas.check/1", False)
    clock.drift = lambda name: 1.1
    report = tmp_path / "report" / "drift.xml"
    with pytest.raises(typer.Exit) as stop:
        verb(**shared | {"junit": report})
    assert stop.value.exit_code == 1
    said = capsys.readouterr().out
    assert "DRIFT of host / onnxruntime fp32" in said
    assert "likely cause: no cause is known" in said
    assert ElementTree.parse(report).getroot()[0].get("failures") == "1"
    verb(**shared | {"tolerance": "20%"})


# What is refused


def test_without_a_measured_table_there_is_nothing_to_check(profiled):
    with pytest.raises(NoTableError, match="there is no latency table of") as caught:
        check(replace(TARGET, threads=2), clock=Resampled(0))
    assert caught.value.hint == "edgenas profile --device host --space SPACE"
    path = table_path(TARGET)
    save_table(replace(load_table(path), provenance="published"), path)
    with pytest.raises(NoTableError, match="is published: only a measured one can be checked"):
        run()


def test_a_table_made_in_another_way_is_made_anew(profiled):
    path = table_path(TARGET)
    save_table(replace(load_table(path), method="by a sundial"), path)
    with pytest.raises(EdgenasError, match="a method that this edgenas does not know"):
        run()


def test_a_table_of_an_unknown_space_asks_for_its_file(profiled):
    path = table_path(TARGET)
    table = load_table(path)
    networks = tuple(replace(network, space="mine") for network in table.networks)
    save_table(replace(table, networks=networks), path)
    with pytest.raises(EdgenasError, match="unknown space 'mine'") as caught:
        run()
    assert "--space FILE.toml" in caught.value.hint
    assert not check(TARGET, clock=Resampled(0), space=SPACE).drifted
    save_table(replace(table, networks=()), path)
    with pytest.raises(EdgenasError, match="holds no networks that tell its space"):
        run()


@pytest.mark.parametrize("tolerance", [0.0, 1.0, float("nan")])
def test_a_tolerance_is_a_fraction(profiled, tolerance: float):
    with pytest.raises(EdgenasError, match="tolerance must be between"):
        check(TARGET, clock=Resampled(0), tolerance=tolerance)


# The workflow for a runner on a board


def test_the_workflow_runs_commands_that_exist():
    from typer.main import get_command

    from edgenas.cli import app

    text = (ROOT / "tools" / "ci" / "edgenas-check.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow) == {"name", True, "permissions", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    assert {"schedule", "workflow_dispatch"} <= set(workflow[True])
    lines: list[str] = []
    for job in workflow["jobs"].values():
        assert "self-hosted" in job["runs-on"]
        assert job["timeout-minutes"] <= 30
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            # An expression inside a script is how a title of an issue becomes a command.
            assert "${{" not in step.get("run", "")
            lines += step.get("run", "").replace("\\\n", " ").splitlines()
    commands = [line.split() for line in lines if line.split()[:1] == ["edgenas"]]
    assert [words[1] for words in commands] == ["check"]
    verbs = get_command(app)
    for words in commands:
        known = {
            name for option in verbs.get_command(None, words[1]).params for name in option.opts
        }
        used = set(re.findall(r"--[a-z-]+", " ".join(words)))
        assert used <= known, used - known
        required = {o.opts[0] for o in verbs.get_command(None, words[1]).params if o.required}
        assert required <= used
