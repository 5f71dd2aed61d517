"""The tools of the demo behind their guards: what these let pass is up to the policy file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import checkrein
from checkrein.demo.tools import Shop

Tool = Callable[..., Any]


def guarded_tools(engine: checkrein.Engine, shop: Shop) -> dict[str, Tool]:
    """Return the tools of `shop`, guarded by `engine`, by name."""

    @engine.guard(name="search")
    def search(query: str) -> list[str]:
        """Search the shop's documents and tickets."""
        return shop.search(query)

    @engine.guard(name="refund")
    def refund(payment_id: str, cents: int) -> dict[str, str]:
        """Give back an amount of US cents of one payment."""
        return shop.refund(payment_id, cents)

    @engine.guard(name="send_mail")
    def send_mail(to: str, subject: str, body: str) -> str:
        """Send one mail."""
        return shop.send_mail(to, subject, body)

    return {"search": search, "refund": refund, "send_mail": send_mail}


def meters(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return where the meters of a tool stand for a call, by kind of gate; takes nothing from them."""
    return {meter.kind: meter.to_dict() for meter in checkrein.handle(tool).peek(**arguments).meters}
