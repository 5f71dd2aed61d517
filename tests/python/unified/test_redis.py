"""The Redis store through the Python door: what it takes, what it refuses, and what several processes share."""

from __future__ import annotations

import asyncio
import gc
import pickle
import re
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server, fresh_prefix

import checkrein
from checkrein.testing import FakeClock, assert_denied

SECRET = "s3cr3t-w0rd"


@pytest.fixture
def prefix() -> str:
    """A prefix of this test alone."""
    return fresh_prefix("python")


@pytest.fixture
def engine(redis_server: Server, prefix: str) -> checkrein.Engine:
    """An engine on a real server, by its time. The machine may be busy."""
    return checkrein.Engine(store=redis_server.url, prefix=prefix, deadline="10s")


def test_the_server_is_named_without_its_secrets(own_redis_server: Server) -> None:
    own_redis_server.client().config_set("requirepass", SECRET)
    url = f"redis://:{SECRET}@127.0.0.1:{own_redis_server.port}/3"
    engine = checkrein.Engine(store=url)
    assert engine.store == f"redis://127.0.0.1:{own_redis_server.port}/3"
    assert SECRET not in repr(engine)
    assert engine.guard(name="act", rate="1/h")(lambda: 1)() == 1


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@127.0.0.1:1",
        f"redis://:{SECRET}@no host",
        f"redis://:{SECRET}@h:port",
        f"redis://:{SECRET}@[::x]",
        f"redis://user:{SECRET}/x@127.0.0.1",
        f"redis://:{SECRET}%zz@127.0.0.1",
        f"redis://127.0.0.1:1/{SECRET}",
        f"redis://127.0.0.1:1/?password={SECRET}",
        f"redis:{SECRET}@127.0.0.1",
        f"Redis://:{SECRET}@127.0.0.1:1",
        f"reddis://:{SECRET}@127.0.0.1:1",
        f"rediss://:{SECRET}@127.0.0.1:1",
        f"redis+sentinel://:{SECRET}@127.0.0.1:1",
        f"redis+sentinel://127.0.0.1:1/main?sentinel_password={SECRET}",
        f"redis+cluster://:{SECRET}@127.0.0.1:1,127.0.0.1:2",
        f"redis+other://:{SECRET}@127.0.0.1:1",
        f"postgres://user:{SECRET}@127.0.0.1",
        f"user:{SECRET}@127.0.0.1",
        f"sqlite:redis://:{SECRET}@127.0.0.1",
        f"sqlite://redis://:{SECRET}@127.0.0.1?x=1",
        f"sqlit:redis://:{SECRET}@127.0.0.1",
        f"{SECRET}@127.0.0.1/x",
    ],
)
def test_no_error_says_a_secret(url: str) -> None:
    began = time.monotonic()
    with pytest.raises(checkrein.CheckreinError) as refused:
        checkrein.Engine(store=url)
    assert time.monotonic() - began < 3
    assert refused.value.code in ("store", "store_error")
    # The arguments of frames are the caller's own; what is ours is the error, and all that hangs on it.
    said = (
        "".join(traceback.format_exception(refused.value)) + repr(refused.value) + repr(vars(refused.value))
    )
    assert SECRET not in said.replace(f'store="{url}"', "")
    if isinstance(refused.value, checkrein.StoreError):
        assert SECRET not in str(refused.value.decision.to_dict())


def test_a_wrong_password_and_a_wrong_server_are_errors_that_say_so(own_redis_server: Server) -> None:
    client = own_redis_server.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(checkrein.StoreError, match="maxmemory-policy noeviction"):
        checkrein.Engine(store=own_redis_server.url)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("requirepass", SECRET)
    for login in ("", "wrong@", ":wrong@"):
        with pytest.raises(checkrein.StoreError, match="password") as refused:
            checkrein.Engine(store=f"redis://{login}127.0.0.1:{own_redis_server.port}")
        assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"store": "memory", "prefix": "x"}, "prefix"),
        ({"prefix": "x"}, "prefix"),
        ({"deadline": 1}, "deadline"),
        ({"store": "sqlite:FILE", "deadline": "1s"}, "deadline"),
        ({"store": "sqlite:FILE", "accept_failover_loss": True}, "accept_failover_loss"),
        ({"store": "sqlite:FILE", "ledger": "x"}, "ledger"),
        ({"ledger": "x"}, "ledger"),
        ({"store": "URL", "ledger_arguments": "full"}, "ledger"),
        ({"store": "URL", "ledger_key": "k"}, "ledger"),
        ({"store": "URL", "witness": "w"}, "ledger"),
        ({"store": "URL", "prefix": ""}, "prefix"),
        ({"store": "URL", "prefix": "a{b}"}, "prefix"),
        ({"store": "URL", "prefix": "a b"}, "prefix"),
        ({"store": "URL", "prefix": "x" * 101}, "prefix"),
        ({"store": "URL", "deadline": 0}, "duration"),
        ({"store": "URL", "deadline": "soon"}, "duration"),
        ({"store": "URL", "max_keys": 0}, "max_keys"),
    ],
)
def test_options_of_other_stores_are_refused(
    options: dict[str, Any], code: str, tmp_path: Path, redis_server: Server
) -> None:
    places = {"sqlite:FILE": f"sqlite:{tmp_path}/x.db", "URL": redis_server.url}
    store = options.get("store")
    with pytest.raises(checkrein.ConfigError) as refused:
        checkrein.Engine(**{**options, "store": places.get(store, store)})
    assert refused.value.code == code
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_everything_outlives_the_engine(redis_server: Server, prefix: str) -> None:
    runs: list[str] = []

    def guards(engine: checkrein.Engine) -> tuple[Any, Any]:
        @engine.guard(name="search", key="user", rate="2/h")
        def search(user: str) -> str:
            return user

        @engine.guard(
            name="pay",
            once="key",
            budget=checkrein.Budget("5 usd", name="team"),
            cost="2 usd",
            actual=lambda result: "1.5",
        )
        def pay(key: str) -> dict[str, object]:
            runs.append(key)
            return {"key": key, "parts": [1, 2.5, None]}

        return search, pay

    first = checkrein.Engine(store=redis_server.url, prefix=prefix)
    search, pay = guards(first)
    assert search("ada") == "ada"
    result = pay("p1")
    assert first.peek(pay, "p9").durability == "D1"
    assert pickle.loads(pickle.dumps(first.peek(pay, "p9"))).durability == "D1"
    del first, search, pay
    gc.collect()

    again = checkrein.Engine(store=redis_server.url, prefix=prefix)
    search, pay = guards(again)
    assert search("ada") == "ada"
    assert_denied(search, "ada", code="rate_limited")
    assert pay("p1") == result
    assert runs == ["p1"]
    assert {row["spent"] for row in again.list() if row["gate"] == "team"} == {"1.5"}
    assert pay("p2")
    assert pay("p3")
    assert_denied(pay, "p4", code="budget_exceeded")


def test_a_full_window_gives_one_reason(engine: checkrein.Engine) -> None:
    act = engine.guard(name="act", rate="1/h")(lambda: 1)
    act()
    assert [reason.code for reason in assert_denied(act).reasons] == ["rate_limited"]


def test_prefixes_share_nothing(redis_server: Server) -> None:
    engines = [checkrein.Engine(store=redis_server.url, prefix=fresh_prefix()) for _ in range(2)]
    for engine in engines:
        act = engine.guard(name="act", rate="1/h")(lambda: 1)
        assert act() == 1
        assert_denied(act, code="rate_limited")


def test_many_engines_of_one_url_share_their_connections(own_redis_server: Server) -> None:
    engines = [checkrein.Engine(store=own_redis_server.url, name=f"e{number}") for number in range(40)]
    guards = [engine.guard(name="act", rate="1000/h")(lambda: 1) for engine in engines]
    threads = [threading.Thread(target=lambda act=act: [act() for _ in range(5)]) for act in guards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client = own_redis_server.client()
    assert len(client.client_list()) <= 6
    assert engines[0].list()[0]["events"] == 200
    del engines, guards
    gc.collect()
    until = time.monotonic() + 20
    while len(client.client_list()) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(client.client_list()) == 1


def test_a_clock_that_is_moved_by_hand_moves_the_store(redis_server: Server, prefix: str) -> None:
    clock = FakeClock()
    engine = checkrein.Engine(store=redis_server.url, prefix=prefix, clock=clock)
    act = engine.guard(name="act", rate="1/min")(lambda: 1)
    act()
    assert assert_denied(act).retry_after == 60.0
    clock.advance(60)
    assert act() == 1


def test_hostile_keys_are_keys(engine: checkrein.Engine) -> None:
    act = engine.guard(name="act", key="user", tenant="tenant", rate="1/h")(lambda user, tenant: user)
    keys = ["{}", "a{b}c", "*", "a b", "a\0b", "\r\n", "ü" * 400, "x" * 400, ":", "a:b", "\U0001f600"]
    for key in keys:
        for tenant in ("t", "{t}", "*"):
            assert act(key, tenant) == key
            assert_denied(act, key, tenant, code="rate_limited")
    assert len(engine.list(limit=100)) == len(keys) * 3
    refused = assert_denied(act, "x" * (1 << 20), "t")
    assert refused.code in ("too_large", "invalid_action")


def rule() -> list[str]:
    """The rights that the guide says are enough."""
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "distributed.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^ACL SETUSER checkrein .*$", guide, re.MULTILINE)
    return str(found).split()


def test_the_rights_that_the_guide_names_are_enough_and_needed(own_redis_server: Server) -> None:
    client, words = own_redis_server.client(), rule()
    client.execute_command(*words)
    url = f"redis://checkrein:PASSWORD@127.0.0.1:{own_redis_server.port}"
    with pytest.raises(checkrein.StoreError):
        checkrein.Engine(store=url, prefix="other").guard(name="act", rate="1/h")(lambda: 1)()
    client.acl_log_reset()
    client.config_resetstat()
    engine = checkrein.Engine(store=url, prefix="shop", deadline="10s")
    use_everything(engine)
    refused = {(entry["reason"], entry["object"]) for entry in client.acl_log()}
    # This one may be missing: a server that is not asked counts as one that syncs later.
    assert refused <= {("command", "config|get")}
    # Whatever is allowed is used sooner or later, but for other places, ledgers, and records of some kinds.
    allowed = {word[1:] for word in words if word.startswith("+")}
    until = time.monotonic() + 30
    rest = allowed
    while rest and time.monotonic() < until:
        rest = allowed - {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
        rest -= {
            "select",
            "cluster|slots",
            "persist",
            "hdel",
            "rpush",
            "llen",
            "lrange",
            "ltrim",
            "setrange",
            "getrange",
        }
        time.sleep(0.1)
    assert rest == set()


def use_everything(engine: checkrein.Engine) -> None:
    """Have every kind of record written, read, listed, reset and swept."""

    @engine.guard(
        name="act",
        key="user",
        rate=["100/h", "500/d"],
        budget="50 usd/d",
        cost="1 usd",
        actual=lambda result: "0.5",
        breaker="dependency: 3/60s",
        attempts=50,
        once="key",
        tenant="tenant",
    )
    def act(user: str, key: str, tenant: str, fail: bool) -> str:
        if fail:
            raise RuntimeError("the dependency is down")
        return "done"

    with pytest.raises(RuntimeError):
        act("ada", f"f-{engine.name}", "t2", True)
    for number in range(30):
        assert act("ada", f"k{number}-{engine.name}", "t1", False) == "done"
    assert act("ada", f"k1-{engine.name}", "t1", False) == "done"
    assert engine.peek(act, "ada", "new", "t1", False).meters
    for kind in ("meter", "breaker", "operation", "fact"):
        assert engine.list(kind) or kind == "fact"
    assert engine.resolve(act, f"f-{engine.name}", "failed", tenant="t2")
    assert engine.reset(act, "ada", tenant="t1") > 0
    assert engine.reset(act) > 0
    short = engine.guard(name="short", key="user", rate="1/20ms")(lambda user: user)
    for number in range(20):
        short(f"u{number}")
    time.sleep(0.05)
    engine.collect()


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_waiting_for_the_server_lets_other_threads_run(engine: checkrein.Engine) -> None:
    act = engine.guard(name="act", rate="1000000/h")(lambda: None)
    stop = threading.Event()
    counted = [0]

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    threads = [threading.Thread(target=lambda: [act() for _ in range(50)]) for _ in range(32)]
    counter = threading.Thread(target=count)
    counter.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    counter.join()
    assert engine.list()[0]["events"] == 1_600
    assert counted[0] > 100


async def test_hundreds_of_coroutines_decide_together(engine: checkrein.Engine) -> None:
    ran: list[str] = []

    @engine.guard(
        name="pay", once="key", rate="200/h", budget="500 usd", cost="1 usd", actual=lambda result: "0.5"
    )
    async def pay(key: str) -> dict[str, str]:
        await asyncio.sleep(0)
        ran.append(key)
        assert checkrein.current_operation().key == key
        return {"key": key}

    answers = await asyncio.gather(*(pay(f"k{number}") for number in range(300)), return_exceptions=True)
    done = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer for answer in answers if isinstance(answer, checkrein.RateLimited)]
    assert (len(done), len(refused), len(ran)) == (200, 100, 200)
    assert await pay(ran[0]) == {"key": ran[0]}
    assert len(ran) == 200
    assert {row["spent"] for row in engine.list() if row["gate"] == "pay.budget"} == {"100"}
    assert engine.unrecorded_outcomes == 0
