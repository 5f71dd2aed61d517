"""`idempotent` and `max_attempts` of the drop-in: what a key promises, and what a refusal uses up."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hand_clock import Clock

from checkrein import actguard
from checkrein.actguard.exceptions import (
    CircuitOpenError,
    DuplicateIdempotencyKey,
    IdempotencyInProgress,
    IdempotencyOutcomeUnknown,
    InvalidIdempotentToolError,
    MaxAttemptsExceeded,
    MissingIdempotencyKeyError,
    RateLimitExceeded,
    ToolTimeoutError,
)


class Ledger:
    """What the tools of these tests do to the world."""

    def __init__(self) -> None:
        self.paid: list[tuple[str, int]] = []

    def pay(self, to: str, amount: int) -> str:
        self.paid.append((to, amount))
        return f"paid {to} {amount}"


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def _tool(ledger: Ledger, **options: Any) -> Any:
    @actguard.idempotent(**options)
    def pay(to: str, amount: int = 1, idempotency_key: str | None = None) -> str:
        return ledger.pay(to, amount)

    return pay


def test_the_same_key_with_other_arguments_is_refused(ledger: Ledger, client: actguard.Client) -> None:
    pay = _tool(ledger)
    with client.run():
        assert pay("alice", 5, idempotency_key="k") == "paid alice 5"
        assert pay(to="alice", amount=5, idempotency_key="k") == "paid alice 5"
        with pytest.raises(DuplicateIdempotencyKey, match="with other arguments") as refused:
            pay("bob", 50, idempotency_key="k")
        assert refused.value.details["other_arguments"] is True
    assert ledger.paid == [("alice", 5)]


def test_arguments_are_compared_as_they_were(client: actguard.Client) -> None:
    @actguard.idempotent
    def send(to: list[str], context: object, *, idempotency_key: str) -> int:
        to.append("postmaster")
        return len(to)

    with client.run():
        assert send(["ann"], object(), idempotency_key="k") == 2
        # Contexts are made anew for each call and say nothing.
        assert send(["ann"], object(), idempotency_key="k") == 2
        with pytest.raises(DuplicateIdempotencyKey):
            send(["ann", "postmaster"], object(), idempotency_key="k")


def test_keys_may_be_positional_and_of_any_kind(ledger: Ledger, client: actguard.Client) -> None:
    pay = _tool(ledger)
    with client.run():
        assert pay("alice", 1, "k") == pay("alice", 1, idempotency_key="k")
        assert pay("alice", 1, 7) == pay("alice", 1, 7)
        for nothing in ("", None, 0):
            with pytest.raises(MissingIdempotencyKeyError):
                pay("alice", 1, nothing)
    assert len(ledger.paid) == 2


def test_guards_that_refuse_do_not_burn_the_key(
    ledger: Ledger, client: actguard.Client, clock: Clock
) -> None:
    @actguard.tool(
        idempotent={}, max_attempts={"calls": 3}, rate_limit={"max_calls": 1, "period": 10},
        circuit_breaker={"name": "bank", "max_fails": 1, "reset_timeout": 5},
    )  # fmt: skip
    def pay(to: str, *, idempotency_key: str) -> str:
        return ledger.pay(to, 1)

    @actguard.circuit_breaker(name="bank", max_fails=1, reset_timeout=5)
    def ping() -> None:
        raise ConnectionError

    with client.run() as run:
        name = f"{__name__}:{pay.__qualname__}"
        assert pay("alice", idempotency_key="a") == "paid alice 1"
        with pytest.raises(RateLimitExceeded):
            pay("bob", idempotency_key="b")
        clock.now += 10
        with pytest.raises(ConnectionError):
            ping()
        for _ in range(3):
            with pytest.raises(CircuitOpenError):
                pay("bob", idempotency_key="b")
        # Nothing of all this was an attempt, and none of the refusals took the place in the window.
        assert run.get_attempt_count(name) == 1
        clock.now += 5
        assert pay("bob", idempotency_key="b") == "paid bob 1"
        assert run.get_attempt_count(name) == 2
    assert ledger.paid == [("alice", 1), ("bob", 1)]


def test_stacked_decorators_know_refusals_from_failures(ledger: Ledger, client: actguard.Client) -> None:
    @actguard.rate_limit(max_calls=1)
    def quota() -> None: ...

    @actguard.idempotent
    @actguard.max_attempts(calls=1)
    def pay(to: str, *, idempotency_key: str) -> str:
        quota()
        return ledger.pay(to, 1)

    with client.run():
        pay("alice", idempotency_key="a")
        for _ in range(2):
            # The tool did not start: the key stays free.
            with pytest.raises(MaxAttemptsExceeded):
                pay("bob", idempotency_key="b")
    with client.run():
        # Refused inside the tool, which may have done something before.
        with pytest.raises(RateLimitExceeded):
            pay("carl", idempotency_key="c")
        with pytest.raises(IdempotencyOutcomeUnknown) as unknown:
            pay("carl", idempotency_key="c")
        assert unknown.value.last_error_type is RateLimitExceeded


def test_a_call_that_never_got_a_thread_leaves_its_key_free(ledger: Ledger, client: actguard.Client) -> None:
    release = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as busy:
        busy.submit(release.wait, 30)

        @actguard.tool(idempotent={}, timeout=0.02, timeout_executor=busy)
        def pay(to: str, *, idempotency_key: str) -> str:
            return ledger.pay(to, 1)

        with client.run():
            with pytest.raises(ToolTimeoutError):
                pay("alice", idempotency_key="a")
            release.set()
            busy.submit(lambda: None).result(30)
            assert ledger.paid == []
            assert pay("alice", idempotency_key="a") == "paid alice 1"


async def test_cancellation_makes_the_outcome_unknown(client: actguard.Client) -> None:
    @actguard.idempotent
    async def pay(*, idempotency_key: str) -> None:
        await asyncio.Event().wait()

    async with client.run():
        running = asyncio.ensure_future(pay(idempotency_key="k"))
        await asyncio.sleep(0)
        with pytest.raises(IdempotencyInProgress):
            await pay(idempotency_key="k")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(IdempotencyOutcomeUnknown) as unknown:
            await pay(idempotency_key="k")
        assert unknown.value.last_error_type is asyncio.CancelledError


def test_a_call_that_outlives_its_ttl_is_still_the_only_one(client: actguard.Client, clock: Clock) -> None:
    inside, release = threading.Event(), threading.Event()

    @actguard.idempotent(ttl_s=5)
    def pay(*, idempotency_key: str) -> str:
        inside.set()
        assert release.wait(30)
        return "done"

    with client.run(), ThreadPoolExecutor(max_workers=1) as pool:
        first = pool.submit(pay, idempotency_key="k")
        assert inside.wait(30)
        clock.now += 100
        with pytest.raises(IdempotencyInProgress):
            pay(idempotency_key="k")
        release.set()
        assert first.result(30) == "done"
        assert pay(idempotency_key="k") == "done"


def test_results_are_nobodys_to_change(client: actguard.Client) -> None:
    @actguard.idempotent
    def read(*, idempotency_key: str) -> dict[str, list[int]]:
        return {"ids": [1]}

    with client.run():
        first = read(idempotency_key="k")
        first["ids"].append(2)
        second = read(idempotency_key="k")
        second["ids"].append(3)
        assert read(idempotency_key="k") == {"ids": [1]}


def test_streams_are_not_replayed(client: actguard.Client) -> None:
    @actguard.idempotent
    def read(*, idempotency_key: str) -> Iterator[int]:
        return iter([1, 2])

    with client.run():
        assert list(read(idempotency_key="k")) == [1, 2]
        with pytest.raises(DuplicateIdempotencyKey):
            read(idempotency_key="k")
    with pytest.raises(InvalidIdempotentToolError, match="generator"):

        @actguard.idempotent
        def stream(*, idempotency_key: str) -> Iterator[int]:
            yield 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_s": 0},
        {"ttl_s": float("nan")},
        {"ttl_s": "60"},
        {"on_duplicate": "retrun"},
        {"safe_exceptions": (1,)},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidIdempotentToolError):
        actguard.idempotent(**wrong)


def test_expired_keys_are_forgotten(client: actguard.Client, clock: Clock) -> None:
    @actguard.idempotent(ttl_s=5)
    def pay(*, idempotency_key: str) -> None: ...

    with client.run():
        for number in range(5_000):
            pay(idempotency_key=f"k{number}")
            clock.now += 1
        from checkrein.actguard.core.run_context import require_run_state

        (keys,) = require_run_state()._idem_store.values()
        assert len(keys) <= 1_024


def test_threads_with_one_key_run_the_tool_once(ledger: Ledger, client: actguard.Client) -> None:
    pay = _tool(ledger)
    start = threading.Barrier(16)

    def worker() -> str:
        start.wait()
        try:
            return str(pay("alice", 1, "k"))
        except IdempotencyInProgress:
            return "in progress"

    with client.run(), ThreadPoolExecutor(max_workers=16) as pool:
        results = {future.result(30) for future in [pool.submit(worker) for _ in range(16)]}
    assert ledger.paid == [("alice", 1)]
    assert results <= {"paid alice 1", "in progress"}


def test_attempts_belong_to_their_run(client: actguard.Client) -> None:
    @actguard.max_attempts(calls=1)
    def call() -> str:
        return "ok"

    started, results = threading.Event(), []

    def elsewhere() -> None:
        assert started.wait(30)
        with client.run():
            results.append(call())

    # Started outside the run: threads that are started in it are in it.
    thread = threading.Thread(target=elsewhere)
    thread.start()
    with client.run() as run:
        assert call() == "ok"
        started.set()
        thread.join()
        assert results == ["ok"]
        with pytest.raises(MaxAttemptsExceeded) as refused:
            call()
        assert (refused.value.used, refused.value.run_id) == (2, run.run_id)


def test_runs_leave_nothing_behind(client: actguard.Client) -> None:
    class Witness:
        pass

    def session() -> weakref.ref[Witness]:
        witness = Witness()

        with client.run() as run:

            @actguard.tool(idempotent={}, max_attempts={"calls": 9}, circuit_breaker={"name": "bank"})
            def pay(to: str, *, idempotency_key: str) -> object:
                # A cycle through the tool: what is kept of its calls is in the run, and it knows the run.
                return (run, witness) and to

            for number in range(9):
                pay("alice", idempotency_key=str(number))
        return weakref.ref(witness)

    witnesses = [session() for _ in range(20)]
    gc.collect()
    assert [witness() for witness in witnesses] == [None] * 20
