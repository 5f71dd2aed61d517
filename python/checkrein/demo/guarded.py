"""What the agent may do: every tool of the demo behind its gates, one decorator each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import checkrein
from checkrein.demo.tools import Shop

Tool = Callable[..., Any]

# A US social security number, or a run of digits as long as a payment card's.
PERSONAL = re.compile(r"\b\d{3}-\d{2}-\d{4}\b|\b(?:\d[ -]?){13,16}\b")
BUDGET = "100 usd/day"


def no_personal_data(query: str) -> bool:
    """Say whether a query is free of social security and card numbers."""
    return PERSONAL.search(query) is None


NO_PERSONAL_DATA = checkrein.Rule(no_personal_data, message="no social security or card numbers in a search")


def guarded_tools(engine: checkrein.Engine, shop: Shop, cooldown: str) -> dict[str, Tool]:
    """Return the tools of `shop`, guarded by `engine`, by name."""

    # The same query at most twice, however it is spread over the run.
    @engine.guard(name="search", key="query", attempts=2, rules=[NO_PERSONAL_DATA])
    def search(query: str) -> list[str]:
        """Search the shop's documents and tickets."""
        return shop.search(query)

    # One admission for all of it: a refund that the budget refuses uses no quota, and its key stays free.
    @engine.guard(
        name="refund",
        rate="5/min",
        budget=BUDGET,
        cost=lambda amount: f"{amount} usd",
        rules=["amount.matches('^[0-9]+[.][0-9][0-9]$')"],
        once="payment_id",
    )
    def refund(payment_id: str, amount: str) -> dict[str, str]:
        """Give back an amount of US dollars, as decimal text, of one payment."""
        return shop.refund(payment_id, amount)

    @engine.guard(name="send_mail", rate="20/hour", cooldown=cooldown)
    def send_mail(to: str, subject: str, body: str) -> str:
        """Send one mail."""
        return shop.send_mail(to, subject, body)

    return {"search": search, "refund": refund, "send_mail": send_mail}


def meters(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return where the meters of a tool stand for a call, by kind of gate; takes nothing from them."""
    return {meter.kind: meter.to_dict() for meter in checkrein.handle(tool).peek(**arguments).meters}
