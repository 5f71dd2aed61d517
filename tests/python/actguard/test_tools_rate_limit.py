"""`rate_limit` of the drop-in: whose calls count together, and what stays of them."""

from __future__ import annotations

import functools
import gc
import threading
from typing import Any

import pytest
from hand_clock import Clock

from checkrein import actguard
from checkrein.actguard.exceptions import ActGuardUsageError, RateLimitExceeded, ScopeValidationError


def _send(module: str) -> Any:
    def send() -> str:
        return module

    send.__module__ = module
    send.__qualname__ = "send"
    return actguard.rate_limit(max_calls=1)(send)


def test_functions_of_one_name_count_apart() -> None:
    one, other = _send("one"), _send("other")
    assert (one(), other()) == ("one", "other")
    with pytest.raises(RateLimitExceeded, match="Rate limit exceeded for 'send'"):
        one()


class Mailer:
    @actguard.rate_limit(max_calls=1)
    def send(self) -> str:
        return "sent"

    @actguard.rate_limit(max_calls=1, scope="to")
    def send_to(self, to: str) -> str:
        return to


def test_instances_count_apart_and_leave_nothing_behind() -> None:
    from checkrein.actguard.tools import _instances

    before = len(_instances._numbers)
    one, other = Mailer(), Mailer()
    assert one.send() == other.send() == "sent"
    for mailer in (one, other):
        with pytest.raises(RateLimitExceeded) as refused:
            mailer.send()
        assert refused.value.scope_value == "__global__"
    assert one.send_to("a") == other.send_to("a") == "a"
    with pytest.raises(RateLimitExceeded) as refused:
        one.send_to("a")
    assert refused.value.scope_value == "a"
    del one, other, mailer, refused
    gc.collect()
    assert len(_instances._numbers) == before


def test_instances_that_cannot_be_told_apart_count_together() -> None:
    class Slotted:
        __slots__ = ()

        @actguard.rate_limit(max_calls=1)
        def send(self) -> None: ...

    Slotted().send()
    with pytest.raises(RateLimitExceeded):
        Slotted().send()


def test_a_limit_of_nothing_refuses_every_call() -> None:
    @actguard.rate_limit(max_calls=0, period=30)
    def never() -> None:
        raise AssertionError("it ran")

    with pytest.raises(RateLimitExceeded) as refused:
        never()
    assert refused.value.retry_after == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_calls": -1},
        {"max_calls": 1.5},
        {"max_calls": True},
        {"max_calls": float("nan")},
        {"period": 0},
        {"period": -1},
        {"period": float("nan")},
        {"period": float("inf")},
        {"period": "60"},
    ],
)
def test_numbers_that_limit_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ActGuardUsageError) as refused:
        actguard.rate_limit(**wrong)
    assert refused.value.code == "usage.rate_limit_configuration"


def test_edges_of_the_window(clock: Clock) -> None:
    @actguard.rate_limit(max_calls=2, period=10)
    def call() -> float:
        return clock.now

    clock.now = 100.0
    call()
    clock.now = 104.0
    call()
    clock.now = 109.5
    with pytest.raises(RateLimitExceeded) as refused:
        call()
    assert refused.value.retry_after == pytest.approx(0.5)
    # A call exactly as old as the period has left; the refused one never counted.
    clock.now = 110.0
    assert call() == 110.0
    with pytest.raises(RateLimitExceeded) as refused:
        call()
    assert refused.value.retry_after == pytest.approx(4.0)


def test_five_thousand_idle_users_leave_nothing_behind(clock: Clock) -> None:
    @actguard.rate_limit(max_calls=3, period=60, scope="user")
    def call(user: str) -> None: ...

    for number in range(5_000):
        call(f"user-{number}")
    gate = call._actguard_gate  # type: ignore[attr-defined]
    assert gate.windows == 5_000
    clock.now += 60
    call("somebody else")
    assert gate.windows == 1


def test_active_users_survive_the_forgetting(clock: Clock) -> None:
    @actguard.rate_limit(max_calls=2, period=60, scope="user")
    def call(user: str) -> None: ...

    call("late")
    for step in range(1, 40):
        clock.now += 10
        call(f"other-{step}")
        if step % 6 == 5:
            call("late")
    clock.now += 1
    call("late")
    with pytest.raises(RateLimitExceeded):
        call("late")


def test_threads_get_exactly_the_limit() -> None:
    passed: list[int] = []

    @actguard.rate_limit(max_calls=50, period=600)
    def call(number: int) -> None:
        passed.append(number)

    def worker(number: int) -> None:
        for _ in range(10):
            try:
                call(number)
            except RateLimitExceeded:
                return

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 50


def test_scopes_of_every_way_to_pass_an_argument() -> None:
    @actguard.rate_limit(max_calls=1, scope="user")
    def call(text: str = "x", *, user: str = "nobody") -> str:
        return user

    assert call() == "nobody"
    assert call(user="ann") == "ann"
    for again in ({}, {"user": "nobody"}, {"user": "ann"}):
        with pytest.raises(RateLimitExceeded):
            call(**again)  # type: ignore[arg-type]


def test_callables_that_are_no_functions() -> None:
    class Tool:
        def __call__(self, user: str) -> str:
            return user

    def plain(greeting: str, user: str) -> str:
        return f"{greeting} {user}"

    guarded: Any = actguard.rate_limit(max_calls=1, scope="user")(Tool())
    assert guarded("ann") == "ann"
    with pytest.raises(RateLimitExceeded, match="Tool"):
        guarded(user="ann")
    partial: Any = actguard.rate_limit(max_calls=1, scope="user")(functools.partial(plain, "hello"))
    assert partial("ann") == "hello ann"
    with pytest.raises(RateLimitExceeded):
        partial("ann")


def test_wrong_arguments_are_not_counted() -> None:
    @actguard.rate_limit(max_calls=1, scope="user")
    def call(user: str) -> str:
        return user

    with pytest.raises(TypeError):
        call()  # type: ignore[call-arg]
    assert call("ann") == "ann"


def test_scopes_that_are_no_parameters() -> None:
    with pytest.raises(ScopeValidationError, match=r"scope='usr' is not a parameter .* \['user'\]"):

        @actguard.rate_limit(scope="usr")
        def call(user: str) -> None: ...
