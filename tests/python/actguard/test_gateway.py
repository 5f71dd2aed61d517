"""The gateway protocol, byte for byte what the published client sends, and what an answer leads to."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
import warnings
from typing import Any

import pytest
from actguard_kit import KEY, TARIFF, Gateway, Reply, Request, gateway

from checkrein import actguard
from checkrein.actguard.core.budget_context import get_budget_state, record_usage
from checkrein.actguard.exceptions import (
    ActGuardPaymentRequired,
    BudgetExceededError,
    BudgetTransportError,
    NestedRuntimeContextError,
)

__all__ = ["gateway"]


def use(tokens: int = 1_000) -> None:
    record_usage(provider="openai", provider_model_id="gpt-4o", input_tokens=tokens, output_tokens=0)


def test_a_guard_reserves_and_settles_in_this_order_with_these_bodies(gateway: Gateway) -> None:
    client = gateway.client()
    with (
        client.run(user_id="alice", run_id="r1"),
        client.budget_guard(name="root", cost_limit=50, plan_key="pro") as guard,
    ):
        record_usage(
            provider="openai",
            provider_model_id="gpt-4o",
            input_tokens=1234,
            output_tokens=567,
            cached_input_tokens=800,
        )
        actguard.add_cost(name="search", usd=0.01)
    assert gateway.names() == ["cu-tariff", "reserve", "settle"]
    tariff, reserve, settle = gateway.requests
    assert "Authorization" not in tariff.headers
    assert tariff.headers["Content-Type"] == "application/json"
    assert reserve.headers["Authorization"] == f"Bearer {KEY}"
    assert reserve.headers["Accept-Encoding"] == "identity"
    assert reserve.body == {"run_id": "r1", "cost_limit": 50, "plan_key": "pro", "user_id": "alice"}
    call = {
        "provider": "openai",
        "provider_model_id": "gpt-4o",
        "input_tokens": 1234,
        "cached_input_tokens": 800,
        "output_tokens": 567,
        "scope_name": "root",
    }
    search = {"type": "custom_cost", "name": "search", "cost_cu": 10, "scope_name": "root"}
    assert settle.body == {
        "reserve_id": "res-1",
        "input_tokens": 1234,
        "cached_input_tokens": 800,
        "output_tokens": 567,
        "usage_breakdown": [call, search],
    }
    assert guard.cost_used == 2 + 3 + 1 + 10
    assert guard.usd_used == guard.cost_used / 1000


def test_a_guard_without_anything_says_only_its_run(gateway: Gateway) -> None:
    client = gateway.client()
    with client.run(run_id="rr"), client.budget_guard():
        pass
    assert gateway.bodies("reserve") == [{"run_id": "rr"}]
    assert gateway.bodies("settle")[0]["usage_breakdown"] == []
    assert "cu-tariff" not in gateway.names()


def test_the_tariff_is_asked_once_in_the_life_of_a_client(gateway: Gateway) -> None:
    client = gateway.client()
    for _ in range(2):
        with client.run(), client.budget_guard(cost_limit=5):
            pass
    assert gateway.names().count("cu-tariff") == 1
    client.get_cu_tariff(force_refresh=True)
    assert gateway.names().count("cu-tariff") == 2


def test_a_guard_settles_when_its_body_fails(gateway: Gateway) -> None:
    client = gateway.client()

    def failing() -> None:
        with client.run(), client.budget_guard():
            use(7)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        failing()
    assert gateway.bodies("settle")[0]["input_tokens"] == 7


def test_a_limit_that_the_gateway_sets_is_enforced(gateway: Gateway) -> None:
    gateway.reserve = Reply({"reserve_id": "res-1", "cost_limit": 3})
    client = gateway.client()
    with client.run(), client.budget_guard() as guard:
        assert guard.cost_limit == 3
        use(2_999)
        assert guard.cost_used == 3
        with pytest.raises(BudgetExceededError):
            actguard.reporting.record_response_usage(
                {"usage": {"input_tokens": 1, "output_tokens": 0}}, provider="openai", model="m"
            )
    # The tariff is asked after the reservation here: only then is there a limit to count by it.
    assert gateway.names() == ["reserve", "cu-tariff", "settle"]


def test_a_limit_that_nobody_can_count_by_gives_the_reservation_back(gateway: Gateway) -> None:
    gateway.reserve = Reply({"reserve_id": "res-1", "cost_limit": 3})
    gateway.tariff = Reply({"nonsense": True})
    client = gateway.client()
    with client.run(), pytest.raises(BudgetTransportError), client.budget_guard():
        pass
    assert gateway.names()[-1] == "settle"


def test_without_a_key_nothing_is_reserved(gateway: Gateway) -> None:
    client = actguard.Client(gateway_url=gateway.url)
    assert client.event_client is None
    with client.run(), client.budget_guard(cost_limit=5):
        use(1_000)
    assert gateway.names() == ["cu-tariff"]


REFUSALS: list[tuple[Any, int]] = [
    (Reply({"error": "no"}, status=401), 1),
    (Reply({"error": "no"}, status=403), 1),
    (Reply({"error": "no"}, status=422), 1),
    (Reply({}, status=404), 2),
    (Reply({}, status=429), 2),
    (Reply({}, status=503), 2),
    (Reply(b"no json"), 2),
    (Reply({"status": "reserved"}), 1),
    (Reply([1]), 1),
    (Reply(drops=True), 2),
]


@pytest.mark.parametrize(("reply", "attempts"), REFUSALS, ids=lambda value: repr(value)[:60])
def test_a_gateway_that_cannot_say_yes_closes_a_guard_with_a_limit(
    gateway: Gateway, reply: Reply, attempts: int
) -> None:
    gateway.reserve = reply
    client = gateway.client()
    with client.run(), pytest.raises(BudgetTransportError), client.budget_guard(token_limit=100):
        pytest.fail("the guard was entered")
    assert gateway.names().count("reserve") == attempts
    assert get_budget_state() is None
    # The same attempt, for a gateway that looks.
    keys = {request.headers["Idempotency-Key"] for request in gateway.requests}
    assert len(keys) == 1


@pytest.mark.parametrize("open_by", ["client", "guard", "no limit"])
def test_open_goes_on_with_one_warning(gateway: Gateway, open_by: str) -> None:
    gateway.reserve = Reply({}, status=503)
    client = gateway.client(on_unreachable="open" if open_by == "client" else "closed")
    limit = {} if open_by == "no limit" else {"token_limit": 100}
    more: dict[str, Any] = {"on_unreachable": "open"} if open_by == "guard" else {}
    with (
        pytest.warns(RuntimeWarning, match="budget.reserve at /api/v1/reserve: http") as warned,
        client.run(),
        client.budget_guard(**limit, **more) as guard,
    ):
        use(5)
    assert guard.tokens_used == 5
    assert len(warned) == 1
    assert "settle" not in gateway.names()


def test_a_tariff_that_cannot_be_had_closes_a_guard_in_compute_units(gateway: Gateway) -> None:
    gateway.tariff = Reply({}, status=500)
    client = gateway.client()
    with client.run(), pytest.raises(BudgetTransportError), client.budget_guard(cost_limit=5):
        pass
    assert "reserve" not in gateway.names()
    with (
        client.run(),
        pytest.warns(RuntimeWarning, match="budget.tariff"),
        client.budget_guard(cost_limit=5, on_unreachable="open"),
    ):
        pass


def test_a_gateway_that_answers_slowly_costs_no_more_than_the_timeout(gateway: Gateway) -> None:
    gateway.reserve = Reply(hangs=True)
    client = gateway.client(budget_timeout_s=0.2, budget_max_retries=3)
    began = time.monotonic()
    with pytest.raises(BudgetTransportError):
        client.reserve_budget(run_id="r")
    # Generous: what counts is that four attempts share the time instead of having it each.
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("piece", [b" ", b"x" * 65_536], ids=["slowly", "much"])
def test_an_answer_without_an_end_is_not_read_for_ever(gateway: Gateway, piece: bytes) -> None:
    gateway.reserve = Reply(events=itertools.repeat(piece))
    client = gateway.client(budget_timeout_s=0.5, budget_max_retries=0)
    with pytest.raises(BudgetTransportError):
        client.reserve_budget(run_id="r")


def test_a_redirection_is_not_followed_and_the_key_stays(gateway: Gateway) -> None:
    with Gateway() as elsewhere:
        gateway.reserve = Reply({}, status=302, headers={"Location": f"{elsewhere.url}/api/v1/reserve"})
        gateway.tariff = Reply({}, status=307, headers={"Location": f"{elsewhere.url}/api/v1/cu-tariff"})
        client = gateway.client()
        with pytest.raises(BudgetTransportError):
            client.reserve_budget(run_id="r")
        with pytest.raises(BudgetTransportError):
            client.get_cu_tariff()
        assert elsewhere.requests == []


def test_a_gateway_that_wants_to_be_paid(gateway: Gateway) -> None:
    gateway.reserve = Reply(
        {"Message": "Top up", "Shortfall": 5, "CurrentBalance": True, "TopupURL": "https://pay"}, status=402
    )
    client = gateway.client(on_unreachable="open")
    with pytest.raises(ActGuardPaymentRequired) as raised, client.run(), client.budget_guard():
        pass
    error = raised.value
    assert (error.user_message, error.shortfall, error.topup_url) == ("Top up", 5, "https://pay")
    assert error.current_balance is None
    assert gateway.names() == ["reserve"]


def test_a_budget_that_is_spent_at_the_gateway(gateway: Gateway) -> None:
    said = {"error": "spent", "user_id": "u", "tokens_used": 5, "cost_used": 9, "cost_limit": 8}
    gateway.reserve = Reply(said, status=409)
    client = gateway.client(on_unreachable="open")
    with pytest.raises(BudgetExceededError) as raised, client.run(), client.budget_guard():
        pass
    error = raised.value
    assert (error.origin, error.cost_used, error.cost_limit, error.status_code) == ("remote", 9, 8, 409)
    assert error.details["summary"] == "spent"
    assert "summary" not in error.payload()


def test_a_settlement_that_is_refused_is_raised_and_one_that_is_lost_is_warned_of(gateway: Gateway) -> None:
    client = gateway.client()
    gateway.settle = Reply({"cost_used": 1}, status=409)
    with pytest.raises(BudgetExceededError), client.run(), client.budget_guard():
        pass
    gateway.settle = Reply({}, status=503)
    with pytest.warns(RuntimeWarning, match="budget.settle"), client.run(), client.budget_guard():
        pass


def test_keys_are_in_no_text_and_in_no_debug_line(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("actguard")
    # `debug=True` changes the logger for the rest of the process.
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    gateway.reserve = Reply({"error": f"bad key Bearer {KEY}"}, status=401)
    client = gateway.client(debug=True)
    with pytest.raises(BudgetTransportError) as raised:
        client.reserve_budget(run_id="r")
    assert KEY not in str(raised.value)
    assert "status 401" in str(raised.value)
    assert KEY not in capsys.readouterr().err
    assert KEY not in repr(client) + repr(client.reporting_config)


@pytest.mark.parametrize("url", ["no-scheme", "ftp://x", "http://[", "http://127.0.0.1:1"])
def test_a_url_that_leads_nowhere_is_a_transport_error(url: str) -> None:
    client = actguard.Client(api_key=KEY, gateway_url=url, event_mode="off", backoff_base_ms=1)
    with pytest.raises(BudgetTransportError):
        client.reserve_budget(run_id="r")


async def test_the_event_loop_goes_on_while_the_gateway_is_asked(gateway: Gateway) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def reserve(request: Request) -> Reply:
        asked.set()
        go_on.wait(30)
        return Reply({"reserve_id": "res-1"})

    gateway.reserve = reserve
    client = gateway.client(budget_timeout_s=30.0)

    async def guarded() -> None:
        async with client.run(), client.budget_guard():
            pass

    task = asyncio.create_task(guarded())
    while not asked.is_set():
        await asyncio.sleep(0.001)
    # The loop is ours although the gateway has not answered.
    go_on.set()
    await task
    assert gateway.names() == ["reserve", "settle"]


async def test_a_guard_that_is_cancelled_while_it_opens_gives_back_what_was_reserved(
    gateway: Gateway,
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def reserve(request: Request) -> Reply:
        asked.set()
        go_on.wait(30)
        return Reply({"reserve_id": "res-late"})

    gateway.reserve = reserve
    client = gateway.client(budget_timeout_s=30.0)

    async def guarded() -> None:
        async with client.run(), client.budget_guard():
            pytest.fail("the guard was entered")

    task = asyncio.create_task(guarded())
    while not asked.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    while not gateway.bodies("settle"):
        await asyncio.sleep(0.001)
    assert gateway.bodies("settle")[0]["reserve_id"] == "res-late"


def test_several_paths_share_one_reservation(gateway: Gateway) -> None:
    client = gateway.client()
    with client.run(), client.budget_guard(name="root", token_limit=1_000) as root:

        def work() -> None:
            with client.budget_guard():
                use(10)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert root.tokens_used == 80
    assert gateway.names() == ["reserve", "settle"]
    assert len(gateway.bodies("settle")[0]["usage_breakdown"]) == 8


def test_runs_in_several_threads_at_once(gateway: Gateway) -> None:
    client = gateway.client()
    inside = threading.Barrier(5)
    wrong: list[BaseException] = []

    def serve(number: int) -> None:
        try:
            with client.run(run_id=f"r{number}"), client.budget_guard() as guard:
                inside.wait(30)
                use(number)
                inside.wait(30)
                assert guard.tokens_used == number
                with pytest.raises(NestedRuntimeContextError), client.run():
                    pass
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(body["input_tokens"] for body in gateway.bodies("settle")) == [1, 2, 3, 4, 5]


def test_a_warning_that_is_an_error_does_not_break_the_guard(gateway: Gateway) -> None:
    gateway.settle = Reply({}, status=503)
    client = gateway.client()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with client.run(), client.budget_guard() as guard:
            use(1)
    assert guard.tokens_used == 1


def test_the_tariff_counts_as_it_is_documented() -> None:
    models = {"gpt-4o": {"output_cu_per_1k": 10}, "text-embedding-3-small": {"input_cu_per_1m": 20}}
    default = {"input_cu_per_1k": 3, "output_cu_per_1k": 15, "cached_cu_per_1k": 1}
    tariff = actguard.client.CuTariff.from_payload(
        {**TARIFF, "llm": {"default": default, "providers": {"openai": {"models": models}}}}
    )

    def cost(model: str, *counts: int) -> int:
        given = dict(zip(("input_tokens", "output_tokens", "cached_input_tokens"), counts, strict=True))
        return tariff.llm_cost(provider="openai", provider_model_id=model, **given)

    assert cost("gpt-4o", 1234, 567, 800) == 11
    assert cost("gpt-4o-2024-08-06", 1234, 567, 800) == 14
    assert cost("text-embedding-3-small", 1_234_567, 0, 0) == 25
