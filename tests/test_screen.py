"""What verbs print for people: at most 100 columns in a pipe, tables whose names can be copied."""

import json
from pathlib import Path

import pytest

from edgenas.cli import console
from edgenas.cli.console import print_command, print_table, print_text
from edgenas.space.arch import Arch

WIDEST = 100


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def lines_of(text: str) -> list[str]:
    lines = text.splitlines()
    assert [line for line in lines if len(line) > WIDEST] == []
    assert [line for line in lines if line != line.rstrip()] == []
    return lines


@pytest.mark.parametrize(
    "kind", ["devices", "spaces", "backbones", "supernets", "runtimes", "formats"]
)
def test_lists_fit_the_screen(edgenas, kind: str):
    done = edgenas("list", kind)
    assert done.code == 0, done.log
    rows = json.loads(edgenas("list", kind, "--json").out)[kind]
    column = next(iter(rows[0]))
    names = {line.split()[0] for line in lines_of(done.out)[1:] if not line.startswith(" ")}
    assert names == {row[column] for row in rows}


def test_a_list_of_devices_has_one_line_for_each_runtime_of_a_device(edgenas):
    rows = json.loads(edgenas("list", "devices", "--json").out)["devices"]
    header, *lines = lines_of(edgenas("list", "devices").out)
    assert header.split() == ["device", "also", "runtime", "threads", "latency", "numbers"]
    assert len(lines) == len({(row["device"], row["runtime"]) for row in rows}) < len(rows)
    (jetson,) = [line for line in lines if "jetson  " in line and "tensorrt fp16" in line]
    assert jetson.split()[:2] == ["jetson-orin-nano", "jetson"]
    (agx,) = [line for line in lines if line.startswith("jetson-agx-orin") and "ncnn" in line]
    assert "1, 2, 4, 8, 12" in agx


def test_a_front_fits_the_screen_with_its_words_too(edgenas):
    words = ("pareto", "--device", "jetson", "--evaluations", 3000)
    short = edgenas(*words)
    assert short.code == 0, short.log
    front = json.loads(edgenas(*words, "--json").out)["devices"][0]
    names, points = short.out.splitlines()[1].split(), front["points"]
    assert names == ["network", "agreement", "latency", "at", "most", "MACs", "params"]
    assert f"\n{points[-1]['arch_id']} " in short.out
    assert "edgenas specialize --ssh user@board" in short.out
    lines_of(short.out)
    told = edgenas(*words, "--verbose").out
    flat = " ".join(" ".join(line[56:] for line in lines_of(told)).split())
    assert str(Arch.from_json(points[-1]["arch"])) in flat
    assert all(note in " ".join(told.split()) for note in front["notes"])
    assert len(told.splitlines()) > len(short.out.splitlines())


def test_the_names_of_a_table_are_whole_however_long_its_texts_are(capsys):
    print_table(("name", "text"), [("a" * 60, "two words " * 20), ("b", "c")])
    lines = lines_of(capsys.readouterr().out)
    assert lines[1].split()[0] == "a" * 60
    assert lines[-1].split() == ["b", "c"]


def test_a_long_sentence_is_folded_between_words(capsys):
    print_text("short")
    print_text(" ".join(f"word-{i}" for i in range(40)))
    first, *others = lines_of(capsys.readouterr().out)
    assert first == "short"
    assert len(others) > 1
    assert [line.startswith("  ") for line in others] == [False] + [True] * (len(others) - 1)
    assert " ".join(" ".join(others).split()) == " ".join(f"word-{i}" for i in range(40))


def test_a_long_command_is_folded_as_shells_read_it(capsys):
    command = "edgenas profile " + " ".join(f"--option-{i} value" for i in range(12))
    print_command("time    ", command)
    text = capsys.readouterr().out
    lines = lines_of(text)
    assert len(lines) > 1
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert text.replace("\\\n", "").split() == ["time", *command.split()]


def test_a_terminal_that_is_narrow_has_its_own_width(monkeypatch, capsys):
    monkeypatch.setattr(console.out, "_width", 60)
    print_text("some words " * 20)
    print_table(("name", "text"), [("a", "some words " * 20)])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60
