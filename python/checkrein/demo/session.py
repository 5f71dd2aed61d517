"""One session of the agent under the policy file: what it did, what was decided, and what the model cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import checkrein
from checkrein.demo import script, server
from checkrein.demo.agent import MODEL, Agent, Watcher
from checkrein.demo.guarded import guarded_tools, meters
from checkrein.demo.place import AGENT, RUN, open_engine
from checkrein.demo.policy import WATCH
from checkrein.demo.tools import Shop

TASK = "Work on ticket 4711."


class Session(Watcher):
    """Lets the agent work on its ticket, and remembers all of it."""

    def __init__(self, directory: Path, policy: Path) -> None:
        """Set up a shop and a store in `directory`, under the policy file."""
        self.directory = directory
        self.shop = Shop(directory)
        self.engine = open_engine(directory, policy, watch=WATCH)
        self.engine.add_listener(self._heard)
        self.tools = guarded_tools(self.engine, self.shop)
        self.began = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.usages: list[dict[str, int]] = []
        self.model_usd = Decimal(0)
        self.thresholds: list[dict[str, Any]] = []
        self.refused_model: dict[str, Any] | None = None
        self._decisions: list[checkrein.Decision] = []
        self._call: dict[str, Any] = {}

    def work(self) -> None:
        """Work on the ticket until the model is done."""
        with server.serve(script.answer) as url, checkrein.acting(agent=AGENT, run=RUN):
            self.started(url)
            Agent(url, self.tools, self, self.engine).work(TASK)

    def started(self, url: str) -> None:
        """Take where the model's server is."""

    def _heard(self, event: checkrein.Event) -> None:
        if event.decision is not None and event.tool != MODEL:
            self._decisions.append(event.decision)
        elif event.kind == "threshold":
            self.thresholds.append({"budget": event.gate, "percent": event.percent})
            self.warned(event)

    def warned(self, event: checkrein.Event) -> None:
        """Take that a budget came near its limit."""

    def calling(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Remember the call and, for a refund, what its meters hold before it."""
        self._decisions.clear()
        self._call = {
            "at": round(time.monotonic() - self.began, 3),
            "tool": tool,
            "arguments": dict(arguments),
        }
        if tool == "refund":
            self._call["meters_before"] = meters(self.tools[tool], arguments)

    def answered(self, tool: str, answer: Mapping[str, Any]) -> None:
        """Remember the decision that the call got, and the answer."""
        event, decision = self._call, self._decisions[-1]
        event["verdict"] = decision.verdict
        event["decision"] = decision.to_dict()
        event["answer"] = dict(answer)
        if tool == "refund":
            event["meters_after"] = meters(self.tools[tool], event["arguments"])
        self.events.append(event)
        self.decided(event, decision)

    def decided(self, event: dict[str, Any], decision: checkrein.Decision) -> None:
        """Take a call that was decided, and carried out if it was allowed."""

    def paid(self, usage: Mapping[str, int], charged: checkrein.ModelSettlement) -> None:
        """Add up what the model used and cost."""
        self.usages.append({name: usage[name] for name in ("prompt_tokens", "completion_tokens")})
        self.model_usd += Decimal(charged.usd or 0)

    def penniless(self, decision: checkrein.Decision) -> None:
        """Remember why the model was not called any more."""
        self.refused_model = decision.to_dict()

    def model(self) -> dict[str, Any]:
        """Return what the model used and cost, as plain JSON values."""
        return {
            "model": MODEL,
            "calls": len(self.usages),
            "usd": f"{self.model_usd.normalize():f}",
            "usages": self.usages,
            "thresholds": self.thresholds,
            "refused": self.refused_model,
        }

    def outcome(self) -> dict[str, Any]:
        """Return what really happened in the shop, as plain JSON values."""
        refunds = [{"payment": payment, "amount": amount} for payment, amount in self.shop.refunds()]
        return {"refunds": refunds, "mails": self.shop.mails()}
