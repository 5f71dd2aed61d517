"""Operations in doubt: what a reconcile hook answers, and what becomes of the call that met one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import Done, NotExecuted, Operation
from checkrein.testing import FakeClock, assert_denied


class Upstream:
    """A payment service that may break after it has done what it was asked for."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.breaks = True

    def pay(self, payment: str) -> dict[str, str]:
        """Have an effect, and perhaps no answer."""
        self.effects.append(payment)
        if self.breaks:
            self.breaks = False
            raise ConnectionResetError("after the request was sent")
        return {"id": payment}


def guarded(
    engine: checkrein.Engine, upstream: Upstream, hook: Callable[[Operation], object], **options: Any
) -> Callable[..., Any]:
    """A payment that is broken off once, so that its operation is in doubt."""

    @engine.guard(name="pay", once="payment", reconcile=hook, **options)
    def pay(payment: str, amount: int = 5) -> dict[str, str]:
        return upstream.pay(payment)

    with pytest.raises(ConnectionResetError):
        pay("p1")
    return pay


def test_a_hook_that_finds_the_effect_answers_the_repetition(engine: checkrein.Engine) -> None:
    asked: list[Operation] = []

    def look_up(operation: Operation) -> Done:
        asked.append(operation)
        return Done({"id": "p1", "found": "yes"})

    upstream = Upstream()
    pay = guarded(engine, upstream, look_up)
    assert pay("p1") == {"id": "p1", "found": "yes"}
    assert pay("p1") == {"id": "p1", "found": "yes"}
    assert upstream.effects == ["p1"]
    (operation,) = asked
    assert (operation.gate, operation.key, operation.tenant) == ("pay.once", "p1", "")
    assert operation.arguments == {"payment": "p1", "amount": 5}
    assert operation.state == "in_doubt"
    assert engine.list("operation")[0]["state"] == "done"


def test_a_hook_that_finds_no_effect_lets_the_call_run(engine: checkrein.Engine) -> None:
    for answer in (NotExecuted, NotExecuted("no such payment")):
        upstream = Upstream()
        engine = checkrein.Engine()
        pay = guarded(engine, upstream, lambda operation, answer=answer: answer)
        assert pay("p1") == {"id": "p1"}
        assert upstream.effects == ["p1", "p1"]


def test_a_hook_that_does_not_know_changes_nothing(engine: checkrein.Engine) -> None:
    pay = guarded(engine, Upstream(), lambda operation: None)
    assert_denied(pay, "p1", code="in_doubt")
    assert [operation.key for operation in engine.in_doubt(pay)] == ["p1"]


@pytest.mark.parametrize(
    "wrong", ["a result that is not in Done", ValueError("the service is down"), "coroutine"]
)
def test_a_hook_that_fails_changes_nothing_and_is_seen(
    engine: checkrein.Engine, wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def never_awaited() -> None: ...

    def look_up(operation: Operation) -> object:
        if isinstance(wrong, Exception):
            raise wrong
        return never_awaited() if wrong == "coroutine" else wrong

    upstream = Upstream()
    pay = guarded(engine, upstream, look_up)
    with caplog.at_level(logging.ERROR, logger="checkrein"), pytest.raises(checkrein.InDoubt) as refused:
        pay("p1")
    assert isinstance(refused.value.__cause__, ValueError if isinstance(wrong, Exception) else TypeError)
    assert "stays in doubt" in caplog.text
    assert upstream.effects == ["p1"]


def test_not_executed_that_a_hook_raises_is_no_answer(engine: checkrein.Engine) -> None:
    def look_up(operation: Operation) -> object:
        raise NotExecuted("the look-up was not executed, which says nothing of the payment")

    pay = guarded(engine, Upstream(), look_up)
    assert_denied(pay, "p1", code="in_doubt")


def test_a_refusal_for_other_reasons_asks_no_hook(engine: checkrein.Engine) -> None:
    asked: list[Operation] = []
    pay = guarded(engine, Upstream(), asked.append, rules="amount < 10")
    decision = assert_denied(pay, "p1", 10)
    assert [reason.code for reason in decision.reasons] == ["rule_violated", "key_reused"]
    assert_denied(pay, "p1", 6, code="key_reused")
    assert asked == []


def test_refusals_are_returned_where_they_are_wanted(engine: checkrein.Engine) -> None:
    @engine.guard(once="key", reconcile=lambda operation: None, on_block="result")
    def act(key: str) -> int:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        act("a")
    answer = act("a")
    assert isinstance(answer, checkrein.Decision)
    assert answer.code == "in_doubt"


def test_waiting_asks_again_until_the_hook_knows(engine: checkrein.Engine) -> None:
    answers: list[object] = [None, None, Done("found")]

    @engine.guard(once="key", reconcile=lambda op: answers.pop(0), on_block="wait", deadline="1min")
    def act(key: str) -> str:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        act("a")
    assert act("a") == "found"
    assert answers == []


def test_what_one_look_up_found_does_not_end_a_later_run(engine: checkrein.Engine) -> None:
    # The first look-up says "not executed" about run 1, slowly. Meanwhile a second one lets run 2 begin, which has its
    # effect and goes in doubt. The slow answer must not let run 3 begin.
    runs: list[str] = []
    looking, go_on = threading.Event(), threading.Event()

    def look_up(operation: Operation) -> object:
        if threading.current_thread().name == "slow":
            looking.set()
            assert go_on.wait(10)
        return NotExecuted

    @engine.guard(name="pay", once="payment", reconcile=look_up)
    def pay(payment: str) -> str:
        runs.append(payment)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        pay("p1")
    refused: list[Exception] = []

    def slow() -> None:
        try:
            pay("p1")
        except checkrein.InDoubt as error:
            refused.append(error)

    thread = threading.Thread(target=slow, name="slow")
    thread.start()
    assert looking.wait(10)
    # In this process one look-up of a key runs at a time, as a person does it: here by hand.
    assert_denied(pay, "p1", code="in_doubt")
    assert engine.resolve(pay, "p1", "failed")
    with pytest.raises(ConnectionResetError):
        pay("p1")
    go_on.set()
    thread.join(10)
    assert len(runs) == 2
    assert len(refused) == 1
    assert engine.in_doubt()[0].key == "p1"


def test_many_callers_of_one_key_run_it_once() -> None:
    engine = checkrein.Engine()
    upstream = Upstream()
    lock = threading.Lock()
    looked_up: list[int] = []

    def look_up(operation: Operation) -> object:
        with lock:
            looked_up.append(1)
        return NotExecuted

    pay = guarded(engine, upstream, look_up)
    start = threading.Barrier(8)
    answers: list[object] = []

    def call() -> None:
        start.wait()
        try:
            answer: object = pay("p1")
        except (checkrein.InDoubt, checkrein.InProgress) as refused:
            answer = refused
        with lock:
            answers.append(answer)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert upstream.effects == ["p1", "p1"]  # the one that broke, and one more
    assert len(looked_up) == 1
    assert {"id": "p1"} in answers
    assert len(answers) == 8


def test_everything_in_doubt_can_be_looked_up_at_once(engine: checkrein.Engine, clock: FakeClock) -> None:
    known = {"a": Done(1), "b": NotExecuted, "c": None, "d": ValueError("down")}

    def look_up(operation: Operation) -> object:
        assert operation.arguments is None
        assert operation.since == clock.now()
        answer = known[str(operation.key)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @engine.guard(once="key", reconcile=look_up)
    def act(key: str) -> int:
        raise ConnectionResetError

    @engine.guard(once="key")
    def without(key: str) -> int:
        raise ConnectionResetError

    for key in known:
        with pytest.raises(ConnectionResetError):
            act(key)
    with pytest.raises(ConnectionResetError):
        without("x")
    assert len(engine.in_doubt()) == 5
    assert len(engine.in_doubt(limit=2)) == 2
    found = engine.reconcile()
    assert {(operation.key, operation.state) for operation in found} == {("a", "done"), ("b", "failed_clean")}
    assert {operation.key for operation in engine.in_doubt(act)} == {"c", "d"}
    assert act("a") == 1
    with pytest.raises(checkrein.ConfigError) as refused:
        engine.reconcile(without)
    assert refused.value.code == "reconcile"


async def test_hooks_of_both_kinds_serve_coroutines(engine: checkrein.Engine) -> None:
    thread = threading.current_thread()

    async def look_up(operation: Operation) -> object:
        await asyncio.sleep(0)
        return Done("async")

    def look_up_slowly(operation: Operation) -> object:
        assert threading.current_thread() is not thread
        return Done("sync")

    for hook, expected in ((look_up, "async"), (look_up_slowly, "sync")):

        @engine.guard(name=f"act_{expected}", once="key", reconcile=hook)
        async def act(key: str) -> str:
            raise ConnectionResetError

        for key in ("a", "b"):
            with pytest.raises(ConnectionResetError):
                await act(key)
        assert await act("a") == expected
        assert [operation.state for operation in await engine.areconcile(act)] == ["done"]
        assert await act("b") == expected

    with pytest.raises(checkrein.ConfigError) as refused:
        engine.guard(once="key", reconcile=look_up)(lambda key: 1)
    assert refused.value.code == "reconcile"


async def test_a_coroutine_waits_for_a_hook(engine: checkrein.Engine) -> None:
    answers: list[object] = [None, Done("found")]

    async def look_up(operation: Operation) -> object:
        return answers.pop(0)

    @engine.guard(once="key", reconcile=look_up, on_block="wait", deadline="1min")
    async def act(key: str) -> str:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await act("a")
    assert await act("a") == "found"


def test_a_found_result_is_stored_by_the_codec_of_the_function(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    unstorable = object()

    def look_up(operation: Operation) -> Done:
        return Done((1, 2) if operation.key == "a" else unstorable)

    codec = (
        lambda value: repr(value),
        lambda stored: tuple(map(int, stored.decode().strip("()").split(","))),
    )

    @engine.guard(once=checkrein.Once("key", codec=codec, reconcile=look_up))
    def act(key: str) -> tuple[int, int]:
        raise ConnectionResetError

    for key in ("a", "b"):
        with pytest.raises(ConnectionResetError):
            act(key)
    assert act("a") == (1, 2)
    with caplog.at_level("WARNING", logger="checkrein"):
        assert act("b") is unstorable  # whoever asked gets it, as from a first call
    assert "not stored" in caplog.text
    assert_denied(act, "b", code="result_pruned")
    assert not engine.in_doubt()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("on_block", ["raise", "result", "wait"])
async def test_what_cannot_be_stored_reaches_the_call_that_asked(
    store: str, on_block: str, tmp_path: Path
) -> None:
    engine = checkrein.Engine(store="memory" if store == "memory" else f"sqlite:{tmp_path}/a.db")
    found = (1, object())
    options: dict[str, Any] = {"once": "key", "on_block": on_block}
    if on_block == "wait":
        options["deadline"] = "1s"

    @engine.guard(reconcile=lambda operation: Done(found), **options)
    def act(key: str, tags: list[str]) -> object:
        raise ConnectionResetError

    async def look_up(operation: Operation) -> Done:
        return Done(found)

    @engine.guard(reconcile=look_up, **options)
    async def act_later(key: str, tags: list[str]) -> object:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        act("a", [])
    assert act("a", []) is found
    with pytest.raises(ConnectionResetError):
        await act_later("a", [])
    assert await act_later("a", []) is found
    states = [(row["state"], row["result_kept"]) for row in engine.list("operation")]
    assert states == [("done", False)] * 2
    if on_block == "raise":
        assert_denied(act, "a", [], code="result_pruned")
        with pytest.raises(checkrein.ResultPruned):
            await act_later("a", [])


def test_what_a_hook_found_is_announced(engine: checkrein.Engine) -> None:
    events: list[checkrein.Event] = []
    pay = guarded(engine, Upstream(), lambda operation: Done("found"))
    engine.add_listener(events.append)
    pay("p1")
    said = [
        (event.kind, event.decision.verdict if event.decision is not None else event.outcome, event.stored)
        for event in events
    ]
    assert said == [("decision", "block", None), ("outcome", "done", True), ("decision", "replay", None)]


def test_what_cannot_be_a_hook() -> None:
    engine = checkrein.Engine()
    with pytest.raises(checkrein.ConfigError):
        checkrein.Once("key", reconcile="find")  # type: ignore[arg-type]
    for code, options in (
        ("reconcile", {"rate": "1/min", "reconcile": print}),
        ("reconcile", {"once": checkrein.Once("key", reconcile=print), "reconcile": print}),
        ("exclude", {"once": checkrein.Once("key", exclude="key"), "exclude": "key"}),
    ):
        with pytest.raises(checkrein.ConfigError) as refused:
            engine.guard(**options)(lambda key: 1)  # type: ignore[call-overload]
        assert refused.value.code == code
