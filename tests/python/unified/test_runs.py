"""Runs, sessions and scopes: what everything inside may spend together, in tasks, threads, pools and processes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import BudgetExceeded, ConfigError, Engine, Frozen, PermitError, current_run, current_scope
from checkrein.acting import actor
from checkrein.testing import FakeClock

REPLY = {"model": "gpt-5", "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}}
REQUEST = {
    "model": "gpt-5",
    "messages": [{"role": "user", "content": "hello"}],
    "max_completion_tokens": 100,
}


def spend(amount: str = "0.1", **more: Any) -> None:
    """Spend so much in the current scope."""
    scope = current_scope()
    assert scope is not None
    scope.hold({"usd": amount, **more}).settle_in_full()


def test_a_run_holds_settles_and_reports() -> None:
    engine = Engine()
    with engine.run(user="alice", budget="$0.50", tokens=1000) as run:
        assert current_run() is run is current_scope()
        hold = run.hold({"usd": "0.3", "tokens": 100, "calls": 1})
        assert (run.held.usd, run.remaining.usd, run.remaining.tokens, run.remaining.calls) == (
            Decimal("0.3"),
            Decimal("0.2"),
            900,
            None,
        )
        with pytest.raises(BudgetExceeded, match=r"@run") as refused:
            run.hold({"usd": "0.3"})
        told = refused.value.decision.reasons[0].to_dict()
        assert told["gate"] == "@run"
        hold.settle({"usd": "0.05", "tokens": 40})
        assert (run.spent.usd, run.spent.tokens, run.spent.calls) == (Decimal("0.05"), 40, 1)
        with pytest.raises(PermitError):
            hold.settle({"usd": "0.05"})
        run.hold({"usd": "0.1"}).release()
        assert run.held.usd == 0
        assert run.report().to_dict()["spent"]["usd"] == "0.05"
        assert "0.05 of 0.5 spent" in str(run.report())
    assert current_run() is None
    # What it spent is known after its end, and counts for whom it was.
    assert run.spent.usd == Decimal("0.05")
    assert engine.totals(user="alice").usd == engine.totals().usd == Decimal("0.05")
    assert engine.totals(user="bob").usd == 0


def test_calls_of_models_count_in_every_scope_and_total() -> None:
    engine = Engine()
    with (
        engine.session("s", user="alice", agent="helper"),
        engine.run(budget="1 usd") as run,
        engine.scope(tokens=2000) as part,
    ):
        assert (run.user, run.session, run.agent) == ("alice", "s", "helper")
        with engine.model_call(request=REQUEST) as call:
            assert call.max_output == 100
            settled = call.settle(REPLY)
        usd = Decimal(settled.usd or "0")
        assert usd > 0
        assert part.spent.tokens == 1100
        with pytest.raises(BudgetExceeded):
            engine.model_call(request={**REQUEST, "max_completion_tokens": 1000}).admit()
    whoms: list[dict[str, str]] = [{"user": "alice"}, {"agent": "helper"}, {"session": "s"}, {}]
    for whom in whoms:
        assert engine.totals(**whom).usd == usd, whom
    assert engine.totals(user="alice").calls == 1


def test_without_a_maximum_one_is_reserved_and_has_to_be_sent() -> None:
    engine = Engine()
    request = {"model": "gpt-5", "messages": []}
    with engine.run(budget="1 usd", reserve_output=500), engine.model_call(request=request) as call:
        assert call.max_output == 500
        assert {held["bound"] for held in call.held} == {"proven"}
        call.release()
    with engine.run(), engine.model_call(request=request) as call:
        assert call.max_output is None, "nothing limits the call"
        call.settle(REPLY)
    with engine.run(budget="1 usd"), pytest.raises(checkrein.Denied, match="price"):
        engine.model_call(request={**request, "model": "nobody/knows-this"}).admit()


def test_limits_of_all_scopes_hold_in_tasks_threads_and_pools() -> None:
    engine = Engine()
    outcomes: list[str] = []

    def work() -> None:
        try:
            spend("0.1")
            outcomes.append("spent")
        except BudgetExceeded as error:
            outcomes.append(error.decision.reasons[0].gate)

    async def tasks() -> None:
        async def one() -> None:
            await asyncio.sleep(0)
            work()

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(one())
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(5)))
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, work) for _ in range(5)))

    with engine.run(budget="100 usd") as run, engine.scope(budget="0.3 usd") as inner:
        asyncio.run(tasks())
        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(work) for _ in range(5)]:
                future.result()
        assert outcomes.count("spent") == 3
        assert outcomes.count("@run.1") == 22
        assert inner.spent.usd == run.spent.usd == Decimal("0.3")


def test_a_timed_tool_spends_from_the_run_around_it() -> None:
    engine = Engine()

    @engine.guard(timeout="10s")
    def tool() -> None:
        spend("0.1")

    with engine.run(budget="0.2 usd") as run:
        tool()
        tool()
        with pytest.raises(BudgetExceeded):
            tool()
        assert run.spent.usd == Decimal("0.2")


def test_several_runs_at_once_in_one_process_do_not_see_one_another() -> None:
    engine = Engine()
    barrier = threading.Barrier(8)
    seen: dict[str, Decimal] = {}

    def one(number: int) -> None:
        with engine.run(user=f"user {number}", budget="1 usd") as run:
            barrier.wait()
            for _ in range(number):
                spend("0.1")
            barrier.wait()
            assert current_run() is run
            seen[run.user or ""] = run.spent.usd

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {f"user {number}": number * Decimal("0.1") for number in range(8)}
    # A thread that began outside every run is in none, however many there are.
    outside: list[object] = []
    with engine.run():
        pass
    thread = threading.Thread(target=lambda: outside.append(current_run()))
    thread.start()
    thread.join()
    assert outside == [None]


def test_a_pool_that_outlives_a_run_carries_nothing_on() -> None:
    engine = Engine()
    with ThreadPoolExecutor(1) as pool:
        with engine.run() as run:
            assert pool.submit(current_run).result() is run
        assert pool.submit(current_run).result() is None


def test_what_goes_on_after_its_run_may_not_spend() -> None:
    engine = Engine()
    errors: list[str] = []

    async def main() -> None:
        async def late() -> None:
            await asyncio.sleep(0.01)
            try:
                engine.model_call(request=REQUEST).admit()
            except Frozen as error:
                errors.append(str(error))

        async with engine.run(budget="1 usd"):
            task = asyncio.create_task(late())
        await task

    asyncio.run(main())
    assert len(errors) == 1
    assert "has ended" in errors[0]


def test_stop_is_sticky_for_models_holds_and_tools() -> None:
    engine = Engine()
    ran: list[int] = []

    @engine.guard(rate="10/min")
    def tool(number: int) -> None:
        ran.append(number)

    with engine.run(name="helper") as run, engine.scope() as part:
        tool(1)
        run.stop("it deletes what it should read")
        assert part.stopped == "it deletes what it should read"
        for _ in range(2):
            with pytest.raises(Frozen, match="it deletes"):
                tool(2)
            with pytest.raises(Frozen):
                engine.model_call(request=REQUEST).admit()
            with pytest.raises(Frozen):
                part.hold({"usd": "0.1"})
        assert engine.peek(tool, 2).code == "frozen"
    tool(3)
    with engine.run():
        tool(4)
    assert ran == [1, 3, 4]


def test_stop_holds_for_engines_that_come_and_runs_that_go() -> None:
    engine = Engine()
    for _ in range(3):
        with engine.run() as run:
            run.stop("no")
            # Made while the run is stopped, and after earlier ones have ended.
            other = Engine()
            tool = other.guard(rate="10/min")(lambda: None)
            with pytest.raises(Frozen):
                tool()
        tool()


async def test_stop_holds_for_coroutines() -> None:
    engine = Engine()

    @engine.guard(rate="10/min")
    async def tool() -> None:
        pass

    async with engine.run() as run:
        await tool()
        run.stop()
        with pytest.raises(Frozen):
            await tool()


def test_guards_in_a_run_count_for_its_tenant() -> None:
    engine = Engine()

    @engine.guard(rate="1/min")
    def tool() -> None: ...

    with engine.run(tenant="acme"):
        tool()
        with pytest.raises(checkrein.RateLimited):
            tool()
    with engine.run(tenant="globex"):
        tool()
    tool()
    with engine.run(tenant="acme"), pytest.raises(checkrein.RateLimited):
        tool()


def test_tenants_have_totals_of_their_own() -> None:
    engine = Engine()
    for tenant in ("acme", "globex"):
        with engine.run("alice", tenant=tenant):
            spend("0.1" if tenant == "acme" else "0.2")
    assert engine.totals(user="alice", tenant="acme").usd == Decimal("0.1")
    assert engine.totals(tenant="globex").usd == Decimal("0.2")
    assert engine.totals(user="alice").usd == 0
    with (
        engine.run(tenant="acme"),
        pytest.raises(ConfigError, match="tenant"),
        engine.run(tenant="globex"),
    ):
        pass


def test_a_run_of_a_known_id_goes_on_and_another_does_not() -> None:
    engine = Engine()
    for spent in ("0.1", "0.2"):
        with engine.run(run_id="job-1", budget="0.2 usd") as run:
            spend("0.1")
            assert run.spent.usd == Decimal(spent)
    with engine.run(run_id="job-1", budget="0.2 usd"), pytest.raises(BudgetExceeded):
        spend("0.1")
    with engine.run(budget="0.2 usd"):
        spend("0.2")


def test_sessions_share_their_limit_over_runs() -> None:
    engine = Engine()
    for passes in (True, True, False):
        with engine.session("chat", budget="0.2 usd") as session, engine.run():
            if passes:
                spend("0.1")
            else:
                with pytest.raises(BudgetExceeded, match="@session"):
                    spend("0.1")
                assert session.spent.usd == Decimal("0.2")
    assert engine.totals(session="chat").usd == Decimal("0.2")


def test_processes_of_a_file_share_runs_and_totals(tmp_path: Path) -> None:
    code = """
import sys, checkrein
engine = checkrein.Engine(store=sys.argv[1])
with engine.run("alice", run_id="job", budget="0.35 usd") as run:
    try:
        run.hold({"usd": "0.1"}).settle_in_full()
        print("spent")
    except checkrein.BudgetExceeded:
        print("refused")
"""
    store = f"sqlite:{tmp_path / 'store.db'}"
    command = [sys.executable, "-c", code, store]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    words = [process.communicate(timeout=120)[0].strip() for process in running]
    assert sorted(words) == ["refused", "refused", "spent", "spent", "spent"]
    engine = Engine(store=store)
    assert engine.totals(user="alice").usd == engine.totals(run_id="job").usd == Decimal("0.3")


async def test_holds_on_a_file_do_not_block_the_loop(tmp_path: Path) -> None:
    engine = Engine(store=f"sqlite:{tmp_path / 'store.db'}")
    async with engine.run(budget="1 usd") as run:
        hold = await run.ahold({"usd": "0.4"})
        await hold.asettle({"usd": "0.3"})
        async with await run.ahold({"usd": "0.2"}):
            pass
        call = await engine.model_call(request=REQUEST).aadmit()
        await call.asettle(REPLY)
        assert call.ended
        assert run.spent.usd > Decimal("0.5")


def test_usage_and_costs_that_nobody_held() -> None:
    engine = Engine()
    with engine.run(budget="0.1 usd") as run:
        settled = engine.record_usage(REPLY)
        assert settled.exact
        assert (run.spent.tokens, run.spent.usd) == (1100, Decimal(settled.usd or "0"))
        with pytest.raises(BudgetExceeded):
            engine.add_cost("$0.20", name="search")
        assert run.spent.usd == Decimal("0.2") + Decimal(settled.usd or "0"), "it was spent all the same"
        assert run.forced.usd == Decimal("0.2")
        engine.add_cost("0.01 usd", check=False)
        before = run.spent
        for wrong in ({"usage": {"prompt_tokens": -1, "completion_tokens": 1}}, {"nothing": 1}, 7):
            with pytest.raises(ConfigError):
                engine.record_usage(wrong, model="gpt-5")
        with pytest.raises(ConfigError, match="model"):
            engine.record_usage({"usage": REPLY["usage"]})
        for money in (0.1, "-1 usd", "1 usd/day", "much"):
            with pytest.raises(ConfigError):
                engine.add_cost(money)  # type: ignore[arg-type]
        assert run.spent == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"budget": 0.5}, "budget"),
        ({"budget": "0.5 usd/day"}, "budget"),
        ({"budget": ["1 usd", "2 usd"]}, "budget"),
        ({"budget": ["100 tokens"], "tokens": 5}, "budget"),
        ({"tokens": -1}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"calls": 1.5}, "calls"),
        ({"user": ""}, "user"),
        ({"user": 7}, "user"),
        ({"run_id": "x" * 201}, "run_id"),
        ({"reserve_output": 0}, "reserve_output"),
    ],
)
def test_what_cannot_be_a_run(options: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Engine().run(**options)
    assert raised.value.code == code
    assert raised.value.hint


def test_misuse_of_runs() -> None:
    engine, other = Engine(), Engine()
    run = engine.run()
    with pytest.raises(PermitError, match="with"):
        run.hold({"usd": "1"})
    with run, pytest.raises(ConfigError, match="entered once"), run:
        pass
    with engine.run(), pytest.raises(ConfigError, match="engine"), other.run():
        pass
    with engine.run() as run:
        for amounts in ({"usd": 0.1}, {"euro": "1"}, {"usd": "-1"}, {"tokens": "1.5"}):
            with pytest.raises(ConfigError):
                run.hold(amounts)
        assert run.spent.usd == run.held.usd == 0
    with pytest.raises(TypeError, match="run_id"):
        pickle.dumps(run)
    for name in ("@run", "@user"):
        with pytest.raises(ConfigError):
            checkrein.Budget("1 usd", name=name)
        with pytest.raises(ConfigError):
            engine.guard(name=name, rate="1/min")(len)
    assert current_scope() is None


def test_a_run_left_in_another_context_leaves_nothing_behind() -> None:
    engine = Engine()

    def generator() -> Iterator[int]:
        with engine.run():
            yield 1
            yield 2

    async def main() -> None:
        async def agenerator() -> Any:
            async with engine.run():
                yield 1
                yield 2

        steps = agenerator()
        await anext(steps)
        # Finished from another task: the token of this one cannot be reset there.
        await asyncio.create_task(steps.aclose())
        assert current_scope() is None

    asyncio.run(main())
    steps = generator()
    next(steps)
    thread = threading.Thread(target=steps.close)
    thread.start()
    thread.join()
    assert current_scope() is None
    assert actor() == ("", "", "", "", "")
    spent = engine.model_call(request=REQUEST).admit()
    spent.release()


def test_generators_that_take_turns_keep_to_their_runs() -> None:
    engine = Engine()

    def agent(name: str, steps: int, calls: int) -> Iterator[str]:
        with engine.run(name=name, calls=calls) as run:
            for _ in range(steps):
                yield name
            assert run.name == name

    # What is entered while the first is current is a part of it.
    turns = [agent("a", 1, calls=10), agent("b", 3, calls=3)]
    assert [next(agent) for agent in turns] == ["a", "b"]
    assert next(turns[0], None) is None
    # The first is over; the second goes on, and its run still counts.
    current = current_run()
    assert current is not None
    assert current.name == "b"
    assert [next(turns[1]) for _ in range(2)] == ["b", "b"]
    for _ in range(3):
        current.hold({"calls": 1}).settle_in_full()
    with pytest.raises(BudgetExceeded):
        current.hold({"calls": 1})
    assert next(turns[1], None) is None
    assert current_scope() is None
    assert actor() == ("", "", "", "", "")


def test_a_generator_that_was_broken_off_frees_nobody() -> None:
    engine = Engine()
    words: list[str] = []

    async def late(go: asyncio.Event) -> None:
        await go.wait()
        for _ in range(3):
            try:
                engine.model_call(request=REQUEST).admit().release()
                spend("0.1")
                words.append("spent")
            except BudgetExceeded:
                words.append("refused")

    async def agent(go: asyncio.Event, tasks: list[Any]) -> Any:
        async with engine.run(budget="0.1 usd"), engine.scope():
            tasks.append(asyncio.create_task(late(go)))
            yield 1

    async def main() -> None:
        go, tasks = asyncio.Event(), []
        steps = agent(go, tasks)
        await anext(steps)
        await asyncio.create_task(steps.aclose())
        go.set()
        await asyncio.gather(*tasks)
        assert current_scope() is None
        # Nor does it hold anybody who begins later.
        assert await asyncio.create_task(asyncio.to_thread(current_scope)) is None

    asyncio.run(main())
    assert words == ["spent", "refused", "refused"]


def test_tasks_in_an_inner_scope_end_with_the_outer_run() -> None:
    engine = Engine()

    async def late(go: asyncio.Event) -> None:
        with engine.scope():
            await go.wait()
            with pytest.raises(Frozen, match="has ended"):
                spend("0.1")
        # A run of its own is what the refusal advises.
        with engine.run(budget="1 usd") as run:
            spend("0.1")
            assert run.parent is None

    async def main() -> None:
        go = asyncio.Event()
        async with engine.run(budget="1 usd"):
            task = asyncio.create_task(late(go))
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())


def test_pools_of_multiprocessing_and_callbacks_are_inside() -> None:
    from multiprocessing.pool import ThreadPool

    engine = Engine()

    def name(_: object) -> str | None:
        run = current_run()
        return None if run is None else run.name

    heard: list[str | None] = []
    with ThreadPool(1) as outside:
        with engine.run(name="a"), ThreadPool(1) as inside, ThreadPoolExecutor(1) as executor:
            assert inside.apply(name, (0,)) == "a"
            assert outside.map(name, [0, 1]) == ["a", "a"]
            assert list(outside.imap_unordered(name, [0])) == ["a"]
            assert outside.starmap(lambda a, b: name(a), [(0, 1)]) == ["a"]
            executor.submit(int).add_done_callback(lambda done: heard.append(name(done)))
            with engine.run(name="b"):
                assert inside.apply(name, (0,)) == "b"
        assert outside.apply(name, (0,)) is None
    assert heard == ["a"]


async def test_bind_takes_code_into_a_run_that_it_did_not_begin_in() -> None:
    engine = Engine()
    queue: list[Any] = []
    ready = threading.Event()

    def worker() -> None:
        ready.wait(60)
        for job in queue:
            job()

    thread = threading.Thread(target=worker)
    thread.start()
    with engine.run(budget="0.1 usd") as run:

        async def spend_later() -> object:
            spend("0.05")
            return current_run()

        queue.append(run.bind(lambda: spend("0.05")))
        ready.set()
        await asyncio.to_thread(thread.join)
        assert await run.bind(spend_later)() is run
        assert run.remaining.usd == 0
        assert isinstance(run.remaining.usd, Decimal)
    with pytest.raises(Frozen):
        run.bind(spend)("0.01")
    with pytest.raises(PermitError):
        engine.run().bind(spend)("0.01")


async def test_a_run_may_wait_for_what_others_hold(tmp_path: Path) -> None:
    for store in (None, f"sqlite:{tmp_path / 'store.db'}"):
        engine = Engine(store=store)

        async def one(engine: Engine) -> None:
            call = await engine.model_call(request=REQUEST).aadmit()
            await asyncio.sleep(0.001)
            await call.asettle(
                {"model": "gpt-5", "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
            )

        async with engine.run(calls=4) as probe:
            await one(engine)
            worth = probe.spent.usd
        with engine.run(budget="1 usd"), engine.model_call(request=REQUEST) as call:
            held = Decimal(call.held[0]["amount"])
            call.release()
        # Room for one hold beside what five calls really cost.
        async with engine.run(budget=f"{held + 4 * worth} usd", wait="60s") as run:
            await asyncio.gather(*(one(engine) for _ in range(5)))
            assert run.spent.usd == 5 * worth
            hold = run.hold({"usd": run.remaining.usd or 0})
            timer = threading.Timer(0.01, hold.release)
            timer.start()
            (await run.ahold({"usd": "0.000001"})).release()
            timer.join()
        # What is spent does not come back: nobody waits for it.
        async with engine.run(budget="0.1 usd", wait="1h") as run:
            run.hold({"usd": "0.1"}).settle_in_full()
            with pytest.raises(BudgetExceeded) as refused:
                await run.ahold({"usd": "0.1"})
            assert (refused.value.retry_after, refused.value.decision.reasons[0].to_dict()["final"]) == (
                None,
                True,
            )
            assert run.refused(refused.value)


def test_functions_of_the_module_go_by_the_run_around_them() -> None:
    engine = Engine(name="mine")

    @checkrein.tool(rate="10/min")
    def tool() -> None: ...

    with engine.run("eve", budget="$1") as run:
        checkrein.add_cost("0.25 usd")
        checkrein.record_usage(REPLY)
        with checkrein.scope(budget="0.1 usd") as part:
            assert part.engine is engine
        assert run.spent.usd > Decimal("0.25")
        assert checkrein.totals(user="eve").usd == run.spent.usd
        tool()
        run.stop("enough")
        with pytest.raises(Frozen, match="enough"):
            tool()
    tool()
    assert checkrein.totals(user="eve").usd == 0, "outside, the default engine is asked"


def test_amounts_are_written_for_people() -> None:
    engine = Engine()
    with engine.run(name="r", budget="$1") as run:
        run.hold({"usd": "0.00000016", "tokens": 3, "calls": 1}).settle_in_full()
        assert str(run.spent) == "0.00000016 usd, 3 tokens, 1 call"
        assert run.report().to_dict()["spent"]["usd"] == "0.00000016"
        assert "0.00000016 of 1 spent" in str(run.report())
        with pytest.raises(BudgetExceeded, match=r"1.00000016 of 1 usd are spent"):
            engine.add_cost("1 usd", name="search")
        with pytest.raises(ConfigError, match="by unit"):
            run.hold("0.1 usd")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="cost is a float"):
            engine.add_cost(0.01)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="surrogate"):
        engine.run("\ud800")
    with pytest.raises(ConfigError, match="an int"):
        engine.totals(user=3)  # type: ignore[arg-type]


def test_a_thousand_tasks_and_runs_leave_nothing_behind() -> None:
    engine = Engine()
    runs: list[weakref.ref[Any]] = []

    async def one(number: int) -> None:
        async with engine.run(f"user {number % 7}", budget="1 usd") as run:
            runs.append(weakref.ref(run))
            await asyncio.sleep(0)
            await asyncio.gather(*(inner() for _ in range(3)))

    async def inner() -> None:
        with engine.scope():
            spend("0.1")

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(1000)))

    asyncio.run(main())
    gc.collect()
    assert [run for run in runs if run() is not None] == []
    engine.collect()
    # The totals of seven users and of the tenant: nothing of any run.
    assert {row["gate"] for row in engine.list(limit=10_000)} == {"@user", "@tenant"}
    assert len(engine.list(limit=10_000)) == 8 * 3


def test_idle_users_are_forgotten() -> None:
    clock = FakeClock()
    engine = Engine(clock=clock)
    for number in range(5_000):
        with engine.run(f"user {number}"):
            spend("0.1")
    clock.advance(31 * 86_400)
    engine.collect()
    assert engine.list(limit=20_000) == []


def test_a_fork_inside_a_run_does_not_double_it() -> None:
    engine = Engine()
    with engine.run(budget="1 usd") as run:
        spend("0.6")
        child = os.fork()
        if child == 0:
            try:
                try:
                    run.hold({"usd": "0.4"})
                except checkrein.ForkedError:
                    engine.run().__enter__()
            except checkrein.ForkedError:
                os._exit(7)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert run.spent.usd == Decimal("0.6")


def test_the_ledger_of_runs_is_whole_and_replays_by_its_own_policy(tmp_path: Path) -> None:
    file, store = tmp_path / "checkrein.toml", f"sqlite:{tmp_path / 'store.db'}"
    file.write_text(
        'version = 1\n[budgets.team]\nkey = "\'all\'"\nlimit = "1 usd"\n[models."*"]\nbudgets = ["team"]\n'
    )
    engine = Engine.from_policy(file, store=store, ledger_arguments="full")
    with engine.run("alice", budget="0.02 usd") as run:
        for _ in range(2):
            with engine.model_call(request=REQUEST) as call:
                call.settle(REPLY)
        engine.record_usage(REPLY)
        engine.add_cost("0.001 usd")
        run.hold({"usd": "0.001"}).release()
        with pytest.raises(BudgetExceeded):
            engine.model_call(request={**REQUEST, "max_completion_tokens": 10_000}).admit()
    del engine, call
    gc.collect()
    # The command that belongs to this interpreter.
    command = os.environ.get("CHECKREIN_COMMAND") or str(Path(sys.executable).with_name("checkrein"))
    said = subprocess.run(
        [command, "replay", "--policy", file, "--ledger", tmp_path / "store.db", "--output", "json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    replayed = json.loads(said.stdout)
    assert replayed["differences"] == [], replayed
    left = replayed["coverage"]["left_out"]
    assert left == {"spending": 3, "refused_by_code": 1}
    tail = subprocess.run(
        [command, "ledger", "tail", "--store", store, "-n", "100"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert "in doubt" not in tail.stdout, "what was recorded was over before"


def test_a_policy_file_and_a_run_are_one_admission(tmp_path: Path) -> None:
    file = tmp_path / "checkrein.toml"
    file.write_text(
        'version = 1\n[budgets.run]\nkey = "\'all\'"\nlimit = "0.5 usd"\n[models."*"]\nbudgets = ["run"]\n'
    )
    engine = Engine.from_policy(file)
    with engine.run(budget="0.000001 usd") as run:
        with pytest.raises(BudgetExceeded) as refused:
            engine.model_call(request=REQUEST).admit()
        assert [reason.gate for reason in refused.value.decision.reasons] == ["@run"]
        assert engine.list() == [], "a refusal of one takes nothing of the other"
    with engine.run(budget="1 usd") as run, engine.model_call(request=REQUEST) as call:
        assert {held["budget"] for held in call.held} == {"@run", "run"}
        call.settle(REPLY)
    assert run.spent.tokens == 1100
