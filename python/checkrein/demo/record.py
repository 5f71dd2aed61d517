"""The audit trail of the demo: every decision in a hash chain on disk, verified by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkrein
from checkrein import auditgate


@dataclass(frozen=True)
class Verified:
    """What the verifier said."""

    valid: bool
    output: str


class AuditTrail:
    """Writes decisions and outcomes to a file as they are made."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, one hash chain."""
        self.path = path
        self._trail = auditgate.Trail("demo", "support-agent", "ticket-4711")
        self._store = auditgate.FileStore(path)
        self._engine = auditgate.Engine(store=self._store)
        self._engine.register(self._trail, auditgate.AuditPolicy(integrity=auditgate.IntegrityMode.CHAIN))

    def record(self, event: checkrein.Event) -> None:
        """Append one decision, or what became of an allowed call that had something to settle."""
        decision = event.decision
        if decision is None:
            self._append(
                event.tool, event.outcome == "done", "outcome", event.outcome, {"outcome": event.outcome}
            )
            return
        codes = ", ".join(reason.code for reason in decision.reasons)
        gate = decision.reasons[0].kind if decision.reasons else "admission"
        self._append(event.tool, decision.allowed, gate, codes or None, decision.to_dict())

    def _append(self, tool: str, good: bool, gate: str, reason: str | None, detail: dict[str, Any]) -> None:
        bad = auditgate.Verdict.ERROR if gate == "outcome" else auditgate.Verdict.BLOCK
        self._engine.record(
            self._trail,
            verdict=auditgate.Verdict.ALLOW if good else bad,
            severity=auditgate.Severity.INFO if good else auditgate.Severity.WARN,
            gate_type=gate,
            gate_identity=tool,
            reason=reason,
            detail=detail,
        )

    def verify(self) -> Verified:
        """Run the verifier on the file, as anyone could later."""
        self._store.close()
        command = [sys.executable, "-P", "-m", "checkrein.auditgate", "verify", "--strict", str(self.path)]
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", env=environment, timeout=60, check=False
        )
        return Verified(done.returncode == 0, done.stdout + done.stderr)
