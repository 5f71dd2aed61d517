"""What the acts of the demo came to, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from checkrein.demo.budgeted import Budgeted
from checkrein.demo.command import Answer
from checkrein.demo.crash import Crash
from checkrein.demo.enforced import Enforced
from checkrein.demo.observed import Observed
from checkrein.demo.record import Verified

Row = tuple[str, str, str]


@dataclass
class Story:
    """All acts, and what the verifiers say."""

    observed: Observed
    enforced: Enforced
    crash: Crash
    replay: Answer | None
    verdict: Verified
    budgeted: Budgeted

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        events = self.enforced.events
        codes = Counter(reason["code"] for event in events for reason in event["decision"]["reasons"])
        audit = {
            "file": str(self.enforced.trail.path),
            "valid": self.verdict.valid,
            "output": self.verdict.output,
        }
        report = self.observed.report
        return {
            "observed": self.observed.to_dict(),
            "report": None if report is None else report.record,
            "verdicts": dict(Counter(event["verdict"] for event in events)),
            "reasons": dict(codes),
            "meters": self.enforced.meters,
            "model": self.enforced.model(),
            "reloads": self.enforced.reloads,
            **self.enforced.outcome(),
            "audit": audit,
            "crash": self.crash.to_dict(),
            "budgeted": self.budgeted.to_dict(),
            "replay": None if self.replay is None else self.replay.record,
        }

    def rows(self) -> Iterator[Row]:
        """Return the lines of the last table: (label, text, style)."""
        summary = self.to_dict()
        verdicts = ", ".join(f"{count} {word}" for word, count in sorted(summary["verdicts"].items()))
        yield "decisions", verdicts, ""
        before, after = summary["observed"]["model"], summary["model"]
        yield "the model", f"{before['usd']} usd observed, {after['usd']} usd enforced, of gpt-5", ""
        yield "refunds", f"{_refunds(summary['observed'])} observed, {_refunds(summary)} enforced", ""
        yield "audit", self.verdict.output.strip().splitlines()[-1], _style(self.verdict.valid)
        yield "the run", self.budgeted.row(), _style(self.budgeted.good)
        yield "crash", self._crash(), _style(self.crash.good)
        yield "ledger", self._ledger(), _style(self.crash.ledger["valid"] is not False)

    def _crash(self) -> str:
        paid = ", ".join(" ".join(transfer) for transfer in self.crash.transfers)
        doubts, transfers = len(self.crash.in_doubt), len(self.crash.transfers)
        return f"{doubts} in doubt and found out, {transfers} at the bank: {paid}"

    def _ledger(self) -> str:
        ledger = self.crash.ledger
        if ledger["valid"] is None:
            return f"not verified: {ledger['reason']}"
        word = "valid" if ledger["valid"] else f"NOT VALID: {ledger['reason']}"
        return f"{word}, {ledger['entries']} entries over both lives"


def _style(good: bool) -> str:
    return "green" if good else "red"


def _refunds(outcome: dict[str, Any]) -> str:
    return ", ".join(f"{refund['payment']} {refund['amount']}" for refund in outcome["refunds"]) or "none"
