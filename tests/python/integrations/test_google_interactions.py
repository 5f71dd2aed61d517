"""Google's interactions, which go another way than its content: held and settled as everything else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_google import FakeGoogle, interaction, refusal, steps_of
from fakes import Reply
from google_kit import COST, MODEL, made

import checkrein

Client = Any
ASKED: dict[str, Any] = {"model": MODEL, "input": "hi"}
HOLD = Decimal("0.01536")
"""4,096 tokens of output at 3.75 USD per million; a little input comes to it."""


@pytest.fixture(params=["httpx2", "httpx"])
def google(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGoogle]:
    """A provider that answers every call, and the SDK on one of the libraries it can use."""
    monkeypatch.setenv("GOOGLE_GENAI_HTTP_CLIENT", request.param)
    with FakeGoogle() as provider:
        yield provider


@pytest.fixture
def client(books: Books, google: FakeGoogle) -> Iterator[Client]:
    """A client that is wrapped."""
    with made(google) as one:
        yield checkrein.wrap(one, books.engine)


async def acreated(client: Client) -> None:
    assert (await client.aio.interactions.create(**ASKED)).output_text == "Hello there"


async def astreamed(client: Client) -> None:
    async for _ in await client.aio.interactions.create(**ASKED, stream=True):
        pass


def created(client: Client) -> None:
    assert client.interactions.create(**ASKED).output_text == "Hello there"


def streamed(client: Client) -> None:
    for _ in client.interactions.create(**ASKED, stream=True):
        pass


CALLS: dict[str, Callable[[Client], None]] = {
    "create": created,
    "stream": streamed,
    "raw": lambda client: client.interactions.with_raw_response.create(**ASKED).parse(),
    "async": lambda client: asyncio.run(acreated(client)),
    "async stream": lambda client: asyncio.run(astreamed(client)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_held_and_settled(
    call: Callable[[Client], None], client: Client, books: Books, google: FakeGoogle
) -> None:
    call(client)
    assert (books.spent, books.held, len(google.requests)) == (COST, 0, 1)
    assert google.requests[0].body["generation_config"] == {"max_output_tokens": 4096}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_refused_before_anything_is_sent(
    call: Callable[[Client], None], books: Books, google: FakeGoogle
) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(made(google), books.engine)
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        call(client)
    assert "AIza-secret" not in str(refused.value)
    assert google.requests == []
    assert (books.spent, books.held) == (0, 0)


def test_each_attempt_has_a_hold_of_its_own(client: Client, books: Books, google: FakeGoogle) -> None:
    google.then(refusal(429))
    created(client)
    assert (books.spent, books.held, len(google.requests)) == (COST, 0, 2)
    google.then(refusal(500))
    created(client)
    assert books.spent == 2 * COST
    assert books.held > HOLD


def test_a_retry_that_does_not_fit_any_more_is_refused(books: Books, google: FakeGoogle) -> None:
    books.limit("0.02 usd")
    client = checkrein.wrap(made(google), books.engine)
    google.then(refusal(500))
    with pytest.raises(checkrein.BudgetExceeded):
        created(client)
    assert len(google.requests) == 1


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        # Thoughts beside the output, and counted in it.
        (
            {
                "total_input_tokens": 200,
                "total_output_tokens": 40,
                "total_thought_tokens": 60,
                "total_tokens": 300,
            },
            Decimal("0.000525"),
        ),
        (
            {
                "total_input_tokens": 200,
                "total_output_tokens": 100,
                "total_thought_tokens": 60,
                "total_tokens": 300,
            },
            Decimal("0.000525"),
        ),
        (
            {
                "total_input_tokens": 200,
                "total_output_tokens": 40,
                "total_tokens": 240,
                "grounding_tool_count": [{"type": "google_search", "count": 2}],
            },
            Decimal("0.0283"),
        ),
    ],
    ids=["thoughts beside", "thoughts inside", "searches"],
)
def test_all_that_was_used_is_charged(
    usage: dict[str, Any], cost: Decimal, client: Client, books: Books, google: FakeGoogle
) -> None:
    google.then(Reply(interaction(usage=usage)), Reply(events=steps_of(interaction(usage=usage))))
    created(client)
    assert (books.spent, books.held) == (cost, 0)
    streamed(client)
    assert (books.spent, books.held) == (2 * cost, 0)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"total_input_tokens": -1, "total_output_tokens": 40, "total_tokens": 39},
        {"total_input_tokens": 200, "total_output_tokens": 40, "total_tokens": 7},
        {"total_tokens": 240, "grounding_tool_count": [{"type": "google_maps", "count": 1}]},
        {"total_tokens": 240, "grounding_tool_count": "none"},
    ],
    ids=["empty", "negative", "contradictory", "maps", "text"],
)
def test_usage_that_cannot_be_believed_is_charged_at_the_hold(
    usage: dict[str, Any], client: Client, books: Books, google: FakeGoogle
) -> None:
    google.then(Reply(interaction(usage=usage)))
    created(client)
    assert books.spent > HOLD
    assert books.held == 0


def test_a_stream_that_nobody_read_to_its_end_is_charged_at_the_hold(client: Client, books: Books) -> None:
    stream = client.interactions.create(**ASKED, stream=True)
    next(iter(stream))
    del stream
    gc.collect()
    assert books.spent > HOLD
    assert books.held == 0


def test_a_stream_that_brings_more_than_was_held_is_cut(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    google.then(Reply(events=steps_of(interaction(" ".join(["word"] * 100)))))
    few = {"generation_config": {"max_output_tokens": 20}}
    with pytest.raises(checkrein.BudgetExceeded):
        list(client.interactions.create(**ASKED, **few, stream=True))
    assert books.spent > 0
    assert books.held == 0


def test_steps_of_text_are_read_and_earlier_interactions_are_not(client: Client, google: FakeGoogle) -> None:
    steps = [{"type": "user_input", "content": [{"type": "text", "text": "hi"}]}]
    client.interactions.create(model=MODEL, input=steps)
    assert google.requests[0].body["input"] == steps
    with pytest.raises(checkrein.InvalidAction, match="refers to what it does not contain"):
        client.interactions.create(**ASKED, previous_interaction_id="interaction-1")
    assert len(google.requests) == 1


def test_reads_pass_a_spent_budget(books: Books, google: FakeGoogle) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(made(google), books.engine)
    google.then(Reply(interaction()))
    assert client.interactions.get("interaction-1").id == "interaction-1"
    assert (books.spent, books.held) == (0, 0)


def test_all_clients_are_held_until_that_is_undone(books: Books, google: FakeGoogle) -> None:
    plain = made(google)
    checkrein.instrument("google.genai", engine=books.engine)
    try:
        created(plain)
        created(checkrein.wrap(made(google), books.engine))
        assert (books.spent, books.held) == (2 * COST, 0)
    finally:
        checkrein.uninstrument("google.genai")
    created(plain)
    assert books.spent == 2 * COST
