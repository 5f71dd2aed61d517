"""`checkrein.budgetgate.RedisStore` on real servers: exact money, reservations that end once, as in memory."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_servers import Cluster, Server, fresh_prefix

from checkrein.budgetgate import (
    AsyncRedisStore,
    BlockReason,
    Budget,
    BudgetExceededError,
    Decision,
    Engine,
    Ledger,
    RedisStore,
    StoreErrorMode,
)

LEDGER = Ledger("openai", "gpt", "user:1")
TEN = Budget(Decimal("10.00"), window=3600)
HOSTILE = ["{}", "{a}", "*", "a b", "a\0b", "a:b", "", "é\ud800", "x" * (1 << 20)]


@pytest.fixture(params=["bytes", "str", "str of RESP3", "cluster", "cluster of str"])
def client(request: pytest.FixtureRequest) -> Any:
    """Each kind of client that a store takes."""
    fixture = "redis_cluster" if "cluster" in request.param else "redis_server"
    where: Server | Cluster = request.getfixturevalue(fixture)
    protocol = 3 if "RESP3" in request.param else 2
    opened = where.client(decode_responses="str" in request.param, protocol=protocol)
    yield opened
    opened.close()


def moving(start: float) -> tuple[list[float], Any]:
    """A clock, and where its hands are."""
    now = [start]
    return now, lambda: now[0]


def test_spend_is_recorded_for_all_engines_of_a_server(client: Any) -> None:
    prefix = fresh_prefix()
    first, second = (Engine(store=RedisStore(client, prefix)) for _ in range(2))
    decision = first.check(LEDGER, Decimal("6.50"), TEN)
    assert (decision.allowed, str(decision.spent_in_window), str(decision.remaining)) == (
        True,
        "6.50",
        "3.50",
    )
    assert not second.check(LEDGER, Decimal("3.51"), TEN).allowed
    exact = second.check(LEDGER, Decimal("3.5"), TEN)
    assert (exact.allowed, str(exact.remaining)) == (True, "0")
    assert first.check(LEDGER, Decimal(0), TEN).allowed
    refused = first.check(LEDGER, Decimal("0.01"), TEN)
    assert refused.reason is BlockReason.BUDGET_EXCEEDED
    assert refused.message == "Budget exceeded: 10.00 + 0.01 > 10.00"
    assert first.check(Ledger("openai", "gpt", "user:2"), Decimal(10), TEN).allowed
    first.clear(LEDGER)
    assert second.get_remaining(LEDGER, TEN) == 10
    second.clear_all()
    assert first.get_remaining(Ledger("openai", "gpt", "user:2"), TEN) == 10


def test_a_reservation_ends_once(client: Any) -> None:
    engine = Engine(store=RedisStore(client, fresh_prefix()))
    name, decision = engine.reserve(LEDGER, Decimal("6.00"), TEN)
    assert name is not None
    assert (decision.allowed, str(decision.spent_in_window)) == (True, "6.00")
    assert engine.reserve(LEDGER, Decimal("4.01"), TEN)[0] is None
    engine.commit(name, Decimal("2.5"))
    assert engine.get_remaining(LEDGER, TEN) == Decimal("7.5")
    other, _ = engine.reserve(LEDGER, Decimal(7), TEN)
    assert other is not None
    engine.release(other)
    endings: list[Callable[[str], None]] = [engine.release, lambda name: engine.commit(name, Decimal(1))]
    for ended in (name, other, "nonexistent", "0" * 64, name.upper(), 5):
        for end in endings:
            with pytest.raises(KeyError, match="Reservation not found"):
                end(ended)  # type: ignore[arg-type]
    assert engine.get_remaining(LEDGER, TEN) == Decimal("7.5")
    third, _ = engine.reserve(LEDGER, Decimal(1), TEN)
    assert third is not None
    for amount in ("-1", "NaN", "Infinity"):
        with pytest.raises(ValueError, match="amount"):
            engine.commit(third, Decimal(amount))
    # What was really spent is recorded, even beyond the estimate and the limit.
    engine.commit(third, Decimal(25))
    assert engine.get_remaining(LEDGER, TEN) == 0
    assert engine.check(LEDGER, Decimal("0.01"), TEN).blocked
    held, _ = engine.reserve(Ledger("a", "b"), Decimal(1), TEN)
    assert held is not None
    engine.clear(Ledger("a", "b"))
    with pytest.raises(KeyError):
        engine.commit(held, Decimal(1))


def test_bounded_guards_settle_what_a_call_cost(client: Any) -> None:
    engine = Engine(store=RedisStore(client, fresh_prefix()))
    guard = engine.guard_bounded(LEDGER, TEN, estimate=Decimal(5), actual=lambda result: Decimal(2))
    assert [guard(lambda: "ran")() for _ in range(3)] == ["ran"] * 3
    assert engine.get_remaining(LEDGER, TEN) == 4
    with pytest.raises(BudgetExceededError):
        guard(lambda: "ran")()

    def failing() -> None:
        raise KeyboardInterrupt

    small = engine.guard_bounded(LEDGER, TEN, estimate=Decimal(4), actual=lambda result: Decimal(4))
    with pytest.raises(KeyboardInterrupt):
        small(failing)()
    assert engine.get_remaining(LEDGER, TEN) == 4


def test_sums_are_exact_and_show_their_places(client: Any) -> None:
    def spent(*amounts: str) -> str:
        engine = Engine(store=RedisStore(client, fresh_prefix()))
        unlimited = Budget(Decimal("Infinity"), window=60)
        return str([engine.check(LEDGER, Decimal(each), unlimited) for each in amounts][-1].spent_in_window)

    assert spent("0.1", "0.1", "0.1") == "0.3"
    assert spent("12345678901.123456") == "12345678901.123456"
    assert spent("1.50", "1") == "2.50"
    assert spent("1E+28") == "0", "more than a ledger holds is a store error"
    assert spent("1E+26", "0." + "0" * 37 + "1") == "1" + "0" * 26 + "." + "0" * 37 + "1"
    assert spent("0.33333333333333", "0.66666666666667") == "1.00000000000000"
    assert spent("99999999999999.99999999999999", "0.00000000000001") == "100000000000000.00000000000000"
    assert spent("0E-6") == "0.000000"
    engine = Engine(store=RedisStore(client, fresh_prefix()))
    third = Budget(Decimal("0.3"), window=60)
    assert [engine.check(LEDGER, Decimal("0.1"), third).allowed for _ in range(4)] == [
        True,
        True,
        True,
        False,
    ]


def test_amounts_that_do_not_fit_are_store_errors_and_leave_nothing(client: Any) -> None:
    engine = Engine(store=RedisStore(client, fresh_prefix()))
    unlimited = Budget(Decimal("Infinity"), window=3600)
    opened = Budget(Decimal("Infinity"), window=3600, on_store_error=StoreErrorMode.FAIL_OPEN)
    bad: list[Any] = [
        "NaN",
        "sNaN",
        "-Infinity",
        "Infinity",
        "-1",
        "1E+27",
        "1E-39",
        "1E+1000000",
        "1E-1000000",
    ]
    for amount in [*map(Decimal, bad), 0.5, "1", None, 10**30, -1]:
        decision = engine.check(LEDGER, amount, unlimited)
        assert (decision.allowed, decision.reason) == (False, BlockReason.STORE_ERROR), amount
        name, decision = engine.reserve(LEDGER, amount, unlimited)
        assert (name, decision.reason) == (None, BlockReason.STORE_ERROR), amount
    assert engine.check(LEDGER, Decimal("NaN"), opened).blocked, "no amount at all never passes"
    largest = Decimal("1.7E+26")
    assert engine.check(LEDGER, largest, unlimited).allowed
    overflow = engine.check(LEDGER, largest, unlimited)
    assert (overflow.allowed, overflow.reason) == (False, BlockReason.STORE_ERROR)
    assert "out of range" in str(overflow.message)
    name, _ = engine.reserve(LEDGER, Decimal(1), unlimited)
    assert name is not None
    with pytest.raises(OverflowError):
        engine.commit(name, largest)
    engine.commit(name, Decimal(2))
    assert engine._store.get_spend(LEDGER, 0.0, 3600) == largest + 2
    assert engine._store.get_spend(LEDGER, 0.0, None) == largest + 2


def test_running_sums_may_pass_what_they_can_hold(redis_server: Server) -> None:
    now, clock = moving(0.0)
    engine = Engine(store=RedisStore(redis_server.client(), fresh_prefix()), clock=clock)
    unlimited = Budget(Decimal("Infinity"), window=1)
    amount = Decimal("1.6E+26") + Decimal("0.01")
    for number in range(140):
        now[0] = number * 2.0
        decision = engine.check(LEDGER, amount, unlimited)
        assert (decision.allowed, decision.spent_in_window) == (True, amount), number


Step = tuple[float, str, int, int, Any, int]


def history(seed: int) -> tuple[list[Budget], list[Step]]:
    """A random program on two ledgers under a few budgets. Either its clock may go back, or it makes reservations."""
    rng = random.Random(seed)
    late, back = rng.random() < 0.3, rng.random() < 0.3
    now = 1.7e9 if late else rng.choice([0.0, 1000.2, -50.0])
    steps = [0, 0, 1 / 64, 0.5, 1, 1, 10, 60, 600, 3600, 7200]
    steps += [-1 / 64, -3] if back else []
    steps += [] if late else [0.1, 0.000001]
    limits = [Decimal(10), Decimal("0.3"), Decimal("100.00"), 7, Decimal("Infinity"), Decimal("1e25")]
    windows = [1, 10, 60, 3600, 3600, None, 1e12]
    budgets = [Budget(rng.choice(limits), rng.choice(windows)) for _ in range(rng.randint(1, 4))]
    amounts: list[Any] = [
        Decimal(text) for text in ("0.1", "1.50", "1", "0.00", "0.30", "1e-38", "1E+3", "9.9e24")
    ]
    amounts += [2, Decimal(1) / 3, Decimal("12345678901.123456"), Decimal("99999999999999.99999999999999")]
    kinds = (
        ["check"] * 10
        + ["remaining"] * 2
        + ["clear"]
        + ([] if back else ["reserve"] * 4 + ["commit"] * 3 + ["release"])
    )
    program = []
    for _ in range(rng.randint(5, 90)):
        now += rng.choice(steps)
        now = now if late else round(now, 6)
        choice = rng.choice(kinds), rng.randrange(2), rng.randrange(len(budgets)), rng.choice(amounts)
        program.append((now, *choice, rng.randrange(1 << 30)))
    return budgets, program


def play(engine: Engine, now: list[float], budgets: list[Budget], program: list[Step]) -> list[Any]:
    """What each step of a program said. A ledger begins with a spend of nothing, which is remembered everywhere."""
    ledgers, said, names = [Ledger("a:b", "c"), Ledger("a", "b:c")], [], []
    now[0] = program[0][0]
    for ledger in ledgers:
        engine.check(ledger, Decimal(0), Budget(Decimal(1), window=1))
    for at, kind, place, budget, amount, pick in program:
        now[0] = at
        ledger, in_force, found = ledgers[place], budgets[budget], None
        try:
            if kind == "check":
                found = engine.check(ledger, amount, in_force).to_dict()
            elif kind == "remaining":
                found = str(engine.get_remaining(ledger, in_force))
            elif kind == "reserve":
                name, decision = engine.reserve(ledger, amount, in_force)
                found = decision.to_dict()
                names += [name] if name else []
            elif kind == "clear" and pick % 5 == 0:
                engine.clear(ledger)
                engine.check(ledger, Decimal(0), Budget(Decimal(1), window=1))
            elif kind == "commit" and names:
                engine.commit(names[pick % len(names)], amount)
            elif kind == "release" and names:
                engine.release(names[pick % len(names)])
        except (KeyError, OverflowError) as error:
            found = type(error)
        said.append(found)
    return said


def test_random_histories_are_decided_as_in_memory(redis_server: Server) -> None:
    client = redis_server.client()
    for seed in [6, 60, 92, *(random.randrange(1 << 32) for _ in range(150))]:
        budgets, program = history(seed)
        now, clock = moving(0.0)
        shared = Engine(store=RedisStore(client, fresh_prefix()), clock=clock)
        expected, found = (play(engine, now, budgets, program) for engine in (Engine(clock=clock), shared))
        for step, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert one == other, f"seed {seed}, step {step}, {program[step]}"
        shared.clear_all()


def test_a_reservation_nobody_settles_is_charged_after_its_lease(client: Any) -> None:
    now, clock = moving(0.0)
    engine = Engine(store=RedisStore(client, fresh_prefix()), clock=clock)
    budget = Budget(Decimal(10), window=60)
    name, _ = engine.reserve(LEDGER, Decimal(6), budget)
    assert name is not None
    now[0] = 3599.0
    assert engine.check(LEDGER, Decimal(5), budget).blocked, "it counts however old"
    now[0] = 3610.0
    assert engine.get_remaining(LEDGER, budget) == 4, "charged when its lease ended"
    now[0] = 3660.1
    assert engine.get_remaining(LEDGER, budget) == 10
    engine.commit(name, Decimal(7))
    assert engine.get_remaining(LEDGER, budget) == 9, "a late commit records what exceeds the charge"


def keys_of(client: Any, prefix: str) -> dict[str, int]:
    """The kinds of keys of a prefix, with the milliseconds each has left."""
    found = client.scan_iter(match=f"{prefix}:*")
    return {str(key).strip("'").rsplit(":", 1)[1]: client.pttl(key) for key in found}


def test_every_key_of_a_window_expires(client: Any) -> None:
    prefix = fresh_prefix()
    engine = Engine(store=RedisStore(client, prefix))
    for _ in range(5):
        engine.check(LEDGER, Decimal(1), Budget(Decimal(9), window=60))
    left = keys_of(client, prefix)
    assert list(left) == ["spend"]
    assert 60_000 < left["spend"] <= 121_000
    # With a reservation all keys live until its lease has ended and its charge has left the window.
    name, _ = engine.reserve(LEDGER, Decimal(1), Budget(Decimal(9), window=60))
    assert name is not None
    left = keys_of(client, prefix)
    assert sorted(left) == ["holds", "leases", "spend"]
    assert all(2 * 3_600_000 < each <= 2 * 3_600_000 + 61_000 for each in left.values())
    engine.commit(name, Decimal(1))
    left = keys_of(client, prefix)
    assert list(left) == ["spend"]
    assert left["spend"] > 0


def test_a_lifetime_stays(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    engine, forever = Engine(store=RedisStore(client, prefix)), Budget(Decimal(10), window=None)
    assert engine.check(LEDGER, Decimal(4), Budget(Decimal(10), window=60)).allowed
    assert keys_of(client, prefix)["spend"] > 0
    assert engine.check(LEDGER, Decimal(4), forever).spent_in_window == 8
    name, _ = engine.reserve(LEDGER, Decimal(1), forever)
    assert name is not None
    assert set(keys_of(client, prefix).values()) == {-1}
    engine.release(name)
    assert keys_of(client, prefix) == {"spend": -1}


def commands(client: Any, ask: Callable[[], Any]) -> int:
    """How many commands the server runs for one operation."""
    client.config_resetstat()
    ask()
    stats = client.info("commandstats")
    return sum(stat["calls"] for name, stat in stats.items() if "config" not in name and "info" not in name)


def test_a_check_costs_the_same_whatever_the_window_holds(own_redis_server: Server) -> None:
    client = own_redis_server.client()
    now, clock = moving(0.0)
    engine = Engine(store=RedisStore(client), clock=clock)
    budget, costs = Budget(Decimal(10**9), window=1000), []
    for number in range(1, 1_001):
        now[0] = number / 2
        engine.check(LEDGER, Decimal("0.01"), budget)
        if number in (10, 1_000):
            now[0] += 0.1
            costs.append(commands(client, lambda: engine.check(LEDGER, Decimal("0.01"), budget)))
    assert costs[0] == costs[1]
    narrow = Budget(Decimal(10**9), window=100)
    assert commands(client, lambda: engine.check(LEDGER, Decimal("0.01"), narrow)) < costs[0] + 25
    now[0] = 1250.0
    assert commands(client, lambda: engine.check(LEDGER, Decimal("0.01"), budget)) < costs[0] + 25
    # Open reservations of others cost nothing.
    for _ in range(200):
        engine.reserve(LEDGER, Decimal(0), budget)
    assert commands(client, lambda: engine.check(LEDGER, Decimal("0.01"), budget)) <= costs[0] + 2


def test_many_spends_share_cells(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    now, clock = moving(0.0)
    engine = Engine(store=RedisStore(client, prefix), clock=clock)
    budget = Budget(Decimal(40), window=100)
    for number in range(4_000):
        now[0] = number / 400
        assert engine.check(LEDGER, Decimal("0.01"), budget).allowed
    (key,) = client.scan_iter(match=f"{prefix}:*:spend")
    assert client.llen(key) < 1_200
    assert engine.check(LEDGER, Decimal("0.01"), budget).blocked
    now[0] = 100.0 + 10.0 + 0.1
    assert engine.get_remaining(LEDGER, budget) == 40


def test_spends_before_a_stamp_of_the_future_share_cells_too(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    now, clock = moving(50.0)
    memory, shared = Engine(clock=clock), Engine(store=RedisStore(client, prefix), clock=clock)
    budget = Budget(Decimal(40), window=100)
    assert [engine.check(LEDGER, Decimal(1), budget).allowed for engine in (memory, shared)] == [True, True]
    for number in range(2_500):
        now[0] = number / 400
        found = [engine.check(LEDGER, Decimal("0.01"), budget).spent_in_window for engine in (memory, shared)]
        assert found == [1 + Decimal("0.01") * (number + 1)] * 2
    (key,) = client.scan_iter(match=f"{prefix}:*:spend")
    assert client.llen(key) < 1_200
    now[0] = 149.9
    assert [engine.get_remaining(LEDGER, budget) for engine in (memory, shared)] == [39, 39]
    now[0] = 150.1
    assert [engine.get_remaining(LEDGER, budget) for engine in (memory, shared)] == [40, 40]


def test_a_broken_connection_does_not_charge_twice(client: Any) -> None:
    from checkrein.budgetgate import redis as module

    store = RedisStore(client, fresh_prefix())
    keys = store._keys(LEDGER)
    question = store._question(5.0, Decimal(2), TEN, b"a" * 12)
    assert [module._read(module._CHECK.run(client, keys, question)) for _ in range(3)] == [
        (True, Decimal(2))
    ] * 3
    reservation, name = store._new_name(keys)
    question = store._question(6.0, Decimal(3), TEN, name)
    assert [module._read(module._RESERVE.run(client, keys, question)) for _ in range(3)] == [
        (True, Decimal(5))
    ] * 3
    settlement = store._settlement(reservation, Decimal(1))
    assert [module._SETTLE.run(client, *settlement) for _ in range(3)] in ([b"1"] * 3, ["1"] * 3)
    assert store.get_spend(LEDGER, 7.0, 60) == 3
    with pytest.raises(KeyError):
        store.commit(reservation, Decimal(1))


def test_repeated_commands_are_known_after_thousands_of_others(redis_server: Server) -> None:
    from checkrein.budgetgate import redis as module

    client = redis_server.client()
    store, plenty = RedisStore(client, fresh_prefix()), Budget(Decimal(10**6), window=600)
    keys = store._keys(LEDGER)
    check = store._question(5.0, Decimal(2), plenty, b"a" * 12)
    assert module._read(module._CHECK.run(client, keys, check)) == (True, 2)
    reservation, _ = store.reserve(LEDGER, 5.0, Decimal(3), plenty)
    settlement = store._settlement(str(reservation), Decimal(1))
    module._settled(module._SETTLE.run(client, *settlement), str(reservation))
    others = 0
    for count, window in [(8, 600), (92, 60), (4_000, 600), (4_080, 600)]:
        digest = module._CHECK._load()[0]
        with client.pipeline(transaction=False) as many:
            for number in range(count):
                budget = Budget(plenty.max_spend, window=window)
                name = (others + number).to_bytes(12, "big")
                question = store._question(5.0, Decimal(1), budget, b"b" + name[1:])
                many.execute_command("EVALSHA", digest, len(keys), *keys, question)
            many.execute()
        others += count
        # A commit whose answer was lost is done, and not the error that its reservation is gone.
        module._settled(module._SETTLE.run(client, *settlement), str(reservation))
        assert module._read(module._CHECK.run(client, keys, check)) == (True, 3 + others)
    assert all(client.scard(key) <= 4_096 for key in keys[3:])
    assert all(0 < client.pttl(key) <= 60_000 for key in keys[3:] if client.exists(key))
    # Another commit of the same reservation is no repetition.
    with pytest.raises(KeyError):
        store.commit(str(reservation), Decimal(1))
    store.clear(LEDGER)
    assert not client.exists(*keys)


def foreign_keys(prefix: str) -> list[Any]:
    """Keys of somebody else that look like ours, one of them no text."""
    return [f"{prefix}:{{{'a' * 32}}}:foreign", f"{prefix}:{{{'b' * 32}}}:".encode() + b"\xff\xfe"]


def test_clear_all_passes_over_keys_of_others(client: Any) -> None:
    prefix = fresh_prefix()
    foreign = foreign_keys(prefix)
    for key in foreign:
        client.set(key, "theirs")
    store = RedisStore(client, prefix)
    store.clear_all()
    keys = store._keys(LEDGER)
    for _ in range(12):
        assert store.check_and_reserve(LEDGER, 5.0, Decimal("0.1"), TEN)[1]
    assert store.reserve(LEDGER, 5.0, Decimal(1), TEN)[0] is not None
    assert client.exists(*keys) == 4
    # Reservations whose record was evicted are ours too.
    client.delete(keys[0])
    store.clear_all()
    assert client.exists(*keys) == 0
    assert all(client.delete(key) == 1 for key in foreign)


@pytest.mark.parametrize("kind", ["bytes", "str", "cluster", "cluster of str"])
async def test_clear_all_of_coroutines_passes_over_keys_of_others(
    redis_server: Server, redis_cluster: Cluster, kind: str
) -> None:
    options: dict[str, Any] = {"host": "127.0.0.1", "decode_responses": "str" in kind}
    client: Any
    if "cluster" in kind:
        client = redis.asyncio.RedisCluster(port=redis_cluster.servers[0].port, **options)
    else:
        client = redis.asyncio.Redis(port=redis_server.port, **options)
    await client.initialize()
    prefix = fresh_prefix()
    store, foreign = AsyncRedisStore(client, prefix), foreign_keys(prefix)
    for key in foreign:
        await client.set(key, "theirs")
    await store.clear_all()
    assert (await store.check_and_reserve(LEDGER, 5.0, Decimal(1), TEN))[1]
    await store.clear_all()
    assert await client.exists(store._keys(LEDGER)[0]) == 0
    for key in foreign:
        assert await client.delete(key) == 1
    await client.aclose()


def test_a_flushed_script_is_sent_again(client: Any) -> None:
    engine = Engine(store=RedisStore(client, fresh_prefix()))
    for _ in range(2):
        name, _ = engine.reserve(LEDGER, Decimal(1), TEN)
        client.script_flush()
        engine.commit(str(name), Decimal(1))
        client.script_flush()
        assert engine.check(LEDGER, Decimal(1), TEN).allowed
        client.script_flush()
    assert engine.get_remaining(LEDGER, TEN) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda client, keys: client.set(keys["spend"], "text"),
        lambda client, keys: client.rpush(keys["spend"], b"\xff" * 9),
        lambda client, keys: client.rpush(keys["spend"], b"B2" + bytes(300)),
        lambda client, keys: client.rpush(keys["spend"], b"B1" + b"\xff" * 300),
        lambda client, keys: client.rpush(keys["spend"], b"B1\x90"),
        lambda client, keys: client.rpush(keys["spend"], b""),
    ],
    ids=["string", "bytes", "newer", "no numbers", "no fields", "empty"],
)
def test_what_is_no_record_of_ours_is_a_store_error_and_stays(redis_server: Server, damage: Any) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    store = RedisStore(client, prefix)
    engine = Engine(store=store)
    name, _ = engine.reserve(LEDGER, Decimal(1), TEN)
    keys = dict(zip(("spend", "holds", "leases"), store._keys(LEDGER)[:3], strict=True))
    client.delete(keys["spend"])
    damage(client, keys)
    before = {kind: client.dump(key) for kind, key in keys.items()}
    opened = Budget(Decimal(10), window=60, on_store_error=StoreErrorMode.FAIL_OPEN)
    assert engine.check(LEDGER, Decimal(1), TEN).reason is BlockReason.STORE_ERROR
    assert engine.check(LEDGER, Decimal(1), opened).allowed
    assert engine.reserve(LEDGER, Decimal(1), TEN)[0] is None
    calls: list[Callable[[], Any]] = [
        lambda: engine.commit(str(name), Decimal(1)),
        lambda: engine.release(str(name)),
        lambda: engine.get_remaining(LEDGER, TEN),
    ]
    for call in calls:
        with pytest.raises((ValueError, redis.exceptions.ResponseError)) as caught:
            call()
        assert getattr(caught.value, "code", "store_corrupt") == "store_corrupt" or "WRONGTYPE" in str(
            caught.value
        )
    assert {kind: client.dump(key) for kind, key in keys.items()} == before
    engine.clear(LEDGER)
    assert engine.check(LEDGER, Decimal(1), TEN).spent_in_window == 1


@pytest.mark.parametrize("kind", ["holds", "leases"])
def test_a_reservation_is_whole_or_not_there(redis_server: Server, kind: str) -> None:
    client = redis_server.client()
    store = RedisStore(client, fresh_prefix())
    engine = Engine(store=store)
    assert engine.check(LEDGER, Decimal(1), TEN).allowed
    keys = dict(zip(("spend", "holds", "leases"), store._keys(LEDGER)[:3], strict=True))
    client.set(keys[kind], "text")
    name, decision = engine.reserve(LEDGER, Decimal(1), TEN)
    assert (name, decision.reason) == (None, BlockReason.STORE_ERROR)
    assert engine.get_remaining(LEDGER, TEN) == 9
    client.delete(keys[kind])
    assert not client.exists(keys["holds"], keys["leases"])


def test_reservations_that_were_evicted_are_charged(redis_server: Server) -> None:
    client = redis_server.client()
    now, clock = moving(0.0)
    store = RedisStore(client, fresh_prefix())
    engine, budget = Engine(store=store, clock=clock), Budget(Decimal(10), window=None)
    first, _ = engine.reserve(LEDGER, Decimal(3), budget)
    second, _ = engine.reserve(LEDGER, Decimal(2), budget)
    spend, holds, leases = store._keys(LEDGER)[:3]
    client.delete(holds, leases)
    with pytest.raises(KeyError):
        engine.commit(str(first), Decimal(1))
    now[0] = 4000.0
    assert engine.get_remaining(LEDGER, budget) == 5
    # A record that was evicted leaves no reservations behind.
    third, _ = engine.reserve(LEDGER, Decimal(2), budget)
    client.delete(spend)
    assert engine.check(LEDGER, Decimal(1), budget).spent_in_window == 1
    with pytest.raises(KeyError):
        engine.commit(str(third), Decimal(1))
    assert second is not None


def test_a_server_that_is_gone_or_full_follows_the_budget(own_redis_server: Server) -> None:
    client = own_redis_server.client(retry=Retry(NoBackoff(), 0))
    engine = Engine(store=RedisStore(client))
    opened = Budget(Decimal(10), window=60, on_store_error=StoreErrorMode.FAIL_OPEN)
    name, _ = engine.reserve(LEDGER, Decimal(2), TEN)
    client.config_set("maxmemory", 1)
    assert engine.check(LEDGER, Decimal(1), TEN).reason is BlockReason.STORE_ERROR
    assert engine.reserve(LEDGER, Decimal(1), TEN)[1].reason is BlockReason.STORE_ERROR
    with pytest.raises(redis.exceptions.ResponseError):
        engine.commit(str(name), Decimal(1))
    client.config_set("maxmemory", 0)
    engine.commit(str(name), Decimal(1))
    assert engine.get_remaining(LEDGER, TEN) == 9
    own_redis_server.stop()
    refused = engine.check(LEDGER, Decimal(1), TEN)
    assert (refused.allowed, refused.reason, refused.remaining) == (False, BlockReason.STORE_ERROR, 0)
    assert engine.check(LEDGER, Decimal(1), opened).allowed
    with pytest.raises(redis.exceptions.ConnectionError):
        engine.get_remaining(LEDGER, TEN)


def test_threads_spend_one_budget_and_settle_once(client: Any) -> None:
    engine = Engine(store=RedisStore(client, fresh_prefix()))
    budget, found, ended = Budget(Decimal("5.00"), window=600), list[Decision](), list[str]()
    name, _ = engine.reserve(Ledger("a", "b"), Decimal(1), budget)

    def work() -> None:
        found.extend(engine.check(LEDGER, Decimal("0.1"), budget) for _ in range(20))
        for end in (engine.release, lambda name: engine.commit(name, Decimal(1))):
            try:
                end(str(name))
                ended.append("done")
            except KeyError:
                ended.append("lost")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(decision.allowed for decision in found) == 50
    assert ended.count("done") == 1
    assert len(ended) == 16


def test_four_processes_spend_one_budget(redis_server: Server) -> None:
    program = """
import sys
from decimal import Decimal
import redis
import checkrein.budgetgate as budgetgate
engine = budgetgate.Engine(store=budgetgate.RedisStore(redis.Redis(port=int(sys.argv[1])), sys.argv[2]))
ledger, budget = budgetgate.Ledger("a", "b"), budgetgate.Budget(Decimal("4.0"), window=600)
spent = 0
for _ in range(15):
    spent += engine.check(ledger, Decimal("0.1"), budget).allowed
    name, decision = engine.reserve(ledger, Decimal("0.2"), budget)
    if name:
        engine.commit(name, Decimal("0.1"))
        spent += 1
print(spent)
"""
    arguments = [sys.executable, "-c", program, str(redis_server.port), fresh_prefix()]
    workers = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(worker.communicate(timeout=120)[0]) for worker in workers) == 40


def test_hostile_names_are_names_like_any_other(client: Any) -> None:
    prefix = fresh_prefix("money{b}*[?")
    engine, other = (Engine(store=RedisStore(client, each)) for each in (prefix, f"{prefix}:other"))
    one = Budget(Decimal(1), window=60)
    ledgers = [Ledger(first, second) for first in HOSTILE for second in HOSTILE[:2]]
    assert all(engine.check(ledger, Decimal(1), one).allowed for ledger in ledgers)
    assert other.check(LEDGER, Decimal(1), one).allowed
    for ledger in ledgers:
        assert engine.check(ledger, Decimal(1), one).reason is BlockReason.BUDGET_EXCEEDED
        assert engine.reserve(ledger, Decimal(0), one)[0] is not None
    engine.clear_all()
    assert all(engine.check(ledger, Decimal(1), one).allowed for ledger in ledgers)
    assert other.check(LEDGER, Decimal(1), one).blocked
    engine.clear_all()
    other.clear_all()
    assert not keys_of(client, "money%7Bb%7D*")


async def test_coroutines_spend_on_the_same_server(redis_server: Server, redis_cluster: Cluster) -> None:
    port = redis_cluster.servers[0].port
    for client, awaited in [
        (redis_server.client(), redis.asyncio.Redis(port=redis_server.port)),
        (redis_server.client(), redis.asyncio.Redis(port=redis_server.port, decode_responses=True)),
        (redis_cluster.client(), redis.asyncio.RedisCluster(host="127.0.0.1", port=port)),
    ]:
        # redis-py 8.1 loses commands when the very first ones on a Cluster run at once.
        await awaited.initialize()
        prefix = fresh_prefix()
        engine = Engine(store=RedisStore(client, prefix), async_store=AsyncRedisStore(awaited, prefix))
        decisions = await asyncio.gather(
            *(engine.async_check(LEDGER, Decimal("0.5"), TEN) for _ in range(30))
        )
        reasons = [decision.reason for decision in decisions]
        assert (reasons.count(None), reasons.count(BlockReason.BUDGET_EXCEEDED)) == (20, 10)
        await engine.async_clear(LEDGER)
        name, _ = await engine.async_reserve(LEDGER, Decimal(6), TEN)
        assert name is not None
        assert await engine.async_get_remaining(LEDGER, TEN) == 4
        assert engine.get_remaining(LEDGER, TEN) == 4
        await engine.async_commit(name, Decimal(1))
        with pytest.raises(KeyError):
            await engine.async_release(name)
        guard = engine.async_guard_bounded(LEDGER, TEN, estimate=Decimal(5), actual=lambda result: Decimal(2))

        @guard
        async def act() -> str:
            return "ran"

        assert await act() == "ran"
        assert engine.get_remaining(LEDGER, TEN) == 7
        await engine.async_clear_all()
        assert engine.get_remaining(LEDGER, TEN) == 10
        await awaited.aclose()
        client.close()


async def test_one_store_serves_both_sides_of_an_engine(redis_server: Server) -> None:
    engine = Engine(store=RedisStore(redis_server.client(), fresh_prefix()))
    name, _ = await engine.async_reserve(LEDGER, Decimal(6), TEN)
    assert engine.check(LEDGER, Decimal(5), TEN).blocked
    await engine.async_commit(str(name), Decimal(1))
    assert engine.get_remaining(LEDGER, TEN) == 9
    assert await engine.async_get_remaining(LEDGER, TEN) == 9


def test_a_store_says_which_client_it_needs(redis_server: Server) -> None:
    client, awaited = redis_server.client(), redis.asyncio.Redis(port=redis_server.port)
    makers: list[tuple[Callable[[], Any], str]] = [
        (lambda: RedisStore(awaited), "AsyncRedisStore"),
        (lambda: AsyncRedisStore(client), r"redis\.asyncio"),
        (lambda: RedisStore("redis://localhost"), "redis-py"),
        (lambda: Engine(store=AsyncRedisStore(awaited)), "async_store"),  # type: ignore[arg-type]
    ]
    for make, message in makers:
        with pytest.raises(TypeError, match=message):
            make()
