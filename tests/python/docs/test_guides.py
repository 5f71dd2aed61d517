"""The guides for people beside the developer: every file in them is written, every command run, every answer compared.

A block after `<!-- file: NAME -->` is a file. A `console` block has commands after `$ ` and what they answer: `...`
stands for any text in a line, and alone on a line for any lines. A command has to succeed, unless it ends by showing
its exit code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MARK = "<!-- file: "
GUIDES = [path for path in sorted(ROOT.glob("docs/guides/*.md")) if MARK in path.read_text(encoding="utf-8")]
BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>[\w.-]+) -->\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Return every command of a console block with the lines it answers."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


def pattern(expected: list[str]) -> re.Pattern[str]:
    """Return what an answer has to match."""

    def of(line: str) -> str:
        if line.strip() == "...":
            return r"(?:.*\n)*?"
        pieces = re.split(r" *\.\.\. *", line.rstrip())
        return ".*".join(map(re.escape, pieces)) + r"[ ]*\n"

    return re.compile("".join(map(of, expected)))


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a reader who has just installed the package."""
    tools = directory / "bin"
    tools.mkdir()
    named = os.environ.get("CHECKREIN_COMMAND")
    command = Path(named) if named else Path(sys.executable).parent / "checkrein"
    (tools / "checkrein").symlink_to(command)
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "python").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "100", "USER": "kim"}


def test_there_is_a_guide_for_each() -> None:
    assert {"reviewer.md", "operator.md", "auditor.md"} <= {path.name for path in GUIDES}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_guide_does_what_it_says(guide: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    for block in BLOCK.finditer(guide.read_text(encoding="utf-8")):
        if block["file"]:
            (work / block["file"]).write_text(block["text"], encoding="utf-8")
        if block["language"] != "console":
            continue
        for command, expected in commands(block["text"]):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=work,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            if expected:
                assert pattern(expected).fullmatch(done.stdout), f"{command}\n{done.stdout}"
