"""README.md: its Python runs, and nobody shows a command that CI does not run."""

import sys
from pathlib import Path

import pytest
from conftest import ROOT

from tools.docs.readme_run import RUN, SETUP, Block, blocks, commands, main

README = ROOT / "README.md"

PAGE = """\
Words.

```console
$ one
output
$ two \\
>   --more  # said beside
```

<!-- not run: takes an hour -->
```python
raise SystemExit
```

<!-- not run: this speaks of no block -->
Words between.

````python
fence = "```"
````
"""


def page() -> list[Block]:
    if not README.is_file():
        pytest.skip("no README.md in this checkout")
    return blocks(README.read_text(encoding="utf-8"))


def test_the_blocks_of_a_page_are_found_with_their_reasons():
    console, skipped, python = blocks(PAGE)
    assert commands(console) == ["one", "two --more"]
    assert (skipped.language, skipped.not_run) == ("python", "takes an hour")
    assert (python.code, python.not_run) == ('fence = "```"\n', None)
    assert [PAGE.splitlines()[b.line - 1] for b in (console, skipped, python)] == [
        "$ one",
        "raise SystemExit",
        'fence = "```"',
    ]


def run_page(folder: Path, text: str, *only: str) -> int:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    arguments = [word for start in only for word in ("--only", start)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["readme_run", str(path), *arguments])
        patch.chdir(folder)
        return main()


def test_commands_run_in_order_and_stop_at_the_first_failure(tmp_path: Path):
    text = "```console\n$ touch a\n$ rm a && touch b\n$ exit 3\n$ touch c\n```\n"
    assert run_page(tmp_path, text, "touch", "rm", "exit") == 3
    assert {p.name for p in tmp_path.iterdir()} == {"b", "page.md"}


def test_a_page_without_the_command_asked_for_fails(tmp_path: Path, capfd: pytest.CaptureFixture):
    assert run_page(tmp_path, "```console\n$ touch a\n```\n", "pytest") == 1
    assert "shows 0 commands that start with 'pytest'" in capfd.readouterr().out


def test_a_block_that_is_not_run_says_why(tmp_path: Path, capfd: pytest.CaptureFixture):
    text = (
        "<!-- not run: no board here -->\n```console\n$ touch a\n```\n```console\n$ touch b\n```\n"
    )
    assert run_page(tmp_path, text, "touch") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"b", "page.md"}
    assert "not run: touch a\n    reason: no board here" in capfd.readouterr().out


def test_every_command_of_the_readme_is_run_by_somebody():
    shown = [c for b in page() if b.language == "console" and not b.not_run for c in commands(b)]
    stray = [c for c in shown if not c.startswith((*RUN, *SETUP))]
    assert not stray, f"no check runs {stray}: say <!-- not run: why --> above the block"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = [b for b in page() if b.language == "python" and b.not_run is None]
    if not python:
        pytest.skip("README.md shows no Python that is to be run")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in python:
        # Empty lines in front make a traceback name the line of README.md.
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(README), "exec"), namespace)
