"""What the runner's tests share: a runner with all four gates on one fake clock, and a tool that counts its calls."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from checkrein import actiongate, auditgate, budgetgate, rulegate
from checkrein.actiongate_openai import GatedToolRunner

GATE = actiongate.Gate("tools", "search", "agent:1")
LEDGER = budgetgate.Ledger("api", "search", "agent:1")
RULE = rulegate.Rule("tools", "search")
TRAIL = auditgate.Trail("tools", "search", "agent:1")


def no_secrets(context: rulegate.Context) -> bool:
    return "secret" not in str(context.kwargs)


class Bench:
    """A runner, its engines and one tool called `search`."""

    def __init__(self, **engines: Any) -> None:
        self.now = 1.0
        self.ran: list[Any] = []
        self.rate = engines.pop("rate", None) or actiongate.Engine(clock=lambda: self.now)
        self.spend = engines.pop("spend", None) or budgetgate.Engine(clock=lambda: self.now)
        self.rules = engines.pop("rules", None) or rulegate.Engine(clock=lambda: self.now)
        self.audit = engines.pop("audit", None) or auditgate.Engine(
            clock=lambda: self.now, wall_clock_fn=lambda: "W"
        )
        self.runner = GatedToolRunner(self.rate, self.spend, self.rules, self.audit, **engines)

    def search(self, query: Any = "default") -> str:
        if query == "raise":
            raise KeyError("boom")
        self.ran.append(query)
        return f"found {query}"

    def register(self, **changes: Any) -> None:
        """Register `search` behind all four gates: 5 calls a minute, 1.00 at 0.30 a call, no secrets, a chain."""
        settings: dict[str, Any] = {
            "gate": GATE,
            "policy": actiongate.Policy(max_calls=5, window=60),
            "ledger": LEDGER,
            "budget": budgetgate.Budget(Decimal("1.00"), window=60),
            "cost": Decimal("0.30"),
            "rule": RULE,
            "ruleset": rulegate.Ruleset((no_secrets,)),
            "trail": TRAIL,
            "audit_policy": auditgate.AuditPolicy(integrity=auditgate.IntegrityMode.CHAIN),
        }
        self.runner.register("search", self.search, **settings | changes)

    def log(self, trail: auditgate.Trail = TRAIL) -> list[auditgate.AuditEntry]:
        """Return a trail's entries."""
        return list(self.audit._store.query(auditgate.QueryFilter(trail=trail)))

    def calls(self) -> int:
        """Return how many calls the gate has counted."""
        return self.rate.peek(GATE, actiongate.Policy(max_calls=10**6, window=60)).calls_in_window - 1

    def spent(self) -> Decimal:
        """Return what the ledger has counted."""
        free = budgetgate.Budget(Decimal(10**6), window=60)
        return Decimal(10**6) - self.spend.get_remaining(LEDGER, free)
