"""Run the commands that README.md shows, so that page and CI cannot diverge.

    python -m tools.docs.readme_run README.md --only "pip install"

A block under ``<!-- not run: REASON -->`` is left out, and the reason is printed. In a ``console``
block a command stands after ``$``, goes on after a trailing backslash, and everything else is
output. The commands run one after another in the current folder; the first that fails ends the run
with its exit code.
"""

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^ {0,3}(`{3,})\s*([\w+-]*).*$")
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->", re.DOTALL)
# Commands of a page that a test or CI does in its own way, in its own folder.
SETUP = ("git clone ", "cd ", "python -m venv ", "python3 -m venv ", "source ", ". ")
RUN = ("pip install ", "pytest", "ruff ", "pyright", "edgenas ")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page.

    Attributes:
        language: the word after the fence, e.g. ``python``; may be empty.
        code: the text between the fences.
        line: the number of the first line of ``code``, from 1.
        not_run: why the block is not to be run; None when it is.
    """

    language: str
    code: str
    line: int
    not_run: str | None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown page, in order."""
    found: list[Block] = []
    lines = text.splitlines()
    number, between = 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            between += lines[number] + "\n"
            number += 1
            continue
        start = number + 1
        number = start
        while number < len(lines) and lines[number].strip() != fence[1]:
            number += 1
        # The comment must be the last thing before its block, or it would speak of another one.
        reason = re.search(_NOT_RUN.pattern + r"\s*\Z", between, re.DOTALL)
        found.append(
            Block(
                language=fence[2],
                code="\n".join(lines[start:number]) + "\n",
                line=start + 1,
                not_run=reason[1] if reason else None,
            )
        )
        number, between = number + 1, ""
    return found


def commands(block: Block) -> list[str]:
    """The shell commands of a ``console`` block."""
    found: list[str] = []
    lines = iter(block.code.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        command = line[2:].strip()
        while command.endswith("\\"):
            command = command[:-1].rstrip() + " " + next(lines, "").removeprefix(">").strip()
        found.append(command.split("  # ")[0].strip())
    return found


def main() -> int:
    """Run the selected commands; the exit code of the first that fails, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument(
        "--only", action="append", required=True, help="run commands that start so; repeatable"
    )
    parser.add_argument("--at-least", type=int, default=1, help="fewer commands are a failure")
    arguments = parser.parse_args()
    ran = 0
    for block in blocks(arguments.page.read_text(encoding="utf-8")):
        if block.language != "console":
            continue
        for command in commands(block):
            if not command.startswith(tuple(arguments.only)):
                continue
            if block.not_run is not None:
                print(f"not run: {command}\n    reason: {block.not_run}", flush=True)
                continue
            print(f"$ {command}", flush=True)
            start = time.monotonic()
            # The page is the project's own and shows what a person types into a shell.
            code = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL).returncode
            print(f"    exit {code} after {time.monotonic() - start:.1f} s", flush=True)
            if code:
                return code
            ran += 1
    if ran < arguments.at_least:
        wanted = " or ".join(repr(only) for only in arguments.only)
        print(f"{arguments.page} shows {ran} commands that start with {wanted}, not enough")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
