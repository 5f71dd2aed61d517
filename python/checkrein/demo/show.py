"""Runs the demo: shop, engine, model server and agent; shows every decision, then proves what happened."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import checkrein
from checkrein.demo import script, server
from checkrein.demo.agent import Agent, Watcher
from checkrein.demo.crash import Crash, play
from checkrein.demo.guarded import guarded_tools, meters
from checkrein.demo.record import AuditTrail, Verified
from checkrein.demo.timeline import Timeline
from checkrein.demo.tools import Shop

TASK = "Work on ticket 4711."
PAUSE_S = 0.9
COOLDOWN, FAST_COOLDOWN = "2s", "200ms"
METERS = {"limit": "rate quota", "budget": "budget"}
# What a newcomer should take from a decision, by its first reason or its verdict.
MEANING = {
    "attempts_exceeded": "A circle of identical calls is cut.",
    "rule_violated": "The number never reaches the search.",
    "budget_exceeded": "One admission: what the budget refuses has not used the rate quota either.",
    "cooldown": "Too fast; the refusal says how long to wait.",
    "replay": "Asked twice, done once: this is the stored result, the refund did not run again.",
}


class Show(Watcher):
    """Watches the agent, the engine and the shop, and tells what it sees as text or as JSON."""

    def __init__(self, *, fast: bool, json_output: bool, interactive: bool, json_lines: bool = False) -> None:
        """Show at a pace for people unless `fast`; print one JSON document instead if `json_output`.

        With `json_lines` it is an event on each line, and the summary on the last.
        """
        self.json_lines = json_lines
        self.fast = fast
        self.timeline = None if json_output else Timeline()
        self.interactive = interactive and not json_output and sys.stdin.isatty() and sys.stdout.isatty()
        self.began = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.decisions: list[checkrein.Decision] = []
        self.call: dict[str, Any] = {}
        self.meters: dict[str, dict[str, str]] = {}

    def run(self, keep: Path | None) -> int:
        """Show everything once; returns the exit code."""
        with workspace(keep) as directory:
            shop = Shop(directory)
            engine = checkrein.Engine()
            trail = AuditTrail(directory / "audit.jsonl")
            engine.add_listener(self._decided)
            engine.add_listener(trail.record)
            self.tools = guarded_tools(engine, shop, FAST_COOLDOWN if self.fast else COOLDOWN)
            with server.serve(script.answer) as url:
                self._title(url, directory)
                Agent(url, self.tools, self).work(TASK)
            crash = play(directory, self.timeline, self._pause)
            verdict = trail.verify()
            self._finish(shop, trail, verdict, crash)
            if self.timeline is not None and not self.interactive and keep is None:
                print("\nIts files are removed now; `--keep DIRECTORY` leaves them.")
            if self.interactive and keep is None:
                with suppress(EOFError):
                    input(f"\nThe files are in {directory}. Press Enter to remove them. ")
        return 0 if verdict.valid and crash.good else 1

    def _decided(self, event: checkrein.Event) -> None:
        if event.decision is not None:
            self.decisions.append(event.decision)

    def _title(self, url: str, directory: Path) -> None:
        if self.timeline is None:
            return
        self.timeline.title(
            "Checkrein demo: a support agent that misbehaves, and what its tools let it do",
            [
                f"The model is a script at {url}; the agent is the real `openai` package.",
                "Refunds go to a database and mails to a spool; nothing leaves this machine.",
                f"Files: {directory}",
            ],
        )

    def _pause(self) -> None:
        if self.timeline is not None and not self.fast:
            time.sleep(PAUSE_S)

    def thought(self, text: str) -> None:
        """Show what the agent says before it acts."""
        if self.timeline is not None and text:
            self._pause()
            self.timeline.thought(text)

    def calling(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Remember the call and, for a refund, what its meters hold before it."""
        self._pause()
        self.decisions.clear()
        self.call = {
            "at": round(time.monotonic() - self.began, 3),
            "tool": tool,
            "arguments": dict(arguments),
        }
        if tool == "refund":
            self.call["meters_before"] = meters(self.tools[tool], arguments)

    def answered(self, tool: str, answer: Mapping[str, Any]) -> None:
        """Show the decision that the call got."""
        decision = self.decisions[-1]
        event = self.call
        event["verdict"] = decision.verdict
        event["decision"] = decision.to_dict()
        event["answer"] = dict(answer)
        if tool == "refund":
            self.meters = event["meters_after"] = meters(self.tools[tool], event["arguments"])
        self.events.append(event)
        if self.timeline is None:
            return
        self.timeline.decision(event["at"], event["verdict"], tool, event["arguments"].values())
        for reason in decision.reasons:
            self.timeline.reason(reason.code, reason.message)
        if "message" in answer:
            self.timeline.note("told the model", answer["message"])
        if tool == "refund":
            self._show_meters(event)
        meaning = MEANING.get(decision.reasons[0].code if decision.reasons else decision.verdict)
        if meaning:
            self.timeline.meaning(meaning)

    def _show_meters(self, event: dict[str, Any]) -> None:
        """Show what a refund changed: quota and budget, before and after."""
        if self.timeline is None:
            return
        for name, before in event["meters_before"].items():
            after = event["meters_after"][name]
            change = "unchanged" if before == after else f"was {before['spent']}"
            self.timeline.note(
                METERS[name], f"{after['spent']} of {after['limit']} {after['unit']} used, {change}"
            )

    def waiting(self, seconds: float) -> None:
        """Show that the agent waits as the refusal asked."""
        if self.timeline is not None:
            self.timeline.note("the agent waits", f"{seconds:.1f} s")

    def _finish(self, shop: Shop, trail: AuditTrail, verdict: Verified, crash: Crash) -> None:
        """Show or print what it came to."""
        verdicts = Counter(event["verdict"] for event in self.events)
        codes = Counter(reason["code"] for event in self.events for reason in event["decision"]["reasons"])
        refunds, mails = shop.refunds(), shop.mails()
        if self.timeline is None:
            summary = {
                "verdicts": dict(verdicts),
                "reasons": dict(codes),
                "meters": self.meters,
                "refunds": [{"payment": payment, "amount": amount} for payment, amount in refunds],
                "mails": mails,
                "audit": {"file": str(trail.path), "valid": verdict.valid, "output": verdict.output},
                "crash": crash.to_dict(),
            }
            if self.json_lines:
                print(*(json.dumps(line) for line in [*self.events, {"summary": summary}]), sep="\n")
                return
            json.dump({"events": self.events, "summary": summary}, sys.stdout, indent=2)
            print()
            return
        paid = ", ".join(" ".join(refund) for refund in refunds)
        self.timeline.summary(
            [
                ("decisions", ", ".join(f"{n} {word}" for word, n in sorted(verdicts.items())), ""),
                ("reasons", ", ".join(f"{code} {n}" for code, n in codes.most_common()), ""),
                (
                    "budget",
                    "{spent} of {limit} usd spent, {remaining} left".format(**self.meters["budget"]),
                    "",
                ),
                ("refunds", f"{len(refunds)} in the database: {paid}", ""),
                ("mails", f"{len(mails)} in the spool: {', '.join(mails)}", ""),
                ("audit", verdict.output.strip().splitlines()[-1], "green" if verdict.valid else "red"),
                ("", f"by python -m checkrein.auditgate verify --strict {trail.path.name}", "dim"),
                ("crash", _crash_line(crash), "green" if crash.good else "red"),
                ("ledger", _ledger_line(crash), "red" if crash.ledger["valid"] is False else "green"),
                ("", "by checkrein ledger verify ledger.jsonl --key agent.db.pub", "dim"),
            ]
        )
        self.timeline.line()
        self.timeline.line("Next: the quick start in README.md, and `checkrein explain cooldown` for a code.")


def _crash_line(crash: Crash) -> str:
    paid = ", ".join(" ".join(transfer) for transfer in crash.transfers)
    return f"killed once, {len(crash.in_doubt)} in doubt and found out, {len(crash.transfers)} at the bank: {paid}"


def _ledger_line(crash: Crash) -> str:
    if crash.ledger["valid"] is None:
        return f"not verified: {crash.ledger['reason']}"
    word = "valid" if crash.ledger["valid"] else f"NOT VALID: {crash.ledger['reason']}"
    return f"{word}, {crash.ledger['entries']} entries over both lives"


@contextmanager
def workspace(keep: Path | None) -> Iterator[Path]:
    """Make the directory of the demo's files: `keep`, or a temporary one that goes with the demo."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="checkrein-demo-") as directory:
        yield Path(directory)
