"""Budgets: exact money, several in one step, holds that settle, and code that is no function call."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

import checkrein
from checkrein.testing import FakeClock, assert_denied


def meter(guarded: object, gate: str, *args: object) -> checkrein.MeterStatus:
    handle = checkrein.handle(guarded)
    return next(meter for meter in handle.peek(*args).meters if meter.gate == gate)


@pytest.mark.parametrize(
    "cost",
    ["0.10 usd", "$0.10", "0.1", Decimal("0.10"), lambda: "0.10 usd", "'0.10 usd'", "50000000 + 50000000"],
)
def test_costs_in_every_form(engine: checkrein.Engine, cost: object) -> None:
    @engine.guard(budget="0.30 usd", cost=cost)  # type: ignore[arg-type]
    def act() -> None: ...

    for _ in range(3):
        act()
    decision = assert_denied(act, code="budget_exceeded")
    assert decision.reasons[0].detail == {
        "spent": "0.3", "held": "0", "requested": "0.1", "limit": "0.3", "unit": "usd",
    }  # fmt: skip
    assert decision.final


def test_a_cost_of_the_arguments(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(budget="10 usd/day", cost=lambda amount_cents: Decimal(amount_cents) / 100, key="user")
    def pay(user: str, amount_cents: int) -> None: ...

    pay("a", 999)
    decision = assert_denied(pay, "a", 2, code="budget_exceeded")
    assert decision.retry_after == 86400.0
    pay("a", 1)
    pay("b", 1000)
    clock.advance(86400)
    pay("a", 1000)


@pytest.mark.parametrize(
    "cost",
    [0.1, float("nan"), float("inf"), Decimal("NaN"), Decimal("-1"), Decimal("1e40"), -1, "-1 usd", "1 tokens", "x",
     "1e3 usd", "0.0000000000001 usd", None, True, [], 10**40],
)  # fmt: skip
def test_a_computed_cost_that_is_no_amount_is_a_refusal(engine: checkrein.Engine, cost: object) -> None:
    @engine.guard(budget="10 usd", cost=lambda: cost, rate="9/s")
    def act() -> None: ...

    decision = assert_denied(act, code="invalid_action")
    assert decision.final
    assert engine.list() == []


@pytest.mark.parametrize(
    "cost", [0.1, float("nan"), Decimal("-1"), -1, "-1 usd", "1 tokens", True, {"eur": "1"}, object()]
)
def test_a_written_cost_that_is_no_amount_is_an_error(engine: checkrein.Engine, cost: object) -> None:
    with pytest.raises(checkrein.ConfigError) as refused:
        engine.guard(budget="10 usd", cost=cost)(lambda: None)  # type: ignore[arg-type]
    assert refused.value.code
    assert refused.value.hint


def test_a_cost_that_overflows_what_is_left_is_refused(engine: checkrein.Engine) -> None:
    huge = "99999999999999999999999999"

    @engine.guard(budget=f"{huge} usd", cost=lambda amount: amount)
    def act(amount: str) -> None: ...

    act(huge)
    assert_denied(act, huge, code="budget_exceeded")
    assert_denied(act, "9" * 60, code="invalid_action")


def test_several_budgets_are_one_step(engine: checkrein.Engine) -> None:
    team = checkrein.Budget("1 usd", window="1d", name="team")
    tokens = checkrein.Budget("100 tokens", key="user")

    @engine.guard(
        budget=[team, "0.50 usd/day", tokens], cost={"usd": "0.20 usd", "tokens": 10}, key="user", rate="99/s"
    )
    def ask(user: str) -> None: ...

    ask("a")
    ask("a")
    decision = assert_denied(ask, "a")
    assert [reason.gate for reason in decision.reasons] == ["ask.budget[user]"]
    ask("b")
    ask("b")
    ask("c")
    decision = assert_denied(ask, "c", code="budget_exceeded")
    assert [reason.gate for reason in decision.reasons] == ["team"]
    assert meter(ask, "ask.rate[user]", "c").spent == "1"
    assert meter(ask, "team", "c").spent == "1"

    @engine.guard(budget=checkrein.Budget("2 usd", window="1d", name="team"), cost="1 usd")
    def other() -> None: ...

    other()
    assert_denied(other, code="budget_exceeded")


def test_holds_settle_at_what_was_used(engine: checkrein.Engine) -> None:
    @engine.guard(budget="1 usd", cost="0.50 usd", actual=lambda result: result["cost"])
    def ask(cost: object) -> dict[str, object]:
        assert meter(ask, "ask.budget", cost).held == "0.5"
        return {"cost": cost}

    ask("0.10 usd")
    assert (meter(ask, "ask.budget", "0").spent, meter(ask, "ask.budget", "0").held) == ("0.1", "0")
    ask(Decimal("0.4"))
    assert meter(ask, "ask.budget", "0").spent == "0.5"
    ask("0.70 usd")  # beyond its bound: counted, and shown as an overrun
    assert engine.list()[0]["overrun"] == "0.2"
    assert_denied(ask, "0", code="budget_exceeded")


@pytest.mark.parametrize("actual", [0.1, None, "-1 usd", "1 tokens", "many", float("nan")])
def test_an_actual_cost_that_is_none_charges_the_full_hold(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture, actual: object
) -> None:
    @engine.guard(budget="1 usd", cost="0.40 usd", actual=lambda result: result)
    def ask() -> object:
        return actual

    with caplog.at_level("WARNING", logger="checkrein"):
        assert ask() is actual
    assert "full hold" in caplog.text
    assert meter(ask, "ask.budget").spent == "0.4"


def test_not_executed_gives_the_hold_back_and_other_errors_do_not(engine: checkrein.Engine) -> None:
    @engine.guard(budget="1 usd", cost="0.40 usd", actual=lambda result: result)
    def ask(error: BaseException) -> None:
        raise error

    with pytest.raises(checkrein.NotExecuted):
        ask(checkrein.NotExecuted("refused at the door"))
    assert meter(ask, "ask.budget", None).spent == "0"
    for error in (ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            ask(error)
    assert (meter(ask, "ask.budget", None).spent, meter(ask, "ask.budget", None).held) == ("0.8", "0")


def test_a_block_holds_and_settles(engine: checkrein.Engine) -> None:
    budget = engine.budget("1 usd/day", name="team")
    with budget.hold("0.60 usd") as hold:
        assert budget.status().held == "0.6"
        with pytest.raises(checkrein.BudgetExceeded), budget.hold("0.50 usd"):
            raise AssertionError("must not run")
        hold.settle("0.21 usd")
        with pytest.raises(checkrein.PermitError):
            hold.settle("0.21 usd")
    assert (budget.status().spent, budget.status().held) == ("0.21", "0")
    with budget.hold("0.10 usd"):
        pass
    assert budget.status().spent == "0.31"
    with pytest.raises(checkrein.NotExecuted), budget.hold("0.10 usd"):
        raise checkrein.NotExecuted
    with budget.hold("0.10 usd") as hold:
        hold.release()
    with pytest.raises(ZeroDivisionError), budget.hold("0.10 usd"):
        raise ZeroDivisionError
    assert (budget.status().spent, budget.status().held, budget.status().remaining) == ("0.41", "0", "0.59")

    @engine.guard(budget=checkrein.Budget("1 usd", window="1d", name="team"), cost="0.59 usd")
    def shared() -> None: ...

    shared()
    assert budget.status().remaining == "0"


def test_holds_of_bad_amounts_take_nothing(engine: checkrein.Engine) -> None:
    budget = engine.budget("1 usd", key=True, name="own")
    for amount in (0.5, "-1 usd", "1 tokens", None):
        with pytest.raises(checkrein.InvalidAction), budget.hold(amount, key="a"):  # type: ignore[arg-type]
            raise AssertionError("must not run")
    with budget.hold("1 usd", key="a") as hold:
        with pytest.raises(checkrein.ConfigError):
            hold.settle(0.5)  # type: ignore[arg-type]
        assert budget.status(key="a").held == "1"
    assert budget.status(key="a").spent == "1"
    assert budget.status(key="b").spent == "0"
    with pytest.raises(checkrein.ConfigError):
        budget.hold("1 usd")


@pytest.mark.parametrize("place", ["memory"], indirect=True)
async def test_async_holds_and_cancellation(engine: checkrein.Engine) -> None:
    budget = engine.budget("1 usd")

    async def work(seconds: float) -> None:
        async with budget.hold("0.30 usd") as hold:
            await asyncio.sleep(seconds)
            hold.settle("0.10 usd")

    results = await asyncio.gather(*(work(0.01) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results].count(checkrein.BudgetExceeded) == 2
    assert budget.status().spent == "0.3"
    task = asyncio.create_task(work(60))
    await asyncio.sleep(0)
    assert budget.status().held == "0.3"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (budget.status().spent, budget.status().held) == ("0.6", "0")


def test_costs_by_unit_may_be_computed(engine: checkrein.Engine) -> None:
    @engine.guard(
        budget=["1 usd", "100 tokens"],
        cost=lambda n: {"usd": "0.40 usd", "tokens": n},
        actual=lambda result: {"usd": "0.10", "tokens": result},
    )
    def ask(n: int) -> int:
        return n // 2

    ask(60)
    decision = assert_denied(ask, 71, code="budget_exceeded")
    assert [reason.detail["unit"] for reason in decision.reasons] == ["tokens"]
    assert [meter.spent for meter in engine.peek(ask, 0).meters] == ["0.1", "30"]

    @engine.guard(budget="1 usd", cost=lambda: {"tokens": 5})
    def wrong() -> None: ...

    assert_denied(wrong, code="invalid_action")


def test_gates_of_one_name_have_keys_of_one_shape(engine: checkrein.Engine) -> None:
    def tool(a: str, b: str) -> None: ...

    engine.guard(budget=checkrein.Budget("1 usd", name="team", key="a"), cost="0")(tool)
    engine.guard(budget=checkrein.Budget("1 usd", name="team", key=lambda b: b), cost="0")(tool)
    for key in (None, ("a", "b")):
        with pytest.raises(checkrein.ConfigError) as wrong:
            engine.guard(budget=checkrein.Budget("1 usd", name="team", key=key), cost="0")(tool)
        assert wrong.value.code == "key"
