"""`circuit_breaker` of the drop-in: whose circuit it is, how it opens, probes and closes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
import urllib.error
from typing import Any, ClassVar

import pytest
from hand_clock import Clock, Prompt

from checkrein import actguard
from checkrein.actguard.exceptions import CircuitOpenError, RateLimitExceeded, ToolTimeoutError


class Dependency:
    """What the guarded functions call; it fails as long as it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    def call(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "ok"


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


def _guard(dependency: Dependency, **options: Any) -> Any:
    @actguard.circuit_breaker(**{"name": "dep", "max_fails": 2, "reset_timeout": 10, **options})
    def call() -> str:
        return dependency.call()

    return call


def _fail(call: Any, times: int, error: type[BaseException] = ConnectionError) -> None:
    for _ in range(times):
        with pytest.raises(error):
            call()


def test_functions_share_the_circuit_of_a_name(dependency: Dependency) -> None:
    reader, writer, other = _guard(dependency), _guard(dependency), _guard(dependency, name="other")
    dependency.error = ConnectionError()
    _fail(reader, 1)
    _fail(writer, 1)
    for call in (reader, writer):
        with pytest.raises(CircuitOpenError):
            call()
    _fail(other, 1)
    assert dependency.calls == 3


def test_one_probe_at_a_time(dependency: Dependency, clock: Clock) -> None:
    inside, release = threading.Event(), threading.Event()

    @actguard.circuit_breaker(name="dep", max_fails=1, reset_timeout=10)
    def slow() -> str:
        if dependency.error is not None:
            return dependency.call()
        inside.set()
        assert release.wait(30)
        return "ok"

    dependency.error = ConnectionError()
    _fail(slow, 1)
    dependency.error = None
    clock.now += 10
    results: list[str] = []
    probe = threading.Thread(target=lambda: results.append(slow()))
    probe.start()
    assert inside.wait(30)
    for _ in range(8):
        with pytest.raises(CircuitOpenError) as refused:
            slow()
        # At the latest when the probe counts as lost.
        assert refused.value.reset_at == clock.now + 10
    release.set()
    probe.join()
    assert results == ["ok"]
    assert slow() == "ok"


def test_a_failed_probe_opens_it_again_and_a_lost_one_too(dependency: Dependency, clock: Clock) -> None:
    call = _guard(dependency, max_fails=1)
    dependency.error = ConnectionError()
    _fail(call, 1)
    clock.now += 10
    _fail(call, 1)
    with pytest.raises(CircuitOpenError) as refused:
        call()
    assert refused.value.reset_at == clock.now + 10
    assert refused.value.retry_after == 10


def test_the_late_success_of_an_old_call_does_not_close_it(clock: Clock) -> None:
    inside, release = threading.Event(), threading.Event()

    @actguard.circuit_breaker(name="dep", max_fails=1, reset_timeout=10)
    def call(mode: str) -> str:
        if mode == "fail":
            raise ConnectionError
        inside.set()
        assert release.wait(30)
        return "late"

    old = threading.Thread(target=call, args=("slow",))
    old.start()
    assert inside.wait(30)
    with pytest.raises(ConnectionError):
        call("fail")
    release.set()
    old.join()
    with pytest.raises(CircuitOpenError):
        call("fail")


def test_unknown_exceptions_end_a_row_of_failures(dependency: Dependency) -> None:
    # As published; the unified API takes them for no news.
    call = _guard(dependency)
    for _ in range(3):
        dependency.error = ConnectionError()
        _fail(call, 1)
        dependency.error = ValueError()
        _fail(call, 1, ValueError)
    dependency.error = ConnectionError()
    _fail(call, 2)
    with pytest.raises(CircuitOpenError):
        call()


def test_an_unknown_exception_of_a_probe_finds_nothing_out(dependency: Dependency, clock: Clock) -> None:
    call = _guard(dependency, max_fails=1)
    dependency.error = ConnectionError()
    _fail(call, 1)
    clock.now += 10
    dependency.error = ValueError()
    _fail(call, 1, ValueError)
    dependency.error = ConnectionError()
    _fail(call, 1)
    with pytest.raises(CircuitOpenError):
        call()


def _named(module: str, name: str) -> type[Exception]:
    return type(name, (Exception,), {"__module__": module})


@pytest.mark.parametrize(
    "error",
    [
        _named("httpx", "TransportError")(),
        _named("httpx2", "TimeoutException")(),
        _named("requests.exceptions", "ConnectionError")(),
        _named("requests.exceptions", "Timeout")(),
        _named("openai", "APIConnectionError")(),
        urllib.error.URLError(ConnectionRefusedError()),
        urllib.error.URLError("no route"),
        socket.gaierror(socket.EAI_NONAME, "unknown host"),
        ssl.SSLError("bad record"),
        http.client.IncompleteRead(b""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_errors_people_really_get_open_it(dependency: Dependency, error: Exception) -> None:
    call = _guard(dependency)
    dependency.error = error
    _fail(call, 2, type(error))
    with pytest.raises(CircuitOpenError):
        call()


def test_statuses_come_before_codes(dependency: Dependency) -> None:
    class CloudError(Exception):
        response: ClassVar = {
            "Error": {"Code": "ThrottlingException"},
            "ResponseMetadata": {"HTTPStatusCode": 400},
        }

    # INVALID because of the 400, and therefore ignored: it does not even end the row.
    call = _guard(dependency, fail_on=actguard.FAIL_ON_STRICT)
    dependency.error = ConnectionError()
    _fail(call, 1)
    dependency.error = CloudError()
    _fail(call, 3, CloudError)
    dependency.error = ConnectionError()
    _fail(call, 1)
    with pytest.raises(CircuitOpenError):
        call()


def test_timeouts_of_the_same_tool_open_it() -> None:
    release = threading.Event()

    @actguard.tool(timeout=0.01, timeout_executor=Prompt(), circuit_breaker={"name": "dep", "max_fails": 2})
    def hang() -> None:
        release.wait(30)

    _fail(hang, 2, ToolTimeoutError)
    with pytest.raises(CircuitOpenError):
        hang()
    release.set()


def test_refusals_and_cancellations_are_no_outcomes(dependency: Dependency) -> None:
    @actguard.rate_limit(max_calls=1)
    def limited() -> None: ...

    @actguard.circuit_breaker(name="dep", max_fails=2)
    def call(error: type[BaseException] | None) -> None:
        if error is not None:
            raise error
        limited()

    _fail(lambda: call(ConnectionError), 1)
    limited()
    _fail(lambda: call(None), 3, RateLimitExceeded)
    _fail(lambda: call(asyncio.CancelledError), 1, asyncio.CancelledError)
    _fail(lambda: call(KeyboardInterrupt), 1, KeyboardInterrupt)
    _fail(lambda: call(ConnectionError), 1)
    with pytest.raises(CircuitOpenError):
        call(None)


async def test_cancelled_calls_give_their_probe_back(clock: Clock) -> None:
    @actguard.circuit_breaker(name="dep", max_fails=1, reset_timeout=10)
    async def call(mode: str) -> str:
        if mode == "fail":
            raise ConnectionError
        if mode == "hang":
            await asyncio.Event().wait()
        return "ok"

    with pytest.raises(ConnectionError):
        await call("fail")
    clock.now += 10
    probe = asyncio.ensure_future(call("hang"))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpenError):
        await call("ok")
    probe.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probe
    assert await call("ok") == "ok"


def test_open_circuits_outlive_closed_ones() -> None:
    from checkrein.actguard.tools import _cache

    def call(name: str, fails: bool) -> None:
        @actguard.circuit_breaker(name=name, max_fails=1)
        def guarded() -> None:
            if fails:
                raise ConnectionError

        with contextlib.suppress(ConnectionError):
            guarded()

    call("broken", True)
    for number in range(3_000):
        call(f"well-{number}", False)
    assert _cache.get_cache().circuit("broken") == "open"
    assert _cache.get_cache().circuit("well-1") == "closed"
