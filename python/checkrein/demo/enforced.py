"""The second act of the demo: the same session with the gates in force, and an operator who stops refunds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkrein
from checkrein.demo.policy import FROZEN, NOBODY, Change, PolicyFile, wait_for_reload
from checkrein.demo.record import AuditTrail
from checkrein.demo.session import Session
from checkrein.demo.timeline import Timeline

# What a newcomer should take from a decision, by its first reason or its verdict.
MEANING = {
    "loop_detected": "A circle of identical calls is cut.",
    "rule_violated": "The number never reaches the search.",
    "budget_exceeded": "One admission: what the budget refuses uses no rate quota either.",
    "replay": "Asked twice, done once: this is the stored result.",
}


class Enforced(Session):
    """The second session: tells what happens, and changes the policy file when refunds look wrong."""

    def __init__(
        self, directory: Path, policy: PolicyFile, timeline: Timeline | None, pause: Callable[[], None]
    ) -> None:
        """Set it up in `directory`; shows it on `timeline`, with a pause between the steps."""
        super().__init__(directory, policy.path)
        self.policy = policy
        self.timeline = timeline
        self.pause = pause
        self.trail = AuditTrail(directory / "audit.jsonl")
        self.engine.add_listener(self.trail.record)
        self.meters: dict[str, dict[str, str]] = {}
        self.reloads: list[str] = []
        self._told = False
        self._thought = ""

    def thought(self, text: str) -> None:
        """Remember what the agent says: it is shown where the agent is stopped."""
        self._thought = text

    def calling(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Let whoever watches read on first."""
        self.pause()
        super().calling(tool, arguments)

    def decided(self, event: dict[str, Any], decision: checkrein.Decision) -> None:
        """Show the decision that the call got, and look after it as an operator would."""
        code = decision.reasons[0].code if decision.reasons else decision.verdict
        self.meters = event.get("meters_after", self.meters)
        if self.timeline is not None:
            self._show(self.timeline, event, decision, code)
        if code == "budget_exceeded" and not self.reloads:
            self._operate("freezes refunds; the engine reloads the file", (NOBODY, FROZEN))
        elif code == "frozen":
            self._operate("has looked at it, and lifts that", (FROZEN, NOBODY))

    def warned(self, event: checkrein.Event) -> None:
        """Show the first time that a budget came near its limit."""
        if self.timeline is not None and len(self.thresholds) == 1:
            text = f"budget `{event.gate}` of the model has {event.percent} % spent or held"
            self.timeline.note("threshold", text, "yellow")

    def _operate(self, text: str, change: Change) -> None:
        """Change the policy file under the running agent; its engine takes the new one over by itself."""
        before = self.engine.policy_digest
        self.policy.change(change)
        wait_for_reload(self.engine, before)
        self.reloads.append(self.engine.policy_digest or "")
        if self.timeline is not None:
            self.timeline.note("operator", text, "yellow")
            self.timeline.diff(change)

    def _show(
        self, timeline: Timeline, event: dict[str, Any], decision: checkrein.Decision, code: str
    ) -> None:
        if self._thought and event["verdict"] != "allow":
            timeline.thought(self._thought)
            self._thought = ""
        timeline.decision(event["at"], event["verdict"], event["tool"], event["arguments"])
        for reason in decision.reasons:
            timeline.reason(reason.code, reason.message)
        if "message" in event["answer"] and not self._told:
            self._told = True
            timeline.note("told the model", event["answer"]["message"])
        if event["tool"] == "refund" and code in ("allow", "budget_exceeded"):
            changes = ((event["meters_before"][name], after) for name, after in self.meters.items())
            timeline.note("meters", ", ".join(_change(*change) for change in changes))
        if code in MEANING:
            timeline.meaning(MEANING[code])

    def waiting(self, seconds: float) -> None:
        """Show that the agent waits as the refusal asked."""
        if self.timeline is not None:
            self.timeline.note("the agent waits", f"{seconds:.1f} s")


def _change(before: dict[str, str], after: dict[str, str]) -> str:
    """Say what a refund changed in a meter."""
    change = "unchanged" if before == after else f"was {before['spent']}"
    return f"{after['spent']} of {after['limit']} {after['unit']} used ({change})"
