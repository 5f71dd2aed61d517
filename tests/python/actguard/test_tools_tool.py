"""`tool` of the drop-in: guards decided together, the events of their refusals, and what stays of the function."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from checkrein import actguard
from checkrein.actguard.events.context import get_tool_name
from checkrein.actguard.exceptions import (
    IdempotencyOutcomeUnknown,
    MaxAttemptsExceeded,
    MissingIdempotencyKeyError,
    MissingRuntimeContextError,
    RateLimitExceeded,
    ToolTimeoutError,
)

Event = dict[str, Any]


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[actguard.Client, list[Event]]]:
    """Return a client with a gateway nobody listens on, and what it would have sent there."""
    client = actguard.Client(gateway_url="http://127.0.0.1:9", api_key="key")
    told: list[Event] = []

    def enqueue(envelope: Any) -> bool:
        event = envelope.to_dict()
        if event["category"] in ("guard", "tool"):
            told.append(event)
        return True

    assert client.event_client is not None
    monkeypatch.setattr(client.event_client, "enqueue", enqueue)
    yield client, told
    client.close()


def test_the_events_of_every_guard(
    reporting: tuple[actguard.Client, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, told = reporting
    monkeypatch.setenv("ACTGUARD_EMIT_ALL_TOOL_RUNS", "yes")

    @actguard.tool(idempotent={}, max_attempts={"calls": 1}, rate_limit={"max_calls": 5, "scope": "user"})
    def pay(user: str, *, idempotency_key: str | None = None) -> str:
        return user

    @actguard.rate_limit(max_calls=0, period=30, scope="user")
    def never(user: str) -> None: ...

    @actguard.tool()
    def boom() -> None:
        raise ValueError("x" * 300)

    with client.run(run_id="r", user_id="u"):
        pay("ann", idempotency_key="k")
        pay("ann", idempotency_key="k")
        with pytest.raises(MaxAttemptsExceeded):
            pay("bob", idempotency_key="l")
        with pytest.raises(MissingIdempotencyKeyError):
            pay("bob")
        with pytest.raises(RateLimitExceeded):
            never("carl")
        with pytest.raises(ValueError, match="xxx"):
            boom()
    long, short = f"{__name__}:{pay.__qualname__}", pay.__qualname__
    names = [(event["category"], event["name"], event["outcome"]) for event in told]
    payloads = [event["payload"] for event in told]
    assert names == [
        ("tool", "invoke", "success"),
        ("guard", "intervention", "intervened"),
        ("tool", "invoke", "success"),
        ("guard", "blocked", "blocked"),
        ("guard", "blocked", "blocked"),
        ("tool", "failure", "failed"),
        ("guard", "blocked", "blocked"),
        ("tool", "failure", "failed"),
    ]
    assert payloads[0] == {"tool_name": short}
    assert payloads[1] == {"tool_name": long, "guard_name": "idempotent", "action": "return_cached"}
    assert payloads[3] == {
        "tool_name": long,
        "guard_name": "max_attempts",
        "error_type": "MaxAttemptsExceeded",
        "error_message": f"MAX_ATTEMPTS_EXCEEDED tool='{long}' used=2/1 run='r'",
        "limit": 1,
        "used": 2,
    }
    assert (payloads[4]["guard_name"], payloads[4]["tool_name"]) == ("idempotent", long)
    assert (payloads[5]["error_type"], payloads[5]["tool_name"]) == ("MissingIdempotencyKeyError", short)
    assert payloads[6]["retry_after"] == payloads[6]["period"] == 30
    assert (payloads[6]["scope_value"], payloads[6]["max_calls"]) == ("carl", 0)
    assert payloads[7]["error_message"] == "x" * 253 + "..."
    assert {event["run_id"] for event in told} == {"r"}
    assert {event["user_id"] for event in told} == {"u"}


def test_events_inside_a_tool_carry_its_name() -> None:
    seen: list[str | None] = []

    @actguard.tool()
    def inner() -> None:
        seen.append(get_tool_name())

    @actguard.tool()
    def outer() -> None:
        inner()
        seen.append(get_tool_name())
        raise KeyError

    with pytest.raises(KeyError):
        outer()
    assert seen == [inner.__qualname__, outer.__qualname__]
    assert get_tool_name() is None


def test_the_function_stays_what_it_was() -> None:
    def pay(
        self: Any, to: str, /, amount: int = 3, *, currency: str = "eur", idempotency_key: str = ""
    ) -> dict[str, int]:
        """Pay somebody."""
        return {f"{to} {currency}": amount}

    guarded = actguard.tool(
        rate_limit={"max_calls": 9, "scope": "to"},
        circuit_breaker={"name": "bank"},
        idempotent={},
        timeout=30,
    )(pay)
    assert inspect.signature(guarded) == inspect.signature(pay)
    assert typing.get_type_hints(guarded) == typing.get_type_hints(pay)
    assert (guarded.__name__, guarded.__doc__, guarded.__module__) == ("pay", "Pay somebody.", __name__)
    assert inspect.unwrap(guarded) is pay
    assert inspect.isfunction(guarded)
    with actguard.Client().run():
        assert guarded(None, "ann", idempotency_key="k") == {"ann eur": 3}
        assert guarded(None, "ann", 3, currency="eur", idempotency_key="k") == {"ann eur": 3}


async def test_async_tools(client: actguard.Client) -> None:
    calls: list[str] = []

    @actguard.tool(
        idempotent={}, max_attempts={"calls": 2}, rate_limit={"max_calls": 5},
        circuit_breaker={"name": "bank"}, timeout=0.05,
    )  # fmt: skip
    async def pay(to: str, *, idempotency_key: str) -> str:
        calls.append(to)
        if to == "nobody":
            await asyncio.Event().wait()
        return to

    assert inspect.iscoroutinefunction(pay)
    async with client.run():
        assert [await pay("ann", idempotency_key="a") for _ in range(3)] == ["ann"] * 3
        with pytest.raises(ToolTimeoutError):
            await pay("nobody", idempotency_key="b")
        with pytest.raises(IdempotencyOutcomeUnknown) as unknown:
            await pay("nobody", idempotency_key="b")
        assert unknown.value.last_error_type is ToolTimeoutError
        with pytest.raises(MaxAttemptsExceeded):
            await pay("carl", idempotency_key="c")
    assert calls == ["ann", "nobody"]


def test_generators_are_decided_when_they_are_made() -> None:
    @actguard.tool(rate_limit={"max_calls": 1})
    def count() -> Iterator[int]:
        yield from (1, 2)

    assert list(count()) == [1, 2]
    with pytest.raises(RateLimitExceeded):
        count()


def test_a_run_is_needed_before_a_key_is_looked_at() -> None:
    @actguard.tool(idempotent={})
    def pay(*, idempotency_key: str = "") -> None: ...

    with pytest.raises(MissingRuntimeContextError):
        pay()


def test_options_that_do_not_exist() -> None:
    with pytest.raises(TypeError, match="max_call"):
        actguard.tool(rate_limit={"max_call": 3})(lambda: None)
    assert actguard.tool(policy={"any": "thing"})(lambda: "ok")() == "ok"
    assert actguard.tool(lambda: "bare")() == "bare"


def test_methods_share_their_attempts_and_have_their_own_rates(client: actguard.Client) -> None:
    class Bank:
        @actguard.tool(max_attempts={"calls": 3}, rate_limit={"max_calls": 1})
        def pay(self, amount: int) -> int:
            return amount

    one, other = Bank(), Bank()
    with client.run():
        assert one.pay(1) + other.pay(amount=2) == 3
        with pytest.raises(RateLimitExceeded):
            one.pay(3)
        assert Bank().pay(4) == 4
        with pytest.raises(MaxAttemptsExceeded):
            Bank().pay(5)


def test_refusals_survive_pickling() -> None:
    @actguard.rate_limit(max_calls=0)
    def never() -> None: ...

    with pytest.raises(RateLimitExceeded) as refused:
        never()
    again = pickle.loads(pickle.dumps(refused.value))
    assert str(again) == str(refused.value)
    assert again.retry_after == refused.value.retry_after
    assert again.to_prompt() == refused.value.to_prompt()


def test_a_broken_reporter_masks_nothing(
    reporting: tuple[actguard.Client, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = reporting

    def broken(*_args: Any, **_fields: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("checkrein.actguard.reporting.emit_event", broken)

    @actguard.tool(rate_limit={"max_calls": 0})
    def never() -> None: ...

    with (
        pytest.warns(RuntimeWarning, match=r"guard\.blocked"),
        client.run(),
        pytest.raises(RateLimitExceeded),
    ):
        never()


def test_the_users_own_wrapper_in_between() -> None:
    import functools

    def logged(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return wrapper

    @actguard.tool(rate_limit={"max_calls": 1, "scope": "user"}, idempotent={})
    @logged
    def pay(user: str, amount: int = 1, *, idempotency_key: str = "") -> int:
        return amount

    with actguard.Client().run():
        assert pay("ann", idempotency_key="k") == 1
        assert pay("ann", 1, idempotency_key="k") == 1
        with pytest.raises(RateLimitExceeded):
            pay("ann", idempotency_key="l")
