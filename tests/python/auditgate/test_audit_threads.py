"""One sequence and one chain, whoever records at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from audit_kit import EVENT, TRAIL, ForeignStore

from checkrein.auditgate import (
    AsyncMemoryStore,
    AuditError,
    AuditPolicy,
    Engine,
    IntegrityMode,
    MemoryStore,
    Mode,
    QueryFilter,
    verify_chain,
)

CHAIN = AuditPolicy(integrity=IntegrityMode.CHAIN)


def in_threads(work: Callable[[], None], count: int = 4) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []


def assert_one_chain(log: Any, length: int) -> None:
    assert [entry.sequence for entry in log] == list(range(length))
    assert verify_chain(log) == (True, None)
    assert all((entry.prev_hash is None) == (entry.sequence == 0) for entry in log)


@pytest.mark.parametrize("store_class", [MemoryStore, ForeignStore])
def test_threads_and_engines_share_one_sequence(store_class: Callable[[], Any]) -> None:
    store = store_class()

    def work() -> None:
        engine = Engine(store=store, clock=lambda: 1.0)
        for number in range(500):
            engine.record(TRAIL, **EVENT, detail={"n": [number]}, policy=CHAIN)

    in_threads(work)
    assert_one_chain(store.query(QueryFilter(trail=TRAIL)), 2000)


def test_clearing_meanwhile_breaks_no_chain() -> None:
    engine = Engine(clock=lambda: 1.0)
    stop = threading.Event()

    def clear() -> None:
        while not stop.is_set():
            engine.clear_all()
            engine.clear(TRAIL)

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        in_threads(lambda: [engine.record(TRAIL, **EVENT, policy=CHAIN) for _ in range(500)] and None)  # type: ignore[func-returns-value]
    finally:
        stop.set()
        clearing.join()
    log = engine._store.query(QueryFilter(trail=TRAIL))
    assert_one_chain(log, len(log))


class WaitingStore:
    """An asynchronous store of the user's own that really waits."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    async def append(self, entry: Any) -> None:
        await asyncio.sleep(0.001)
        self.log.append(entry)

    async def last_entry(self, trail: Any) -> Any:
        await asyncio.sleep(0.001)
        return self.log[-1] if self.log else None


async def test_gathered_records_take_turns() -> None:
    store = WaitingStore()
    engine = Engine(async_store=store)  # type: ignore[arg-type]
    engine.register(TRAIL, CHAIN)
    await asyncio.gather(*(engine.async_record(TRAIL, **EVENT) for _ in range(20)))
    assert_one_chain(store.log, 20)


async def test_a_cancelled_record_lets_the_next_one_go() -> None:
    store = WaitingStore()
    engine = Engine(async_store=store)  # type: ignore[arg-type]
    tasks = [asyncio.ensure_future(engine.async_record(TRAIL, **EVENT, policy=CHAIN)) for _ in range(20)]
    await asyncio.sleep(0.004)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.result().recorded for task in tasks[1::2])
    assert (await engine.async_record(TRAIL, **EVENT)).recorded
    assert_one_chain(store.log, len(store.log))


@pytest.mark.parametrize("store_class", [AsyncMemoryStore, WaitingStore])
def test_event_loops_share_one_store(store_class: Callable[[], Any]) -> None:
    store = store_class()
    engine = Engine(async_store=store, clock=lambda: 1.0)
    engine.register(TRAIL, CHAIN)

    async def work() -> None:
        await asyncio.gather(*(engine.async_record(TRAIL, **EVENT) for _ in range(40)))

    in_threads(lambda: asyncio.run(work()))
    log = store.log if isinstance(store, WaitingStore) else asyncio.run(store.query(QueryFilter()))
    assert_one_chain(log, 160)


async def test_async_failures() -> None:
    class Broken(WaitingStore):
        async def append(self, entry: Any) -> None:
            raise OSError("async disk")

    engine = Engine(async_store=Broken())  # type: ignore[arg-type]
    soft = AuditPolicy(mode=Mode.SOFT)
    decision = await engine.async_record(TRAIL, **EVENT, policy=soft)
    assert decision.reason == "Store append failed: async disk"
    with pytest.raises(AuditError, match="Entry build failed: Object of type object") as raised:
        await engine.async_record(TRAIL, **EVENT, detail={"x": object()}, policy=AuditPolicy())
    assert isinstance(raised.value.__cause__, TypeError)
