"""The defects of the published packages that SEMANTICS.md lists as mended: one test each, named by its number.

The other half of the proof, that nothing a program relies on has changed, is in tests/python/published.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import pickle
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server, fresh_prefix

from checkrein import actiongate, actiongate_openai, auditgate, budgetgate, rulegate

GATE = actiongate.Gate("ns", "act")
LEDGER = budgetgate.Ledger("ns", "usd")
RULE = rulegate.Rule("ns", "act")
TRAIL = auditgate.Trail("ns", "src")


def entry(**changes: Any) -> dict[str, Any]:
    """Arguments of one audit record."""
    return {
        "verdict": auditgate.Verdict.ALLOW,
        "severity": auditgate.Severity.INFO,
        "gate_type": "g",
        "gate_identity": "i",
        **changes,
    }


def test_d01_both_names_of_the_runner_can_be_imported() -> None:
    assert actiongate_openai.GatedToolRunner is actiongate_openai.ToolGate


def runner(predicate: Any) -> tuple[Any, Any, Any, list[int]]:
    """A runner with one tool behind a rate, a budget and a rule."""
    rates, money, rules = actiongate.Engine(), budgetgate.Engine(), rulegate.Engine()
    ran: list[int] = []

    def tool(n: int) -> int:
        ran.append(n)
        return n

    gates = actiongate_openai.ToolGate(rates, money, rules)
    gates.register(
        "tool",
        tool,
        gate=GATE,
        policy=actiongate.Policy(max_calls=2, window=60),
        ledger=LEDGER,
        budget=budgetgate.Budget(Decimal("1.00")),
        cost=Decimal("0.40"),
        rule=RULE,
        ruleset=rulegate.Ruleset((predicate,)),
    )
    return gates, rates, money, ran


def test_d02_a_refused_call_consumes_nothing() -> None:
    gates, rates, money, ran = runner(lambda ctx: ctx.kwargs["n"] > 0)
    for _ in range(5):
        refused = gates.call("tool", {"n": 0})
        assert refused.blocked_by == "rulegate"
    assert money.get_remaining(LEDGER, budgetgate.Budget(Decimal("1.00"))) == Decimal("1.00")
    assert rates.remaining(GATE, actiongate.Policy(max_calls=2, window=60)) == 2
    assert gates.call("tool", {"n": 1}).allowed
    assert ran == [1]


def test_d03_a_dead_audit_log_stops_the_runner() -> None:
    class Dead(auditgate.MemoryStore):
        def append(self, entry: Any) -> None:
            raise OSError("disk full")

    ran: list[int] = []
    gates = actiongate_openai.ToolGate(auditgate=auditgate.Engine(store=Dead()))
    gates.register("tool", lambda: ran.append(1), trail=TRAIL, audit_policy=auditgate.AuditPolicy())
    result = gates.call("tool", {})
    assert (result.allowed, result.blocked_by) == (False, "auditgate")
    assert ran == []


def test_d04_a_coroutine_is_no_yes() -> None:
    async def deny(ctx: Any) -> bool:
        return False

    assert rulegate.Engine().check(RULE, rulegate.Ruleset((deny,))).blocked


def test_d06_a_predicate_cannot_rewrite_what_runs() -> None:
    def greedy(ctx: Any) -> bool:
        ctx.kwargs["n"] = 999
        return True

    gates, _, _, ran = runner(greedy)
    assert gates.call("tool", {"n": 1}).result == 1
    assert ran == [1]


def test_d07_no_exception_leaks_a_reservation() -> None:
    engine = budgetgate.Engine()
    budget = budgetgate.Budget(Decimal("10"), window=None)
    for error in (KeyboardInterrupt, ValueError, budgetgate.BudgetExceededError):

        @engine.guard_bounded(LEDGER, budget, estimate=Decimal("6"), actual=lambda result: Decimal("0"))
        def tool(error: Any = error) -> None:
            decision = engine.check(LEDGER, Decimal("0"), budget)
            raise error(decision) if error is budgetgate.BudgetExceededError else error()

        with pytest.raises(error):
            tool()
        assert engine.get_remaining(LEDGER, budget) == Decimal("10"), error


def test_d07_a_price_that_cannot_be_told_is_charged_in_full() -> None:
    engine = budgetgate.Engine()
    budget = budgetgate.Budget(Decimal("10"), window=None)

    @engine.guard_bounded(LEDGER, budget, estimate=Decimal("6"), actual=lambda result: Decimal("x"))
    def tool() -> str:
        return "ran"

    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever `actual` raises
        tool()
    assert engine.get_remaining(LEDGER, budget) == Decimal("4")


def test_d08_a_guard_that_fails_open_returns_the_result() -> None:
    class Blip(budgetgate.MemoryStore):
        def reserve(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError("blip")

    engine = budgetgate.Engine(store=Blip())
    budget = budgetgate.Budget(Decimal("10"), on_store_error=budgetgate.StoreErrorMode.FAIL_OPEN)
    guard = engine.guard_bounded(LEDGER, budget, estimate=Decimal("1"), actual=lambda result: Decimal("1"))
    assert guard(lambda: "ran")() == "ran"


def test_d09_sync_and_async_share_their_counts() -> None:
    engine = actiongate.Engine()
    policy = actiongate.Policy(max_calls=1, window=60)
    assert engine.check(GATE, policy).allowed
    assert asyncio.run(engine.async_check(GATE, policy)).blocked
    engine.clear(GATE)
    assert asyncio.run(engine.async_check(GATE, policy)).allowed


def test_d10_a_window_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        actiongate.Policy(window=float("nan"))
    with pytest.raises(ValueError, match="window"):
        budgetgate.Budget(Decimal("1"), window=float("nan"))


def test_d10_a_mode_in_words_is_that_mode() -> None:
    engine = actiongate.Engine()
    policy = actiongate.Policy(max_calls=0, mode="HARD")  # type: ignore[arg-type]
    with pytest.raises(actiongate.Blocked):
        engine.enforce(engine.check(GATE, policy))


@pytest.mark.parametrize("amount", [Decimal("-5"), Decimal("NaN"), Decimal("Infinity"), 0.1, "1"])
def test_d11_d12_an_amount_that_is_none_blocks_and_records_nothing(amount: Any) -> None:
    engine = budgetgate.Engine()
    budget = budgetgate.Budget(Decimal("2.00"))
    assert engine.check(LEDGER, amount, budget).blocked
    assert engine.get_remaining(LEDGER, budget) == Decimal("2.00")


def test_d11_a_negative_actual_cost_changes_nothing() -> None:
    engine = budgetgate.Engine()
    budget = budgetgate.Budget(Decimal("10"))
    reservation, _ = engine.reserve(LEDGER, Decimal("5"), budget)
    assert reservation is not None
    with pytest.raises(ValueError, match="-100"):
        engine.commit(reservation, Decimal("-100"))
    assert engine.get_remaining(LEDGER, budget) == Decimal("5")
    engine.commit(reservation, Decimal("2"))
    assert engine.get_remaining(LEDGER, budget) == Decimal("8")


def test_d13_a_narrower_policy_forgets_nothing() -> None:
    now = [0.0]
    engine = actiongate.Engine(clock=lambda: now[0])
    hours = actiongate.Policy(max_calls=2, window=7200)
    assert engine.check(GATE, hours).allowed
    assert engine.check(GATE, hours).allowed
    now[0] = 10.0
    engine.check(GATE, actiongate.Policy(max_calls=5, window=1))
    assert engine.check(GATE, hours).blocked


def test_d14_a_client_of_bytes_counts_from_its_first_call(redis_server: Server) -> None:
    for decode in (False, True):
        client = redis_server.client(decode_responses=decode)
        money = budgetgate.Engine(store=budgetgate.RedisStore(client, fresh_prefix()))
        assert money.check(LEDGER, Decimal("0.5"), budgetgate.Budget(Decimal(1))).allowed
        engine = actiongate.Engine(store=actiongate.RedisStore(client, fresh_prefix()))
        first = engine.check(GATE, actiongate.Policy(max_calls=1, window=60))
        assert (first.allowed, first.calls_in_window, first.time_since_last) == (True, 1, None)


def test_d15_a_gate_without_its_engine_is_an_error() -> None:
    gates = actiongate_openai.ToolGate()
    with pytest.raises(ValueError, match="requires"):
        gates.register("tool", print, gate=GATE, policy=actiongate.Policy())
    with pytest.raises(ValueError, match="requires"):
        gates.register("tool", print, policy=actiongate.Policy())


def test_d19_a_running_reservation_counts_however_old() -> None:
    now = [0.0]
    engine = budgetgate.Engine(clock=lambda: now[0])
    budget = budgetgate.Budget(Decimal("10"), window=60.0)
    reservation, _ = engine.reserve(LEDGER, Decimal("10"), budget)
    now[0] = 1000.0
    assert engine.check(LEDGER, Decimal("10"), budget).blocked
    engine.commit(reservation, Decimal("10"))
    assert engine.check(LEDGER, Decimal("1"), budget).blocked, "the spend is visible when it is settled"


def test_d16_hosts_share_a_window_whatever_their_uptimes(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    policy = actiongate.Policy(max_calls=2, window=60)
    old, new = (actiongate.Engine(store=actiongate.RedisStore(client, prefix)) for _ in range(2))
    assert [engine.check(GATE, policy).allowed for engine in (new, new, old, old)] == [
        True,
        True,
        False,
        False,
    ]
    refused = old.check(GATE, policy)
    assert refused.time_since_last is not None
    assert 0 <= refused.time_since_last < 60


def test_d17_a_call_one_window_old_counts_on_redis_as_in_memory(redis_server: Server) -> None:
    for store in (None, actiongate.RedisStore(redis_server.client(), fresh_prefix())):
        now = [5.0]
        engine = actiongate.Engine(store=store, clock=lambda now=now: now[0])  # type: ignore[misc]
        policy = actiongate.Policy(max_calls=1, window=60)
        assert engine.check(GATE, policy).allowed
        now[0] = 65.0
        assert engine.check(GATE, policy).blocked
        now[0] = 65.001
        assert engine.check(GATE, policy).allowed


def test_d17_a_cooldown_does_not_end_a_lifetime_on_redis(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    engine = actiongate.Engine(store=actiongate.RedisStore(client, prefix))
    assert engine.check(GATE, actiongate.Policy(max_calls=1, window=None, cooldown=1)).allowed
    assert [client.pttl(key) for key in client.scan_iter(match=f"{prefix}*")] == [-1]


def test_d20_money_on_redis_is_exact(redis_server: Server) -> None:
    engine = budgetgate.Engine(store=budgetgate.RedisStore(redis_server.client(), fresh_prefix()))
    third = budgetgate.Budget(Decimal("0.3"))
    assert [engine.check(LEDGER, Decimal("0.1"), third).allowed for _ in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    other, unlimited = budgetgate.Ledger("ns", "eur"), budgetgate.Budget(Decimal("Infinity"))
    assert engine.check(other, Decimal("NaN"), unlimited).blocked
    assert (
        str(engine.check(other, Decimal("12345678901.123456"), unlimited).spent_in_window)
        == "12345678901.123456"
    )


def test_d21_keys_expire_and_reservations_end_once_on_redis(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    engine = budgetgate.Engine(store=budgetgate.RedisStore(client, prefix))
    budget = budgetgate.Budget(Decimal(1000), window=60)
    ended: list[str] = []

    def end(name: str, settle: Any) -> None:
        try:
            settle(name)
            ended.append(name)
        except KeyError:
            pass

    names = [str(engine.reserve(LEDGER, Decimal(1), budget)[0]) for _ in range(50)]
    for name in names:
        rivals = [engine.release, lambda each: engine.commit(each, Decimal(1))]
        threads = [threading.Thread(target=end, args=(name, rival)) for rival in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ended) == sorted(names)
    left = {key.rsplit(b":", 1)[1]: client.pttl(key) for key in client.scan_iter(match=f"{prefix}*")}
    assert sorted(left) == [b"spend", b"tries"], "the record, and what was tried, for a minute"
    assert left[b"spend"] > 0
    assert 0 < left[b"tries"] <= 60_000


def test_d38_the_async_stores_reserve_on_redis(redis_server: Server) -> None:
    import redis.asyncio

    async def spend() -> Decimal:
        async with redis.asyncio.Redis(port=redis_server.port) as client:
            engine = budgetgate.Engine(async_store=budgetgate.AsyncRedisStore(client, fresh_prefix()))
            name, _ = await engine.async_reserve(LEDGER, Decimal(4), budgetgate.Budget(Decimal(10)))
            await engine.async_commit(str(name), Decimal(3))
            return await engine.async_get_remaining(LEDGER, budgetgate.Budget(Decimal(10)))

    assert asyncio.run(spend()) == 7


def test_d22_identities_are_tuples() -> None:
    engine = actiongate.Engine()
    policy = actiongate.Policy(max_calls=1, window=60)
    assert engine.check(actiongate.Gate("a:b", "c", "d"), policy).allowed
    assert engine.check(actiongate.Gate("a", "b:c", "d"), policy).allowed


def test_d22_neither_identities_nor_prefixes_collide_on_redis(redis_server: Server) -> None:
    client, app = redis_server.client(), fresh_prefix("app")
    policy = actiongate.Policy(max_calls=1, window=60)
    one, other = (
        actiongate.Engine(store=actiongate.RedisStore(client, each)) for each in (app, f"{app}:other")
    )
    assert one.check(actiongate.Gate("a:b", "c", "d"), policy).allowed
    assert one.check(actiongate.Gate("a", "b:c", "d"), policy).allowed
    assert other.check(GATE, policy).allowed
    one.clear_all()
    assert other.check(GATE, policy).blocked


def test_d18_a_cooldown_that_has_exactly_passed_is_over() -> None:
    now = [1000.2]
    engine = actiongate.Engine(clock=lambda: now[0])
    policy = actiongate.Policy(max_calls=9, window=60, cooldown=0.1)
    assert engine.check(GATE, policy).allowed
    now[0] = 1000.3
    assert engine.check(GATE, policy).allowed


def test_d24_clear_all_lets_no_call_more_through() -> None:
    engine = actiongate.Engine()
    policy = actiongate.Policy(max_calls=1, window=None)
    allowed: list[int] = []
    stop = threading.Event()

    def check() -> None:
        while not stop.is_set():
            if engine.check(GATE, policy).allowed:
                allowed.append(1)

    threads = [threading.Thread(target=check) for _ in range(3)]
    for thread in threads:
        thread.start()
    clears = 200
    for _ in range(clears):
        engine.clear_all()
    stop.set()
    for thread in threads:
        thread.join()
    assert len(allowed) <= clears + 1


def test_d25_a_chain_survives_threads() -> None:
    store = auditgate.MemoryStore()
    engine = auditgate.Engine(store=store)
    engine.register(TRAIL, auditgate.AuditPolicy(integrity=auditgate.IntegrityMode.CHAIN))

    def work() -> None:
        for _ in range(200):
            engine.record(TRAIL, **entry())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = store.query(auditgate.QueryFilter(trail=TRAIL))
    ordered = sorted(entries, key=lambda one: one.sequence)
    assert [one.sequence for one in ordered] == list(range(800))
    assert auditgate.verify_chain(tuple(ordered)) == (True, None)


def test_d26_one_engine_serves_many_event_loops() -> None:
    engine = actiongate.Engine()
    policy = actiongate.Policy(max_calls=10_000, window=None)
    refused: list[Any] = []

    async def many() -> None:
        for _ in range(200):
            decision = await engine.async_check(GATE, policy)
            if decision.blocked:
                refused.append(decision)

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert refused == []
    assert engine.remaining(GATE, policy) == 10_000 - 800


def test_d28_a_check_does_not_read_every_event_in_the_window() -> None:
    def cost(events: int) -> float:
        engine = actiongate.Engine()
        policy = actiongate.Policy(max_calls=10**9, window=None)
        for _ in range(events):
            engine.check(GATE, policy)
        rounds = []
        for _ in range(9):
            begun = time.thread_time()
            for _ in range(200):
                engine.check(GATE, policy)
            rounds.append(time.thread_time() - begun)
        return sorted(rounds)[4]

    assert cost(20_000) < 10 * cost(10), "the published package needs about 200 times as long"


def test_d29_idle_keys_are_forgotten() -> None:
    now = [0.0]
    engine = actiongate.Engine(clock=lambda: now[0])
    policy = actiongate.Policy(max_calls=1, window=1.0)

    def fill(batch: int) -> None:
        for number in range(20_000):
            engine.check(actiongate.Gate("ns", str(batch), str(number)), policy)

    fill(0)
    resident = _resident()
    for batch in range(1, 11):
        now[0] += 10.0
        fill(batch)
    # Ten times as many principals, all but the last idle: the memory of one batch, not of ten.
    assert _resident() - resident < 15_000_000


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_d32_an_outcome_can_be_recorded() -> None:
    store = auditgate.MemoryStore()
    engine = auditgate.Engine(store=store)

    @engine.guard(TRAIL, outcome=True)
    def tool() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        tool()
    before, after = store.query(auditgate.QueryFilter(trail=TRAIL))
    assert before.verdict is auditgate.Verdict.ALLOW
    assert after.verdict is auditgate.Verdict.ERROR


def test_d33_what_a_chain_cannot_see_the_head_file_does(tmp_path: Path) -> None:
    from checkrein.auditgate.cli import main

    log = tmp_path / "audit.jsonl"
    store = auditgate.FileStore(log)
    engine = auditgate.Engine(store=store)
    engine.register(TRAIL, auditgate.AuditPolicy(integrity=auditgate.IntegrityMode.CHAIN))
    for _ in range(5):
        engine.record(TRAIL, **entry())
    store.close()
    whole = log.read_text()
    assert main(["verify", "--strict", str(log)]) == 0
    lines = whole.splitlines(keepends=True)
    for change in (
        "".join(lines[:-1]),  # the tail is cut
        "".join(lines[1:]),  # the head is cut
        whole.replace('"recorded_by":""', '"recorded_by":"x"', 1),  # a field that no hash covers
    ):
        assert change != whole
        log.write_text(change)
        assert main(["verify", str(log)]) == 1
    log.write_text("{}\n")
    assert main(["verify", "--strict", str(log)]) == 1


def test_d34_an_entry_does_not_share_its_caller_s_data() -> None:
    store = auditgate.MemoryStore()
    engine = auditgate.Engine(store=store)
    detail = {"amounts": [1]}
    engine.record(TRAIL, **entry(detail=detail))
    detail["amounts"].append(2)
    kept = store.query(auditgate.QueryFilter(trail=TRAIL))[0]
    assert kept.detail == {"amounts": [1]}
    assert auditgate.verify_chain((kept,)) == (True, None)


def test_d36_names_of_predicates_hold_no_addresses() -> None:
    class Deny:
        def __call__(self, ctx: Any) -> bool:
            return False

    for predicate in (Deny(), functools.partial(lambda ctx: False)):
        message = rulegate.Engine().check(RULE, rulegate.Ruleset((predicate,))).message
        assert message is not None
        assert "0x" not in message


def test_d37_partials_are_guarded_and_errors_are_pickled() -> None:
    engine = auditgate.Engine()
    partial = functools.partial(lambda a, b: a + b, 1)
    assert engine.guard(TRAIL)(partial)(2) == 3

    rates = actiongate.Engine()
    policy = actiongate.Policy(max_calls=0, window=60)
    with pytest.raises(actiongate.Blocked) as blocked:
        rates.guard(GATE, policy)(lambda: None)()
    again = pickle.loads(pickle.dumps(blocked.value))
    assert again.decision == blocked.value.decision
    assert str(again) == str(blocked.value)
    assert copy.copy(again).decision == again.decision


def test_d38_there_is_a_look_without_a_count_a_removal_and_an_async_reservation() -> None:
    rates = actiongate.Engine()
    policy = actiongate.Policy(max_calls=3, window=60)
    assert [rates.remaining(GATE, policy) for _ in range(3)] == [3, 3, 3]

    heard: list[Any] = []
    rates.on_decision(heard.append)
    rates.remove_listener(heard.append)
    rates.check(GATE, policy)
    assert heard == []

    money = budgetgate.Engine()
    budget = budgetgate.Budget(Decimal("10"))

    async def spend() -> Decimal:
        reservation, _ = await money.async_reserve(LEDGER, Decimal("4"), budget)
        assert reservation is not None
        await money.async_commit(reservation, Decimal("3"))
        return await money.async_get_remaining(LEDGER, budget)

    assert asyncio.run(spend()) == Decimal("7")
    gates = actiongate_openai.ToolGate()
    gates.register("tool", lambda n: n)
    call = {"id": "1", "type": "function", "function": {"name": "tool", "arguments": '{"n": 1}'}}
    assert gates.call_from_openai(call).result == 1
