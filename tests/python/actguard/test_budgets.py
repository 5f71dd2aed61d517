"""Budgets hold: before the call, in every task and thread below, and for nobody else."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from actguard_kit import TARIFF, Gateway, Reply, gateway

from checkrein import actguard
from checkrein.actguard.core import budget_context, inherit, run_context
from checkrein.actguard.core.budget_context import check_budget_limits, get_budget_context, record_usage
from checkrein.actguard.core.run_context import get_run_state
from checkrein.actguard.exceptions import (
    ActGuardUsageError,
    BudgetConfigurationError,
    BudgetExceededError,
    MissingRuntimeContextError,
)
from checkrein.actguard.integrations.accounting import Request, ahold, hold
from checkrein.actguard.integrations.usage import UsageInfo

__all__ = ["gateway"]


@pytest.fixture
def client() -> actguard.Client:
    return actguard.Client(event_mode="off")


def use(tokens: int = 1, model: str = "gpt-4o") -> None:
    record_usage(provider="openai", provider_model_id=model, input_tokens=tokens, output_tokens=0)


def used(tokens: int) -> UsageInfo:
    return UsageInfo("openai", "gpt-4o", 0, 0, tokens)


def bounded(tokens: int) -> Request:
    return Request("openai", "gpt-4o", None, 0, tokens)


def unbounded() -> Request:
    return Request("openai", "gpt-4o", None, 40, None)


def context() -> Any:
    found = get_budget_context()
    assert found is not None
    return found


def in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("request_of", [lambda: bounded(10), unbounded], ids=["bounded", "unbounded"])
def test_twenty_threads_under_a_limit_that_pays_for_five(
    client: actguard.Client, request_of: Callable[[], Request]
) -> None:
    began, refused = [], []
    with client.run(), client.budget_guard(token_limit=50) as guard:

        def work() -> None:
            try:
                call = hold(context(), request_of())
            except BudgetExceededError as error:
                refused.append(error)
                return
            began.append(call)
            call.settle(used(10))

        in_threads(work, 20)
    assert (len(began), len(refused)) == (5, 15)
    assert guard.tokens_used == 50
    assert {error.limit_type for error in refused} == {"token"}


@pytest.mark.parametrize("request_of", [lambda: bounded(10), unbounded], ids=["bounded", "unbounded"])
async def test_twenty_tasks_under_a_limit_that_pays_for_five(
    client: actguard.Client, request_of: Callable[[], Request]
) -> None:
    began = []

    async def work() -> None:
        try:
            call = await ahold(context(), request_of())
        except BudgetExceededError:
            return
        began.append(call)
        await asyncio.sleep(0)
        call.settle(used(10))

    async with client.run(), client.budget_guard(token_limit=50) as guard:
        await asyncio.gather(*(work() for _ in range(20)))
    assert (len(began), guard.tokens_used) == (5, 50)


def test_a_call_that_cannot_fit_is_refused_before_it_is_made(client: actguard.Client) -> None:
    with client.run(user_id="u"), client.budget_guard(token_limit=50):
        with pytest.raises(BudgetExceededError) as raised:
            hold(context(), bounded(51))
        assert str(raised.value) == (
            "Token limit exceeded for user 'u': 0 / 50 tokens used, and the call may take 51 tokens"
        )
        # What is given back is there for the next one.
        hold(context(), bounded(50)).release()
        hold(context(), bounded(50)).settle(used(49))
        hold(context(), unbounded()).settle(used(3))
        with pytest.raises(BudgetExceededError):
            hold(context(), unbounded())


def test_a_thread_never_waits_for_what_it_holds_itself(client: actguard.Client) -> None:
    with client.run(), client.budget_guard(token_limit=8_000):
        stream = hold(context(), unbounded())
        inner = hold(context(), unbounded())
        with pytest.raises(BudgetExceededError):
            hold(context(), bounded(10))
        inner.settle(used(1))
        stream.settle(used(1))
        assert context().active_scope.held.tokens == 0


async def test_a_synchronous_call_on_a_loop_does_not_wait_for_its_tasks(client: actguard.Client) -> None:
    async with client.run(), client.budget_guard(token_limit=50):

        async def other() -> Any:
            return await ahold(context(), unbounded())

        held = await asyncio.create_task(other())
        with pytest.raises(BudgetExceededError):
            hold(context(), bounded(10))
        held.release()


async def test_a_task_that_is_cancelled_while_it_waits_holds_nothing(client: actguard.Client) -> None:
    async with client.run(), client.budget_guard(token_limit=50):

        async def take() -> Any:
            return await ahold(context(), bounded(50))

        held = await asyncio.create_task(take())
        waiting = asyncio.create_task(take())
        while not context().shared_root.room._waiting:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.release()
        assert context().active_scope.held.tokens == 0
        (await asyncio.create_task(take())).release()


async def test_a_nested_limit_holds_in_child_tasks_threads_and_timed_tools(client: actguard.Client) -> None:
    async with client.run(), client.budget_guard(token_limit=1_000) as root:
        async with client.budget_guard(name="inner", token_limit=30) as inner:

            async def task() -> None:
                use(5)

            @actguard.timeout(30)
            def tool() -> None:
                use(5)

            async with asyncio.TaskGroup() as group:
                group.create_task(task())
            await asyncio.to_thread(use, 5)
            tool()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(use, 5).result()
            in_threads(lambda: use(5), 1)
            assert inner.tokens_used == 25
            assert check_budget_limits() is None
            await asyncio.to_thread(use, 5)
            violation = check_budget_limits()
            assert violation is not None
            assert violation.blocked_scope.scope_name == "inner"
        assert check_budget_limits() is None
        assert (root.tokens_used, inner.local_tokens_used, root.local_tokens_used) == (30, 0, 0)


def test_a_limit_of_a_run_is_not_renewed_by_a_second_guard(client: actguard.Client) -> None:
    with client.run():
        with client.budget_guard(token_limit=50) as first:
            use(40)
        with client.budget_guard(token_limit=50) as second:
            use(9)
            assert check_budget_limits() is None
            use(1)
            assert check_budget_limits() is not None
    assert (first.tokens_used, second.tokens_used) == (40, 10)
    with client.run(), client.budget_guard(token_limit=50):
        assert check_budget_limits() is None


def test_threads_of_nobody_are_in_no_run(client: actguard.Client) -> None:
    seen: list[Any] = []
    go_on, done = threading.Event(), threading.Event()

    def look() -> None:
        go_on.wait(30)
        seen.append((get_run_state(), get_budget_context()))
        done.set()

    thread = threading.Thread(target=look)
    thread.start()
    with client.run(), client.budget_guard():
        go_on.set()
        done.wait(30)
    thread.join()
    assert seen == [(None, None)]


def test_a_thread_that_outlives_its_run_is_in_none(client: actguard.Client) -> None:
    seen: list[Any] = []
    over = threading.Event()

    def look() -> None:
        over.wait(30)
        seen.append((get_run_state(), get_budget_context()))

    with client.run(), client.budget_guard():
        thread = threading.Thread(target=look)
        thread.start()
    over.set()
    thread.join()
    assert seen == [(None, None)]


def test_a_pool_works_for_each_run_in_turn(client: actguard.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        for run_id in ("a", "b"):
            with client.run(run_id=run_id):
                state = pool.submit(get_run_state).result()
                assert state is not None
                assert state.run_id == run_id
        assert pool.submit(get_run_state).result() is None


async def test_a_thousand_tasks_leave_nothing_behind(client: actguard.Client) -> None:
    async def work() -> None:
        async with client.budget_guard(name="task", token_limit=10):
            call = await ahold(context(), bounded(1))
            call.settle(used(1))

    async def everything() -> None:
        async with client.run(), client.budget_guard(token_limit=10_000):
            await asyncio.gather(*(work() for _ in range(1_000)))

    def count() -> int:
        gc.collect()
        kinds = (budget_context.BudgetState, budget_context.BudgetExecutionContext, run_context.RunState)
        return sum(isinstance(found, kinds) for found in gc.get_objects())

    before = count()
    await everything()
    # The loop itself forgets the tasks that are done at its next turn.
    await asyncio.sleep(0)
    assert budget_context._active_budget_contexts == {}
    assert budget_context._active_budget_states == {}
    assert run_context._active_states == {}
    assert count() == before


def test_generators_that_are_finished_elsewhere_leave_nothing_behind(client: actguard.Client) -> None:
    def steps() -> Any:
        with client.run(), client.budget_guard():
            yield 1

    generator = steps()
    next(generator)
    assert get_run_state() is not None
    in_threads(generator.close, 1)
    assert budget_context._active_budget_contexts == {}
    assert run_context._active_states == {}
    assert (get_run_state(), get_budget_context()) == (None, None)
    with client.run(), client.budget_guard() as guard:
        use(1)
    assert guard.tokens_used == 1
    assert (get_run_state(), get_budget_context()) == (None, None)


def test_a_budget_without_a_client_or_a_run() -> None:
    with actguard.BudgetGuard(user_id="u", token_limit=10, usd_limit=1.0) as guard:
        use(5)
        assert (guard.user_id, guard.tokens_used) == ("u", 5)
        use(5)
        violation = check_budget_limits()
        assert violation is not None
        assert violation.limit_type == "token"
    assert guard.usd_used == pytest.approx(10 * 2.5 / 1_000_000)
    assert guard.run_id is not None
    assert guard.run_id.startswith("run_")
    assert get_run_state() is None


def test_a_limit_in_dollars(client: actguard.Client) -> None:
    with client.run(user_id="u"), client.budget_guard(usd_limit=0.01) as guard:
        use(3_999)
        assert check_budget_limits() is None
        use(1)
        violation = check_budget_limits()
        assert violation is not None
        assert violation.limit_type == "usd"
        assert guard.usd_used == 0.01
        with pytest.raises(
            BudgetExceededError, match=r"^USD limit exceeded for user 'u': \$0.010000 / \$0.010000 used$"
        ):
            hold(context(), unbounded())


def test_a_model_without_a_price_is_refused_under_a_limit_in_dollars_only(client: actguard.Client) -> None:
    request = Request("openai", "no-such-model", None, 10, 10)
    with client.run(), client.budget_guard(usd_limit=1):
        with pytest.raises(ActGuardUsageError, match="no-such-model") as raised:
            hold(context(), request)
        assert raised.value.code == "budget.unknown_price"
    with client.run(), client.budget_guard(token_limit=100) as guard:
        hold(context(), request).settle(UsageInfo("openai", "no-such-model", 1, 0, 1))
        assert (guard.tokens_used, guard.usd_used) == (2, 0.0)


def test_costs_of_other_things(client: actguard.Client, gateway: Gateway) -> None:
    with client.run(), client.budget_guard() as guard:
        for _ in range(3):
            actguard.add_cost(name="search", usd=0.1)
        assert guard.usd_used == pytest.approx(0.3)
        for bad in (-1, float("nan"), float("inf"), True, "1"):
            with pytest.raises(ValueError, match="add_cost"):
                actguard.add_cost(name="search", usd=bad)  # type: ignore[arg-type]
    with pytest.raises(MissingRuntimeContextError):
        actguard.add_cost(name="search", usd=1)
    gateway.tariff = Reply(TARIFF)
    with (
        (reporting := gateway.client()).run(),
        reporting.budget_guard(cost_limit=10) as guard,
    ):
        for _ in range(10):
            actguard.add_cost(name="cheap", usd=0.0005)
        assert guard.cost_used == 10
        assert check_budget_limits() is not None


@pytest.mark.parametrize(
    "limit",
    [
        {"cost_limit": 0},
        {"cost_limit": True},
        {"cost_limit": "5"},
        {"token_limit": 1.5},
        {"token_limit": -1},
        {"usd_limit": 0},
        {"usd_limit": float("nan")},
        {"usd_limit": True},
        {"on_unreachable": "perhaps"},
    ],
    ids=str,
)
def test_limits_that_are_none(client: actguard.Client, limit: dict[str, Any]) -> None:
    with client.run(), pytest.raises(ActGuardUsageError) as raised, client.budget_guard(**limit):
        pass
    assert raised.value.code == "usage.budget_guard_configuration"
    assert budget_context._active_budget_contexts == {}


def test_a_guard_is_entered_once(client: actguard.Client) -> None:
    with client.run():
        guard = client.budget_guard()
        with guard, pytest.raises(ActGuardUsageError, match="entered before"):
            guard.__enter__()


def test_a_second_path_must_ask_for_the_same(client: actguard.Client) -> None:
    wrong: list[str] = []
    with client.run(user_id="u"), client.budget_guard(name="root", token_limit=10, plan_key="p"):

        def work(**asked: Any) -> None:
            try:
                with client.budget_guard(**asked):
                    pass
            except BudgetConfigurationError as error:
                wrong.append(str(error))

        in_threads(work, 1)
        for asked in ({"name": "x"}, {"token_limit": 11}, {"plan_key": "q"}, {"user_id": "v"}):
            in_threads(lambda asked=asked: work(**asked), 1)  # type: ignore[misc]
    assert [text.split()[1] for text in wrong] == ["name", "token_limit", "plan_key", "user_id"]


def test_negative_usage_counts_as_nothing(client: actguard.Client) -> None:
    with client.run(), client.budget_guard() as guard:
        record_usage(provider="openai", provider_model_id="m", input_tokens=-5, output_tokens=2)
    assert guard.tokens_used == 2


def test_threads_that_start_outside_runs_are_left_alone() -> None:
    thread = threading.Thread(target=lambda: None)
    inherit.install()
    thread.start()
    thread.join()
    assert not hasattr(thread, "_actguard_inherited")


def test_budgets_of_two_runs_under_one_that_surrounds_them(client: actguard.Client) -> None:
    began = []
    with actguard.BudgetGuard(user_id="u", token_limit=50) as outer:

        def serve() -> None:
            with client.run(), client.budget_guard(token_limit=1_000):
                try:
                    call = hold(context(), unbounded())
                except BudgetExceededError:
                    return
                began.append(call)
                call.settle(used(10))

        in_threads(serve, 20)
    assert (len(began), outer.tokens_used) == (5, 50)


def test_prices_of_calls_by_their_tokens(caplog: pytest.LogCaptureFixture) -> None:
    from checkrein.actguard.integrations.pricing import of_tokens

    assert of_tokens("openai", "gpt-4o", 1_000, 800, 200) == Decimal("0.0035")
    assert of_tokens("openai", "gpt-4o", 0, 0, 0) == 0
    assert not caplog.records
    for _ in range(2):
        assert of_tokens("openai", "a-model-of-tomorrow", 1, 0, 0) is None
    assert [record.message for record in caplog.records] == [
        "the price book does not have `a-model-of-tomorrow` of `openai`: its calls count as $0"
    ]


def test_scopes_of_two_clients_count_by_their_own_tariffs() -> None:
    dear = {**TARIFF, "llm": {"default": {**TARIFF["llm"]["default"], "input_cu_per_1k": 10}}}
    outer, inner = (
        budget_context.BudgetState(tariff=actguard.client.CuTariff.from_payload(tariff))
        for tariff in (dear, TARIFF)
    )
    surrounding = budget_context.BudgetExecutionContext(None, (outer, inner))
    budget_context.record_in(surrounding, "openai", "gpt-4o", 1_000, 0, 0)
    assert (outer.cost_used, inner.cost_used) == (10, 1)
