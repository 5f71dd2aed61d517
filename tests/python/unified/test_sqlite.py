"""The SQLite store through the Python door: what it takes, what outlives the process, what several processes share."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import Done, NotExecuted, Operation
from checkrein.testing import FakeClock, assert_denied

WORKER = Path(__file__).with_name("sqlite_worker.py")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a store."""
    return tmp_path / "store.db"


@pytest.fixture
def url(file: Path) -> str:
    """The same as a store's URL."""
    return f"sqlite:{file}"


def start(verb: str, file: Path, *arguments: int) -> subprocess.Popen[str]:
    """Start another process on a store."""
    command = [sys.executable, str(WORKER), verb, str(file), *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_file_is_named(file: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = checkrein.Engine(store="sqlite:store.db")
    assert engine.store == f"sqlite:{file.resolve()}"
    assert str(file) in repr(engine)
    assert file.stat().st_mode & 0o777 == 0o600
    assert checkrein.Engine().store == "memory"
    assert checkrein.Engine(store="memory").store == "memory"


@pytest.mark.parametrize(
    ("store", "hint"),
    [
        ("sqlite::memory:", "leave `store` out"),
        ("sqlite:", "write `sqlite:PATH`"),
        ("sqlite3:x.db", "did you mean `sqlite:x.db`?"),
        ("sqllite:x.db", "did you mean `sqlite:x.db`?"),
        ("SQLite:/tmp/x.db", "did you mean `sqlite:/tmp/x.db`?"),
        ("sqlite", "did you mean `sqlite:PATH`?"),
        ("checkrein.db", "did you mean `sqlite:checkrein.db`?"),
        ("var/checkrein", "did you mean `sqlite:var/checkrein`?"),
        ("file:x.db", "did you mean `sqlite:x.db`?"),
        ("memry", "did you mean `memory`?"),
        ("postgres://localhost", "later version"),
        ("", "store="),
        ("x\x1b[31m", "store="),
        (Path("x.db"), 'write store=f"sqlite:{path}"'),
        ("sqlite:~/x.db", "use os.path.expanduser"),
        (7, "store="),
    ],
)
def test_what_is_no_store(store: Any, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(checkrein.ConfigError) as refused:
        checkrein.Engine(store=store)
    assert refused.value.code == "store"
    assert refused.value.hint is not None
    assert hint in refused.value.hint
    assert "\x1b" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_a_store_is_an_error_within_a_second(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is not a database, and it is longer than a header of SQLite would be\n" * 10)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    for path in (tmp_path / "no" / "such" / "directory.db", tmp_path, text, other):
        began = time.monotonic()
        with pytest.raises(checkrein.StoreError) as refused:
            checkrein.Engine(store=f"sqlite:{path}")
        assert time.monotonic() - began < 1.5
        assert refused.value.code == "store_error"
        assert path.name in str(refused.value)
    assert text.read_text().startswith("this is not")


def test_everything_outlives_the_engine(url: str) -> None:
    runs: list[str] = []

    def guards(engine: checkrein.Engine) -> tuple[Any, Any]:
        @engine.guard(name="search", key="user", rate="2/h")
        def search(user: str) -> str:
            return user

        @engine.guard(
            name="pay",
            once="key",
            budget=checkrein.Budget("5 usd", name="team"),
            cost="2 usd",
            actual=lambda result: "1.5",
        )
        def pay(key: str) -> dict[str, object]:
            runs.append(key)
            return {"key": key, "parts": [1, 2.5, None]}

        return search, pay

    first = checkrein.Engine(store=url)
    search, pay = guards(first)
    assert search("ada") == "ada"
    result = pay("p1")
    assert first.peek(pay, "p9").durability == "D2"
    assert pickle.loads(pickle.dumps(first.peek(pay, "p9"))).durability == "D2"
    del first, search, pay
    gc.collect()

    again = checkrein.Engine(store=url)
    search, pay = guards(again)
    assert search("ada") == "ada"
    assert_denied(search, "ada", code="rate_limited")
    assert pay("p1") == result
    assert runs == ["p1"]
    assert {row["spent"] for row in again.list() if row["gate"] == "team"} == {"1.5"}
    assert pay("p2")
    assert pay("p3")
    assert_denied(pay, "p4", code="budget_exceeded")


def test_two_engines_of_one_file_share_their_records(url: str) -> None:
    engines = [checkrein.Engine(store=url) for _ in range(2)]
    guards = [engine.guard(name="send", rate="3/h")(lambda: 1) for engine in engines]
    assert [guard() for guard in guards] == [1, 1]
    guards[0]()
    for guard in guards:
        assert_denied(guard, code="rate_limited")


def test_names_do_not_depend_on_the_order_of_imports(url: str) -> None:
    engine = checkrein.Engine(store=url)

    def one() -> None:
        def send() -> int:
            return 1

        engine.guard(rate="9/h")(send)

    def other() -> None:
        def send() -> int:
            return 2

        engine.guard(rate="9/h")(send)

    one()
    one()  # the same function again, as after a reload
    with pytest.raises(checkrein.ConfigError) as refused:
        other()
    assert refused.value.code == "name"
    assert "name=" in str(refused.value.hint)
    with pytest.raises(checkrein.ConfigError):
        engine.budget("5 usd")
    with engine.budget("5 usd", name="team").hold("1 usd") as hold:
        hold.settle("0.5 usd")
    assert engine.budget("5 usd", name="team").status().spent == "0.5"


def test_four_processes_have_one_limit(file: Path) -> None:
    calls = 40
    workers = [start("spend", file, calls) for _ in range(4)]
    answers = []
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        answers.append(json.loads(out))
    allowed, failed = (sum(answer[word] for answer in answers) for word in ("allowed", "failed"))
    assert allowed == 50 or (failed and allowed < 50), (allowed, failed)
    assert max(answer["worst"] for answer in answers) < 2.5
    # Every payment was made once, by whoever came first, and the others got its result.
    effects = Path(f"{file}.effects").read_text().split()
    assert sorted(effects) == sorted(f"k{number}" for number in range(calls))
    for payers in zip(*(answer["paid"] for answer in answers), strict=True):
        assert len({payer for payer in payers if payer}) == 1


def spawned(url: str, results: Any) -> None:
    """Run in a process that multiprocessing made."""
    engine = checkrein.Engine(store=url)
    act = engine.guard(name="act", rate="10/h", on_block="result")(lambda: True)
    results.put(sum(bool(act()) for _ in range(6)))


def forked(url: str, results: Any) -> None:
    """Run in a process that was forked from one with an open store."""
    gc.collect()
    try:
        checkrein.Engine(store=url)
    except checkrein.StoreError as refused:
        results.put(str(refused))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_be_spawned(url: str) -> None:
    engine = checkrein.Engine(store=url)
    act = engine.guard(name="act", rate="10/h")(lambda: True)
    act()
    context: Any = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=forked, args=(url, results))
    child.start()
    assert "spawn" in results.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert act() is True


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_of_multiprocessing_open_the_file_themselves(url: str, method: str) -> None:
    engine = checkrein.Engine(store=url)
    act = engine.guard(name="act", rate="10/h")(lambda: True)
    act()
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    children = [context.Process(target=spawned, args=(url, results)) for _ in range(2)]
    for child in children:
        child.start()
    assert sum(results.get(timeout=60) for _ in children) == 9
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert_denied(act, code="rate_limited")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_never_touches_its_parents_store(url: str) -> None:
    engine = checkrein.Engine(store=url)

    @engine.guard(name="pay", once="key")
    def pay(key: str) -> int:
        # The child is in the middle of the parent's call.
        child = os.fork()
        if child == 0:
            try:
                pay("other")
            except checkrein.ForkedError:
                return 7
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        return 1

    parent = os.getpid()
    result = pay("p1")
    if os.getpid() != parent:
        # What the child drops here is the parent's permit, its engine and its handle on the file.
        del pay, engine
        gc.collect()
        os._exit(0 if result == 7 else 2)
    assert result == 1
    assert [(row["key"], row["state"]) for row in engine.list("operation")] == [("p1", "done")]
    assert pay("p1") == 1


def test_a_process_that_dies_in_a_call_leaves_an_operation_in_doubt(file: Path, url: str) -> None:
    worker = start("die", file)
    worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL
    key, sent = Path(f"{file}.effects").read_text().split()
    assert key == "p1"
    ran: list[str] = []

    def look_up(operation: Operation) -> Done | type[NotExecuted]:
        return Done({"found": "yes"}) if operation.idempotency_key == sent else NotExecuted

    engine = checkrein.Engine(store=url)

    @engine.guard(
        name="pay", once="key", budget="50 usd", cost="1 usd", actual=lambda result: "1", reconcile=look_up
    )
    def pay(key: str) -> dict[str, str]:
        ran.append(key)
        return {}

    # Seen by whoever opens the file, before any guard is made.
    assert [doubt.key for doubt in checkrein.Engine(store=url).in_doubt()] == ["p1"]
    (doubt,) = engine.in_doubt()
    assert (doubt.key, doubt.gate, doubt.state) == ("p1", "pay.once", "in_doubt")
    assert doubt.idempotency_key == sent
    # What may have been spent stays held.
    assert [row["held"] for row in engine.list() if row["gate"] == "pay.budget"] == ["1"]
    assert pay("p1") == {"found": "yes"}
    assert ran == []
    assert list(engine.in_doubt()) == []


def test_a_full_disk_stops_calls_before_they_run(file: Path) -> None:
    out, err = start("fill", file).communicate(timeout=120)
    answer = json.loads(out)
    assert answer["code"] == "store_error", err
    assert answer["seconds"] < 1.5
    # Whatever ran has its record, whatever was refused did not run, and with room again it goes on.
    assert answer["ran"] == answer["done"]
    assert answer["after"] == "ran"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_that_cannot_be_written_is_an_error(file: Path) -> None:
    checkrein.Engine(store=f"sqlite:{file}")
    gc.collect()
    out, err = start("other_user", file).communicate(timeout=60)
    answer = json.loads(out)
    assert answer["code"] == "store_error", err
    assert answer["seconds"] < 1.5
    assert "denied" in answer["text"]


def test_a_store_that_is_held_by_somebody_else_refuses_in_time(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")
    ran: list[int] = []
    act = engine.guard(name="act", once="key")(lambda key: ran.append(1))
    limited = engine.guard(name="limited", rate="5/h", on_store_error="open")(lambda: "let through")
    worker = start("hold", file)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "held\n"
    began = time.monotonic()
    decision = assert_denied(act, "a", code="store_error")
    assert time.monotonic() - began < 1.5
    assert not decision.final
    assert ran == []
    # A single rate limit may have been told to let calls through then, and says so.
    events: list[checkrein.Event] = []
    engine.add_listener(events.append)
    with caplog.at_level(logging.WARNING, logger="checkrein"):
        assert limited() == "let through"
    assert "let through without a store" in caplog.text
    assert engine.failed_open == 1
    opened, event = events
    assert (opened.name, opened.tool) == ("store.failed_open", "limited")
    assert event.decision is not None
    assert event.decision.allowed
    assert [reason.code for reason in event.decision.observed] == ["store_error"]
    with pytest.raises(checkrein.StoreError):
        engine.resolve(act, "a", "failed")
    worker.communicate(timeout=60)
    for _ in range(100):
        try:
            act("a")
            break
        except checkrein.StoreError:
            time.sleep(0.05)
    assert ran == [1]
    assert limited() == "let through"


@pytest.mark.parametrize(
    "gates",
    [
        {"once": True},
        {"rate": "1/h", "budget": "1 usd", "cost": "1 usd"},
        {"rate": ["1/h", "2/d"]},
        {"budget": "5 calls"},
        {"attempts": 3},
        {"breaker": "x: 3/60s"},
        {"rules": "true"},
    ],
)
def test_nothing_but_a_single_rate_may_fail_open(gates: dict[str, Any]) -> None:
    with pytest.raises(checkrein.ConfigError) as refused:
        checkrein.Engine().guard(on_store_error="open", **gates)(lambda: 1)
    assert refused.value.code == "on_store_error"
    with pytest.raises(checkrein.ConfigError):
        checkrein.Engine().guard(rate="1/h", on_store_error="opne")(lambda: 1)  # type: ignore[call-overload]


def test_waiting_for_the_disk_lets_other_threads_run(url: str) -> None:
    engine = checkrein.Engine(store=url)
    act = engine.guard(name="act", rate="1000000/h")(lambda: None)
    stop = threading.Event()
    counted = [0]

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    threads = [threading.Thread(target=lambda: [act() for _ in range(50)]) for _ in range(8)]
    counter = threading.Thread(target=count)
    counter.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    counter.join()
    assert engine.list()[0]["events"] == 400
    assert counted[0] > 100


def test_a_clock_that_is_moved_by_hand_moves_the_store(url: str) -> None:
    clock = FakeClock()
    engine = checkrein.Engine(store=url, clock=clock)
    act = engine.guard(name="act", rate="1/min")(lambda: 1)
    act()
    assert assert_denied(act).retry_after == 60.0
    clock.advance(60)
    assert act() == 1


# --- on event loops ---------------------------------------------------------------------------------------------------


async def test_coroutines_share_the_store_and_do_not_block_the_loop(url: str) -> None:
    engine = checkrein.Engine(store=url)
    ran: list[str] = []

    @engine.guard(
        name="pay", once="key", rate="20/h", budget="50 usd", cost="1 usd", actual=lambda result: "0.5"
    )
    async def pay(key: str) -> dict[str, str]:
        await asyncio.sleep(0)
        ran.append(key)
        assert checkrein.current_operation().key == key
        return {"key": key}

    answers = await asyncio.gather(*(pay(f"k{number}") for number in range(30)), return_exceptions=True)
    done = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer for answer in answers if isinstance(answer, checkrein.RateLimited)]
    assert (len(done), len(refused), len(ran)) == (20, 10, 20)
    assert await pay(ran[0]) == {"key": ran[0]}
    assert len(ran) == 20
    assert {row["spent"] for row in engine.list() if row["gate"] == "pay.budget"} == {"10"}
    assert engine.unrecorded_outcomes == 0


async def test_the_loop_goes_on_while_the_store_is_held_by_somebody_else(file: Path) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")
    ran: list[int] = []

    @engine.guard(name="act", once="key")
    async def act(key: str) -> None:
        ran.append(1)

    worker = start("hold", file)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "held\n"
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    with pytest.raises(checkrein.StoreError):
        await act("a")
    assert time.monotonic() - began < 1.5
    assert ticks > 20
    ticking.cancel()
    cancelled = asyncio.create_task(act("b"))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await asyncio.to_thread(worker.communicate, timeout=60)
    # Neither the one that was told nor the one that went away was left to run, and their keys are free.
    for key in ("a", "b"):
        for _ in range(100):
            try:
                await act(key)
                break
            except (checkrein.StoreError, checkrein.InProgress):
                await asyncio.sleep(0.05)
    assert ran == [1, 1]


async def test_cancellation_after_the_start_leaves_an_operation_in_doubt(url: str) -> None:
    engine = checkrein.Engine(store=url)
    started = asyncio.Event()

    @engine.guard(name="act", once="key", reconcile=lambda operation: NotExecuted)
    async def act(key: str, hang: bool) -> str:
        started.set()
        if hang:
            await asyncio.sleep(60)
        return "ran"

    task = asyncio.create_task(act("a", True))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [operation.key for operation in engine.in_doubt()] == ["a"]
    (known,) = await engine.areconcile(act)
    assert known.state == "failed_clean"


async def test_waiting_generators_and_refusals_on_a_loop(url: str) -> None:
    engine = checkrein.Engine(store=url)

    @engine.guard(name="stream", rate="1/s", budget="5 usd", cost="1 usd", actual=lambda result: "1")
    async def stream(count: int) -> Any:
        for number in range(count):
            yield number

    assert [number async for number in stream(3)] == [0, 1, 2]
    with pytest.raises(checkrein.RateLimited):
        [number async for number in stream(1)]
    closed = stream(2)
    await asyncio.sleep(1)
    await closed.__anext__()
    await closed.aclose()
    assert {row["held"] for row in engine.list() if row["gate"] == "stream.budget"} == {"0"}

    @engine.guard(name="poll", rate="1/100ms", on_block="wait", deadline="5s")
    async def poll() -> int:
        return 1

    assert [await poll() for _ in range(3)] == [1, 1, 1]

    @engine.guard(name="ask", rate="1/h", on_block="result")
    async def ask() -> int:
        return 1

    assert await ask() == 1
    assert (await ask()).code == "rate_limited"  # type: ignore[union-attr]

    @engine.guard(name="strict", rules="count < 5", once=True)
    async def strict(count: int) -> int:
        return count

    with pytest.raises(checkrein.RuleViolated):
        await strict(9)
    with pytest.raises(checkrein.InvalidAction):
        await strict(object())  # type: ignore[arg-type]
    assert await strict(1) == 1


async def test_holds_on_a_loop(url: str) -> None:
    engine = checkrein.Engine(store=url)
    budget = engine.budget("5 usd", name="team")
    async with budget.hold("2 usd") as hold:
        assert budget.status().held == "2"
        hold.settle("0.5 usd")
    with pytest.raises(ZeroDivisionError):
        async with budget.hold("1 usd"):
            raise ZeroDivisionError
    with pytest.raises(NotExecuted):
        async with budget.hold("1 usd"):
            raise NotExecuted
    with pytest.raises(checkrein.BudgetExceeded):
        async with budget.hold("4 usd"):
            pass
    assert (budget.status().spent, budget.status().held) == ("1.5", "0")


def test_every_event_loop_is_woken(url: str) -> None:
    engine = checkrein.Engine(store=url)

    @engine.guard(name="act", rate="1000/h", once="key")
    async def act(key: str) -> str:
        return key

    async def several(name: str) -> list[str]:
        return list(await asyncio.gather(*(act(f"{name}{number}") for number in range(10))))

    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append(asyncio.run(several(name)))) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for _ in range(3):
        found.append(asyncio.run(several("e")))
    assert sorted(key for keys in found[:4] for key in keys) == sorted(
        f"{name}{number}" for name in "abcd" for number in range(10)
    )
    assert len(found) == 7
