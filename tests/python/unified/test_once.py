"""Once, breakers and attempts: what repetitions, failures and unknown outcomes do."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest

import checkrein
from checkrein.testing import FakeClock, assert_denied


def test_a_repetition_gets_the_stored_result(engine: checkrein.Engine) -> None:
    runs: list[str] = []

    @engine.guard(once="payment", rate="1/h", budget="1 usd", cost="0.60 usd")
    def refund(payment: str, amount: int) -> dict[str, object]:
        runs.append(payment)
        return {"id": payment, "amount": amount, "parts": [1, 2.5, None, True]}

    first = refund("p1", 5)
    assert refund("p1", 5) == first
    assert refund(amount=5, payment="p1") == first
    assert type(refund("p1", 5)["parts"]) is list
    assert runs == ["p1"]
    assert_denied(refund, "p1", 6, code="key_reused")
    decision = assert_denied(refund, "p2", 5)
    assert [reason.code for reason in decision.reasons] == ["rate_limited", "budget_exceeded"]
    assert engine.peek(refund, "p1", 5).verdict == "replay"


@pytest.mark.parametrize(
    "once", [True, ("a", "b"), ["a", "b"], lambda a, b: f"{a}/{b}", "a + '/' + string(b)"]
)
def test_keys_of_once(engine: checkrein.Engine, once: object) -> None:
    runs: list[object] = []

    @engine.guard(once=once)  # type: ignore[arg-type]
    def act(a: str, b: int) -> int:
        runs.append((a, b))
        return b

    assert [act("x", 1), act("x", 2), act("x", 1), act("y", 1)] == [1, 2, 1, 1]
    assert len(runs) == 3


def test_arguments_without_a_canonical_form_are_refused_or_excluded(engine: checkrein.Engine) -> None:
    @engine.guard(once="key")
    def act(key: str, value: object) -> int:
        return 1

    for value in (object(), b"x", {1: 2}, 2**64, float("nan"), {1, 2}, "\ud800"):
        decision = assert_denied(act, "k", value, code="invalid_action")
        assert "exclude" in decision.reasons[0].message
    assert act("k", (1, [2.5, None])) == 1

    @engine.guard(once="key", exclude="handle")
    def other(key: str, handle: object) -> int:
        return 1

    assert [other("k", object()), other("k", object())] == [1, 1]

    third = engine.guard(once=checkrein.Once("key", exclude="handle"))(lambda key, handle: 1)
    assert [third("k", object()), third("k", object())] == [1, 1]

    with pytest.raises(checkrein.ConfigError) as refused:

        class Shop:
            @engine.guard(once="key")
            def buy(self, key: str) -> int:
                return 1

    assert refused.value.code == "once_self"


def test_results_that_cannot_be_stored_leave_the_operation_done(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @engine.guard(once="key")
    def act(key: str) -> object:
        return (1, 2)

    with caplog.at_level("WARNING", logger="checkrein"):
        assert act("a") == (1, 2)
    assert "not stored" in caplog.text
    assert_denied(act, "a", code="result_pruned")


def test_a_codec_of_the_users(engine: checkrein.Engine) -> None:
    def loads(data: bytes) -> tuple[object, ...]:
        return tuple(json.loads(data))

    @engine.guard(once=checkrein.Once("key", codec=(json.dumps, loads)))
    def act(key: str) -> tuple[int, ...]:
        return (1, 2)

    assert [act("a"), act("a")] == [(1, 2), (1, 2)]


def test_results_are_kept_for_a_time_and_keys_longer(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(once=checkrein.Once("key", keep_result="1h", keep_key="1d"))
    def act(key: str) -> int:
        return 1

    act("a")
    clock.advance(3600)
    assert_denied(act, "a", code="result_pruned")
    clock.advance(86400)
    assert act("a") == 1


def test_an_unknown_outcome_is_never_retried_blindly(engine: checkrein.Engine) -> None:
    errors: list[BaseException | None] = [ValueError("after the effect?"), None]

    @engine.guard(once="key")
    def act(key: str) -> str:
        error = errors.pop(0)
        if error:
            raise error
        return "ran"

    with pytest.raises(ValueError, match="effect"):
        act("a")
    assert_denied(act, "a", code="in_doubt")
    assert engine.resolve(act, "a", "done", {"known": True})
    assert act("a") == {"known": True}  # type: ignore[comparison-overlap]
    assert not engine.resolve(act, "a", "failed")
    errors.insert(0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        act("b")
    assert_denied(act, "b", code="in_doubt")
    assert engine.resolve(act, "b", "failed")
    assert act("b") == "ran"


def test_what_was_not_executed_may_run_again(engine: checkrein.Engine) -> None:
    errors: list[BaseException | None] = [checkrein.NotExecuted("connection refused"), None]

    @engine.guard(once="key")
    def act(key: str) -> str:
        error = errors.pop(0)
        if error:
            raise error
        return "ran"

    with pytest.raises(checkrein.NotExecuted):
        act("a")
    assert act("a") == "ran"


def test_the_same_operation_runs_once_at_a_time() -> None:
    engine = checkrein.Engine()
    inside, go_on = threading.Event(), threading.Event()

    @engine.guard(once="key")
    def act(key: str) -> int:
        inside.set()
        go_on.wait(10)
        return 1

    thread = threading.Thread(target=act, args=("a",))
    thread.start()
    inside.wait(10)
    decision = assert_denied(act, "a", code="in_progress")
    assert not decision.final
    go_on.set()
    thread.join()
    assert act("a") == 1


@pytest.mark.parametrize("place", ["memory"], indirect=True)
async def test_cancellation_leaves_an_operation_in_doubt(engine: checkrein.Engine) -> None:
    @engine.guard(once="key")
    async def act(key: str) -> int:
        await asyncio.sleep(60)
        return 1

    task = asyncio.create_task(act("a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(checkrein.InDoubt):
        await act("a")


def test_a_breaker_opens_on_failures_and_lets_a_probe_through(
    engine: checkrein.Engine, clock: FakeClock
) -> None:
    answers: list[BaseException | None] = []

    @engine.guard(breaker="stripe: 3 failures/60s")
    def call() -> str:
        error = answers.pop(0)
        if error:
            raise error
        return "ok"

    def fail(error: BaseException) -> None:
        answers.append(error)
        with pytest.raises(type(error)):
            call()

    fail(ConnectionError())
    fail(TimeoutError())
    answers.append(None)
    call()  # a success between them: not three in a row
    for _ in range(5):
        fail(ValueError("a bug of the caller says nothing"))
    fail(ConnectionResetError())
    fail(socket.gaierror())
    fail(ConnectionRefusedError())
    decision = assert_denied(call, code="circuit_open")
    assert decision.retry_after == 60.0
    clock.advance(60)
    fail(ConnectionError())
    assert_denied(call, code="circuit_open")
    clock.advance(60)
    answers.append(None)
    call()
    assert engine.list("breaker") == [] or engine.list("breaker")[0]["phase"] == "closed"


def test_a_breaker_is_shared_by_name_and_reset_by_name(engine: checkrein.Engine) -> None:
    @engine.guard(breaker=checkrein.Breaker("db", max_fails=1, classify=lambda error: "failure"))
    def first() -> None:
        raise ValueError

    @engine.guard(breaker="db: 1/60s")
    def second() -> str:
        return "ran"

    assert second() == "ran"
    with pytest.raises(ValueError):  # noqa: PT011
        first()
    assert_denied(second, code="circuit_open")
    assert engine.reset("db") == 1
    assert second() == "ran"


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (type("ReadTimeout", (type("TransportError", (Exception,), {"__module__": "httpx"}),), {})(), True),
        (type("ConnectTimeout", (Exception,), {"__module__": "requests.exceptions"})(), False),
        (type("Timeout", (Exception,), {"__module__": "requests.exceptions"})(), True),
        (type("StatusError", (Exception,), {"status_code": 503})(), True),
        (type("StatusError", (Exception,), {"status_code": 404})(), False),
        (type("OperationalError", (Exception,), {"sqlstate": "08006"})(), True),
        (type("IntegrityError", (Exception,), {"sqlstate": "23505"})(), False),
        (checkrein.NotExecuted("refused"), False),
    ],
)
def test_what_counts_as_a_failure(engine: checkrein.Engine, error: Exception, opens: bool) -> None:
    @engine.guard(breaker="x: 1/60s")
    def act() -> None:
        raise error

    with pytest.raises(type(error)):
        act()
    assert engine.peek(act).allowed is not opens


def test_a_timeout_bounds_the_wait_and_the_late_result_is_recorded() -> None:
    engine = checkrein.Engine()
    go_on = threading.Event()

    @engine.guard(
        timeout=0.05, once="key", breaker="api: 1/1h", budget="1 usd", cost="0.5 usd", actual=lambda r: "0.1"
    )
    def slow(key: str) -> str:
        go_on.wait(10)
        return "late"

    started = time.monotonic()
    with pytest.raises(checkrein.TimedOut) as refused:
        slow("a")
    assert time.monotonic() - started < 5
    assert isinstance(refused.value, TimeoutError)
    assert refused.value.code == "timeout"
    decision = assert_denied(slow, "a", code="in_doubt")
    assert "circuit_open" in [reason.code for reason in decision.reasons]
    assert engine.list()[0]["held"] == "0.5"
    go_on.set()
    for _ in range(500):
        if engine.list("operation")[0]["state"] == "done":
            break
        time.sleep(0.01)
    engine.reset("api")
    assert slow("a") == "late"
    assert (engine.list()[0]["spent"], engine.list()[0]["held"]) == ("0.1", "0")


def test_a_timeout_keeps_context_results_and_errors(engine: checkrein.Engine) -> None:
    import contextvars

    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

    @engine.guard(timeout="5s")
    def act(fail: bool) -> str:
        if fail:
            raise LookupError("inside")
        return user.get()

    user.set("alice")
    assert act(False) == "alice"
    with pytest.raises(LookupError, match="inside"):
        act(True)


def test_a_hung_worker_is_replaced() -> None:
    engine = checkrein.Engine()
    go_on = threading.Event()

    @engine.guard(timeout=0.02)
    def act(hang: bool) -> str:
        if hang:
            go_on.wait(10)
        return "ran"

    for _ in range(4):
        with pytest.raises(checkrein.TimedOut):
            act(True)
        assert act(False) == "ran"
    go_on.set()


async def test_an_async_timeout_cancels(engine: checkrein.Engine) -> None:
    cancelled = asyncio.Event()

    @engine.guard(timeout=0.02, once="key")
    async def slow(key: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(checkrein.TimedOut):
        await slow("a")
    assert cancelled.is_set()
    with pytest.raises(checkrein.InDoubt):
        await slow("a")

    @engine.guard(timeout=5)
    async def own() -> None:
        raise TimeoutError("of the tool itself")

    with pytest.raises(TimeoutError, match="of the tool itself"):
        await own()
