"""Decisions and exceptions, listeners, rules, configuration errors, forks and Ctrl-C."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import checkrein
from checkrein import errors
from checkrein.testing import FakeClock, assert_allowed, assert_denied


def refused(engine: checkrein.Engine) -> checkrein.Decision:
    @engine.guard(
        rate="1/min",
        cooldown="2s",
        budget="1 usd",
        cost="0.60 usd",
        attempts=1,
        rules=[checkrein.Rule(lambda a: a != 2, name="not_two", message="two is not allowed"), "a != 2"],
    )
    def act(a: int) -> None: ...

    act(1)
    return assert_denied(act, 2)


def test_reasons_come_in_the_documented_order(engine: checkrein.Engine) -> None:
    decision = refused(engine)
    assert [(reason.kind, reason.code) for reason in decision.reasons] == [
        ("rule", "rule_violated"),
        ("rule", "rule_violated"),
        ("attempts", "attempts_exceeded"),
        ("limit", "cooldown"),
        ("limit", "rate_limited"),
        ("budget", "budget_exceeded"),
    ]
    assert [reason.gate for reason in decision.reasons[:3]] == ["not_two", "a != 2", "act.attempts"]
    assert decision.final
    assert decision.retry_after is None
    assert decision.reasons is decision.reasons


def test_a_decision_as_data(engine: checkrein.Engine) -> None:
    decision = refused(engine)
    data = json.loads(json.dumps(decision.to_dict()))
    assert data["allowed"] is False
    assert data["code"] == "rule_violated"
    kind = engine.store.partition(":")[0]
    assert data["durability"] == {"memory": "D0", "redis": "D1", "sqlite": "D2"}[kind]
    assert len(data["reasons"]) == 6
    for reason in decision.reasons:
        assert reason.message
        assert not reason.message.endswith(".")
        assert reason.hint
        assert reason.model_message.endswith(".")
    assert not decision
    assert "act" in repr(decision)
    with pytest.raises(AttributeError):
        decision.code = "x"  # type: ignore[misc]


def test_the_prompt_quotes_no_arguments(engine: checkrein.Engine) -> None:
    def rule(secret: str) -> bool:
        raise RuntimeError(secret)

    @engine.guard(rules=[rule, "secret == 'x'"], key=lambda secret: [secret], rate="1/h")
    def act(secret: str) -> None: ...

    decision = assert_denied(act, "hunter2")
    everything = decision.to_prompt() + str(decision) + repr(decision) + json.dumps(decision.to_dict())
    assert "hunter2" not in everything
    assert "act" in decision.to_prompt()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_decisions_and_exceptions_pickle(engine: checkrein.Engine, protocol: int) -> None:
    decision = refused(engine)
    again = pickle.loads(pickle.dumps(decision, protocol))
    assert again == decision
    assert again.to_dict() == decision.to_dict()
    assert hash(again) == hash(decision)
    assert copy.deepcopy(decision.reasons[0]) == decision.reasons[0]
    for name in errors.__all__:
        cls = getattr(errors, name)
        if name == "ConfigError":
            error = cls("what", "code", "hint")
        elif name == "PolicyFileError":
            error = cls("what", "code", [{"line": 1}])
        else:
            error = cls(decision) if issubclass(cls, checkrein.Denied) else cls("text")
        other = pickle.loads(pickle.dumps(error, protocol))
        assert type(other) is cls
        assert str(other) == str(error)
        assert isinstance(other, checkrein.CheckreinError)


def test_every_code_has_its_exception() -> None:
    decision = checkrein.TimedOut(checkrein._native.timeout_decision("t", 1.0)).decision
    assert decision.code == "timeout"
    assert isinstance(decision._exception(), checkrein.TimedOut)


@pytest.mark.parametrize(
    "answer", [1, 0, None, "yes", "", [], object(), 1.0], ids=lambda value: type(value).__name__
)
def test_a_rule_must_answer_true_or_false(engine: checkrein.Engine, answer: object) -> None:
    @engine.guard(rules=lambda: answer, rate="1/h")
    def act() -> None: ...

    assert_denied(act, code="rule_error")
    assert engine.list() == []


def test_rules_that_raise_or_return_coroutines(
    engine: checkrein.Engine, recwarn: pytest.WarningsRecorder
) -> None:
    async def later() -> bool:
        return True

    def raises() -> bool:
        raise ValueError("text")

    @engine.guard(rules=[lambda: later(), raises, lambda: True])
    def act() -> None: ...

    decision = assert_denied(act)
    assert [reason.code for reason in decision.reasons] == ["rule_error", "rule_error"]
    assert "coroutine" in decision.reasons[0].message
    assert "ValueError" in decision.reasons[1].message
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]

    with pytest.raises(checkrein.ConfigError) as wrong:
        engine.guard(rules=later)(lambda: None)
    assert wrong.value.code == "rule_async"


def test_ctrl_c_in_a_rule_takes_nothing(engine: checkrein.Engine) -> None:
    def rule() -> bool:
        raise KeyboardInterrupt

    @engine.guard(rules=rule, rate="1/h")
    def act() -> None: ...

    with pytest.raises(KeyboardInterrupt):
        act()
    assert engine.list() == []


def test_rules_see_arguments_by_name_or_as_one_context(engine: checkrein.Engine) -> None:
    seen: list[object] = []

    def by_name(b: int, a: str, z: int = 9) -> bool:
        seen.append((a, b, z))
        return True

    def everything(**arguments: object) -> bool:
        seen.append(arguments)
        return True

    def context(ctx: checkrein.Context) -> bool:
        seen.append((ctx.tool, dict(ctx.arguments), ctx["a"]))
        return True

    def keyword(*, b: int) -> bool:
        seen.append(b)
        return True

    def skipped(x: int = 5, b: int = 6) -> bool:
        seen.append((x, b))
        return True

    @engine.guard(rules=[by_name, everything, context, keyword, skipped])
    def act(a: str, b: int = 2) -> None: ...

    act("x")
    assert seen == [("x", 2, 9), {"a": "x", "b": 2}, ("act", {"a": "x", "b": 2}, "x"), 2, (5, 2)]


@pytest.mark.parametrize(
    "rule",
    ["args.amount <= 10", "amount <= 10 && user in ['a', 'b']", "size(items) < 3", "order.lines.all(l, l.price < 10)",
     "has(order.note) == false", "user.startsWith('a')", "items[0] == 1"],
)  # fmt: skip
def test_rules_in_cel(engine: checkrein.Engine, rule: str) -> None:
    @engine.guard(rules=rule)
    def act(amount: int, user: str, items: list[int], order: dict[str, object]) -> str:
        return "ran"

    assert act(10, "a", [1, 2], {"lines": [{"price": 9}, {"price": 1}]}) == "ran"
    assert_denied(act, 11, "c", [2, 2, 3], {"lines": [{"price": 10}], "note": 1}, code="rule_violated")


def test_cel_that_has_no_answer_is_a_refusal(engine: checkrein.Engine) -> None:
    @engine.guard(rules=["order.total < 5", "thing.x == 1", "amount + 1 > 0", "amount"])
    def act(order: dict[str, int], thing: object, amount: int) -> None: ...

    decision = assert_denied(act, {}, object(), 2**63 - 1)
    assert [reason.code for reason in decision.reasons] == ["rule_error"] * 4


BAD = [
    ({"rate": "ten/min"}, "rate"),
    ({"rate": 10}, "rate"),
    ({"rate": "10/fortnight"}, "duration"),
    ({"rate": "10/0s"}, "duration"),
    ({"rate": "10 per calendar day Mars/Olympus"}, "time_zone"),
    ({"rate": "1/s", "key": "usr"}, "unknown_argument"),
    ({"rate": "1/s", "key": 5}, "key"),
    ({"rate": "1/s", "key": "user +"}, "expression_syntax"),
    ({"rate": "1/s", "key": lambda nobody: 1}, "unknown_argument"),
    ({"rate": "1/s", "key": max}, "signature"),
    ({"cooldown": -1}, "duration"),
    ({"cooldown": float("nan")}, "duration"),
    ({"cooldown": float("inf")}, "duration"),
    ({"cooldown": "5"}, "duration"),
    ({"budget": 5}, "budget"),
    ({"budget": 5.0}, "budget"),
    ({"budget": "50/day"}, "amount"),
    ({"budget": "-5 usd"}, "amount"),
    ({"budget": "NaN usd"}, "amount"),
    ({"budget": "5 eur"}, "amount"),
    ({"budget": "1 usd"}, "cost"),
    ({"budget": "1 usd", "cost": 0.1}, "float_money"),
    ({"budget": "1 usd", "cost": "0.1 usd", "actual": 5}, "actual"),
    ({"cost": "1 usd", "rate": "1/s"}, "cost"),
    ({"actual": len, "rate": "1/s"}, "cost"),
    ({"rules": 5}, "rule"),
    ({"rules": "user ="}, "expression_syntax"),
    ({"rules": "usr == 1"}, "expression_unknown_variable"),
    ({"attempts": 0}, "attempts"),
    ({"attempts": True}, "attempts"),
    ({"attempts": 1.5}, "attempts"),
    ({"once": 5}, "once"),
    ({"once": "usr"}, "unknown_argument"),
    ({"once": True, "exclude": "usr"}, "unknown_argument"),
    ({"exclude": "user"}, "exclude"),
    ({"breaker": "stripe"}, "breaker"),
    ({"breaker": 3}, "breaker"),
    ({"timeout": 0}, "duration"),
    ({"timeout": "soon"}, "duration"),
    ({"on_block": "ignore"}, "on_block"),
    ({"on_block": "wait"}, "deadline"),
    ({"deadline": 5}, "deadline"),
    ({"mode": "dry"}, "mode"),
    ({"name": ""}, "name"),
    ({"rate": ["1/s"] * 40}, "too_many"),
]


@pytest.mark.parametrize(("options", "code"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_an_error_with_a_code_and_a_hint(
    engine: checkrein.Engine, options: dict[str, object], code: str
) -> None:
    with pytest.raises(checkrein.ConfigError) as wrong:
        engine.guard(**options)(lambda user: None)  # type: ignore[arg-type]
    assert wrong.value.code.startswith(code.partition("_syntax")[0].partition("_unknown_variable")[0])
    assert wrong.value.hint
    assert isinstance(wrong.value, ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {"store": "redis"},
        {"clock": lambda: 0},
        {"clock": 5},
        {"max_keys": 0},
        {"max_keys": -1},
        {"max_keys": True},
    ],
)
def test_bad_engines(options: dict[str, object]) -> None:
    with pytest.raises(checkrein.ConfigError):
        checkrein.Engine(**options)  # type: ignore[arg-type]


def test_listeners_hear_decisions_and_outcomes_and_can_leave(
    engine: checkrein.Engine, clock: FakeClock
) -> None:
    heard: list[tuple[object, ...]] = []

    def listener(event: checkrein.Event) -> None:
        heard.append(
            (
                event.kind,
                event.tool,
                event.decision.verdict if event.decision is not None else None,
                event.outcome,
            )
        )

    @engine.guard(rate="3/h", once="a")
    def act(a: int) -> int:
        return a

    act(0)
    remove = engine.add_listener(listener)
    act(1)
    act(1)
    act(2)
    assert_denied(act, 3)
    remove()
    remove()
    act(2)
    assert heard == [
        ("decision", "act", "allow", None),
        ("outcome", "act", None, "done"),
        ("decision", "act", "replay", None),
        ("decision", "act", "allow", None),
        ("outcome", "act", None, "done"),
        ("decision", "act", "block", None),
    ]
    engine.remove_listener(listener)


def test_engines_do_not_travel(engine: checkrein.Engine) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="hint"):
            attempt(engine)


def test_listeners_that_fail_or_come_back_never_break_a_call(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    depth: list[int] = []

    @engine.guard(rate="10/h")
    def act() -> str:
        return "ran"

    def failing(event: checkrein.Event) -> None:
        raise RuntimeError("inside the listener")

    def again(event: checkrein.Event) -> None:
        if len(depth) < 3:
            depth.append(1)
            act()
            engine.list()
            engine.remove_listener(failing)

    engine.add_listener(failing)
    engine.add_listener(again)
    with caplog.at_level(logging.ERROR, logger="checkrein"):
        assert act() == "ran"
    assert len(depth) == 3
    assert engine.listener_errors >= 1
    assert "a listener failed" in caplog.text


def test_importing_and_using_adds_no_log_handlers() -> None:
    assert logging.getLogger("checkrein").handlers == []


def test_the_default_engine_and_handles() -> None:
    @checkrein.tool(rate="5/s")
    def act() -> str:
        return "ran"

    assert act() == "ran"
    handle = checkrein.handle(act)
    assert handle.engine is checkrein.default_engine
    assert handle.policy == (("limit", f"{handle.name}.rate"),)
    assert_allowed(handle.peek())
    assert handle.reset() == 1
    with pytest.raises(checkrein.ConfigError):
        checkrein.handle(len)


def test_a_guard_without_parentheses_is_explained(engine: checkrein.Engine) -> None:
    for guard in (engine.guard, checkrein.tool):
        with pytest.raises(checkrein.ConfigError) as wrong:
            guard(len)  # type: ignore[call-overload]
        assert wrong.value.code == "decorator_order"


def test_assertions_say_what_happened(engine: checkrein.Engine) -> None:
    act = engine.guard(rules=lambda a: a)(lambda a: a)
    with pytest.raises(AssertionError, match="was allowed"):
        assert_denied(act, True)
    with pytest.raises(AssertionError, match="not for cooldown"):
        assert_denied(act, False, code="cooldown")
    with pytest.raises(AssertionError, match="rule_violated"):
        assert_allowed(engine.peek(act, False))
    with pytest.raises(TypeError):
        assert_allowed(True)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused() -> None:
    code = """
    import os, pickle, sys, warnings
    warnings.simplefilter("ignore")
    import checkrein
    engine = checkrein.Engine()

    @engine.guard(rate="2/h", budget="1 usd", cost="0.1 usd", actual=lambda r: "0.1 usd")
    def act(): return "ran"

    act()
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except checkrein.ForkedError as error:
            again = pickle.loads(pickle.dumps(error))
            ok = again.code == "forked" and "hint" in str(error)
        for use in (engine.list, engine.collect, lambda: engine.peek(act), lambda: engine.guard(rate="1/s")(len)):
            try:
                use()
                ok = False
            except checkrein.ForkedError:
                pass
        own = checkrein.Engine().guard(rate="1/h")(lambda: "child")
        os._exit(0 if ok and own() == "child" else 3)
    status = os.waitpid(pid, 0)[1]
    assert act() == "ran"
    sys.exit(os.waitstatus_to_exitcode(status))
    """
    assert run(code).returncode == 0


def test_ctrl_c_while_waiting_and_inside_a_timed_call() -> None:
    code = """
    import _thread, os, signal, sys, threading, time
    import checkrein
    engine = checkrein.Engine()

    @engine.guard(rate="1/h", on_block="wait", deadline="1h"[0:0] or "2h")
    def waits(): return "ran"

    @engine.guard(timeout="1h", once="key")
    def hangs(key): time.sleep(60)

    waits()
    caught = 0
    for call in (waits, lambda: hangs("a")):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        try:
            call()
        except KeyboardInterrupt:
            caught += time.monotonic() - started < 10
    try:
        hangs("a")
    except checkrein.InDoubt:
        caught += 1
    print(caught)
    """.replace('"1h"[0:0] or "2h"', '"2h"')
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, in which Ctrl-C means what it usually does."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(checkrein.__file__).parents[1])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_refusals_are_logged_at_debug(engine: checkrein.Engine, caplog: pytest.LogCaptureFixture) -> None:
    act = engine.guard(rate="1/h")(lambda: None)
    act()
    with caplog.at_level(logging.INFO, logger="checkrein"):
        assert_denied(act)
    assert caplog.text == ""
    with caplog.at_level(logging.DEBUG, logger="checkrein"):
        assert_denied(act)
    assert "rate_limited" in caplog.text


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_worker_among_several_is_warned(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with caplog.at_level(logging.WARNING, logger="checkrein"):
        engine.guard(rate="1/h")(lambda: None)
        engine.guard(rate="1/h")(lambda: None)
    assert caplog.text.count("per process") == 1


def test_handles_of_bound_methods_know_their_object(engine: checkrein.Engine) -> None:
    class Shop:
        @engine.guard(rate="1/h", key="user")
        def buy(self, user: str) -> None: ...

    shop = Shop()
    shop.buy("a")
    assert not engine.peek(shop.buy, "a")
    assert engine.peek(shop.buy, user="b")
    assert not checkrein.handle(Shop.buy).peek(shop, "a")
