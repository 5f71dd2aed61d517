"""A bare argument name as a cost is the argument's value, in the budget's unit."""

from __future__ import annotations

from decimal import Decimal

import pytest

import checkrein


@pytest.mark.parametrize(("amount", "spent"), [(2, "2"), (Decimal("0.25"), "0.25"), ("1.50 usd", "1.5")])
def test_a_name_is_the_value(engine: checkrein.Engine, amount: object, spent: str) -> None:
    @engine.guard(budget="10 usd/day", cost="amount")
    def pay(amount: object) -> object:
        return amount

    assert pay(amount) == amount
    assert engine.peek(pay, 0).meters[0].spent == spent


@pytest.mark.parametrize("amount", [2.0, -1, None, "2 tokens", "x"])
def test_what_is_no_amount_is_refused(engine: checkrein.Engine, amount: object) -> None:
    @engine.guard(budget="10 usd/day", cost="amount")
    def pay(amount: object) -> object:
        return amount

    with pytest.raises(checkrein.InvalidAction):
        pay(amount)
    assert engine.peek(pay, 0).meters[0].spent == "0"
