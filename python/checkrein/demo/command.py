"""The `checkrein` command of this installation, which the demo asks as anybody could later."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkrein.demo.place import LEDGER, STORE

PATIENCE_S = 60
MISSING = "the `checkrein` command was not found"


def command_of_this_installation() -> str | None:
    """Find the `checkrein` command: the one that started us, the one beside this Python, or one on the path."""
    beside = Path(sysconfig.get_path("scripts")) / "checkrein"
    found = os.environ.get("CHECKREIN_COMMAND") or (str(beside) if beside.exists() else None)
    return found or shutil.which("checkrein")


@dataclass(frozen=True)
class Answer:
    """What the command said to one question, for people and for programs."""

    shell: str
    text: str
    record: dict[str, Any]


def ask(directory: Path, *arguments: str, width: int) -> Answer | None:
    """Ask the command twice in `directory`, for people and for programs; `None` where there is no command.

    Raises RuntimeError if it cannot answer: findings are an answer.
    """
    command = command_of_this_installation()
    if command is None:
        return None
    text = run(command, directory, *arguments, COLUMNS=str(width))
    record = run(command, directory, *arguments, "--output", "json")
    return Answer(f"checkrein {' '.join(arguments)}", text, json.loads(record))


def export(directory: Path) -> bool:
    """Export the ledger of the store in `directory`; returns whether there is a command to do it."""
    command = command_of_this_installation()
    if command is not None:
        run(command, directory, "ledger", "export", "--store", f"sqlite:{STORE}", "-o", LEDGER)
    return command is not None


def run(command: str, directory: Path, *arguments: str, **environment: str) -> str:
    """Run the command in `directory` and return what it printed.

    Raises RuntimeError unless it ends with 0, or with 1 for findings.
    """
    done = subprocess.run(
        [command, *arguments],
        capture_output=True,
        encoding="utf-8",
        cwd=directory,
        env={**os.environ, **environment},
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode not in (0, 1) or done.stderr:
        raise RuntimeError(f"`checkrein {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout
