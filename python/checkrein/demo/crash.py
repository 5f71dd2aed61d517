"""The crash in the demo: the agent's process is killed in the middle of a refund, and starts again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkrein.demo.command import MISSING, command_of_this_installation, export, run
from checkrein.demo.life import CENTS, PAYMENT, Bank
from checkrein.demo.place import KEY, LEDGER, STORE
from checkrein.demo.timeline import Timeline
from checkrein.demo.tools import dollars

PATIENCE_S = 60
AMOUNT = dollars(CENTS)


@dataclass
class Crash:
    """What happened in both lives, and what the ledger's verifier says."""

    killed: bool = False
    in_doubt: list[dict[str, Any]] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    thresholds: list[dict[str, Any]] = field(default_factory=list)
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
        elif event["event"] == "threshold":
            crash.thresholds.append({name: event[name] for name in ("budget", "percent")})
        elif event["event"] == "result":
            crash.result = event["result"]
        elif event["event"] in ("started", "ended"):
            crash.spent.append(event["spent"])
    crash.in_doubt = next(event["in_doubt"] for event in second if event["event"] == "started")
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


def verify(directory: Path) -> dict[str, Any]:
    """Export the ledger and verify the export with nothing but the public key, as a stranger would."""
    command = command_of_this_installation()
    if command is None or not export(directory):
        return {"valid": None, "reason": MISSING}
    answer: dict[str, Any] = json.loads(
        run(command, directory, "ledger", "verify", LEDGER, "--key", KEY, "--output", "json")
    )
    return answer


def _show(crash: Crash, timeline: Timeline, pause: Callable[[], None]) -> None:
    call = f"{PAYMENT}  {AMOUNT} usd"
    first, *_, last = crash.verdicts
    pause()
    timeline.act("And through a crash: a transfer, and kill -9 in the middle of it")
    timeline.step(first, "transfer", call)
    timeline.note("the bank", f"has paid {AMOUNT} and answers ...")
    pause()
    timeline.step("killed", "kill -9", "before anybody heard the answer")
    pause()
    timeline.step("started", "the agent", f"again, on the same {STORE}")
    for operation in crash.in_doubt:
        timeline.note("in doubt", f"`{operation['key']}`: the intent was on the disk before the bank paid")
    before, after, *_ = crash.spent
    near = "".join(f"; over {crossed['percent']} % of its limit" for crossed in crash.thresholds)
    timeline.note("the budget", f"has counted it: {after} usd, was {before}{near}")
    pause()
    timeline.thought("Was that refunded? I do it again.")
    timeline.step(last, "transfer", call)
    if crash.looked_up is not None:
        found = "that was paid" if crash.looked_up["found"] else "never seen"
        timeline.note("reconcile hook", f"asked the bank by the operation's key: {found}")
    timeline.meaning("Not paid twice, and not forgotten.")
