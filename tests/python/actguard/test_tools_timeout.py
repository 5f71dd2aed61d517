"""`timeout` of the drop-in: who waits, what runs on, and whom a hung tool holds up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from checkrein import actguard
from checkrein.actguard.exceptions import MissingRuntimeContextError, TimeoutUsageError, ToolTimeoutError

_pool = sys.modules["checkrein.actguard.tools._pool"]


@pytest.fixture
def release() -> Any:
    """Return an event that hung tools wait for; it is set at the end."""
    event = threading.Event()
    yield event
    event.set()


def test_hung_tools_hold_up_nobody(release: threading.Event) -> None:
    @actguard.timeout(0.01)
    def hang() -> None:
        release.wait(30)

    @actguard.timeout(30)
    def fast() -> str:
        return "ok"

    for _ in range(40):
        with pytest.raises(ToolTimeoutError):
            hang()
    assert fast() == "ok"


def test_queued_calls_that_timed_out_never_start(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "MAX_THREADS", 1)
    pool, running, ran = _pool.Pool(), threading.Event(), []

    def hang() -> None:
        running.set()
        release.wait(30)

    @actguard.timeout(0.01, executor=pool)
    def queued() -> None:
        ran.append("queued")

    @actguard.timeout(30, executor=pool)
    def fast() -> str:
        ran.append("fast")
        return "ok"

    pool.submit(hang)
    assert running.wait(30)
    for _ in range(2):
        with pytest.raises(ToolTimeoutError):
            queued()
    release.set()
    assert fast() == "ok"
    assert ran == ["fast"]


def test_a_timeout_error_of_the_tool_is_its_own() -> None:
    @actguard.timeout(30)
    def tool() -> None:
        raise TimeoutError("the database's")

    @actguard.timeout(30)
    async def async_tool() -> None:
        raise TimeoutError("the database's")

    with pytest.raises(TimeoutError, match="the database's"):
        tool()
    with pytest.raises(TimeoutError, match="the database's"):
        asyncio.run(async_tool())


def test_the_process_ends_before_a_hung_tool() -> None:
    program = """
import time
from checkrein import actguard

@actguard.timeout(0.05)
def hang():
    time.sleep(600)

try:
    hang()
except actguard.ActGuardToolError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "TOOL_TIMEOUT tool='hang' limit=0.05s\n"
    assert ended.returncode == 0


def test_tools_run_in_the_callers_run_and_threads_in_none(client: actguard.Client) -> None:
    @actguard.timeout(30)
    @actguard.max_attempts(calls=10)
    def tool() -> str:
        return "ok"

    with client.run() as run:
        assert tool() == "ok"
        assert run.get_attempt_count(f"{__name__}:{tool.__qualname__}") == 1
        # A thread that inherits the run hands it on to the tool.
        thread = threading.Thread(target=tool)
        thread.start()
        thread.join()
        assert run.get_attempt_count(f"{__name__}:{tool.__qualname__}") == 2
    # The pool's thread was started inside the run, but is not in it.
    with pytest.raises(MissingRuntimeContextError):
        tool()


def test_shutdown_does_not_wait_for_what_nobody_waits_for(release: threading.Event) -> None:
    @actguard.timeout(0.01)
    def hang() -> None:
        release.wait(30)

    with pytest.raises(ToolTimeoutError):
        hang()
    actguard.shutdown(wait=True)
    assert not release.is_set()


def test_executors_of_the_user_see_one_submission_and_its_cancellation(release: threading.Event) -> None:
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(release.wait, 30)
        ran: list[int] = []

        @actguard.timeout(0.01, executor=executor)
        def tool() -> None:
            ran.append(1)

        with pytest.raises(ToolTimeoutError):
            tool()
        release.set()
    assert ran == []


@pytest.mark.parametrize("wrong", [-1, float("nan"), "1", True, None])
def test_times_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(TimeoutUsageError):
        actguard.timeout(wrong)


async def test_async_tools_are_cancelled() -> None:
    cancelled: list[str] = []

    @actguard.timeout(0.01)
    async def tool() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise

    with pytest.raises(ToolTimeoutError):
        await tool()
    assert cancelled == ["yes"]


def test_a_call_without_any_thread_is_not_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, ran = _pool.Pool(), []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(ran.append, "lost")
    pool.submit(ran.append, "kept").result(30)
    assert ran == ["kept"]
    pool.shutdown()
