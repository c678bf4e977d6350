"""What the files and the commands of an operating system answer."""

from __future__ import annotations

import os
import subprocess


def read_text(path: str) -> str | None:
    """The text of a small file; None where it cannot be read or is empty."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().replace("\0", " ").strip() or None
    except OSError:
        return None


def read_number(path: str) -> float | None:
    """The number that a small file holds; None where it holds none."""
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def run_command(*command: str) -> str | None:
    """What a command prints; None where it is missing, fails or takes longer than 10 s."""
    environment = dict(os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip() or None


def values_after(text: str | None, label: str) -> str | None:
    """The different values behind ``label:`` in lines of text, joined by " + "."""
    values = [
        line.split(":", 1)[1].strip()
        for line in (text or "").splitlines()
        if line.split(":", 1)[0].strip() == label and ":" in line
    ]
    return " + ".join(dict.fromkeys(value for value in values if value)) or None
