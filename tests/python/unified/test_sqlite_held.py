"""A store that another process holds at the worst moment: who waits, who does not, and what is true afterwards."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import Done, Operation

WORKER = Path(__file__).with_name("sqlite_worker.py")


class Holder:
    """Another process that keeps everybody from writing, in one of two ways."""

    def __init__(self, verb: str, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), verb, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        """Have it end."""
        self.process.communicate(timeout=60)


class Ticker:
    """Counts how often a coroutine or a thread gets to run."""

    def __init__(self) -> None:
        self.ticks = 0
        self.ends = False

    async def on_the_loop(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(0.01)
            self.ticks += 1

    def in_a_thread(self) -> None:
        """Tick until told to end."""
        while not self.ends:
            time.sleep(0.01)
            self.ticks += 1


def again(call: Callable[[], Any]) -> Any:
    """Call until the store has caught up with who held it."""
    for _ in range(100):
        try:
            return call()
        except (checkrein.StoreError, checkrein.InProgress):
            time.sleep(0.05)
    return call()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a store."""
    return tmp_path / "store.db"


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_look_up_on_a_loop_waits_for_its_record_without_blocking_it(
    file: Path, is_async: bool
) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")
    holders: list[Holder] = []
    ticker = Ticker()
    at_answer: list[int] = []

    def look_up(operation: Operation) -> Done:
        holders.append(Holder("hold", file))
        threading.Timer(0.5, holders[0].let_go).start()
        at_answer.append(ticker.ticks)
        return Done("found")

    async def look_up_later(operation: Operation) -> Done:
        return await asyncio.to_thread(look_up, operation)

    @engine.guard(name="act", once="key", reconcile=look_up_later if is_async else look_up)
    async def act(key: str) -> str:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await act("a")
    ticking = asyncio.create_task(ticker.on_the_loop())
    assert await act("a") == "found"
    ticking.cancel()
    assert ticker.ticks - at_answer[0] > 15  # of some fifty while the record waited
    assert not engine.in_doubt()


async def test_a_look_up_whose_record_does_not_come_in_time_is_refused_in_doubt(file: Path) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")
    holders: list[Holder] = []

    async def look_up(operation: Operation) -> Done:
        if not holders:
            holders.append(Holder("hold", file))
        return Done("found")

    @engine.guard(name="act", once="key", reconcile=look_up)
    async def act(key: str) -> str:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await act("a")
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.on_the_loop())
    began = time.monotonic()
    with pytest.raises(checkrein.InDoubt) as refused:
        await act("a")
    assert time.monotonic() - began < 3
    assert isinstance(refused.value.__cause__, checkrein.StoreError)
    assert ticker.ticks > 15
    ticking.cancel()
    await asyncio.to_thread(holders[0].let_go)
    for _ in range(100):
        try:
            assert await act("a") == "found"
            break
        except (checkrein.StoreError, checkrein.InDoubt):
            await asyncio.sleep(0.05)
    assert not engine.in_doubt()


def test_closing_a_store_that_is_held_lets_other_threads_run(file: Path) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")
    act = engine.guard(name="act", once="key")(lambda key: 1)
    act("a")
    ticker = Ticker()
    thread = threading.Thread(target=ticker.in_a_thread)
    holder = Holder("hold", file)
    thread.start()
    before, began = ticker.ticks, time.monotonic()
    del engine, act
    gc.collect()
    took, ticks = time.monotonic() - began, ticker.ticks - before
    ticker.ends = True
    thread.join(10)
    holder.let_go()
    assert took > 0.3, "the last reference closes the store, which waits for its turn"
    assert ticks > 15
    assert checkrein.Engine(store=f"sqlite:{file}").list("operation")[0]["state"] == "done"
