"""Coroutines, generators and waiting: decided when they start, settled when they end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator

import pytest

import checkrein
from checkrein.testing import FakeClock, assert_denied


async def test_decided_at_await(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h")
    async def act() -> str:
        return "ran"

    first, second = act(), act()
    assert engine.list() == []
    assert await second == "ran"
    with pytest.raises(checkrein.RateLimited):
        await first


async def test_gather_admits_exactly_the_limit(engine: checkrein.Engine) -> None:
    @engine.guard(rate="6/h", budget="1 usd", cost="0.10 usd", actual=lambda result: "0.10 usd")
    async def act() -> int:
        await asyncio.sleep(0)
        return 1

    results = await asyncio.gather(*(act() for _ in range(8)), return_exceptions=True)
    assert sum(result for result in results if isinstance(result, int)) == 6
    assert sum(isinstance(result, checkrein.RateLimited) for result in results) == 2
    meters = {meter.gate: (meter.spent, meter.held) for meter in act.checkrein.peek().meters}  # type: ignore[attr-defined]
    assert meters["act.budget"] == ("0.6", "0")


@pytest.mark.parametrize("place", ["memory"], indirect=True)
async def test_a_cancelled_call_is_charged_in_full(engine: checkrein.Engine) -> None:
    @engine.guard(budget="1 usd", cost="0.40 usd", actual=lambda result: "0.10 usd", breaker="x: 1/1h")
    async def act() -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(act())
    await asyncio.sleep(0)
    assert act.checkrein.peek().meters[0].held == "0.4"  # type: ignore[attr-defined]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    decision = act.checkrein.peek()  # type: ignore[attr-defined]
    assert decision.allowed  # a cancellation says nothing about the dependency
    assert (decision.meters[0].spent, decision.meters[0].held) == ("0.4", "0")


async def test_results_instead_of_exceptions(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h", on_block="result", rules=lambda a: a != [0])
    async def act(a: list[int]) -> list[int]:
        return a

    @engine.guard(rate="1/h", on_block="result", once="a")
    def sync(a: int) -> int:
        return a

    assert await act([1]) == [1]
    decision = await act([1])
    assert isinstance(decision, checkrein.Decision)
    assert not decision
    assert decision.code == "rate_limited"
    assert sync(1) == sync(1) == 1
    assert isinstance(sync(2), checkrein.Decision)


def test_generators_are_decided_at_next_and_settled_at_the_end(engine: checkrein.Engine) -> None:
    @engine.guard(rate="3/h", budget="1 usd", cost="0.30 usd", actual=lambda result: result)
    def count(n: int) -> Generator[int, str, str]:
        got = None
        for i in range(n):
            got = yield i
        return got or "0.10 usd"

    def books() -> tuple[str, str]:
        meter = next(m for m in count.checkrein.peek(0).meters if m.unit == "usd")  # type: ignore[attr-defined]
        return (meter.spent, meter.held)

    assert inspect.isgeneratorfunction(count)
    never = count(3)
    assert engine.list() == []
    del never
    assert list(count(3)) == [0, 1, 2]
    assert books() == ("0.1", "0")
    sent = count(2)
    assert next(sent) == 0
    assert books() == ("0.1", "0.3")
    assert sent.send("x") == 1
    with pytest.raises(StopIteration) as stop:
        sent.send("0.20 usd")
    assert stop.value.value == "0.20 usd"
    assert books() == ("0.3", "0")
    dropped = count(5)
    next(dropped)
    del dropped
    gc.collect()
    assert books() == ("0.6", "0")
    with pytest.raises(checkrein.RateLimited):
        next(count(1))


def test_errors_inside_a_generator(engine: checkrein.Engine) -> None:
    @engine.guard(breaker="x: 1/1h", rules=lambda items: len(items) < 5)
    def stream(items: list[int]) -> Iterator[int]:
        for item in items:
            if item < 0:
                raise ConnectionError
            try:
                yield item
            except KeyError:
                yield -99

    thrown = stream([1, 2])
    assert next(thrown) == 1
    assert thrown.throw(KeyError()) == -99  # type: ignore[attr-defined]
    assert list(thrown) == [2]
    with pytest.raises(ConnectionError):
        list(stream([1, -1]))
    with pytest.raises(checkrein.CircuitOpen):
        next(iter(stream([1])))


async def test_async_generators(engine: checkrein.Engine) -> None:
    closed: list[str] = []

    @engine.guard(rate="4/h", budget="1 usd", cost="0.20 usd", actual=lambda result: "0.05 usd")
    async def stream(n: int) -> AsyncIterator[int]:
        try:
            for i in range(n):
                try:
                    got = yield i
                    if got is not None:
                        yield got
                except KeyError:
                    yield -99
        finally:
            closed.append("closed")

    def books() -> tuple[str, str]:
        meter = next(m for m in stream.checkrein.peek(0).meters if m.unit == "usd")  # type: ignore[attr-defined]
        return (meter.spent, meter.held)

    assert inspect.isasyncgenfunction(stream)
    assert [item async for item in stream(3)] == [0, 1, 2]
    assert books() == ("0.05", "0")
    sent = stream(2)
    assert await sent.__anext__() == 0
    assert await sent.asend(7) == 7  # type: ignore[attr-defined]
    assert await sent.__anext__() == 1
    assert await sent.athrow(KeyError()) == -99  # type: ignore[attr-defined]
    await sent.aclose()  # type: ignore[attr-defined]
    assert closed == ["closed"] * 2
    assert books() == ("0.25", "0")
    early = stream(9)
    async for _ in early:
        break
    await early.aclose()  # type: ignore[attr-defined]
    assert closed == ["closed"] * 3
    with contextlib.suppress(ZeroDivisionError):
        failing = stream(9)
        await failing.__anext__()
        await failing.athrow(ZeroDivisionError())  # type: ignore[attr-defined]
    assert books() == ("0.65", "0")
    with pytest.raises(checkrein.RateLimited):
        await stream(1).__anext__()


def test_what_a_generator_cannot_have_is_said(engine: checkrein.Engine) -> None:
    def stream() -> Iterator[int]:
        yield 1

    for options in ({"once": True}, {"on_block": "result", "rate": "1/s"}, {"timeout": 1}):
        with pytest.raises(checkrein.ConfigError):
            engine.guard(**options)(stream)  # type: ignore[arg-type]


def test_waiting_sleeps_until_the_refusal_is_over(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(rate="2/10s", on_block="wait", deadline="25s")
    def act() -> float:
        return clock.now()

    started = clock.now()
    times = [act() - started for _ in range(6)]
    assert times[:2] == [0, 0]
    assert 10 <= times[2] <= 10.2
    assert 20 <= times[4] <= 20.4


def test_waiting_gives_up_at_once_when_it_cannot_help(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(rate="1/1h", on_block="wait", deadline="10s", rules=lambda a: a > 0)
    def act(a: int) -> int:
        return a

    before = clock.now()
    act(1)
    assert_denied(act, 1, code="rate_limited")
    assert_denied(act, 0, code="rule_violated")
    assert clock.now() == before


def test_waiting_really_sleeps_on_the_real_clock() -> None:
    engine = checkrein.Engine()

    @engine.guard(cooldown=0.05, on_block="wait", deadline=10)
    def act() -> None: ...

    started = time.monotonic()
    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.15 <= time.monotonic() - started < 5


async def test_async_waiting_leaves_the_loop_free() -> None:
    engine = checkrein.Engine()

    @engine.guard(rate="2/50ms", on_block="wait", deadline=5)
    async def act() -> float:
        return time.monotonic()

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticker = asyncio.create_task(tick())
    times = sorted(await asyncio.gather(*(act() for _ in range(6))))
    ticker.cancel()
    assert times[2] - times[0] >= 0.05
    assert times[4] - times[2] >= 0.045
    assert ticks > 3


def test_waiting_for_an_operation_in_progress() -> None:
    engine = checkrein.Engine()
    inside = threading.Event()

    @engine.guard(once="key", on_block="wait", deadline=10)
    def act(key: str) -> int:
        inside.set()
        time.sleep(0.1)
        return 1

    thread = threading.Thread(target=act, args=("a",))
    thread.start()
    inside.wait(10)
    assert act("a") == 1
    thread.join()
