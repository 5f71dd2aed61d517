"""Where an act of the demo keeps its records and its ledger, and who acts in it."""

from __future__ import annotations

from pathlib import Path

import checkrein

AGENT, RUN = "support-agent", "ticket-4711"
STORE = "agent.db"
LEDGER, KEY = "ledger.jsonl", f"{STORE}.pub"


def open_engine(directory: Path, policy: Path, *, watch: str | None = None) -> checkrein.Engine:
    """Open the engine of one policy file, with its records and its ledger in a file of `directory`."""
    store = f"sqlite:{directory / STORE}"
    return checkrein.Engine.from_policy(policy, watch=watch, store=store, ledger_arguments="full")
