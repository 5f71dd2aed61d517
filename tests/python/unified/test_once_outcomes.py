"""What ends an operation: safe errors, results that are kept or not, and the key that a target gets."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import hashlib
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import checkrein
from checkrein.testing import FakeClock, assert_denied


class CardDeclined(Exception):
    """The service says that nothing was booked."""


def test_declared_errors_are_clean_and_all_others_leave_doubt(engine: checkrein.Engine) -> None:
    raised: list[BaseException] = []

    @engine.guard(
        once="key",
        safe_errors=[CardDeclined, ConnectionRefusedError],
        budget="9 usd",
        cost="1 usd",
        actual=lambda result: "1",
    )
    def act(key: str) -> str:
        if raised:
            raise raised.pop()
        return "ran"

    class Subclass(CardDeclined):
        pass

    for key, error in enumerate([CardDeclined(), Subclass(), ConnectionRefusedError()]):
        raised.append(error)
        with pytest.raises(type(error)):
            act(f"clean {key}")
        assert engine.list()[0]["held"] == "0"
        assert act(f"clean {key}") == "ran"
    unknown = [
        ConnectionResetError(),
        TimeoutError(),
        SystemExit(),
        KeyboardInterrupt(),
        GeneratorExit(),
        ExceptionGroup("several", [CardDeclined()]),
    ]
    for key, error in enumerate(unknown):
        raised.append(error)
        with pytest.raises(type(error)):
            act(f"unknown {key}")
        assert_denied(act, f"unknown {key}", code="in_doubt")


def test_a_safe_error_of_the_way_to_a_dependency_is_its_failure(engine: checkrein.Engine) -> None:
    @engine.guard(once="key", safe_errors=ConnectionRefusedError, breaker="api: 1/1h")
    def act(key: str) -> None:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        act("a")
    decision = assert_denied(act, "a", code="circuit_open")
    assert [reason.code for reason in decision.reasons] == ["circuit_open"]

    @engine.guard(
        safe_errors=CardDeclined, breaker=checkrein.Breaker("up", max_fails=1, classify=lambda e: "failure")
    )
    def other() -> None:
        raise CardDeclined

    with pytest.raises(CardDeclined):
        other()
    assert_denied(other, code="circuit_open")


@pytest.mark.parametrize(
    "wrong",
    [
        Exception,
        BaseException,
        OSError,
        TimeoutError,
        checkrein.Denied,
        checkrein.TimedOut,
        KeyboardInterrupt,
        asyncio.CancelledError,
        "CardDeclined",
        CardDeclined(),
        [CardDeclined, None],
    ],
)
def test_what_cannot_be_safe(engine: checkrein.Engine, wrong: Any) -> None:
    with pytest.raises(checkrein.ConfigError) as refused:
        engine.guard(once="key", safe_errors=wrong)
    assert refused.value.code == "safe_errors"
    assert refused.value.hint


def test_what_times_out_is_in_doubt_whatever_is_safe() -> None:
    engine = checkrein.Engine()
    go_on = threading.Event()

    @engine.guard(once="key", timeout=0.05, safe_errors=CardDeclined)
    def act(key: str) -> None:
        go_on.wait(10)
        raise CardDeclined

    with pytest.raises(checkrein.TimedOut):
        act("a")
    assert_denied(act, "a", code="in_doubt")
    go_on.set()
    for _ in range(500):
        if not engine.in_doubt():
            break
        threading.Event().wait(0.01)
    # The late answer says that nothing happened, so the key is free again.
    assert engine.list("operation")[0]["state"] == "failed_clean"


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_call_that_is_thrown_away_is_in_doubt(engine: checkrein.Engine) -> None:
    @engine.guard(once="key")
    async def act(key: str) -> None:
        await asyncio.get_running_loop().create_future()

    async def begin() -> None:
        task = asyncio.ensure_future(act("a"))
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    coroutine = act("b")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    coroutine.close()  # never awaited: never admitted
    gc.collect()
    assert [(row["key"], row["state"]) for row in engine.list("operation")] == [("a", "in_doubt")]


def test_what_is_stored_comes_back_as_the_same_type(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[checkrein.Event] = []
    engine.add_listener(events.append)

    @engine.guard(once=checkrein.Once("key", codec=(json.dumps, json.loads)))
    def act(key: str, result: object) -> object:
        return tuple(result) if isinstance(result, list) else result

    assert act("a", [1]) == (1,)
    assert "turns a tuple into a list" in caplog.text
    assert_denied(act, "a", [1], code="result_pruned")
    assert act("b", {"x": 1}) == {"x": 1}
    assert act("b", {"x": 1}) == {"x": 1}
    assert [event.stored for event in events if event.kind == "outcome"] == [False, True]
    assert [row["result_kept"] for row in engine.list("operation")] in ([False, True], [True, False])


def test_a_result_that_is_too_large_is_not_kept(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @engine.guard(once="key")
    def act(key: str) -> str:
        return "x" * (16 << 20)

    assert len(act("a")) == 16 << 20
    assert "bytes, at most" in caplog.text
    assert_denied(act, "a", code="result_pruned")


def test_results_are_never_pickled(engine: checkrein.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickled")

    monkeypatch.setattr(pickle, "dumps", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    act = engine.guard(once="key")(lambda key: {"a": [1, 2.0, None]})
    assert act("a") == act("a") == {"a": [1, 2.0, None]}


def test_an_outcome_that_comes_too_late_carries_the_result(
    engine: checkrein.Engine, clock: FakeClock
) -> None:
    # Two leases end while the function runs: nobody would be told that it is done.
    def slowly() -> None:
        for _ in range(2):
            clock.advance(3600)
            engine.collect()

    @engine.guard(once="key")
    def act(key: str) -> dict[str, str]:
        slowly()
        return {"secret": "s3cret"}

    with pytest.raises(checkrein.OutcomeNotRecorded) as failed:
        act("a")
    assert failed.value.result == {"secret": "s3cret"}
    assert failed.value.code == "permit_finished"
    assert "s3cret" not in str(failed.value) + repr(failed.value)
    assert_denied(act, "a", code="in_doubt")
    assert engine.resolve(act, "a", "done", failed.value.result)
    assert act("a") == {"secret": "s3cret"}

    @engine.guard(once="key")
    def fail(key: str) -> None:
        slowly()
        raise LookupError("what the function raises is what the caller sees")

    with pytest.raises(LookupError) as raised:
        fail("a")
    assert "not recorded" in raised.value.__notes__[0]


def test_a_result_given_by_hand_is_stored_as_the_functions_own(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @engine.guard(once="key")
    def act(key: str) -> object:
        raise ConnectionResetError

    for key in "abcd":
        with pytest.raises(ConnectionResetError):
            act(key)
    assert engine.resolve(act, "a", "done")
    assert_denied(act, "a", code="result_pruned")
    assert engine.resolve(act, "b", "done", [1, 2])
    assert act("b") == [1, 2]
    assert "not stored" not in caplog.text
    # As after a first call whose result cannot be kept: done, without one.
    assert engine.resolve(act, "c", "done", (1, 2))
    assert "a tuple is no plain JSON value" in caplog.text
    assert engine.resolve("act.once", "d", "done", object())
    assert "not JSON serializable" in caplog.text
    for key in "cd":
        assert_denied(act, key, code="result_pruned")
    assert not engine.in_doubt()
    with pytest.raises(checkrein.ConfigError):
        engine.resolve(engine.guard(rate="1/min")(print), "a", "done")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (object(), "an object is no plain JSON value"),
        ({"total": Decimal(1)}, '`result["total"]` is a Decimal, which is no plain JSON value'),
        ([1, {"a b": [(1,)]}], "`result[1][...][0]` is a tuple, which is no plain JSON value"),
        ({7: 1}, "a key of `result` is an int, and keys of plain JSON are text"),
        ({"x": 1 << 70}, "an integer beyond 64 bits"),
        ([float("nan")], "a float that is not finite"),
    ],
)
def test_a_warning_says_what_cannot_be_stored(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture, result: object, said: str
) -> None:
    act = engine.guard(name="act", once="key")(lambda key: result)
    assert act("a") is result
    assert f"the result was not stored: {said}; repetitions will be refused" in caplog.text
    assert_denied(act, "a", code="result_pruned")


def test_keys_are_kept_for_more_than_a_year(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(once="key")
    def act(key: str) -> int:
        return 1

    act("a")
    clock.advance(24 * 3600 - 1)
    assert act("a") == 1
    clock.advance(1)
    assert_denied(act, "a", code="result_pruned")
    clock.advance(399 * 24 * 3600 - 1)
    engine.collect()
    assert_denied(act, "a", code="result_pruned")
    clock.advance(1)
    assert act("a") == 1


def uuid_of(*fields: str) -> str:
    """The idempotency key as the documents describe it."""
    digest = hashlib.sha256()
    for field in ("checkrein-idempotency-v1", *fields):
        digest.update(len(field.encode()).to_bytes(8, "big") + field.encode())
    bits = bytearray(digest.digest()[:16])
    bits[6] = bits[6] & 0x0F | 0x80
    bits[8] = bits[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(bits)))


def test_the_target_gets_a_key_of_the_operation(engine: checkrein.Engine) -> None:
    sent: list[str] = []
    fails = [True]

    @engine.guard(
        name="pay",
        tenant="tenant",
        once=checkrein.Once("payment", key_param="idempotency_key"),
        safe_errors=ConnectionRefusedError,
    )
    def pay(tenant: str, payment: str, idempotency_key: str = "", *, amount: int = 1) -> str:
        """Pay."""
        sent.append(idempotency_key)
        assert checkrein.current_operation().idempotency_key == idempotency_key
        if fails and fails.pop():
            raise ConnectionRefusedError
        return payment

    with pytest.raises(ConnectionRefusedError):
        pay("acme", "p1", amount=2)
    assert pay("acme", "p1", amount=2) == "p1"
    assert pay("acme", "p1", amount=2) == "p1"
    pay("other", "p1")
    pay("acme", "p2")
    assert sent[0] == sent[1] == uuid_of("acme", "python", "pay.once", "p1")
    assert len(sent) == 4
    assert len(set(sent)) == 3
    assert uuid.UUID(sent[0]).version == 8
    assert uuid.UUID(sent[0]).variant == uuid.RFC_4122
    keys = {row["key"]: row["idempotency_key"] for row in engine.list("operation") if row["tenant"] == "acme"}
    assert keys["p1"] == sent[0]

    # Nobody is offered the parameter, and nobody can set it.
    assert list(inspect.signature(pay).parameters) == ["tenant", "payment", "amount"]
    assert set(typing.get_type_hints(pay)) == {"tenant", "payment", "amount", "return"}
    with pytest.raises(TypeError):
        pay("acme", "p3", idempotency_key="mine")
    assert engine.peek(pay, "acme", "p3").allowed
    assert pay.__doc__ == "Pay."


@pytest.mark.parametrize(
    "function",
    [
        lambda key, token, /: token,
        lambda token, key: token,
        lambda key, *rest, token: token,
        lambda key, token, **rest: token,
    ],
)
def test_the_key_reaches_parameters_of_every_kind(
    engine: checkrein.Engine, function: Callable[..., str]
) -> None:
    act = engine.guard(name="act", once=checkrein.Once("key", key_param="token"))(function)
    assert act("k") == uuid_of("", "python", "act.once", "k")


def test_a_key_needs_a_parameter(engine: checkrein.Engine) -> None:
    for once in (
        checkrein.Once("key", key_param="tokn"),
        checkrein.Once("token", key_param="token"),
        checkrein.Once("key", exclude="token", key_param="token"),
        checkrein.Once("key", key_param="rest"),
    ):
        with pytest.raises(checkrein.ConfigError):
            engine.guard(once=once)(lambda key, token, *rest: token)


@pytest.mark.parametrize("place", ["memory"], indirect=True)
async def test_the_current_operation_is_that_of_the_innermost_call(engine: checkrein.Engine) -> None:
    @engine.guard(once="key")
    def inner(key: str) -> object:
        return checkrein.current_operation().key

    @engine.guard(once="key", timeout=5)
    async def outer(key: str) -> list[object]:
        before = checkrein.current_operation().key
        inside = inner("inner")
        await asyncio.sleep(0)
        in_thread = await asyncio.to_thread(lambda: checkrein.current_operation().key)
        return [before, inside, in_thread, checkrein.current_operation().key]

    @engine.guard(once="key", timeout=5)
    def in_worker(key: str) -> object:
        return checkrein.current_operation().key

    async def call(key: str) -> None:
        assert await outer(key) == [key, "inner", key, key]

    await asyncio.gather(*(call(f"k{number}") for number in range(5)))
    assert in_worker("w") == "w"
    with pytest.raises(checkrein.CheckreinError, match="once="):
        checkrein.current_operation()

    # Closed by another context than the one that began it.
    @engine.guard(once="key")
    async def hangs(key: str) -> None:
        await asyncio.sleep(60)

    coroutine = hangs("h")
    contextvars.copy_context().run(coroutine.send, None)
    coroutine.close()
    assert [operation.key for operation in engine.in_doubt(hangs)] == ["h"]


def test_the_parts_of_a_key_stay_apart(engine: checkrein.Engine) -> None:
    @engine.guard(name="act", once=("a", "b"))
    def act(a: str, b: str) -> str:
        return checkrein.current_operation().idempotency_key

    assert act("x", "yz") != act("xy", "z")
    assert {row["key"] for row in engine.list("operation")} == {("x", "yz"), ("xy", "z")}


def test_all_arguments_as_the_key_have_a_name(engine: checkrein.Engine) -> None:
    @engine.guard(once=True)
    def act(a: str, b: int) -> str:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        act("x", 1)
    (operation,) = engine.in_doubt(act)
    assert isinstance(operation.key, str)
    assert operation.key.startswith("sha256:")
    assert engine.resolve(act, operation.key, "done", "found")
    assert act("x", 1) == "found"


def test_keys_are_the_same_in_every_process() -> None:
    # Hash randomisation and the order of what is in a set must not reach a key.
    program = """
import checkrein
engine = checkrein.Engine(tenant="acme")
@engine.guard(name="a", once=True)
def a(x, y): return checkrein.current_operation().idempotency_key
@engine.guard(name="b", once=("x", lambda y: y["n"]))
def b(x, y): return checkrein.current_operation().idempotency_key
arguments = ("x", {"n": 7, "list": [1, 2.5, None, "ü"], "flag": True})
print(a(*arguments), b(*arguments), [row["key"] for row in engine.list("operation") if row["gate"] == "a.once"])
"""
    seen = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    # Computed when this test was written: a new version that derives other keys would run everything once more.
    assert seen == {
        "acbd6fd7-fb3b-8a1b-b320-033ae9b7bfe8 669b611d-55bc-8ec8-baf8-82129a0c892b "
        "['sha256:6e5b1cbc58522f5beeb44b7decbc451ea1e9d98f3dcce9ada92c02cac579d031']\n"
    }
