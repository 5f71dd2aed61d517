"""Calls through `google-genai`: each is held before it is sent, and settled at what it used."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_google import FakeGoogle, call_of, refusal
from fakes import Reply
from google_kit import ASKED, COST, MODEL, config, genai, made, retries, types

import checkrein

Client = Any


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


CALLS: dict[str, Callable[[Client], str]] = {
    "generate": lambda client: client.models.generate_content(**ASKED).text,
    "stream": lambda client: "".join(one.text for one in client.models.generate_content_stream(**ASKED)),
    "chat": lambda client: client.chats.create(model=MODEL).send_message("hi").text,
    "chat stream": lambda client: "".join(
        one.text for one in client.chats.create(model=MODEL).send_message_stream("hi")
    ),
    "config": lambda client: (
        client.models.generate_content(
            **ASKED, config=config(temperature=0.1, system_instruction="short")
        ).text
    ),
}


async def agenerated(client: Client) -> str:
    return str((await client.aio.models.generate_content(**ASKED)).text)


async def astreamed(client: Client) -> str:
    return "".join([one.text async for one in await client.aio.models.generate_content_stream(**ASKED)])


async def achatted(client: Client) -> str:
    return str((await client.aio.chats.create(model=MODEL).send_message("hi")).text)


async def achatted_in_pieces(client: Client) -> str:
    chat = client.aio.chats.create(model=MODEL)
    return "".join([one.text async for one in await chat.send_message_stream("hi")])


ASYNC_CALLS: dict[str, Callable[[Client], Awaitable[str]]] = {
    "generate": agenerated,
    "stream": astreamed,
    "chat": achatted,
    "chat stream": achatted_in_pieces,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_held_and_settled(
    call: Callable[[Client], str], client: Client, books: Books, google: FakeGoogle
) -> None:
    assert call(client) == "Hello there"
    assert (books.spent, books.held) == (COST, 0)
    assert len(google.requests) == 1


@pytest.mark.parametrize("call", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
async def test_every_asynchronous_way_is_held_and_settled(
    call: Callable[[Client], Awaitable[str]], books: Books, google: FakeGoogle
) -> None:
    client = checkrein.wrap(made(google), books.engine)
    assert await call(client) == "Hello there"
    assert (books.spent, books.held) == (COST, 0)
    assert len(google.requests) == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_refused_before_anything_is_sent(
    call: Callable[[Client], str], books: Books, google: FakeGoogle
) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(made(google), books.engine)
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        call(client)
    assert "AIza-secret" not in str(refused.value) + repr(refused.value.decision.to_dict())
    assert google.requests == []
    assert (books.spent, books.held) == (0, 0)


@pytest.mark.parametrize("call", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
async def test_every_asynchronous_way_is_refused_before_anything_is_sent(
    call: Callable[[Client], Awaitable[str]], books: Books, google: FakeGoogle
) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(made(google), books.engine)
    with pytest.raises(checkrein.BudgetExceeded):
        await call(client)
    assert google.requests == []
    assert (books.spent, books.held) == (0, 0)


def test_what_is_free_passes_a_spent_budget(books: Books, google: FakeGoogle) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(made(google), books.engine)
    assert client.models.count_tokens(**ASKED).total_tokens == 200
    assert client.batches.get(name="batches/b1").name == "batches/b1"
    client.batches.cancel(name="batches/b1")
    with pytest.raises(checkrein.BudgetExceeded):
        client.models.generate_content(**ASKED)
    assert len(google.requests) == 3
    assert (books.spent, books.held) == (0, 0)


def test_the_maximum_that_was_held_for_is_sent(client: Client, google: FakeGoogle) -> None:
    client.models.generate_content(**ASKED)
    client.models.generate_content(**ASKED, config=config(max_output_tokens=7, temperature=0.5))
    client.models.generate_content(**ASKED, config=config(temperature=0.5))
    settings = [body["generationConfig"] for body in google.generated()]
    assert settings == [
        {"maxOutputTokens": 4096},
        {"maxOutputTokens": 7, "temperature": 0.5},
        {"maxOutputTokens": 4096, "temperature": 0.5},
    ]


def test_embeddings_are_held_and_settled(client: Client, books: Books, google: FakeGoogle) -> None:
    asked = {"model": "gemini-embedding-001", "contents": ["one", "two"]}
    counted = {"embeddings": [{"values": [0.5]}] * 2, "usageMetadata": {"promptTokenCount": 1_000}}
    google.then(Reply(counted))
    assert client.models.embed_content(**asked).embeddings[1].values == [0.5]
    # 0.15 USD per million.
    assert (books.spent, books.held) == (Decimal("0.00015"), 0)
    # Without usage each byte counts for a token.
    client.models.embed_content(**asked)
    assert Decimal("0.00015") < books.spent < Decimal("0.0003")
    assert books.held == 0


def test_a_batch_is_charged_at_what_it_can_cost_or_not_sent(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    said = [{"parts": [{"text": "hi"}], "role": "user"}]
    requests = [{"contents": said}, {"contents": said, "config": {"max_output_tokens": 9}}]
    client.batches.create(model=MODEL, src=requests)
    sent = google.requests[0].body["batch"]["inputConfig"]["requests"]["requests"]
    maxima = [one["request"]["generationConfig"]["maxOutputTokens"] for one in sent]
    assert maxima == [4096, 9]
    # Half of what 4,105 tokens of output cost at 3.75 USD per million, and a little input.
    assert Decimal("0.00769") < books.spent < Decimal("0.0079")
    assert books.held == 0
    books.limit(f"{books.spent - Decimal('0.00001')} usd")
    poor = checkrein.wrap(made(google), books.engine)
    with pytest.raises(checkrein.BudgetExceeded):
        poor.batches.create(model=MODEL, src=requests)
    assert len(google.requests) == 1
    assert (books.spent, books.held) == (0, 0)


def test_what_nobody_can_bound_is_refused_under_a_limit(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    unbounded: list[Callable[[], object]] = [
        lambda: client.interactions.create(model=MODEL, input="hi", background=True),
        lambda: client.batches.create(model=MODEL, src="files/f1"),
        lambda: asyncio.run(live(client)),
        lambda: asyncio.run(interacted(client)),
    ]
    for call in unbounded:
        with pytest.raises(checkrein.BudgetExceeded, match="cannot be bounded") as refused:
            call()
        assert refused.value.code == "unknown_price"
    assert google.requests == []
    assert (books.spent, books.held) == (0, 0)


async def live(client: Client) -> None:
    async with client.aio.live.connect(model=MODEL):
        pass


async def interacted(client: Client) -> None:
    await client.aio.interactions.create(agent="deep-research-pro-preview-12-2025", input="hi")


def test_each_round_of_automatic_function_calling_has_a_hold_of_its_own(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    asked: list[str] = []

    def weather(city: str) -> str:
        """Tell the weather."""
        asked.append(city)
        return "sun"

    google.then(Reply(call_of("weather", {"city": "Rome"})), Reply(call_of("weather", {"city": "Pisa"})))
    assert client.models.generate_content(**ASKED, config=config(tools=[weather])).text == "Hello there"
    assert asked == ["Rome", "Pisa"]
    assert (books.spent, books.held) == (3 * COST, 0)


ALL = 1_330_000
"""So many tokens of input leave too little of a dollar for another round."""


@pytest.mark.parametrize("way", ["generate", "stream", "chat", "async", "async stream"])
def test_a_refused_round_ends_automatic_function_calling(
    way: str, client: Client, books: Books, google: FakeGoogle
) -> None:

    def weather(city: str) -> str:
        """Tell the weather."""
        return "sun"

    async def aweather(city: str) -> str:
        """Tell the weather."""
        return "sun"

    said = call_of("aweather" if "async" in way else "weather", {"city": "Rome"})
    said["usageMetadata"].update(promptTokenCount=ALL, totalTokenCount=ALL + 40)
    google.then(Reply(events=[said]) if "stream" in way else Reply(said))
    settings = config(tools=[aweather if "async" in way else weather])

    async def agenerate() -> None:
        await client.aio.models.generate_content(**ASKED, config=settings)

    async def astream() -> None:
        async for _ in await client.aio.models.generate_content_stream(**ASKED, config=settings):
            pass

    ways: dict[str, Callable[[], object]] = {
        "generate": lambda: client.models.generate_content(**ASKED, config=settings),
        "stream": lambda: list(client.models.generate_content_stream(**ASKED, config=settings)),
        "chat": lambda: client.chats.create(model=MODEL, config=settings).send_message("hi"),
        "async": lambda: asyncio.run(agenerate()),
        "async stream": lambda: asyncio.run(astream()),
    }
    with pytest.raises(checkrein.BudgetExceeded):
        ways[way]()
    assert len(google.generated()) == 1
    assert (books.spent, books.held) == (Decimal(ALL) * Decimal("0.00000075") + COST / 2, 0)


@pytest.mark.parametrize("way", ["generate", "stream", "async"])
def test_a_run_that_a_function_stops_ends_at_the_next_round(way: str, google: FakeGoogle) -> None:
    client = checkrein.wrap(made(google))

    def weather(city: str) -> str:
        """Tell the weather."""
        checkrein.current_run().stop("that is enough")
        raise ValueError("the loop tells the model of this, and would go on")

    said = call_of("weather", {"city": "Rome"})
    google.then(Reply(events=[said]) if way == "stream" else Reply(said))
    settings = config(tools=[weather])

    async def agenerate() -> None:
        async with checkrein.run(budget="$1"):
            await client.aio.models.generate_content(**ASKED, config=settings)

    def generate() -> None:
        with checkrein.run(budget="$1"):
            client.models.generate_content(**ASKED, config=settings)

    def stream() -> None:
        with checkrein.run(budget="$1"):
            list(client.models.generate_content_stream(**ASKED, config=settings))

    ways = {"generate": generate, "stream": stream, "async": lambda: asyncio.run(agenerate())}
    with pytest.raises(checkrein.Frozen, match="that is enough"):
        ways[way]()
    assert len(google.generated()) == 1


def test_runs_and_their_limits_hold_over_all_of_it(google: FakeGoogle) -> None:
    client = checkrein.wrap(made(google))
    with checkrein.run(user="ann", budget="$0.05", calls=3) as run:
        client.models.generate_content(**ASKED)
        list(client.models.generate_content_stream(**ASKED))
        with checkrein.scope(calls=1) as inner:
            asyncio.run(agenerated(client))
            with pytest.raises(checkrein.BudgetExceeded):
                client.models.generate_content(**ASKED)
        with pytest.raises(checkrein.BudgetExceeded, match="cannot be bounded"):
            asyncio.run(live(client))
        run.stop("over")
        with pytest.raises(checkrein.Frozen, match="over"):
            asyncio.run(live(client))
    assert (run.spent.usd, run.spent.calls, run.spent.tokens) == (3 * COST, 3, 720)
    assert (inner.spent.calls, run.held.usd, len(google.requests)) == (1, 0, 3)
    with checkrein.run():
        # No limit counts here, and what cannot be bounded passes.
        assert client.interactions.create(model=MODEL, input="hi", background=True).id == "interaction-1"


def test_each_attempt_has_a_hold_of_its_own(client: Client, books: Books, google: FakeGoogle) -> None:
    google.then(refusal(429, "RESOURCE_EXHAUSTED"))
    client.models.generate_content(**ASKED, config=config(http_options=retries()))
    # The first was not taken up.
    assert (books.spent, books.held, len(google.requests)) == (COST, 0, 2)
    google.then(refusal(500))
    client.models.generate_content(**ASKED, config=config(http_options=retries()))
    # What became of that one nobody knows.
    assert books.spent == 2 * COST
    assert books.held > 10 * COST
    assert len(google.requests) == 4


async def test_each_asynchronous_attempt_has_a_hold_of_its_own(books: Books, google: FakeGoogle) -> None:
    client = checkrein.wrap(made(google), books.engine)
    google.then(refusal(429, "RESOURCE_EXHAUSTED"), refusal(500))
    await client.aio.models.generate_content(**ASKED, config=config(http_options=retries()))
    assert (books.spent, len(google.requests)) == (COST, 3)
    assert books.held > 10 * COST


def test_a_retry_that_does_not_fit_any_more_is_refused(books: Books, google: FakeGoogle) -> None:
    books.limit("0.03 usd")
    client = checkrein.wrap(made(google), books.engine)
    google.then(refusal(500))
    with pytest.raises(checkrein.BudgetExceeded):
        client.models.generate_content(**ASKED, config=config(http_options=retries()))
    assert len(google.requests) == 1


def test_a_bad_request_and_nobody_there_cost_nothing(books: Books, google: FakeGoogle) -> None:
    import socket

    from google.genai import errors

    client = checkrein.wrap(made(google), books.engine)
    google.then(refusal(400, "INVALID_ARGUMENT"))
    with pytest.raises(errors.ClientError):
        client.models.generate_content(**ASKED)
    with socket.socket() as taken:
        # Bound and not listening: whoever connects is refused.
        taken.bind(("127.0.0.1", 0))
        nobody = types.HttpOptions(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(Exception, match="refused"):
            client.models.generate_content(**ASKED, config=config(http_options=nobody))
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models.generate_content(**ASKED)
    assert (books.spent, books.held) == (0, 0)


def test_all_clients_are_held_until_that_is_undone(books: Books, google: FakeGoogle) -> None:
    old = made(google)
    checkrein.instrument("google.genai", engine=books.engine)
    try:
        old.models.generate_content(**ASKED)
        new = made(google)
        list(new.models.generate_content_stream(**ASKED))
        asyncio.run(agenerated(new))
        assert books.spent == 3 * COST
        with pytest.raises(checkrein.BudgetExceeded):
            new.interactions.create(model=MODEL, input="hi", background=True)
        # A client that is wrapped as well is held once.
        checkrein.wrap(new, books.engine).models.generate_content(**ASKED)
        assert books.spent == 4 * COST
    finally:
        checkrein.uninstrument("google.genai")
    old.models.generate_content(**ASKED)
    assert books.spent == 4 * COST


def test_wrapped_again_it_is_held_once_by_the_engine_given_last(books: Books, google: FakeGoogle) -> None:
    client = checkrein.wrap(made(google), books.engine)
    before = books.engine
    books.limit("1 usd")
    checkrein.wrap(client.aio, books.engine)
    client.models.generate_content(**ASKED)
    assert (books.spent, books.held) == (COST, 0)
    assert before.list("meter") == []


def test_texts_of_a_prompt_are_in_no_refusal(books: Books, google: FakeGoogle) -> None:
    books.limit("0.0001 usd")
    secret = "the-word-nobody-may-see"
    client = checkrein.wrap(made(google), books.engine)
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        client.models.generate_content(model=MODEL, contents=secret, config=config(system_instruction=secret))
    error = refused.value
    assert secret not in f"{error}{error!r}{error.to_prompt()}{error.decision.to_dict()}{error.__context__}"


@pytest.mark.parametrize("streams", [False, True])
def test_an_outcome_that_cannot_be_recorded_carries_the_reply(
    streams: bool, client: Client, google: FakeGoogle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object, response: object) -> None:
        raise checkrein.OutcomeNotRecorded("the disk is full", "store_error", response)

    monkeypatch.setattr(checkrein.ModelCall, "settle", gone)
    with pytest.raises(checkrein.OutcomeNotRecorded) as told:
        CALLS["stream" if streams else "generate"](client)
    result = told.value.result
    assert result["usageMetadata"]["totalTokenCount"] == 240
    assert streams or result["candidates"][0]["content"]["parts"][0]["text"] == "Hello there"
    assert len(google.requests) == 1


def test_a_reply_is_charged_once(client: Client, books: Books) -> None:
    said = client.models.generate_content(**ASKED)
    assert books.engine.record_usage(said) is None
    assert (books.spent, books.held) == (COST, 0)


def test_many_clients_leave_nothing_behind(books: Books, google: FakeGoogle) -> None:
    def count() -> int:
        gc.collect()
        names = ("Attempt", "Meter", "ContentReading", "BaseApiClient")
        return sum(type(one).__name__ in names for one in gc.get_objects())

    def call() -> None:
        client = checkrein.wrap(made(google), books.engine)
        client.models.generate_content(**ASKED)
        list(client.models.generate_content_stream(**ASKED))

    call()
    before = count()
    for _ in range(10):
        call()
    assert count() <= before


def test_vertex_ai_is_held_in_its_own_paths(google: FakeGoogle) -> None:
    options = types.HttpOptions(base_url=google.url)
    client = checkrein.wrap(genai.Client(vertexai=True, api_key="k", http_options=options))
    counted = {"values": [0.5], "statistics": {"token_count": 7, "truncated": False}}
    google.then(Reply(google.reply), Reply({"predictions": [{"embeddings": counted}] * 2}))
    with checkrein.run(tokens=10_000) as run:
        client.models.generate_content(**ASKED)
        client.models.embed_content(model="text-embedding-005", contents=["one", "two"])
    assert [one.path.rpartition("/")[2] for one in google.requests] == [
        "gemini-3.8-flash:generateContent",
        "text-embedding-005:predict",
    ]
    assert (run.spent.tokens, run.spent.calls, run.held.tokens) == (254, 2, 0)
    # Without a price for it a limit in dollars refuses.
    with checkrein.run(budget="$1"), pytest.raises(checkrein.BudgetExceeded, match="price"):
        client.models.embed_content(model="text-embedding-005", contents=["one", "two"])


def test_a_version_that_is_not_known_is_an_error(google: FakeGoogle, monkeypatch: pytest.MonkeyPatch) -> None:
    client = made(google)
    monkeypatch.delattr("google.genai._api_client.BaseApiClient._async_request_once")
    with pytest.raises(checkrein.ConfigError, match="_async_request_once") as unknown:
        checkrein.wrap(client)
    assert unknown.value.code == "sdk_version"
    with pytest.raises(checkrein.ConfigError, match="_async_request_once"):
        checkrein.instrument("google.genai")
    client.models.generate_content(**ASKED)
    checkrein.uninstrument("google.genai")


def test_a_file_that_is_indexed_is_refused_under_a_limit(books: Books, google: FakeGoogle) -> None:
    with made(google) as plain:
        client = checkrein.wrap(plain, books.engine)
        with pytest.raises(checkrein.BudgetExceeded, match="cannot be bounded") as refused:
            client.file_search_stores.import_file(
                file_search_store_name="fileSearchStores/x", file_name="files/y"
            )
        assert refused.value.code == "unknown_price"
        assert google.requests == []
        client.models.count_tokens(**ASKED)
        assert len(google.requests) == 1
