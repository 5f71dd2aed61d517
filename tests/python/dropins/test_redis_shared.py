"""Both drop-in stores on Redis at work: no window ever holds too much in real time, forks, tool runners."""

from __future__ import annotations

import os
import signal
import threading
import time
from decimal import Decimal
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_servers import Server, fresh_prefix

from checkrein import actiongate, actiongate_openai, budgetgate

GATE = actiongate.Gate("support", "search")
LEDGER = budgetgate.Ledger("openai", "gpt")


def allowed_spans(check: Any, wanted: int) -> list[tuple[float, float]]:
    """When each allowed check of eight threads began and ended, until there are enough of them."""
    spans: list[tuple[float, float]] = []
    until = time.monotonic() + 60

    def work() -> None:
        while len(spans) < wanted and time.monotonic() < until:
            began = time.monotonic()
            if check().allowed:
                spans.append((began, time.monotonic()))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(spans)


def most_within(spans: list[tuple[float, float]], window: float) -> int:
    """The most checks that certainly fell into one interval as long as the window."""
    most = 0
    for place, (start, _) in enumerate(spans):
        inside = 0
        for began, ended in spans[place:]:
            if began > start + window:
                break
            inside += ended <= start + window
        most = max(most, inside)
    return most


def test_no_window_ever_holds_more_than_the_limit(redis_server: Server) -> None:
    client = redis_server.client()
    calls = actiongate.Engine(store=actiongate.RedisStore(client, fresh_prefix()))
    money = budgetgate.Engine(store=budgetgate.RedisStore(client, fresh_prefix()))
    policy = actiongate.Policy(max_calls=20, window=0.1)
    budget = budgetgate.Budget(Decimal("2.0"), window=0.1)
    for check in (
        lambda: calls.check(GATE, policy),
        lambda: money.check(LEDGER, Decimal("0.1"), budget),
    ):
        spans = allowed_spans(check, 150)
        assert len(spans) >= 150, "what leaves the window makes room"
        assert most_within(spans, 0.1) <= 20


def test_a_forked_child_counts_on_the_same_server(redis_server: Server) -> None:
    engine = actiongate.Engine(store=actiongate.RedisStore(redis_server.client(), fresh_prefix()))
    policy = actiongate.Policy(max_calls=9, window=60)
    assert engine.check(GATE, policy).allowed
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            # A child that went on with its parent's names for attempts would be taken for a repetition.
            count = 255
            try:
                count = engine.check(GATE, policy).calls_in_window
            finally:
                os._exit(count)
        children.append(child)
    counts = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert counts == [2, 3, 4]
    assert engine.check(GATE, policy).calls_in_window == 5


def test_a_tool_runner_gives_back_what_a_later_gate_refuses(redis_server: Server) -> None:
    client = redis_server.client()
    calls = actiongate.Engine(store=actiongate.RedisStore(client, fresh_prefix()))
    money = budgetgate.Engine(store=budgetgate.RedisStore(client, fresh_prefix()))
    budget, ran = budgetgate.Budget(Decimal("1.00")), []
    gates = actiongate_openai.ToolGate(calls, money)
    gates.register(
        "tool",
        lambda n: ran.append(n),
        gate=GATE,
        policy=actiongate.Policy(max_calls=1, window=60),
        ledger=LEDGER,
        budget=budget,
        cost=Decimal("0.40"),
    )
    assert gates.call("tool", {"n": 1}).allowed
    assert gates.call("tool", {"n": 2}).blocked_by == "actiongate"
    assert ran == [1]
    assert money.get_remaining(LEDGER, budget) == Decimal("0.60")


def test_a_clock_that_fails_is_a_store_error_and_loses_no_spend(redis_server: Server) -> None:
    times: list[Any] = [5.0, 6.0, float("nan"), "noon", 1e30]
    store = budgetgate.RedisStore(redis_server.client(), fresh_prefix())
    engine = budgetgate.Engine(store=store, clock=lambda: times.pop(0))
    budget = budgetgate.Budget(Decimal(10), window=60)
    assert engine.check(LEDGER, Decimal(1), budget).allowed
    name, _ = engine.reserve(LEDGER, Decimal(2), budget)
    assert name is not None
    assert engine.check(LEDGER, Decimal(1), budget).reason is budgetgate.BlockReason.STORE_ERROR
    engine.commit(name, Decimal(3))
    with pytest.raises(ValueError, match="time"):
        engine.get_remaining(LEDGER, budget)
    assert store.get_spend(LEDGER, 7.0, 60) == 4


def test_the_machine_s_clocks_mean_the_server_s_time(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    policy = actiongate.Policy(max_calls=4, window=60)
    for clock in (None, time.monotonic, time.time, time.perf_counter):
        engine = actiongate.Engine(store=actiongate.RedisStore(client, prefix), clock=clock)
        assert engine.check(GATE, policy).allowed
    assert engine.check(GATE, policy).blocked
    # A test that patches the default clock means its own.
    monkeypatch.setattr(time, "monotonic", lambda: 1e6)
    own = actiongate.Engine(store=actiongate.RedisStore(client, fresh_prefix()))
    assert [own.check(GATE, policy).time_since_last for _ in range(2)] == [None, 0.0]


def test_a_server_that_stands_still_counts_a_repeated_command_once(own_redis_server: Server) -> None:
    # The client gives up and asks again, four times in all; the server finds every one of them when it goes on.
    # Connections that introduce themselves would wait for an answer first.
    silent: dict[str, Any] = {"driver_info": None, "protocol": 2}
    client = own_redis_server.client(socket_timeout=0.3, retry=Retry(NoBackoff(), 3), **silent)
    calls = actiongate.Engine(store=actiongate.RedisStore(client))
    money = budgetgate.Engine(store=budgetgate.RedisStore(client))
    policy, budget = actiongate.Policy(max_calls=9, window=600), budgetgate.Budget(Decimal(9), window=600)
    assert calls.check(GATE, policy).allowed
    assert money.check(LEDGER, Decimal(1), budget).allowed
    own_redis_server.signal(signal.SIGSTOP)
    assert calls.check(GATE, policy).reason is actiongate.BlockReason.STORE_ERROR
    assert money.check(LEDGER, Decimal(1), budget).reason is budgetgate.BlockReason.STORE_ERROR
    name, decision = money.reserve(LEDGER, Decimal(1), budget)
    assert (name, decision.reason) == (None, budgetgate.BlockReason.STORE_ERROR)
    own_redis_server.signal(signal.SIGCONT)
    patient = own_redis_server.client()
    assert actiongate.Engine(store=actiongate.RedisStore(patient)).check(GATE, policy).calls_in_window in (
        2,
        3,
    )
    spent = (
        budgetgate.Engine(store=budgetgate.RedisStore(patient))
        .check(LEDGER, Decimal(1), budget)
        .spent_in_window
    )
    assert spent in (2, 3, 4), "one check and one reservation may have run, each once"


def test_a_replica_is_a_store_error_and_keeps_what_it_has(own_redis_server: Server) -> None:
    client = own_redis_server.client()
    calls = actiongate.Engine(store=actiongate.RedisStore(client))
    money = budgetgate.Engine(store=budgetgate.RedisStore(client))
    policy, budget = actiongate.Policy(max_calls=1, window=600), budgetgate.Budget(Decimal(2), window=600)
    name, _ = money.reserve(LEDGER, Decimal(1), budget)
    client.replicaof("127.0.0.1", 1)
    assert calls.check(GATE, policy).reason is actiongate.BlockReason.STORE_ERROR
    assert money.check(LEDGER, Decimal(1), budget).reason is budgetgate.BlockReason.STORE_ERROR
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        money.commit(str(name), Decimal(1))
    client.replicaof("NO", "ONE")
    assert calls.check(GATE, policy).allowed
    assert calls.check(GATE, policy).blocked
    money.commit(str(name), Decimal(1))
    assert money.get_remaining(LEDGER, budget) == 1
