"""The first act of the demo: the agent under a policy that only observes, and what `checkrein report` makes of it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from checkrein.demo.command import MISSING, Answer, ask, export
from checkrein.demo.place import KEY, LEDGER
from checkrein.demo.session import Session
from checkrein.demo.timeline import Timeline

DIRECTORY = "observed"
# So many kinds of refusals are shown; the JSON has all of them.
ROWS = "3"


class Observed:
    """The first session, which nothing stops."""

    def __init__(self, directory: Path, policy: Path) -> None:
        """Set it up in a directory of its own below `directory`."""
        own = directory / DIRECTORY
        own.mkdir()
        self.session = Session(own, policy)
        self.report: Answer | None = None

    def play(self, timeline: Timeline | None) -> None:
        """Let the agent work, and have its ledger read."""
        self.session.work()
        own = self.session.directory
        if export(own):
            width = 80 if timeline is None else timeline.width
            verified = ("--ledger", LEDGER, "--key", KEY)
            self.report = ask(own, "report", *verified, "--limit", ROWS, width=width)
        if timeline is not None:
            self._show(timeline)

    def _show(self, timeline: Timeline) -> None:
        for (verdict, tool, arguments), same in groupby(self.session.events, key=_call):
            count = len(list(same))
            timeline.step(verdict, tool, f"{count} x  {arguments}" if count > 1 else arguments)
        model = self.session.model()
        timeline.note("the model", f"{model['calls']} calls of {model['model']} for {model['usd']} usd")
        timeline.shell(self.report.shell if self.report else "checkrein report")
        timeline.quote(self.report.text if self.report else MISSING, without=["what was read"])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "verdicts": [event["verdict"] for event in self.session.events],
            "would_have_refused": [
                [reason["code"] for reason in event["decision"]["observed"]] for event in self.session.events
            ],
            "model": self.session.model(),
            **self.session.outcome(),
        }


def _call(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["verdict"], event["tool"], Timeline.call_text(event["arguments"])
