"""What somebody who comes from the published package stumbles over: hints, texts, reprs, numbers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from actguard_kit import KEY, Gateway, Reply, gateway

from checkrein import actguard
from checkrein.actguard.core.budget_context import get_budget_context, record_usage
from checkrein.actguard.exceptions import (
    ActGuardPaymentRequired,
    ActGuardUsageError,
    BudgetExceededError,
    BudgetTransportError,
    PolicyViolationError,
    RateLimitExceeded,
)
from checkrein.actguard.integrations.accounting import check_limits

__all__ = ["gateway"]


def use(tokens: int) -> None:
    record_usage(provider="openai", provider_model_id="gpt-4o", input_tokens=tokens, output_tokens=0)


def check() -> None:
    context = get_budget_context()
    assert context is not None
    check_limits(context)


@pytest.mark.parametrize("hint", ["", "Ask first."])
def test_a_missing_fact_says_how_to_get_it(hint: str) -> None:
    @actguard.enforce([actguard.RequireFact("order_id", "order_id", hint=hint)])
    def delete(order_id: str) -> None:
        pytest.fail("it ran")

    with actguard.session("s"), pytest.raises(PolicyViolationError) as refused:
        delete("o9")
    expected = hint or "Call a read tool to fetch 'order_id' first."
    error = refused.value
    assert (error.fix_hint, error.details["fix_hint"]) == (expected, expected)
    assert error.to_prompt().endswith(f"Fix: {expected}")


def test_a_hint_in_the_details_stays() -> None:
    error = PolicyViolationError("X", "no", details={"fix_hint": "mine"}, fix_hint="theirs")
    assert (error.fix_hint, error.details["fix_hint"]) == ("theirs", "mine")


def test_a_refusal_says_the_dollars_that_its_guard_shows(gateway: Gateway) -> None:
    with actguard.BudgetGuard(token_limit=1_000) as guard:
        use(1_000)
        with pytest.raises(BudgetExceededError) as refused:
            check()
    assert refused.value.usd_used == guard.usd_used == 0.0025
    with gateway.client().run() as run, run.client.budget_guard(cost_limit=1) as guard:
        use(1_000)
        with pytest.raises(BudgetExceededError) as refused:
            check()
    assert refused.value.usd_used == guard.usd_used == 0.001


def test_a_closed_guard_says_what_else_there_is(gateway: Gateway) -> None:
    gateway.tariff = gateway.reserve = Reply({}, status=400)
    for client in (gateway.client(), gateway.client(api_key=None)):
        with client.run(), pytest.raises(BudgetTransportError) as refused, client.budget_guard(cost_limit=5):
            pytest.fail("entered")
        said = str(refused.value)
        assert said == refused.value.message
        assert 'the guard was not entered; Client(on_unreachable="open") goes on without a limit' in said
        assert ("usd_limit= needs no gateway" in said) is (client.api_key is None)


def test_a_tariff_that_is_none_says_the_same(gateway: Gateway) -> None:
    gateway.tariff = Reply({})
    with (
        gateway.client().run() as run,
        pytest.raises(BudgetTransportError, match="the guard was not entered"),
        run.client.budget_guard(cost_limit=5),
    ):
        pytest.fail("entered")


@pytest.mark.parametrize("said", [{}, {"shortfall": 5, "code": "x"}])
def test_a_payment_that_says_nothing_is_shown_as_it_is(gateway: Gateway, said: Any) -> None:
    gateway.reserve = Reply(said, status=402)
    client = gateway.client()
    with client.run(), pytest.raises(ActGuardPaymentRequired) as refused, client.budget_guard(token_limit=5):
        pytest.fail("entered")
    assert refused.value.user_message == json.dumps(said, separators=(",", ":"), sort_keys=True)


def test_a_limit_in_dollars_may_be_a_decimal() -> None:
    with actguard.BudgetGuard(usd_limit=Decimal("0.0025")) as guard:
        use(1_000)
        with pytest.raises(BudgetExceededError) as refused:
            check()
    assert guard.usd_used == 0.0025
    json.dumps(vars(refused.value))
    for wrong in ("NaN", "sNaN", "Infinity", "0", "-1"):
        with pytest.raises(ActGuardUsageError), actguard.BudgetGuard(usd_limit=Decimal(wrong)):
            pytest.fail("entered")


def test_prompts_are_sentences() -> None:
    with actguard.BudgetGuard(user_id="u", token_limit=1):
        use(1)
        with pytest.raises(BudgetExceededError) as refused:
            check()
    assert refused.value.to_prompt().endswith("1 / 1 tokens used. Do not repeat this call.")


def test_what_a_refusal_holds_can_be_logged() -> None:
    @actguard.rate_limit(max_calls=1)
    def send() -> None: ...

    send()
    with pytest.raises(RateLimitExceeded) as refused:
        send()
    assert json.loads(json.dumps(vars(refused.value)))["max_calls"] == 1


def test_reprs_say_what_it_is(gateway: Gateway) -> None:
    client = gateway.client()
    assert gateway.url in repr(client)
    assert KEY not in repr(client)
    with (
        client.run(user_id="alice", run_id="r1") as run,
        client.budget_guard(name="b", token_limit=5) as guard,
    ):
        assert repr(run) == "<run 'r1' user_id='alice'>"
        assert repr(guard) == "<BudgetGuard b token_limit=5: 0 tokens used>"


@pytest.mark.parametrize(
    ("guard", "options"),
    [
        ("rate_limit", {"calls": 1}),
        ("circuit_breaker", {"nam": "x"}),
        ("max_attempts", {"n": 1}),
        ("idempotent", {"ttl": 1}),
    ],
)
def test_a_misspelt_option_of_tool_names_its_guard(guard: str, options: dict[str, Any]) -> None:
    def work(idempotency_key: str) -> None: ...

    with pytest.raises(TypeError, match=rf"{guard}\(\)"):
        actguard.tool(**{guard: options})(work)
