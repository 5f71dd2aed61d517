"""Rates, cooldowns, attempts and keys: what is admitted, when, and for whom."""

from __future__ import annotations

import contextlib
import threading
import uuid
from datetime import timedelta
from types import SimpleNamespace

import pytest

import checkrein
from checkrein.testing import FakeClock, assert_allowed, assert_denied


def codes(decision: checkrein.Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


def test_a_rate_admits_so_many_calls_in_any_window(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(rate="3/10s")
    def search() -> str:
        return "found"

    for _ in range(3):
        assert search() == "found"
        clock.advance(1)
    with pytest.raises(checkrein.RateLimited) as refused:
        search()
    assert refused.value.retry_after == 7.0
    assert refused.value.code == "rate_limited"
    clock.advance(7)
    assert search() == "found"
    assert_denied(search, code="rate_limited")


def test_a_cooldown_passes_at_its_very_end(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(cooldown=2)
    def act() -> None: ...

    act()
    clock.advance(1.5)
    decision = assert_denied(act, code="cooldown")
    assert decision.retry_after == 0.5
    clock.advance(0.5)
    act()


def test_rate_and_cooldown_are_both_reported_and_the_largest_wait_counts(
    engine: checkrein.Engine, clock: FakeClock
) -> None:
    @engine.guard(rate="1/min", cooldown="2s")
    def act() -> None: ...

    act()
    decision = assert_denied(act)
    assert codes(decision) == ["cooldown", "rate_limited"]
    assert decision.retry_after == 60.0
    assert [reason.retry_after for reason in decision.reasons] == [2.0, 60.0]


def test_several_rates_are_taken_together_or_not_at_all(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(rate=["2/10s", checkrein.Rate(5, "1h", key=None)], key="user")
    def act(user: str) -> None: ...

    act("a")
    act("a")
    assert_denied(act, "a", code="rate_limited")
    act("b")
    act("b")
    act("c")
    decision = assert_denied(act, "d", code="rate_limited")
    assert decision.reasons[0].gate == "act.rate"
    spent = {row["key"]: row["spent"] for row in engine.list() if row["gate"] == "act.rate[user]"}
    assert spent == {"a": "2", "b": "2", "c": "1"}


def test_attempts_are_for_ever_until_they_are_reset(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(attempts=2, key="job")
    def run(job: str) -> None: ...

    run("a")
    run("a")
    clock.advance(10**6)
    decision = assert_denied(run, "a", code="attempts_exceeded")
    assert decision.final
    assert decision.retry_after is None
    run("b")
    assert run.checkrein.reset("a") == 1  # type: ignore[attr-defined]
    run("a")


@pytest.mark.parametrize(
    ("key", "argument"),
    [
        ("user", "alice"),
        ("user.id", SimpleNamespace(id="alice")),
        ("user.id", {"id": "alice"}),
        ("user.team.id", SimpleNamespace(team={"id": 7})),
        (lambda user: user, "alice"),
        (lambda ctx: ctx["user"], "alice"),
        ("'u:' + user", "alice"),
        ("'u:' + args.user", "alice"),
        (("user", "region"), "alice"),
        (("user", lambda region: region), "alice"),
    ],
)
def test_keys(engine: checkrein.Engine, key: object, argument: object) -> None:
    @engine.guard(rate="1/h", key=key)  # type: ignore[arg-type]
    def act(user: object, region: str = "eu") -> str:
        return region

    assert act(argument) == "eu"
    assert_denied(act, user=argument, code="rate_limited")


def test_a_tuple_key_is_never_a_joined_string(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h", key=("a", "b"))
    def act(a: str, b: str) -> None: ...

    act("x:y", "z")
    act("x", "y:z")
    assert_denied(act, "x", "y:z", code="rate_limited")


@pytest.mark.parametrize("value", [None, "", 1.5, True, object(), [], {}, float("nan"), "\ud800", 2**70])
def test_a_key_that_is_none_is_a_refusal(engine: checkrein.Engine, value: object) -> None:
    @engine.guard(rate="1/h", key="user")
    def act(user: object) -> None: ...

    with pytest.raises(checkrein.InvalidAction) as refused:
        act(value)
    assert refused.value.code == "invalid_action"
    assert refused.value.decision.final
    assert engine.list() == []


@pytest.mark.parametrize("value", ["a/b", "a\0b", "{}", "ü" * 500, "x" * 4000, uuid.uuid4(), b"raw", 7, -7])
def test_odd_keys_are_keys(engine: checkrein.Engine, value: object) -> None:
    @engine.guard(rate="1/h", key="user")
    def act(user: object) -> None: ...

    act(value)
    assert_denied(act, value, code="rate_limited")


def test_a_huge_key_is_refused(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h", key="user")
    def act(user: object) -> None: ...

    assert_denied(act, "x" * 2**20, code="too_large")


def test_a_number_and_its_text_are_one_key(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h", key="user")
    def act(user: object) -> None: ...

    act(7)
    assert_denied(act, "7", code="rate_limited")


def test_a_key_callable_that_raises_is_a_refusal_without_its_text(engine: checkrein.Engine) -> None:
    def key(user: str) -> str:
        raise ValueError("secret text")

    @engine.guard(rate="1/h", key=key)
    def act(user: str) -> None: ...

    decision = assert_denied(act, "a", code="invalid_action")
    assert "secret" not in str(decision) + decision.to_prompt() + repr(decision.to_dict())
    assert "ValueError" in decision.reasons[0].message


def test_tenants_do_not_share(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h", key="user", tenant="org")
    def act(org: str, user: str) -> None: ...

    act("o1", "a")
    act("o2", "a")
    assert_denied(act, "o1", "a", code="rate_limited")
    assert_denied(act, None, "a", code="invalid_action")


def test_live_keys_are_capped_and_live_ones_stay(clock: FakeClock) -> None:
    engine = checkrein.Engine(clock=clock, max_keys=3)

    @engine.guard(rate="2/min", key="user")
    def act(user: int) -> None: ...

    for user in range(3):
        act(user)
    assert_denied(act, 99, code="capacity")
    act(0)
    clock.advance(61)
    engine.collect()
    act(99)


def test_eight_threads_never_over_admit() -> None:
    engine = checkrein.Engine()

    @engine.guard(rate="1000/h", budget="500 usd", cost="1 usd")
    def act() -> int:
        return 1

    admitted: list[int] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        done = 0
        for _ in range(500):
            with contextlib.suppress(checkrein.Denied):
                done += act()
        admitted.append(done)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 500
    meters = {meter.gate: meter.spent for meter in act.checkrein.peek().meters}  # type: ignore[attr-defined]
    assert meters == {"act.rate": "500", "act.budget": "500"}


def test_a_clock_that_steps_back_gives_nothing_back(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(rate="2/min")
    def act() -> None: ...

    act()
    clock.set(clock.now() - 3600)
    act()
    assert_denied(act, code="rate_limited")


def test_calendar_windows_end_with_the_day(clock: FakeClock) -> None:
    engine = checkrein.Engine(clock=clock)
    clock.set(1_795_258_800)  # 2026-11-21 11:00 UTC, 12:00 in Berlin

    @engine.guard(rate="2 per calendar day Europe/Berlin")
    def act() -> None: ...

    act()
    act()
    decision = assert_denied(act, code="rate_limited")
    assert decision.retry_after == 12 * 3600
    clock.advance(12 * 3600)
    act()


def test_peek_takes_nothing_and_says_where_meters_stand(engine: checkrein.Engine) -> None:
    @engine.guard(rate="2/min", key="user")
    def act(user: str) -> None: ...

    for _ in range(5):
        decision = assert_allowed(engine.peek(act, user="a"))
    assert decision.meters[0].remaining == "2"
    act("a")
    assert engine.peek(act, "a").meters[0].to_dict() == {
        "gate": "act.rate[user]",
        "kind": "limit",
        "unit": "calls",
        "spent": "1",
        "held": "0",
        "limit": "2",
        "remaining": "1",
    }


def test_observe_lets_pass_and_says_what_it_would_have_refused(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @engine.guard(rate="1/min", rules=lambda: False, mode="observe")
    def act() -> str:
        return "ran"

    with caplog.at_level("INFO", logger="checkrein"):
        assert [act(), act()] == ["ran", "ran"]
    assert "would have been refused" in caplog.text
    assert engine.list()[0]["forced"] == "1"


def test_guards_of_one_explicit_name_share_their_records(engine: checkrein.Engine) -> None:
    def make() -> object:
        return engine.guard(rate="1/h", name="shared")(lambda: "ran")

    first, second = make(), make()
    assert first() == "ran"  # type: ignore[operator]
    assert_denied(second, code="rate_limited")  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_guards_of_equal_functions_do_not_share(engine: checkrein.Engine) -> None:
    def make() -> object:
        @engine.guard(rate="1/h")
        def tool() -> str:
            return "ran"

        return tool

    assert [make()(), make()()] == ["ran", "ran"]  # type: ignore[operator]


@pytest.mark.parametrize("window", ["60s", 60, 60.0, "1 min", "minute", timedelta(minutes=1)])
def test_windows(engine: checkrein.Engine, clock: FakeClock, window: object) -> None:
    @engine.guard(rate=checkrein.Rate(1, window))  # type: ignore[arg-type]
    def act() -> None: ...

    act()
    clock.advance(59.9)
    assert_denied(act, code="rate_limited")
    clock.advance(0.1)
    act()
