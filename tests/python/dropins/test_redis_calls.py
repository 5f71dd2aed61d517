"""`checkrein.actiongate.RedisStore` on real servers: the decisions of the memory store, shared by everybody."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_servers import Cluster, Server, fresh_prefix

from checkrein.actiongate import (
    AsyncRedisStore,
    Blocked,
    BlockReason,
    Decision,
    Engine,
    Gate,
    Policy,
    RedisStore,
    StoreErrorMode,
)

GATE = Gate("support", "search", "user:1")
HOSTILE = ["{}", "{a}", "}{", "*", "a b", "a\0b", "a:b", "", "é\ud800", "[a-z]?", "x" * (1 << 20), "\r\n"]


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


def test_calls_are_counted_for_all_engines_of_a_server(client: Any) -> None:
    prefix, policy = fresh_prefix(), Policy(max_calls=3, window=60)
    first, second = (Engine(store=RedisStore(client, prefix)) for _ in range(2))
    assert first.check(GATE, policy).to_dict()["time_since_last"] is None
    allowed = second.check(GATE, policy)
    assert (allowed.allowed, allowed.calls_in_window) == (True, 2)
    assert allowed.time_since_last is not None
    assert 0 <= allowed.time_since_last < 60
    assert first.check(GATE, policy).allowed
    refused = second.check(GATE, policy)
    assert (refused.reason, refused.calls_in_window) == (BlockReason.RATE_LIMIT, 3)
    assert refused.message == "Rate limit: 3 >= 3"
    assert second.check(Gate("support", "search", "user:2"), policy).allowed
    first.clear(GATE)
    assert second.check(GATE, policy).calls_in_window == 1
    second.clear_all()
    assert first.check(GATE, policy).calls_in_window == 1


def test_a_guard_raises_and_a_cooldown_is_told(client: Any) -> None:
    engine = Engine(store=RedisStore(client, fresh_prefix()))

    @engine.guard(GATE, Policy(max_calls=9, window=60, cooldown=30))
    def act() -> str:
        return "ran"

    assert act() == "ran"
    with pytest.raises(Blocked) as refused:
        act()
    assert refused.value.decision.reason is BlockReason.COOLDOWN


def test_the_edges_of_window_and_cooldown_are_those_of_memory(client: Any) -> None:
    now, clock = moving(1000.2)
    engine = Engine(store=RedisStore(client, fresh_prefix()), clock=clock)
    policy = Policy(max_calls=1, window=60)
    assert engine.check(GATE, policy).allowed
    now[0] = 1060.2
    assert engine.check(GATE, policy).blocked, "a call exactly as old as the window still counts"
    now[0] = 1060.200001
    assert engine.check(GATE, policy).allowed
    other = Gate("support", "cooled")
    cooled = Policy(max_calls=9, window=60, cooldown=0.1)
    now[0] = 1000.2
    assert engine.check(other, cooled).allowed
    now[0] = 1000.3
    assert engine.check(other, cooled).allowed


def history(seed: int) -> tuple[list[Gate], list[Policy], list[tuple[float, int, int, bool]]]:
    """A random program of checks on a few gates under a few policies, its clock running mostly forwards."""
    rng = random.Random(seed)
    # Steps that a float near 1.7e9 can tell exactly.
    late = rng.random() < 0.3
    now = 1.7e9 if late else rng.choice([0.0, 1000.2, -50.0])
    steps = [0, 0, 1 / 64, 0.5, 1, 1, 10, 60, 3600, -1 / 64] + ([] if late else [0.1, 0.000001, -0.3, 0.7])
    cooldowns = [0, 0, 0.125, 1, 5, 100] + ([] if late else [0.1])
    windows = [1, 0.5, 10, 60, 3600, None, 1e12]
    limits = [1, 2, 3, 5, 2.5, 20, float("inf")]
    policies = [
        Policy(rng.choice(limits), rng.choice(windows), rng.choice(cooldowns))
        for _ in range(rng.randint(1, 4))
    ]
    gates = [Gate("a:b", "c"), Gate("a", "b:c"), Gate("a", "b", "c")]
    program = []
    for _ in range(rng.randint(5, 90)):
        now += rng.choice(steps)
        now = now if late else round(now, 6)
        program.append((now, rng.randrange(3), rng.randrange(len(policies)), rng.random() < 0.02))
    return gates, policies, program


def seen(decision: Decision) -> tuple[Any, ...]:
    """What both stores must agree on; ages to the microsecond."""
    fields = decision.to_dict()
    age = fields.pop("time_since_last")
    return *fields.values(), None if age is None else round(age, 6)


def test_random_histories_are_decided_as_in_memory(redis_server: Server) -> None:
    client = redis_server.client()
    for seed in [34, *(random.randrange(1 << 32) for _ in range(150))]:
        gates, policies, program = history(seed)
        now, clock = moving(0.0)
        memory, shared = Engine(clock=clock), Engine(store=RedisStore(client, fresh_prefix()), clock=clock)
        for step, (at, gate, policy, cleared) in enumerate(program):
            now[0] = at
            if cleared:
                memory.clear(gates[gate])
                shared.clear(gates[gate])
            found = [seen(engine.check(gates[gate], policies[policy])) for engine in (memory, shared)]
            assert found[0] == found[1], f"seed {seed}, step {step}, {policies[policy]}"
        shared.clear_all()


def test_hostile_names_are_names_like_any_other(client: Any) -> None:
    for prefix in (fresh_prefix(), fresh_prefix("{}"), fresh_prefix("a{b}*[?")):
        store, policy = RedisStore(client, prefix), Policy(max_calls=1, window=60)
        engine = Engine(store=store)
        gates = [Gate(one, other) for one in HOSTILE for other in (HOSTILE[0], HOSTILE[-1])]
        gates += [Gate("a", "b:c"), Gate("a:b", "c")]
        assert all(engine.check(gate, policy).allowed for gate in gates)
        assert all(engine.check(gate, policy).reason is BlockReason.RATE_LIMIT for gate in gates)
        engine.clear_all()
        assert all(engine.check(gate, policy).allowed for gate in gates)
        engine.clear_all()
    assert engine.check(Gate(1, None), policy).allowed  # type: ignore[arg-type]
    assert engine.check(Gate(1, None), policy).blocked  # type: ignore[arg-type]
    no_text = engine.check(Gate(("a",), "b"), policy)  # type: ignore[arg-type]
    assert no_text.reason is BlockReason.STORE_ERROR


def test_clear_all_removes_its_own_prefix_only(client: Any) -> None:
    prefix, policy = fresh_prefix("app"), Policy(max_calls=1, window=60)
    others = [f"{prefix}:other", f"{prefix}*", prefix[:-1], f"{prefix}:{{"]
    foreign = [f"{prefix}:foreign", f"{prefix}:{{x}}:calls", f"{prefix}:{{{'0' * 32}}}:calls:more"]
    for key in foreign:
        client.set(key, "1")
    engines = [Engine(store=RedisStore(client, each)) for each in [prefix, *others]]
    for engine in engines:
        assert engine.check(GATE, policy).allowed
    many = [Gate("many", str(number)) for number in range(1_100)]
    for gate in many:
        engines[0].check(gate, policy)
    engines[0].clear_all()
    assert engines[0].check(GATE, policy).allowed
    assert all(engines[0].check(gate, policy).allowed for gate in many)
    for engine in engines[1:]:
        assert engine.check(GATE, policy).blocked
        engine.clear_all()
    assert all(client.delete(key) == 1 for key in foreign)
    engines[0].clear_all()


def key_of(client: Any, prefix: str) -> Any:
    """The only record of a prefix."""
    (key,) = list(client.scan_iter(match=f"{prefix}:*:calls"))
    return key


def test_every_key_of_a_window_expires_and_a_lifetime_does_not(redis_server: Server) -> None:
    client = redis_server.client()
    for policy, longest in [(Policy(3, 30), 60), (Policy(3, 60, 30), 120), (Policy(3, 30, 600), 60)]:
        prefix = fresh_prefix()
        engine = Engine(store=RedisStore(client, prefix))
        for _ in range(5):
            engine.check(GATE, policy)
        left = client.pttl(key_of(client, prefix))
        assert policy.window is not None
        assert policy.window * 1000 < left <= longest * 1000 + 100
    prefix = fresh_prefix()
    engine = Engine(store=RedisStore(client, prefix))
    forever = Policy(max_calls=1, window=None, cooldown=0.05)
    assert engine.check(GATE, Policy(max_calls=1, window=60)).allowed
    assert engine.check(Gate("other", "gate"), forever).allowed
    assert engine.check(GATE, forever).blocked, "the call under a window counts in the lifetime"
    assert sorted(client.pttl(key) < 0 for key in client.scan_iter(match=f"{prefix}:*")) == [True, True]
    time.sleep(0.2)
    assert engine.check(Gate("other", "gate"), forever).reason is BlockReason.RATE_LIMIT
    # A clock of one's own may stand still: the key outlives its window by an hour.
    prefix = fresh_prefix()
    Engine(store=RedisStore(client, prefix), clock=lambda: 5.0).check(GATE, Policy(3, 1))
    assert 3_600_000 < client.pttl(key_of(client, prefix)) <= 3_602_000


def test_calls_leave_a_short_window_in_real_time(client: Any) -> None:
    engine, policy = Engine(store=RedisStore(client, fresh_prefix())), Policy(max_calls=2, window=0.2)
    deadline = time.monotonic() + 30
    # Full at some time, and open again at some later one, twice: however slow the machine is.
    for wanted in (False, True, False, True):
        while engine.check(GATE, policy).allowed is not wanted:
            assert time.monotonic() < deadline
            time.sleep(0 if wanted is False else 0.02)


def commands(client: Any, engine: Engine, gate: Gate, policy: Policy) -> int:
    """How many commands the server runs for one check."""
    client.config_resetstat()
    engine.check(gate, policy)
    stats = client.info("commandstats")
    return sum(stat["calls"] for name, stat in stats.items() if "config" not in name and "info" not in name)


def test_a_check_costs_the_same_whatever_the_window_holds(own_redis_server: Server) -> None:
    client = own_redis_server.client()
    now, clock = moving(0.0)
    engine = Engine(store=RedisStore(client), clock=clock)
    policy, costs = Policy(max_calls=10**9, window=1000), []
    for number in range(1, 1_001):
        now[0] = number / 2
        engine.check(GATE, policy)
        if number in (10, 1_000):
            now[0] += 0.1
            costs.append(commands(client, engine, GATE, policy))
    assert costs[0] == costs[1]
    # A narrower window looks its edge up by halves.
    assert commands(client, engine, GATE, Policy(max_calls=10**9, window=100)) < costs[0] + 25
    # Half of the calls leave at once.
    now[0] = 1250.0
    assert commands(client, engine, GATE, policy) < costs[0] + 25


def test_many_calls_share_cells_and_never_exceed_the_limit(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    now, clock = moving(0.0)
    engine = Engine(store=RedisStore(client, prefix), clock=clock)
    policy = Policy(max_calls=4_000, window=100)
    for number in range(4_000):
        now[0] = number / 400
        assert engine.check(GATE, policy).calls_in_window == number + 1
    assert client.llen(key_of(client, prefix)) < 1_200
    assert engine.check(GATE, policy).blocked
    # Everything is back a thousandth of the window after the last call left it.
    now[0] = 100.0 + 10.0 + 0.1
    assert engine.check(GATE, policy).calls_in_window == 1


def test_calls_before_a_stamp_of_the_future_share_cells_too(redis_server: Server) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    now, clock = moving(50.0)
    memory, shared = Engine(clock=clock), Engine(store=RedisStore(client, prefix), clock=clock)
    policy = Policy(max_calls=3_000, window=100)
    assert [engine.check(GATE, policy).allowed for engine in (memory, shared)] == [True, True]
    for number in range(2_500):
        now[0] = number / 400
        found = [engine.check(GATE, policy).calls_in_window for engine in (memory, shared)]
        assert found == [number + 2] * 2
    assert client.llen(key_of(client, prefix)) < 1_200
    now[0] = 149.9
    assert [engine.check(GATE, policy).calls_in_window for engine in (memory, shared)] == [2, 2]
    now[0] = 150.1
    assert [engine.check(GATE, policy).calls_in_window for engine in (memory, shared)] == [2, 2]


def test_a_broken_connection_does_not_count_a_call_twice(client: Any) -> None:
    from checkrein.actiongate import redis as module

    prefix = fresh_prefix()
    store = RedisStore(client, prefix)
    keys, argument = store._keys(GATE), store._argument(5.0, Policy(max_calls=5, window=60))
    replies = [module._read(module._CALLS.run(client, keys, argument)) for _ in range(3)]
    assert [reply[:2] for reply in replies] == [(1, True)] * 3
    assert store.check_and_reserve(GATE, 6.0, Policy(max_calls=5, window=60))[:2] == (2, True)
    # Later calls do not make the server forget the attempt at once.
    assert module._read(module._CALLS.run(client, keys, argument))[:2] == (2, True)


def test_a_repeated_call_is_known_after_thousands_of_others(redis_server: Server) -> None:
    from checkrein.actiongate import redis as module

    client, prefix = redis_server.client(), fresh_prefix()
    store, policy = RedisStore(client, prefix), Policy(max_calls=20_000, window=600)
    keys, argument = store._keys(GATE), store._argument(5.0, policy)
    module._CALLS.run(client, keys, argument)
    for others in (8, 100, 4_000, 4_090):
        with client.pipeline(transaction=False) as many:
            digest = module._CALLS._load()[0]
            for _ in range(others):
                many.execute_command("EVALSHA", digest, len(keys), *keys, store._argument(5.0, policy))
            many.execute()
        before = client.llen(keys[0])
        found = module._read(module._CALLS.run(client, keys, argument))
        assert found[:2] == (1 + sum(each for each in (8, 100, 4_000, 4_090) if each <= others), True)
        assert client.llen(keys[0]) == before
    # What is remembered is bounded, and gone soon where nobody calls.
    assert all(client.scard(key) <= 4_096 for key in keys[1:])
    assert all(0 < client.pttl(key) <= 60_000 for key in keys[1:] if client.exists(key))
    # A limit that is used up is not a refusal for what was counted.
    full = store._argument(5.0, Policy(max_calls=1, window=600))[:-12] + argument[-12:]
    assert module._read(module._CALLS.run(client, keys, full))[1] is True
    store.clear(GATE)
    assert not client.exists(*keys)


def test_clear_all_passes_over_keys_of_others(client: Any) -> None:
    prefix, policy = fresh_prefix(), Policy(max_calls=99, window=60)
    foreign: list[Any] = [
        f"{prefix}:{{{'a' * 32}}}:foreign",
        f"{prefix}:{{{'b' * 32}}}:".encode() + b"\xff\xfe",
    ]
    for key in foreign:
        client.set(key, "theirs")
    store = RedisStore(client, prefix)
    store.clear_all()
    keys = store._keys(GATE)
    for _ in range(12):
        assert store.check_and_reserve(GATE, 5.0, policy)[1]
    assert client.exists(*keys) == 2
    store.clear_all()
    assert client.exists(*keys) == 0
    assert all(client.delete(key) == 1 for key in foreign)


def test_a_flushed_script_is_sent_again(client: Any) -> None:
    engine, policy = Engine(store=RedisStore(client, fresh_prefix())), Policy(max_calls=9, window=60)
    assert engine.check(GATE, policy).allowed
    client.script_flush()
    assert engine.check(GATE, policy).calls_in_window == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda client, key: client.set(key, "text"),
        lambda client, key: client.hset(key, "a", "b"),
        lambda client, key: client.rpush(key, b"\xff" * 9),
        lambda client, key: client.rpush(key, b"A2" + bytes(60)),
        lambda client, key: client.rpush(key, b"A1" + b"\xff" * 56),
        lambda client, key: client.rpush(key, b""),
    ],
    ids=["string", "hash", "bytes", "newer", "no numbers", "empty"],
)
def test_what_is_no_record_of_ours_is_a_store_error_and_stays(redis_server: Server, damage: Any) -> None:
    client, prefix = redis_server.client(), fresh_prefix()
    engine = Engine(store=RedisStore(client, prefix))
    assert engine.check(GATE, Policy(3, 60)).allowed
    key = key_of(client, prefix)
    client.delete(key)
    damage(client, key)
    before = client.dump(key)
    closed = engine.check(GATE, Policy(3, 60))
    assert (closed.allowed, closed.reason) == (False, BlockReason.STORE_ERROR)
    opened = engine.check(GATE, Policy(3, 60, on_store_error=StoreErrorMode.FAIL_OPEN))
    assert (opened.allowed, opened.reason) == (True, BlockReason.STORE_ERROR)
    assert client.dump(key) == before
    engine.clear(GATE)
    assert engine.check(GATE, Policy(3, 60)).calls_in_window == 1


def test_a_server_that_is_gone_or_full_follows_the_policy(own_redis_server: Server) -> None:
    client = own_redis_server.client(retry=Retry(NoBackoff(), 0))
    engine = Engine(store=RedisStore(client))
    closed = Policy(max_calls=9, window=60)
    opened = Policy(max_calls=9, window=60, on_store_error=StoreErrorMode.FAIL_OPEN)
    assert engine.check(GATE, closed).allowed
    client.config_set("maxmemory", 1)
    refused = engine.check(GATE, closed)
    assert refused.reason is BlockReason.STORE_ERROR
    assert "maxmemory" in str(refused.message)
    client.config_set("maxmemory", 0)
    assert engine.check(GATE, closed).calls_in_window == 2, "the refused check left nothing behind"
    own_redis_server.stop()
    refused = engine.check(GATE, closed)
    assert (refused.allowed, refused.reason) == (False, BlockReason.STORE_ERROR)
    assert engine.check(GATE, opened).allowed
    with pytest.raises(redis.exceptions.ConnectionError):
        engine.clear(GATE)
    own_redis_server.start()
    assert engine.check(GATE, closed).calls_in_window == 1


def test_no_password_is_in_a_message() -> None:
    client = redis.Redis.from_url("redis://user:s3cr3t@127.0.0.1:1/0", socket_connect_timeout=1)
    decision = Engine(store=RedisStore(client)).check(GATE)
    assert decision.reason is BlockReason.STORE_ERROR
    assert "s3cr3t" not in str(decision) + repr(decision)


def test_threads_have_one_limit(client: Any) -> None:
    engine, policy = Engine(store=RedisStore(client, fresh_prefix())), Policy(max_calls=50, window=600)
    found: list[Decision] = []

    def work() -> None:
        found.extend(engine.check(GATE, policy) for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(decision.allowed for decision in found) == 50
    assert {decision.reason for decision in found if decision.blocked} == {BlockReason.RATE_LIMIT}


def test_four_processes_have_one_limit_whatever_their_clocks_say(redis_server: Server) -> None:
    prefix = fresh_prefix()
    program = """
import sys, time
import redis
offset = int(sys.argv[3])
# The host's clocks are hours off: only the server's counts.
import checkrein.actiongate as actiongate
engine = actiongate.Engine(store=actiongate.RedisStore(redis.Redis(port=int(sys.argv[1])), sys.argv[2]))
store = engine._store
gate, policy = actiongate.Gate("a", "b"), actiongate.Policy(max_calls=40, window=600)
allowed = sum(engine.check(gate, policy).allowed for _ in range(15))
allowed += sum(store.check_and_reserve(gate, time.monotonic() + offset, policy)[1] for _ in range(15))
print(allowed)
"""
    arguments = [str(redis_server.port), prefix]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments, str(offset)], stdout=subprocess.PIPE, text=True
        )
        for offset in (0, 3600, -3600, 10**6)
    ]
    assert sum(int(worker.communicate(timeout=120)[0]) for worker in workers) == 40


async def test_coroutines_count_on_the_same_server(redis_server: Server, redis_cluster: Cluster) -> None:
    open_clients: list[tuple[Any, Any]] = [
        (redis_server.client(), redis.asyncio.Redis(port=redis_server.port)),
        (redis_server.client(), redis.asyncio.Redis(port=redis_server.port, decode_responses=True)),
        (
            redis_cluster.client(),
            redis.asyncio.RedisCluster(host="127.0.0.1", port=redis_cluster.servers[0].port),
        ),
    ]
    for client, awaited in open_clients:
        # redis-py 8.1 loses commands when the very first ones on a Cluster run at once.
        await awaited.initialize()
        prefix, policy = fresh_prefix(), Policy(max_calls=30, window=600)
        engine = Engine(store=RedisStore(client, prefix), async_store=AsyncRedisStore(awaited, prefix))
        decisions = await asyncio.gather(*(engine.async_check(GATE, policy) for _ in range(50)))
        assert sum(decision.allowed for decision in decisions) == 30
        assert engine.check(GATE, policy).blocked
        await engine.async_clear(GATE)

        @engine.async_guard(GATE, Policy(max_calls=1, window=600))
        async def act() -> str:
            return "ran"

        assert await act() == "ran"
        with pytest.raises(Blocked):
            await act()
        await engine.async_clear_all()
        assert engine.check(GATE, policy).calls_in_window == 1
        engine.clear_all()
        await awaited.aclose()
        client.close()


async def test_one_store_serves_both_sides_of_an_engine(redis_server: Server) -> None:
    engine, policy = Engine(store=RedisStore(redis_server.client(), fresh_prefix())), Policy(1, 60)
    assert (await engine.async_check(GATE, policy)).allowed
    assert engine.check(GATE, policy).blocked
    await engine.async_clear(GATE)
    assert engine.check(GATE, policy).allowed
    awaited = redis.asyncio.Redis(port=redis_server.port)
    only_async = Engine(async_store=AsyncRedisStore(awaited, fresh_prefix()))
    assert (await only_async.async_check(GATE, policy)).allowed
    refused = only_async.check(GATE, policy)
    assert refused.reason is BlockReason.STORE_ERROR
    assert "RedisStore" in str(refused.message)
    await awaited.aclose()


def test_a_store_says_which_client_it_needs(redis_server: Server) -> None:
    client, awaited = redis_server.client(), redis.asyncio.Redis(port=redis_server.port)
    for make, message in [
        (lambda: RedisStore(awaited), "AsyncRedisStore"),
        (lambda: AsyncRedisStore(client), r"redis\.asyncio"),
        (lambda: RedisStore(object()), "redis-py"),
        (lambda: RedisStore(client, prefix=5), "prefix"),  # type: ignore[arg-type]
        (lambda: Engine(store=AsyncRedisStore(awaited)), "async_store"),  # type: ignore[arg-type]
        (lambda: Engine(async_store=RedisStore(client)), "store"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(TypeError, match=message):
            make()


def test_the_bench_measures_a_server_or_says_why_not(redis_server: Server, capsys: Any) -> None:
    from checkrein.actiongate.bench import main

    assert main(["-n", "50", "--redis", f"127.0.0.1:{redis_server.port}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"RedisStore (127.0.0.1:{redis_server.port}):")
    wanted = ["Iterations:", "Total:", "p50:", "p95:", "p99:", "Throughput:"]
    assert [line.split()[0] for line in lines[start + 1 : start + 7]] == wanted
    assert not list(redis_server.client().scan_iter(match="bench:*"))
    assert main(["-n", "50", "--redis", "127.0.0.1:1"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "RedisStore" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("Warning: RedisStore skipped, 127.0.0.1:1 cannot be used")
