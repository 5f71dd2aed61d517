"""What hostile tools, hooks, rules and interruptions must not do."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest

import checkrein
from checkrein.testing import assert_denied


class BadResponse(Exception):
    """An exception of a client whose attributes raise."""

    @property
    def response(self) -> object:
        raise ValueError("not connected")


def meters(engine: checkrein.Engine) -> list[tuple[str, str]]:
    return [(row["spent"], row["held"]) for row in engine.list()]


@pytest.mark.parametrize("answer", [[], 5, "nonsense"])
def test_a_classify_hook_cannot_hide_what_the_tool_raised(engine: checkrein.Engine, answer: Any) -> None:
    breaker = checkrein.Breaker("db", classify=lambda error: answer)

    @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: "1", breaker=breaker)
    def act() -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        act()
    assert meters(engine) == [("1", "0")]
    assert engine.list("breaker")[0]["fails"] == 1


def test_an_exception_that_cannot_be_looked_at_is_raised_on_and_settled(engine: checkrein.Engine) -> None:
    @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: "1")
    def act() -> None:
        raise BadResponse

    with pytest.raises(BadResponse):
        act()
    assert meters(engine) == [("1", "0")]


def test_a_hook_that_is_interrupted_leaves_nothing_held(engine: checkrein.Engine) -> None:
    def classify(error: BaseException) -> str:
        raise KeyboardInterrupt

    @engine.guard(
        budget="10 usd",
        cost="1 usd",
        actual=lambda result: "1",
        breaker=checkrein.Breaker("db", classify=classify),
    )
    def act() -> None:
        raise BadResponse

    with pytest.raises(KeyboardInterrupt):
        act()
    assert meters(engine) == [("1", "0")]


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt before the step-th instruction of a wrapper; whether there was such a step."""
    left, fired = step, False

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left, fired
        if "checkrein guard" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not fired:
            left -= 1
            if left < 0:
                fired = True
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return fired


def test_an_interruption_between_any_two_steps_of_a_wrapper_leaves_no_call_open() -> None:
    step, runs = 0, True
    while runs:
        engine = checkrein.Engine()

        @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: "1", breaker="db: 3/60s")
        def act(key: str) -> str:
            return key

        @engine.guard(once="key")
        def pay(key: str) -> str:
            return key

        runs = interrupted_at(step, lambda: act("a"))
        runs = interrupted_at(step, lambda: pay("a")) or runs
        gc.collect()
        assert [held for _, held in meters(engine)] in ([], ["0"]), step
        assert [row["state"] for row in engine.list("operation")] in ([], ["in_doubt"], ["done"]), step
        step += 1
    assert step > 15


def test_an_abandoned_hold_is_charged(engine: checkrein.Engine) -> None:
    hold = engine.budget("10 usd", name="team").hold("1 usd")
    hold.__enter__()
    assert meters(engine) == [("0", "1")]
    del hold
    gc.collect()
    assert meters(engine) == [("1", "0")]


def test_rules_costs_and_keys_cannot_change_what_runs_or_what_others_see(engine: checkrein.Engine) -> None:
    def spoil(order: dict[str, Any]) -> None:
        order["amount"] = 999
        order["lines"].append("more")

    def first(order: dict[str, Any]) -> bool:
        spoil(order)
        return True

    def second(order: dict[str, Any]) -> bool:
        return bool(order == {"amount": 1, "lines": ["a"]})

    def third(ctx: checkrein.Context) -> bool:
        unspoilt = second(ctx["order"])
        spoil(ctx["order"])
        return unspoilt

    def cost(order: dict[str, Any]) -> int:
        spoil(order)
        return 1

    def key(order: dict[str, Any]) -> str:
        spoil(order)
        return "k"

    @engine.guard(
        rules=[first, second, third, "order.amount == 1"],
        budget="10 usd",
        cost=cost,
        key=key,
        rate="9/min",
        once="name",
    )
    def pay(name: str, *, order: dict[str, Any]) -> dict[str, Any]:
        return order

    given = {"amount": 1, "lines": ["a"]}
    assert pay("a", order=given) == {"amount": 1, "lines": ["a"]}
    assert given == {"amount": 1, "lines": ["a"]}
    assert pay("a", order=given) == {"amount": 1, "lines": ["a"]}


@pytest.mark.parametrize(
    "result", [2.0, -0.0, 1e20, 5e-324, [1.0, {"a": -3.0, "b": []}], {}, "x" * 2_000_000, list(range(20_000))]
)
def test_a_replay_has_the_value_and_the_type_of_the_first_result(
    engine: checkrein.Engine, result: Any
) -> None:
    @engine.guard(once="key")
    def act(key: str) -> Any:
        return result

    assert repr(act("a")) == repr(result)
    assert repr(act("a")) == repr(result)


def test_the_late_end_of_a_resolved_run_says_nothing_about_the_next(engine: checkrein.Engine) -> None:
    ends = [threading.Event() for _ in range(3)]
    running: list[int] = []

    @engine.guard(once="key", timeout="50ms")
    def act(key: str) -> int:
        number = len(running)
        running.append(number)
        ends[number].wait(10)
        if number == 0:
            raise checkrein.NotExecuted("late")
        return number

    with pytest.raises(checkrein.TimedOut):
        act("a")
    assert engine.resolve(act, "a", "failed")
    with pytest.raises(checkrein.TimedOut):
        act("a")
    ends[0].set()
    time.sleep(0.1)
    assert_denied(act, "a", code="in_doubt")
    assert running == [0, 1]
    ends[1].set()
    for _ in range(500):
        if engine.list("operation")[0]["state"] == "done":
            break
        time.sleep(0.01)
    assert act("a") == 1


def test_names_with_a_colon_are_whole(engine: checkrein.Engine) -> None:
    @engine.guard(once="key", name="ns:tool", breaker=checkrein.Breaker("api:v1"))
    def act(key: str) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        act("a")
    assert engine.list("operation")[0]["gate"] == "ns:tool.once"
    assert engine.list("breaker")[0]["gate"] == "api:v1"
    assert not engine.resolve("tool", "a", "failed")
    assert engine.resolve("ns:tool", "a", "failed")


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_guard_is_reset_and_resolved_without_touching_its_namesake(engine: checkrein.Engine) -> None:
    def make() -> Callable[[str], None]:
        @engine.guard(once="key", rate="1/h", key="key")
        def pay(key: str) -> None:
            raise RuntimeError

        return pay

    first, second = make(), make()
    with pytest.raises(RuntimeError):
        second("a")
    for name in (first, "pay"):
        assert engine.reset(name) == 0
        assert not engine.resolve(name, "a", "failed")
    decision = assert_denied(second, "a", code="in_doubt")
    assert [reason.code for reason in decision.reasons] == ["in_doubt", "rate_limited"]
    assert engine.reset(second) == 1
    assert engine.resolve(second, "a", "failed")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_call_that_forks_is_ended_by_the_parent(engine: checkrein.Engine) -> None:
    @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: "1")
    def act() -> int:
        return os.fork()

    child = act()
    if child == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert meters(engine) == [("1", "0")]


def test_ctrl_c_in_a_running_call_settles_it(engine: checkrein.Engine) -> None:
    @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: "1")
    def act() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        act()
    assert meters(engine) == [("1", "0")]


@pytest.mark.parametrize("secret", ["canary", "-1.5", "1" * 60, "0." + "7" * 20, "5 canaries", "-7 usd"])
def test_an_amount_that_is_none_is_never_quoted(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture, secret: str
) -> None:
    caplog.set_level("DEBUG", logger="checkrein")

    @engine.guard(budget="10 usd", cost=lambda value: value)
    def act(value: str) -> None: ...

    @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: result)
    def late(value: str) -> str:
        return value

    decision = assert_denied(act, secret, code="invalid_action")
    late(secret)
    said = f"{decision} {decision!r} {decision.to_dict()} {decision.to_prompt()} {caplog.text}"
    assert secret not in said
    assert "actual" in caplog.text


def test_ctrl_c_in_a_listener_is_not_lost(engine: checkrein.Engine) -> None:
    def interrupted(event: checkrein.Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    @engine.guard(budget="10 usd", cost="1 usd", actual=lambda result: "1")
    def act() -> None: ...

    engine.add_listener(interrupted)
    with pytest.raises(KeyboardInterrupt):
        act()
    engine.remove_listener(interrupted)
    gc.collect()
    assert meters(engine) == [("1", "0")]


def test_a_refusal_without_a_decision_still_has_a_code() -> None:
    assert checkrein.Denied().code == "denied"


@pytest.mark.parametrize(
    "exponent", ["1E+999999999", "1E-999999999", "0E+999999999", "NaN", "sNaN", "-Infinity"]
)
def test_a_decimal_is_refused_before_it_is_written_out(engine: checkrein.Engine, exponent: str) -> None:
    @engine.guard(budget="10 usd", cost=lambda: Decimal(exponent))
    def act() -> None: ...

    started = time.monotonic()
    assert_denied(act, code="invalid_action")
    assert time.monotonic() - started < 1
    assert engine.list() == []


@pytest.mark.parametrize("rule", ["!has(p.id)", "has(p.id)", "p.id == 1"])
def test_a_key_that_fails_to_compare_is_not_a_missing_member(engine: checkrein.Engine, rule: str) -> None:
    class Key:
        def __hash__(self) -> int:
            return hash("id")

        def __eq__(self, other: object) -> bool:
            raise ValueError("no")

    ran = []

    @engine.guard(rules=rule)
    def tool(p: object) -> None:
        ran.append(p)

    with pytest.raises(checkrein.Denied):
        tool({Key(): 1})
    assert ran == []
