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
from checkrein import Done, NotExecuted, Operation

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


@pytest.mark.parametrize("verb", ["hold", "exclusive"])
def test_an_outcome_that_could_not_be_committed_is_committed_later(file: Path, verb: str) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")
    holders: list[Holder] = []

    @engine.guard(
        name="pay", once="key", budget="100 usd", cost="60 usd", actual=lambda result: result["cost"]
    )
    def pay(key: str) -> dict[str, str]:
        holders.append(Holder(verb, file))
        return {"paid": key, "cost": "7 usd"}

    with pytest.raises(checkrein.OutcomeNotRecorded) as lost:
        pay("a")
    assert lost.value.result == {"paid": "a", "cost": "7 usd"}
    assert lost.value.code == "store_error"
    holders[0].let_go()
    # The action has ended, and that stays true: the process goes on trying to say so.
    assert again(lambda: pay("a")) == {"paid": "a", "cost": "7 usd"}
    assert len(holders) == 1
    assert not engine.in_doubt()
    (budget,) = engine.list()
    assert (budget["spent"], budget["held"]) == ("7", "0")


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


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("who", ["hook", "person"])
@pytest.mark.parametrize("outcome", ["failed", "done"])
def test_what_became_of_an_operation_decides_over_its_hold(
    store: str, who: str, outcome: str, file: Path
) -> None:
    engine = checkrein.Engine(store="memory" if store == "memory" else f"sqlite:{file}")
    breaks = [ConnectionResetError()]

    def look_up(operation: Operation) -> object:
        if who == "person":
            return None
        return NotExecuted if outcome == "failed" else Done("found")

    @engine.guard(
        name="pay",
        once="key",
        budget="100 usd",
        cost="60 usd",
        actual=lambda result: "25 usd",
        reconcile=look_up,
    )
    def pay(key: str) -> str:
        if breaks:
            raise breaks.pop()
        return "ran"

    def budget() -> tuple[str, str]:
        (row,) = engine.list()
        return row["spent"], row["held"]

    with pytest.raises(ConnectionResetError):
        pay("a")
    assert budget()[1] == "60"
    if who == "person":
        assert engine.resolve(pay, "a", outcome, "found" if outcome == "done" else None)  # type: ignore[arg-type]
        assert budget() == (("0", "0") if outcome == "failed" else ("60", "0"))
    # After `failed` the call needs all of its 60 again, of 100.
    assert pay("a") == ("ran" if outcome == "failed" else "found")
    assert budget() == (("25", "0") if outcome == "failed" else ("60", "0"))


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_what_became_of_one_operation_says_nothing_of_others(store: str, file: Path) -> None:
    engine = checkrein.Engine(store="memory" if store == "memory" else f"sqlite:{file}")

    @engine.guard(name="pay", once="key", budget="1000 usd", cost="1 usd", actual=lambda result: "1 usd")
    def pay(key: str) -> str:
        raise ConnectionResetError

    keys = [f"k{number}" for number in range(100)]
    for key in keys:
        with pytest.raises(ConnectionResetError):
            pay(key)
    assert engine.resolve(pay, "k0", "done", "found")
    assert engine.resolve(pay, "k1", "failed")
    assert sorted(str(operation.key) for operation in engine.in_doubt()) == sorted(keys[2:])
    (budget,) = engine.list()
    assert (budget["spent"], budget["held"]) == ("1", "98")
    assert pay("k0") == "found"
