"""What callers of the Python door see while a Redis server is paused, killed, started again, or flushed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis_servers import Server

import checkrein
from checkrein import NotExecuted
from checkrein.testing import assert_denied

PATIENCE = 60


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """A server that takes what it is sent and answers nothing."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def until(found: Callable[[], object], wanted: object) -> None:
    """Wait until something is so, and say what it was when it never is."""
    end = time.monotonic() + PATIENCE
    seen: object = None
    while time.monotonic() < end:
        try:
            seen = found()
        except checkrein.StoreError as error:
            seen = error
        if seen == wanted:
            return
        time.sleep(0.02)
    raise AssertionError(f"{seen!r} is not {wanted!r}")


def stands(engine: checkrein.Engine, gate: str) -> tuple[str, str]:
    """What a budget spent and holds; nothing when nobody has asked it yet."""
    rows = [row for row in engine.list() if row["gate"] == gate]
    return (rows[0]["spent"], rows[0]["held"]) if rows else ("0", "0")


def test_a_server_that_is_gone_refuses_in_time(
    own_redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    engine = checkrein.Engine(store=own_redis_server.url)
    ran: list[str] = []

    @engine.guard(name="act", rate="5/h", once="key")
    def act(key: str) -> None:
        ran.append(key)

    @engine.guard(name="limited", rate="5/h", on_store_error="open")
    def limited() -> str:
        return "let through"

    @engine.guard(name="asked", rate="5/h", on_block="result")
    def asked() -> str:
        return "ran"

    act("a")
    assert limited() == "let through"
    own_redis_server.stop()
    began = time.monotonic()
    refused = assert_denied(act, "b", code="store_error")
    assert time.monotonic() - began < 1.5
    assert refused.durability == "D1"
    with pytest.raises(checkrein.StoreError):
        engine.list()
    decision = asked()
    assert isinstance(decision, checkrein.Decision)
    assert decision.code == "store_error"
    # Open is for single limits whose owner says so, and for nothing else; whoever watches the engine is told.
    events: list[checkrein.Event] = []
    engine.add_listener(events.append)
    with caplog.at_level(logging.WARNING, logger="checkrein"):
        assert limited() == "let through"
    assert "let through without a store" in caplog.text
    assert engine.failed_open == 1
    opened, event = events
    assert (opened.name, opened.tool) == ("store.failed_open", "limited")
    assert event.decision is not None
    assert [reason.code for reason in event.decision.observed] == ["store_error"]
    assert ran == ["a"]
    # A server without its data: limits begin anew, and what must not be forgotten waits for a person.
    own_redis_server.start()
    until(lambda: limited(), "let through")
    assert engine.failed_open >= 1
    assert asked() == "ran"
    refused = assert_denied(act, "a", code="store_error")
    assert "accept-epoch" in refused.reasons[0].message + refused.reasons[0].hint
    assert ran == ["a"]


def test_a_guard_is_made_while_the_server_is_gone(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url)
    own_redis_server.stop()
    act = engine.guard(name="act", rate="1/h")(lambda: "ran")
    assert_denied(act, code="store_error")
    own_redis_server.start()
    until(act, "ran")
    assert_denied(act, code="rate_limited")
    # What it counts is known by name all the same.
    assert [row["gate"] for row in engine.list()] == ["act.rate"]


def test_a_paused_server_takes_nothing(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url, deadline="200ms")

    @engine.guard(name="pay", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1")
    def pay(key: str) -> str:
        return key

    assert pay("first") == "first"
    codes: list[str] = []

    def call(number: int) -> None:
        try:
            pay(f"k{number}")
        except checkrein.StoreError as refused:
            codes.append(refused.code)

    with paused(own_redis_server):
        threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 5
    assert codes == ["store_error"] * 20
    # Whatever the server did when it went on is given back, and the keys are free.
    until(lambda: stands(engine, "pay.budget"), ("1", "0"))
    for number in range(20):
        until(lambda key=f"k{number}": pay(key), f"k{number}")
    assert stands(engine, "pay.budget") == ("21", "0")


def test_an_outcome_that_the_server_does_not_take(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url, deadline="200ms")

    @engine.guard(
        name="pay", once="key", exclude="hang", budget="50 usd", cost="5 usd", actual=lambda result: "1"
    )
    def pay(key: str, hang: bool) -> str:
        if hang:
            own_redis_server.pause()
        return "paid"

    try:
        with pytest.raises(checkrein.OutcomeNotRecorded) as failed:
            pay("a", True)
        assert failed.value.result == "paid"
    finally:
        own_redis_server.resume()
    # It ran: it is known as done as soon as the server can be told, and never runs again.
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            assert pay("a", False) == "paid"
            break
        except (checkrein.StoreError, checkrein.InProgress, checkrein.ResultPruned):
            time.sleep(0.05)
    until(lambda: stands(engine, "pay.budget"), ("1", "0"))


def test_interrupts_end_a_wait_for_the_server(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url)
    ran: list[str] = []

    @engine.guard(name="pay", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1")
    def pay(key: str) -> None:
        ran.append(key)

    pay("first")
    with paused(own_redis_server):
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come at any of these
            try:
                pay("a")
            except checkrein.StoreError:
                time.sleep(PATIENCE)
        assert time.monotonic() - began < 5
        timer.join()
    assert ran == ["first"]
    until(lambda: stands(engine, "pay.budget"), ("1", "0"))
    until(lambda: pay("a"), None)


def test_flushed_scripts_are_sent_again(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url)
    act = engine.guard(name="act", rate="3/h")(lambda: "ran")
    client = own_redis_server.client()
    for _ in range(3):
        client.script_flush()
        assert act() == "ran"
    client.script_flush()
    assert_denied(act, code="rate_limited")


def test_connections_that_are_cut_are_made_again(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url, deadline="10s")
    act = engine.guard(name="act", rate="20/h")(lambda: "ran")
    client = own_redis_server.client()
    for _ in range(20):
        assert act() == "ran"
        client.client_kill_filter(_type="normal", skipme=True)
    assert_denied(act, code="rate_limited")


# --- on event loops ---------------------------------------------------------------------------------------------------


async def test_the_loop_goes_on_while_the_server_does_not(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url)
    ran: list[str] = []

    @engine.guard(name="act", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1")
    async def act(key: str) -> None:
        ran.append(key)

    await act("first")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with paused(own_redis_server):
        began = time.monotonic()
        answers = await asyncio.gather(*(act(f"k{number}") for number in range(100)), return_exceptions=True)
        assert time.monotonic() - began < 5
        assert {type(answer) for answer in answers} == {checkrein.StoreError}
        assert ticks > 10
        # These go away while their decisions are under way.
        tasks = [asyncio.create_task(act(f"c{number}")) for number in range(50)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        gone = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(answer) for answer in gone} == {asyncio.CancelledError}
    ticking.cancel()
    assert ran == ["first"]
    # Neither those that were told nor those that went away left anything behind, and their keys are free: what was
    # still on its way when the server went on is admitted and given back.
    for key in ("k0", "k99", "c0", "c49"):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                await act(key)
                break
            except (checkrein.StoreError, checkrein.InProgress, checkrein.BudgetExceeded):
                await asyncio.sleep(0.05)
    assert sorted(ran) == ["c0", "c49", "first", "k0", "k99"]
    await asyncio.to_thread(until, lambda: stands(engine, "act.budget"), ("5", "0"))


async def test_tasks_cancelled_at_any_moment_leave_nothing_held(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url, deadline="10s")
    started = 0

    @engine.guard(name="act", budget="5000 usd", cost="1 usd", actual=lambda result: "1")
    async def act() -> None:
        nonlocal started
        started += 1

    for pause in (0.0, 0.0002, 0.001, 0.003, 0.01):
        tasks = [asyncio.create_task(act()) for _ in range(100)]
        await asyncio.sleep(pause)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # Everything that began was charged, and nothing else.
    await asyncio.to_thread(until, lambda: stands(engine, "act.budget")[1], "0")
    assert stands(engine, "act.budget")[0] == str(started)


async def test_cancellation_after_the_start_leaves_an_operation_in_doubt(redis_server: Server) -> None:
    engine = checkrein.Engine(store=redis_server.url, prefix="cancelled", deadline="10s")
    started, hang = asyncio.Event(), True

    @engine.guard(name="act", once="key", reconcile=lambda operation: NotExecuted)
    async def act(key: str) -> str:
        started.set()
        if hang:
            await asyncio.sleep(PATIENCE)
        return "ran"

    task = asyncio.create_task(act("a"))
    await started.wait()
    task.cancel()
    hang = False
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: [operation.key for operation in engine.in_doubt()], ["a"])
    (known,) = await engine.areconcile(act)
    assert known.state == "failed_clean"
    assert await act("a") == "ran"


def test_every_event_loop_is_woken(redis_server: Server) -> None:
    engine = checkrein.Engine(store=redis_server.url, prefix="loops", deadline="10s")

    @engine.guard(name="act", rate="1000/h", once="key")
    async def act(key: str) -> str:
        return key

    async def several(name: str) -> list[str]:
        return list(await asyncio.gather(*(act(f"{name}{number}") for number in range(10))))

    found: list[list[str]] = []
    threads: list[threading.Thread] = [
        threading.Thread(target=lambda name=name: found.append(asyncio.run(several(name)))) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for _ in range(3):
        found.append(asyncio.run(several("e")))
    assert sorted(key for keys in found[:4] for key in keys) == sorted(
        f"{name}{number}" for name in "abcd" for number in range(10)
    )
    assert len(found) == 7


def test_a_bad_record_is_a_refusal_that_says_so(own_redis_server: Server) -> None:
    engine = checkrein.Engine(store=own_redis_server.url)
    act: Any = engine.guard(name="act", rate="3/h")(lambda: "ran")
    assert act() == "ran"
    client = own_redis_server.client()
    (key,) = [key for key in client.keys("checkrein:*:m:*") if b":i:" not in key and not key.endswith(b":h")]
    client.delete(key)
    client.rpush(key, "another type")
    refused = assert_denied(act, code="store_error")
    assert refused.reasons[0].message
    client.delete(key)
    assert act() == "ran"
