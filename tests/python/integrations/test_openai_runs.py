"""Runs, sessions and scopes over the `openai` package: what is inside is held in all of them, before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from fake_openai import COST, MODEL, response
from fakes import FakeProvider, Reply
from openai_kit import SAID, Crowd, _impatient, openai

import checkrein

__all__ = ["_impatient"]

PAID = Decimal(COST)
HOLD = "0.0055 usd"
"""What one call without a maximum of its own holds, and a little more."""


@pytest.fixture
def engine() -> checkrein.Engine:
    """An engine without a policy file."""
    return checkrein.Engine()


@pytest.fixture
def client(engine: checkrein.Engine, fake: FakeProvider) -> Iterator[Any]:
    """A client that is wrapped for it."""
    with openai.OpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1") as made:
        yield checkrein.wrap(made, engine)


def create(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=SAID, **more)


def test_a_run_is_charged_and_refuses_what_it_cannot_pay(
    engine: checkrein.Engine, client: Any, fake: FakeProvider
) -> None:
    with engine.run(user="ann", budget=HOLD) as run:
        create(client)
        assert (run.spent.usd, run.held.usd, run.spent.calls) == (PAID, 0, 1)
        with pytest.raises(checkrein.BudgetExceeded) as refused:
            create(client)
        assert [reason.code for reason in refused.value.decision.reasons] == ["budget_exceeded"]
        create(client, max_completion_tokens=1_000)
    assert [request.body["max_completion_tokens"] for request in fake.requests] == [4_096, 1_000]
    assert run.spent.usd == 2 * PAID
    assert engine.totals(user="ann").usd == 2 * PAID


def test_nested_scopes_hold_together(engine: checkrein.Engine, client: Any, fake: FakeProvider) -> None:
    with engine.run(budget="1 usd") as run, engine.scope(calls=1) as scope:
        create(client)
        with pytest.raises(checkrein.BudgetExceeded):
            create(client)
    create(client)
    assert (run.spent.calls, scope.spent.calls, len(fake.requests)) == (1, 1, 2)


def test_nothing_limits_and_nothing_is_added_outside_of_a_run(client: Any, fake: FakeProvider) -> None:
    create(client)
    client.chat.completions.create(model="a-model-of-my-own", messages=SAID)
    image = {"type": "image_url", "image_url": {"url": "https://host/a.png"}}
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [image]}])
    assert [set(request.body) for request in fake.requests] == [{"model", "messages"}] * 3


def test_the_engine_of_the_run_decides(client: Any) -> None:
    other = checkrein.Engine(name="other")
    with other.run(budget=HOLD) as run:
        create(client)
    assert run.spent.usd == PAID


def test_a_run_that_is_stopped_sends_nothing(
    engine: checkrein.Engine, client: Any, fake: FakeProvider
) -> None:
    with engine.run() as run:
        run.stop("enough")
        for _ in range(2):
            with pytest.raises(checkrein.Frozen):
                create(client)
        # What is there already may be looked at.
        client.responses.retrieve("resp_1")
    assert fake.paths() == ["/v1/responses/resp_1"]


def test_a_stream_is_settled_in_the_run_that_began_it(engine: checkrein.Engine, client: Any) -> None:
    with engine.run(budget="1 usd") as run:
        stream = create(client, stream=True)
        next(stream)
        assert run.held.usd > 0
        list(stream)
        assert (run.spent.usd, run.held.usd) == (PAID, 0)
        left = create(client, stream=True)
    list(left)
    assert engine.totals(run_id=run.run_id).usd == 2 * PAID


def test_threads_inside_a_run_are_inside(engine: checkrein.Engine, client: Any) -> None:
    with engine.run(budget="1 usd") as run, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: create(client), range(8)))
    assert (run.spent.usd, run.spent.calls) == (8 * PAID, 8)


def test_a_reply_is_charged_once_by_whoever_sees_it_first(
    engine: checkrein.Engine, client: Any, fake: FakeProvider
) -> None:
    fake.then(Reply(response(id="resp_once")), Reply(response(id="resp_once")))
    with engine.run(budget="1 usd") as run:
        made = client.responses.create(model=MODEL, input="hi")
        assert engine.record_usage(made) is None
        client.responses.retrieve("resp_once")
        assert run.spent.usd == PAID
        foreign = response(id="resp_foreign")
        assert engine.record_usage(foreign) is not None
        assert engine.record_usage(foreign) is None
        assert run.spent.usd == 2 * PAID
        fake.then(Reply(response(id="resp_later", status="queued")))
        client.responses.create(model=MODEL, input="hi", background=True)
        assert run.held.usd > 0
        engine.record_usage(response(id="resp_later"))
        assert (run.spent.usd, run.held.usd) == (3 * PAID, 0)
        with pytest.raises(checkrein.ConfigError):
            engine.record_usage({"id": "resp_bad", "model": MODEL, "usage": "much"})
        engine.record_usage(response(id="resp_bad"))
        assert run.spent.usd == 4 * PAID


def test_of_twenty_threads_in_a_run_five_reach_the_provider(engine: checkrein.Engine) -> None:
    crowd = Crowd(refused=15)
    with FakeProvider(crowd.answer) as fake:
        client = checkrein.wrap(openai.OpenAI(api_key="x", base_url=f"{fake.url}/v1"), engine)

        def call(_: int) -> None:
            try:
                create(client)
            except checkrein.BudgetExceeded:
                crowd.refuse()

        with engine.run(budget="0.0275 usd") as run, ThreadPoolExecutor(20) as pool:
            list(pool.map(call, range(20)))
    assert (len(fake.requests), run.spent.calls, run.spent.usd) == (5, 5, 5 * PAID)


async def test_of_twenty_tasks_in_a_run_five_reach_the_provider(engine: checkrein.Engine) -> None:
    crowd = Crowd(refused=15)
    with FakeProvider(crowd.answer) as fake:
        async with openai.AsyncOpenAI(api_key="x", base_url=f"{fake.url}/v1") as client:
            checkrein.wrap(client, engine)

            async def call() -> None:
                try:
                    await create(client)
                except checkrein.BudgetExceeded:
                    crowd.refuse()

            async with engine.run(budget="0.0275 usd") as run, asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(call())
    assert (len(fake.requests), run.spent.calls, run.spent.usd) == (5, 5, 5 * PAID)


def test_a_response_that_continues_another_is_held_with_what_that_used(
    engine: checkrein.Engine, client: Any, fake: FakeProvider
) -> None:
    held: list[Decimal] = []
    image = {"type": "input_image", "image_url": "https://host/a.png"}

    def go_on(**more: Any) -> Any:
        asked = {"model": MODEL, "input": "go on", "max_output_tokens": 100, "previous_response_id": "resp_1"}
        return client.responses.create(**{**asked, **more})

    with engine.run(budget="1 usd") as run:
        with pytest.raises(checkrein.InvalidAction, match="refers to what it does not contain"):
            # One that no test of this process has seen.
            go_on(previous_response_id="resp_never_seen")
        first = client.responses.create(model=MODEL, input="hi", max_output_tokens=100, stream=True)
        held.append(run.held.usd)
        assert [event.type for event in first][-1] == "response.completed"
        result = {"type": "function_call_output", "call_id": "c", "output": "seen"}
        for said in ("go on", [result], [{"role": "user", "content": "go on"}]):
            stream = go_on(input=said, stream=True)
            held.append(run.held.usd)
            list(stream)
        # 1,400 tokens at the rate of input, and a request that is a little longer.
        assert all(more > held[0] + Decimal("0.00028") for more in held[1:])
        assert run.spent.usd == 4 * PAID
        for more in (
            {"input": [{"role": "user", "content": [image]}]},
            {"tools": [{"type": "web_search"}]},
            {"previous_response_id": "resp_of_somebody_else"},
        ):
            with pytest.raises(checkrein.InvalidAction):
                go_on(**more)


def test_sessions_that_nobody_can_bound_do_not_begin_where_a_limit_counts(
    engine: checkrein.Engine, client: Any, fake: FakeProvider
) -> None:
    aclient = checkrein.wrap(openai.AsyncOpenAI(api_key="x", base_url=f"{fake.url}/v1"), engine)
    begin = [
        lambda: client.realtime.connect(model="gpt-realtime"),
        lambda: client.responses.connect(),
        lambda: aclient.responses.connect(),
        lambda: client.realtime.client_secrets.create(),
        lambda: client.post("/threads/t_1/runs", body={"assistant_id": "a"}, cast_to=object),
    ]
    with engine.run(budget="1 usd"):
        for one in begin:
            with pytest.raises(checkrein.BudgetExceeded) as refused:
                one()
            assert refused.value.code == "unknown_price"
    with engine.run() as stopped:
        stopped.stop("enough")
        for one in begin:
            with pytest.raises(checkrein.Frozen):
                one()
    assert fake.requests == []
    for one in begin[:3]:
        # Outside of a limit they begin as ever: this only makes what would connect.
        assert hasattr(one(), "enter")
    with pytest.raises(openai.NotFoundError):
        begin[4]()
    assert len(fake.requests) == 1
    other = openai.OpenAI(api_key="x", base_url=f"{fake.url}/v1")
    with engine.run(budget="1 usd"):
        assert hasattr(other.responses.connect(), "enter")
