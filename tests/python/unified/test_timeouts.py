"""`timeout`: who waits, who goes on, what is counted, and that a hanging thread keeps nobody."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import checkrein
from checkrein import deadline
from checkrein.errors import NotExecuted


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers of the test's own: others hang elsewhere."""
    monkeypatch.setattr(deadline, "_workers", deadline._Workers())
    return


class Hung:
    """Calls that hang until the test lets them go."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def work(self, value: Any = None) -> Any:
        self.begun.release()
        self.release.wait(60)
        self.ended.release()
        return value


@pytest.fixture
def hung() -> Iterator[Hung]:
    """They end with the test."""
    made = Hung()
    yield made
    made.release.set()


def eventually(is_so: Any) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_hung_workers_are_replaced_and_counted(workers: None, hung: Hung) -> None:
    engine = checkrein.Engine()
    slow = engine.timeout(0.01)(hung.work)

    @engine.timeout(30)
    def fast() -> int:
        return threading.get_ident()

    for _ in range(20):
        with pytest.raises(checkrein.TimedOut):
            slow()
    for _ in range(20):
        hung.begun.acquire(timeout=30)
    assert checkrein.timeout_workers().hung == 20
    assert fast() != threading.get_ident()
    status = checkrein.timeout_workers()
    assert (status.hung, status.abandoned, status.not_started) == (20, 20, 0)
    hung.release.set()
    eventually(lambda: checkrein.timeout_workers().hung == 0)
    eventually(lambda: checkrein.timeout_workers().running == 0)
    assert checkrein.timeout_workers().idle <= deadline.MAX_IDLE


def test_beyond_the_limit_of_threads_nothing_is_started(
    workers: None, hung: Hung, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "MAX_THREADS", 2)
    engine = checkrein.Engine()
    slow = engine.timeout(0.01)(hung.work)
    for _ in range(2):
        with pytest.raises(checkrein.TimedOut):
            slow()
    with pytest.raises(NotExecuted, match="not started"):
        slow()


def test_what_was_not_begun_in_time_never_is(workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that was given the call gets round to it when its caller has gone."""
    engine = checkrein.Engine()
    ran: list[str] = []

    @engine.guard(once="key", timeout=0.01)
    def pay(key: str) -> None:
        ran.append(key)

    held: list[Any] = []
    monkeypatch.setattr(deadline._workers, "start", held.append)
    with pytest.raises(checkrein.TimedOut):
        pay("a")
    assert checkrein.timeout_workers().not_started == 1
    held[0].run()
    assert ran == []
    # It provably had no effect, so its key is free again.
    assert engine.in_doubt() == []
    monkeypatch.undo()
    pay_again = engine.guard(once="key", name=checkrein.handle(pay).name)(lambda key: ran.append(key))
    pay_again("a")
    assert ran == ["a"]


def test_a_late_result_is_recorded(workers: None, hung: Hung) -> None:
    engine = checkrein.Engine()

    @engine.guard(once="key", timeout=0.01)
    def pay(key: str) -> str:
        return str(hung.work(key))

    with pytest.raises(checkrein.TimedOut) as late:
        pay("a")
    assert late.value.code == "timeout"
    with pytest.raises(checkrein.InDoubt):
        pay("a")
    hung.release.set()
    eventually(lambda: engine.list("operation")[0]["state"] == "done")
    assert pay("a") == "a"


def test_its_own_timeout_error_is_the_functions(workers: None) -> None:
    engine = checkrein.Engine()

    @engine.timeout(30)
    def work() -> None:
        raise TimeoutError("mine")

    @engine.timeout(30)
    async def work_async() -> None:
        raise TimeoutError("mine")

    for call in (work, lambda: asyncio.run(work_async())):
        with pytest.raises(TimeoutError, match=r"^mine$") as raised:
            call()
        assert not isinstance(raised.value, checkrein.TimedOut)


def test_async_functions_are_cancelled() -> None:
    engine = checkrein.Engine()
    heard: list[str] = []

    @engine.timeout(0.01)
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    with pytest.raises(checkrein.TimedOut):
        asyncio.run(work())
    assert heard == ["cancelled"]


def test_a_cancellation_from_outside_is_no_timeout() -> None:
    engine = checkrein.Engine()

    @engine.timeout(60)
    async def work() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_the_context_of_the_caller_reaches_the_worker(workers: None) -> None:
    engine = checkrein.Engine()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    @engine.timeout(30)
    def work() -> tuple[str, str]:
        from checkrein.acting import actor

        return variable.get(), actor()[3]

    variable.set("seen")
    with checkrein.acting(run="r1"):
        assert work() == ("seen", "r1")


def test_our_timeout_is_a_failure_for_a_breaker_unless_it_is_not_wanted(workers: None, hung: Hung) -> None:
    engine = checkrein.Engine()

    def make(**options: Any) -> Any:
        return engine.tool(timeout=0.01, breaker=checkrein.Breaker(max_fails=2, **options))(
            lambda: hung.work()
        )

    counting, deaf = make(), make(fail_on={"transport"})
    stacked = engine.circuit_breaker(max_fails=2)(engine.timeout(0.01)(lambda: hung.work()))
    for tool in (counting, deaf, stacked):
        for _ in range(2):
            with pytest.raises(checkrein.TimedOut):
                tool()
    for tool, error in (
        (counting, checkrein.CircuitOpen),
        (deaf, checkrein.TimedOut),
        (stacked, checkrein.CircuitOpen),
    ):
        with pytest.raises(error):
            tool()


def test_the_process_ends_while_a_worker_hangs() -> None:
    program = """
import threading, checkrein

@checkrein.timeout(0.05)
def hang():
    threading.Event().wait()

try:
    hang()
except checkrein.TimedOut:
    print("given up", checkrein.timeout_workers().hung)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "given up 1\n", "")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "soon", None, True])
def test_times_are_read_strictly(seconds: Any) -> None:
    with pytest.raises(checkrein.ConfigError):
        checkrein.timeout(seconds)


def test_generators_have_no_timeout() -> None:
    def work() -> Iterator[int]:
        yield 1

    with pytest.raises(checkrein.ConfigError):
        checkrein.timeout(1)(work)
