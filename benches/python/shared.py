"""`python benches/python/shared.py [--quick] [--json FILE] [--wheel FILE | --own PYTHON] [--date TEXT]`

Measures decisions on a Redis server of its own, in one process and in turn: the native store, the drop-in stores over
redis-py, the stores of the published packages, the moving window of `limits`, and a bare script that returns 1. What
counts is wall time: the median wait of a call, and its ratio to another's in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import environment
import redisserver

FEW, MANY = 10, 1_000
ENDLESS = 10**9
COST = Decimal("0.01")
CALL_US = 100
"""About what a call takes: the windows on a server's clock are made for it."""

Call = Callable[[int], Any]


@dataclass
class Contestant:
    """Something that is called with the number of its caller; what it returns is awaited where it is asynchronous."""

    name: str
    call: Call
    waits: list[float] = field(default_factory=list)
    """The median wait of each round, in microseconds."""
    rates: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """How a contestant has to compare with another: `at_most` times its wait."""

    ours: str
    to: str
    at_most: float | None = None


GOALS = (
    Goal("native, one limit, 10 events", "published actiongate, 10 events", 0.6),
    Goal("native, one limit, 1,000 events", "published actiongate, 1,000 events", 0.2),
    Goal("native, limit + budget, 10 events", "published actiongate + budgetgate, 10 events", 0.35),
    Goal("native, one limit, 1,000 events", "native, one limit, 10 events", 1.15),
    Goal("native, one limit, 10 events", "redis-py EVALSHA of `return 1`"),
    Goal("drop-in actiongate, 10 events", "redis-py EVALSHA of `return 1`", 1.15),
    Goal("drop-in actiongate, 10 events", "published actiongate, 10 events"),
    Goal("drop-in actiongate, 1,000 events", "drop-in actiongate, 10 events", 1.15),
    Goal("drop-in budgetgate, 10 events", "redis-py EVALSHA of `return 1`", 1.15),
    Goal("drop-in budgetgate, 10 events", "published budgetgate, 10 events"),
    Goal("limits, moving window", "redis-py EVALSHA of `return 1`"),
    Goal("native async, one limit, 10 events", "redis.asyncio EVALSHA of `return 1`"),
    Goal("drop-in async actiongate, 10 events", "redis.asyncio EVALSHA of `return 1`"),
)


def tool() -> None:
    """Do nothing."""


async def async_tool() -> None:
    """Do nothing, and await nothing."""


def _events(count: int) -> str:
    return f"{count:,} events"


def _gates(side: str, client: Any) -> list[Contestant]:
    """The one-gate engines of the published packages (`side="published"`) or of the drop-ins, and both in a row.

    One second passes per call on a clock of their own, so that every call finds as many events as it should.
    """
    from packages import load

    actiongate, budgetgate = load(side, "actiongate"), load(side, "budgetgate")
    word = "published" if side == "published" else "drop-in"
    made = []
    for events in (FEW, MANY):
        policy = actiongate.Policy(max_calls=ENDLESS, window=events + 0.5)
        budget = budgetgate.Budget(max_spend=Decimal(1_000_000), window=events + 0.5)

        # Each on an engine of its own: a clock that ticks for two would leave half the events in a window.
        def limit(
            function: Callable[..., Any], name: str, policy: Any = policy
        ) -> tuple[Callable[[], Any], Callable[[], Any]]:
            store = actiongate.RedisStore(client, prefix=f"{word} {name}")
            engine = actiongate.Engine(clock=itertools.count().__next__, store=store)
            gate = actiongate.Gate("bench", "tool", "u")
            return engine.guard(gate, policy)(function), lambda: engine.check(gate)

        def pay(function: Callable[..., Any], name: str, budget: Any = budget) -> Any:
            store = budgetgate.RedisStore(client, prefix=f"{word} {name}")
            engine = budgetgate.Engine(clock=itertools.count().__next__, store=store)
            return engine.guard(budgetgate.Ledger("bench", "tool", "u"), budget, cost=COST)(function)

        limited, check = limit(tool, f"{events} calls")
        paid = pay(tool, f"{events} spends")
        both, _ = limit(pay(tool, f"{events} both spends"), f"{events} both calls")
        for _ in range(events + 1):
            limited(), paid(), both()
        counted = check().calls_in_window
        if not events <= counted <= events + 1:
            raise RuntimeError(f"{word}: {counted} events instead of {events}")
        made += [
            Contestant(f"{word} actiongate, {_events(events)}", lambda _, call=limited: call()),
            Contestant(f"{word} budgetgate, {_events(events)}", lambda _, call=paid: call()),
            Contestant(f"{word} actiongate + budgetgate, {_events(events)}", lambda _, call=both: call()),
        ]
    return made


def _native(url: str, function: Callable[..., Any], word: str) -> list[Contestant]:
    """The unified engine. Its clock is the server's, so that its windows are as long as so many calls take."""
    from checkrein import Budget, Engine, Rate

    engine = Engine(store=url)
    made = []
    for events in (FEW, MANY):
        rate = Rate(ENDLESS, window=f"{events * CALL_US}us")
        budget = Budget("1000000 usd", window="1h")
        limited = engine.guard(rate=rate, name=f"{word} {events}")(function)
        paid = engine.guard(rate=rate, budget=budget, cost=COST, name=f"{word} {events} paid")(function)
        made += [
            Contestant(f"{word}, one limit, {_events(events)}", lambda _, call=limited: call()),
            Contestant(f"{word}, limit + budget, {_events(events)}", lambda _, call=paid: call()),
        ]
    return made


def _limits(url: str) -> Contestant:
    """The moving window of `limits`, which keeps every event it has admitted."""
    from limits import RateLimitItemPerHour, storage, strategies

    limiter = strategies.MovingWindowRateLimiter(storage.RedisStorage(url))
    item = RateLimitItemPerHour(ENDLESS)
    return Contestant("limits, moving window", lambda caller: limiter.hit(item, "bench"))


def sync_contestants(url: str) -> list[Contestant]:
    """Everything that blocks."""
    import redis

    client = redis.Redis.from_url(url)
    bare = client.register_script("return 1")
    made = [Contestant("redis-py EVALSHA of `return 1`", lambda _: bare())]
    made += _native(url, tool, "native")
    made += _gates("checkrein", client)
    made += _gates("published", redis.Redis.from_url(url, decode_responses=True))
    made.append(_limits(url))
    return made


def async_contestants(url: str) -> list[Contestant]:
    """Everything that is awaited."""
    import redis.asyncio

    from checkrein import actiongate

    client = redis.asyncio.Redis.from_url(url)
    bare = client.register_script("return 1")
    engine = actiongate.Engine(
        clock=itertools.count().__next__, async_store=actiongate.AsyncRedisStore(client, prefix="async")
    )
    policy = actiongate.Policy(max_calls=ENDLESS, window=FEW + 0.5)
    guarded = engine.async_guard(actiongate.Gate("bench", "async", "u"), policy)(async_tool)
    return [
        Contestant("redis.asyncio EVALSHA of `return 1`", lambda _: bare()),
        *_native(url, async_tool, "native async"),
        Contestant("drop-in async actiongate, 10 events", lambda _: guarded()),
    ]


def lap(contestant: Contestant, callers: int, seconds: float) -> None:
    """Let so many threads call for so long."""
    waits: list[list[float]] = [[] for _ in range(callers)]
    barrier = threading.Barrier(callers)

    def run(caller: int) -> None:
        call, mine, clock = contestant.call, waits[caller], time.perf_counter
        barrier.wait()
        before = clock()
        end = before + seconds
        while before < end:
            call(caller)
            after = clock()
            mine.append(after - before)
            before = after

    if callers == 1:
        run(0)
    else:
        threads = [threading.Thread(target=run, args=(caller,)) for caller in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    _note(contestant, [wait for mine in waits for wait in mine], seconds)


async def async_lap(contestant: Contestant, callers: int, seconds: float) -> None:
    """Let so many tasks call for so long."""
    waits: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds

    async def run(caller: int) -> None:
        call: Callable[[int], Awaitable[Any]] = contestant.call
        before = clock()
        while before < end:
            await call(caller)
            after = clock()
            waits.append(after - before)
            before = after

    await asyncio.gather(*(run(caller) for caller in range(callers)))
    _note(contestant, waits, seconds)


def _note(contestant: Contestant, waits: list[float], seconds: float) -> None:
    contestant.waits.append(statistics.median(waits) * 1e6)
    contestant.rates.append(len(waits) / seconds)


def show(title: str, contestants: list[Contestant]) -> list[dict[str, Any]]:
    """Print a table and what the goals come to; the first round only warmed up."""
    rows: list[dict[str, Any]] = []
    by_name = {one.name: one for one in contestants}
    print(f"\n{title}, load {os.getloadavg()[0]:.1f}\n{'':<52}{'p50 us':>10}{'calls/s':>12}")
    for one in contestants:
        wait, rate = statistics.median(one.waits[1:]), statistics.median(one.rates[1:])
        print(f"{one.name:<52}{wait:>10.0f}{rate:>12,.0f}")
        rows.append({"table": title, "contestant": one.name, "p50_us": wait, "per_second": rate})
    for goal in GOALS:
        ours, other = by_name.get(goal.ours), by_name.get(goal.to)
        if ours is None or other is None:
            continue
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(ours.waits[1:], other.waits[1:], strict=True)
        )
        met = None if goal.at_most is None else ratio <= goal.at_most
        word = {None: "", True: f"goal {goal.at_most}x: met", False: f"goal {goal.at_most}x: NOT met"}[met]
        print(f"  {goal.ours}  to  {goal.to}: {ratio:.2f}x  {word}")
        rows.append({"table": title, "ours": goal.ours, "to": goal.to, "ratio": ratio, "met": met})
    return rows


def measure(url: str, quick: bool) -> list[dict[str, Any]]:
    """All tables."""
    rounds, seconds = (3, 0.05) if quick else (11, 0.3)
    rows: list[dict[str, Any]] = []
    contestants = sync_contestants(url)
    for callers in (1, 8):
        for one in contestants:
            one.waits.clear()
            one.rates.clear()
        for _ in range(rounds + 1):
            for one in contestants:
                lap(one, callers, seconds)
        rows += show(f"Python, {callers} thread{'s' * (callers > 1)} on one key", contestants)

    async def tasks() -> list[dict[str, Any]]:
        contestants = async_contestants(url)
        for _ in range(rounds + 1):
            for one in contestants:
                await async_lap(one, 64, seconds)
        return show("Python, 64 tasks on one key", contestants)

    return rows + asyncio.run(tasks())


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="3 short rounds, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--wheel", type=Path, help="the wheel to install into the environment that is made")
    parser.add_argument("--own", help="an interpreter that has everything already")
    parser.add_argument("--date", default="", help="the date to print and write")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Make the environment, and measure in it."""
    options = arguments()
    if not options.inside:
        python, reason = environment.together(options.own, options.wheel)
        if python is None:
            print(f"skipped: the Redis stores in Python: {reason}", file=sys.stderr)
            return 0
        return subprocess.run([python, __file__, "--inside", *sys.argv[1:]], check=False).returncode
    before = os.getloadavg()
    with redisserver.started() as url:
        if url is None:
            print("skipped: the Redis stores in Python: there is no redis-server", file=sys.stderr)
            return 0
        print(f"{options.date} load average {before}")
        rows = measure(url, options.quick)
    if options.json:
        report = {"benchmark": "redis python", "date": options.date, "load_before": before, "results": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
