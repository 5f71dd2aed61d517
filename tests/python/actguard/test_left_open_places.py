"""Limits hold for generators that take turns, in forked processes and in pools; and the gateway's limits hold."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
from actguard_kit import Gateway, Reply, gateway

import checkrein
from checkrein import actguard
from checkrein.actguard._monitoring import ActGuardMonitoringWarning
from checkrein.actguard.core.budget_context import get_budget_state, record_usage
from checkrein.actguard.core.run_context import get_run_state
from checkrein.actguard.exceptions import BudgetExceededError, BudgetTransportError
from checkrein.actguard.integrations.accounting import check_limits
from checkrein.actguard.integrations.calls import get_budget_context

__all__ = ["gateway"]


def use(tokens: int) -> None:
    record_usage(provider="openai", provider_model_id="gpt-4o", input_tokens=tokens, output_tokens=0)


def user() -> str | None:
    state = get_budget_state()
    return None if state is None else state.user_id


def check() -> None:
    context = get_budget_context()
    assert context is not None
    check_limits(context)


@pytest.mark.parametrize("said", [0, -1])
@pytest.mark.parametrize("own", [None, 5])
def test_a_gateway_that_leaves_nothing_refuses_the_first_call(
    gateway: Gateway, said: int, own: int | None
) -> None:
    gateway.reserve = Reply({"reserve_id": "res-1", "cost_limit": said})
    client = gateway.client()
    with client.run(), client.budget_guard(cost_limit=own) as guard:
        assert guard.cost_limit == 0
        with pytest.raises(BudgetExceededError):
            check()


@pytest.mark.parametrize("said", ["3", 3.0, True, [], {}])
@pytest.mark.parametrize("own", [None, 5])
def test_a_limit_that_cannot_be_read_is_an_error(gateway: Gateway, said: Any, own: int | None) -> None:
    gateway.reserve = Reply({"reserve_id": "res-1", "cost_limit": said})
    client = gateway.client()
    with client.run():
        with (
            pytest.raises(BudgetTransportError, match="cost_limit"),
            client.budget_guard(cost_limit=own),
        ):
            pytest.fail("entered")
        # What was reserved is given back.
        assert gateway.names()[-1] == "settle"
        with (
            pytest.warns(ActGuardMonitoringWarning, match="degraded"),
            client.budget_guard(cost_limit=own, on_unreachable="open"),
        ):
            check()


@pytest.mark.parametrize(("own", "said", "counts"), [(5, 2, 2), (2, 5, 2), (5, None, 5)])
def test_the_smaller_limit_counts(gateway: Gateway, own: int, said: int | None, counts: int) -> None:
    gateway.reserve = Reply({"reserve_id": "res-1", "cost_limit": said})
    client = gateway.client()
    with client.run(), client.budget_guard(cost_limit=own) as guard:
        assert guard.cost_limit == counts
        with client.budget_guard(cost_limit=own):
            use(counts * 1000)
        with pytest.raises(BudgetExceededError) as refused:
            check()
    assert refused.value.cost_limit == counts


def turns(name: str, seen: list[str | None]) -> Iterator[None]:
    with actguard.BudgetGuard(user_id=name, token_limit=100):
        yield
        seen.append(user())
        use(100)
        with pytest.raises(BudgetExceededError):
            check()


def test_generators_that_take_turns_each_keep_their_budget() -> None:
    seen: list[str | None] = []
    one, other = turns("A", seen), turns("B", seen)
    next(one)
    next(other)
    one.close()
    list(other)
    assert seen == ["B"]
    assert user() is None
    with actguard.BudgetGuard(user_id="C", token_limit=1):
        assert user() == "C"
    assert user() is None


def test_what_is_around_generators_that_take_turns_comes_back() -> None:
    with actguard.BudgetGuard(user_id="outer", token_limit=100_000) as outer:
        seen: list[str | None] = []
        made = [turns(name, seen) for name in "ABC"]
        for one in made:
            next(one)
        made[1].close()
        made[0].close()
        assert user() == "C"
        list(made[2])
        assert seen == ["C"]
        assert user() == "outer"
        use(1)
        assert outer.tokens_used == 101
    assert user() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_inside_a_guard_is_refused() -> None:
    code = """
import os, sys
from checkrein import actguard
from checkrein.actguard.core.budget_context import get_budget_context
from checkrein.actguard.exceptions import ActGuardRuntimeContextError
from checkrein.actguard.integrations.accounting import Request, hold

request = Request("openai", "gpt-4o", None, 0, 10)
with actguard.BudgetGuard(token_limit=100):
    pid = os.fork()
    if pid == 0:
        try:
            hold(get_budget_context(), request)
        except ActGuardRuntimeContextError as error:
            os._exit(7 if error.code == "runtime.forked_process" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    hold(get_budget_context(), request).release()
"""
    path = str(Path(checkrein.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True, timeout=60
    )


def test_work_of_a_thread_pool_is_in_the_run_that_gave_it() -> None:
    # The other layer that carries runs into pools must not hide this one, nor the other way round.
    with checkrein.Engine().run():
        pass
    client = actguard.Client(event_mode="off")

    def where(_: int = 0) -> tuple[str | None, str | None]:
        run = get_run_state()
        return (None if run is None else run.run_id, user())

    with client.run(run_id="first"), client.budget_guard(user_id="maker", token_limit=10):
        pool = ThreadPool(2)
        assert pool.map(where, range(4)) == [("first", "maker")] * 4
    try:
        assert pool.map(where, range(4)) == [(None, None)] * 4
        with client.run(run_id="second"), client.budget_guard(user_id="next", token_limit=10):
            here = ("second", "next")
            assert pool.map(where, range(4)) == [here] * 4
            assert pool.apply(where) == here
            assert pool.starmap(where, [(1,), (2,)]) == [here] * 2
            assert list(pool.imap(where, range(2))) == [here] * 2
            assert list(pool.imap_unordered(where, range(2), chunksize=2)) == [here] * 2
            assert pool.apply_async(where).get() == here
            other = threading.Thread(target=lambda: None)
            other.start()
            other.join()
    finally:
        pool.terminate()
        pool.join()
