"""The second act of the demo: the agent's process is killed in the middle of a refund, and starts again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkrein.demo.life import AMOUNT, PAYMENT, STORE, Bank
from checkrein.demo.timeline import Timeline

PATIENCE_S = 60


@dataclass
class Crash:
    """What happened in both lives, and what the ledger's verifier says."""

    killed: bool = False
    in_doubt: list[dict[str, Any]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    looked_up: dict[str, Any] | None = None
    verdicts: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    transfers: list[tuple[str, str]] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether one refund was made and the ledger proves it, as far as it could be verified."""
        return self.killed and len(self.transfers) == 1 and self.ledger.get("valid") is not False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        transfers = [{"payment": payment, "amount": amount} for payment, amount in self.transfers]
        return {**vars(self), "transfers": transfers}


def play(directory: Path, timeline: Timeline | None, pause: Callable[[], None]) -> Crash:
    """Let the process live twice; shows it on `timeline`, with a pause between the steps."""
    crash = Crash()
    first, crash.killed = _live(directory, "--die")
    second, _ = _live(directory)
    for event in first + second:
        if event["event"] == "decision":
            crash.verdicts.append(event["decision"]["verdict"])
        elif event["event"] == "looked_up":
            crash.looked_up = event
        elif event["event"] == "result":
            crash.result = event["result"]
    started = next(event for event in second if event["event"] == "started")
    crash.in_doubt, crash.held = started["in_doubt"], started["held"]
    crash.transfers = Bank(directory).transfers()
    crash.ledger = verify(directory)
    if timeline is not None:
        _show(crash, timeline, pause)
    return crash


def _live(directory: Path, *options: str) -> tuple[list[dict[str, Any]], bool]:
    """Let the process live once; returns what it told, and whether it was killed."""
    command = [sys.executable, "-P", "-m", "checkrein.demo.life", str(directory), *options]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=environment, timeout=PATIENCE_S, check=False
    )
    killed = done.returncode == -9
    if done.returncode != 0 and not killed:
        raise RuntimeError(f"the agent's process failed: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines()], killed


def command_of_this_installation() -> str | None:
    """Find the `checkrein` command: the one that started us, the one beside this Python, or one on the path."""
    beside = Path(sysconfig.get_path("scripts")) / "checkrein"
    found = os.environ.get("CHECKREIN_COMMAND") or (str(beside) if beside.exists() else None)
    return found or shutil.which("checkrein")


def verify(directory: Path) -> dict[str, Any]:
    """Export the ledger and verify the export with nothing but the public key, as a stranger would."""
    command = command_of_this_installation()
    if command is None:
        return {"valid": None, "reason": "the `checkrein` command was not found"}
    export, key = directory / "ledger.jsonl", directory / f"{STORE}.pub"
    for arguments in (
        ["ledger", "export", "--store", f"sqlite:{directory / STORE}", "-o", str(export)],
        ["ledger", "verify", str(export), "--key", str(key), "--output", "json"],
    ):
        done = subprocess.run(
            [command, *arguments], capture_output=True, encoding="utf-8", timeout=PATIENCE_S, check=False
        )
        if done.returncode not in (0, 1) or (arguments[1] == "export" and done.returncode != 0):
            raise RuntimeError(f"`checkrein ledger {arguments[1]}` failed: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _show(crash: Crash, timeline: Timeline, pause: Callable[[], None]) -> None:
    call = f"{PAYMENT}  {AMOUNT}"
    first, *_, last = crash.verdicts
    pause()
    timeline.act("Second act: a refund, and kill -9 in the middle of it")
    timeline.thought("One more duplicate. I refund it.")
    timeline.step(first, "refund", call)
    timeline.note("the bank", f"has paid {AMOUNT} and answers ...")
    pause()
    timeline.step("killed", "kill -9", "before anybody heard the answer")
    pause()
    timeline.step("started", "the agent", f"again, on the same {STORE}")
    for operation in crash.in_doubt:
        timeline.note(
            "in doubt", f"`{operation['key']}`: the intent was on the disk before the bank was asked"
        )
    timeline.note("the budget", f"still holds {', '.join(crash.held)} usd: it may have been spent")
    pause()
    timeline.thought("Was that refunded? I do it again.")
    timeline.step(last, "refund", call)
    if crash.looked_up is not None:
        found = "that was paid" if crash.looked_up["found"] else "never seen"
        timeline.note("reconcile hook", f"asked the bank for {crash.looked_up['idempotency_key']}: {found}")
    timeline.meaning("Not paid twice, and not forgotten: the answer is recorded, and so is how it was found.")
