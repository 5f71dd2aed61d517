"""What the Gemini API says was used, believed or not, and streams that end in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from conftest import Books
from fake_google import USAGE, FakeGoogle, chunks_of, reply
from fakes import Reply
from google_kit import ASKED, COST, config, made

import checkrein

PER_MILLION = Decimal(1_000_000)

Client = Any


@pytest.fixture
def google() -> Iterator[FakeGoogle]:
    """A provider that answers every call."""
    with FakeGoogle() as provider:
        yield provider


@pytest.fixture
def client(books: Books, google: FakeGoogle) -> Iterator[Client]:
    """A client that is wrapped."""
    with made(google) as one:
        yield checkrein.wrap(one, books.engine)


def once(client: Client) -> None:
    client.models.generate_content(**ASKED)


def streamed(client: Client) -> None:
    for _ in client.models.generate_content_stream(**ASKED):
        pass


WAYS: dict[str, Callable[[Client], None]] = {"generate": once, "stream": streamed}


def priced(**counts: int) -> Decimal:
    """Return what Gemini 3.8 Flash costs, in USD: input 0.75 per million, output 3.75, read from the cache 0.075."""
    per = {"inputs": "0.75", "outputs": "3.75", "read": "0.075"}
    return sum((Decimal(per[name]) * count for name, count in counts.items()), Decimal(0)) / PER_MILLION


THOUGHT = {
    "promptTokenCount": 200,
    "candidatesTokenCount": 40,
    "thoughtsTokenCount": 300,
    "totalTokenCount": 540,
}
CACHED = {**USAGE, "cachedContentTokenCount": 150}
TOOLS = {**USAGE, "toolUsePromptTokenCount": 100, "totalTokenCount": 340}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (USAGE, priced(inputs=200, outputs=40)),
        (THOUGHT, priced(inputs=200, outputs=340)),
        (CACHED, priced(inputs=50, read=150, outputs=40)),
        (TOOLS, priced(inputs=300, outputs=40)),
    ],
    ids=["plain", "thoughts", "cached", "tool use"],
)
def test_all_that_was_used_is_charged(
    way: Callable[[Client], None],
    usage: dict[str, Any],
    cost: Decimal,
    client: Client,
    books: Books,
    google: FakeGoogle,
) -> None:
    google.reply = reply(usage=usage)
    way(client)
    assert (books.spent, books.held) == (cost, 0)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_searches_are_charged_once_each(
    way: Callable[[Client], None], client: Client, books: Books, google: FakeGoogle
) -> None:
    said = reply()
    said["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["rome", "pisa"]}
    # A stream may tell of them again in its last chunk.
    google.then(Reply(events=[said, said]) if way is streamed else Reply(said))
    way(client)
    # 14 USD per thousand.
    assert (books.spent, books.held) == (COST + Decimal("0.028"), 0)


BAD: dict[str, dict[str, Any] | None] = {
    "absent": None,
    "empty": {},
    "negative": {**USAGE, "promptTokenCount": -200},
    "no total": {"promptTokenCount": 200, "candidatesTokenCount": 40},
    "text": {**USAGE, "totalTokenCount": "240"},
    "huge": {**USAGE, "promptTokenCount": 10**30, "totalTokenCount": 10**30 + 40},
    "contradictory": {**USAGE, "totalTokenCount": 7},
    "more cached than sent": {**USAGE, "cachedContentTokenCount": 201},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("usage", BAD.values(), ids=BAD)
def test_usage_that_cannot_be_believed_is_charged_at_the_hold(
    usage: dict[str, Any] | None,
    way: Callable[[Client], None],
    client: Client,
    books: Books,
    google: FakeGoogle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = reply(usage=usage)
    google.then(Reply(events=[said]) if way is streamed else Reply(said))
    # The SDK itself stumbles over some of these: what it raises is its own business.
    with contextlib.suppress(pydantic.ValidationError):
        way(client)
    gc.collect()
    assert priced(outputs=4_096) < books.spent
    assert books.held == 0
    assert "charged at the full hold or more" in caplog.text


def test_more_than_was_held_is_charged(client: Client, books: Books, google: FakeGoogle) -> None:
    google.reply = reply(
        usage={"promptTokenCount": 50_000, "candidatesTokenCount": 9, "totalTokenCount": 50_009}
    )
    once(client)
    assert (books.spent, books.held) == (priced(inputs=50_000, outputs=9), 0)


def test_a_dearer_model_that_answers_is_charged_at_its_own_price(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    google.reply = reply(model="gemini-2.5-pro")
    once(client)
    # 1.25 USD per million in, 10 out.
    assert (books.spent, books.held) == (Decimal("0.00065"), 0)


def broken_off(client: Client) -> None:
    for _ in client.models.generate_content_stream(**ASKED):
        break
    gc.collect()


def closed(client: Client) -> None:
    stream = client.models.generate_content_stream(**ASKED)
    next(stream)
    stream.close()


def raised(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        _ = [1 // 0 for _ in client.models.generate_content_stream(**ASKED)]
    gc.collect()


def dropped(client: Client) -> None:
    stream = client.models.generate_content_stream(**ASKED)
    next(stream)
    del stream
    gc.collect()


UNREAD: dict[str, Callable[[Client], None]] = {
    "break": broken_off,
    "close": closed,
    "exception": raised,
    "garbage": dropped,
}


@pytest.mark.parametrize("way", UNREAD.values(), ids=UNREAD)
def test_a_stream_that_nobody_read_to_its_end_is_charged_at_the_hold(
    way: Callable[[Client], None], client: Client, books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    way(client)
    assert books.spent > priced(outputs=4_096)
    assert books.held == 0
    assert "charged at the full hold or more" in caplog.text


def test_a_stream_that_was_never_begun_costs_nothing(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    stream = client.models.generate_content_stream(**ASKED)
    del stream
    gc.collect()
    assert (books.spent, books.held, google.requests) == (0, 0, [])


def test_a_stream_is_settled_as_soon_as_it_is_finished(client: Client, books: Books) -> None:
    for chunk in client.models.generate_content_stream(**ASKED):
        if chunk.candidates[0].finish_reason:
            break
    gc.collect()
    assert (books.spent, books.held) == (COST, 0)


@pytest.mark.parametrize("way", ["cancel", "break", "close", "garbage"])
async def test_an_asynchronous_stream_settles_however_it_ends(
    way: str, books: Books, google: FakeGoogle
) -> None:
    client = checkrein.wrap(made(google), books.engine)
    google.then(Reply(events=chunks_of(reply("a long answer"))[:1], hangs=True))
    stream = await client.aio.models.generate_content_stream(**ASKED)
    if way == "garbage":
        del stream
    elif way == "cancel":
        started = asyncio.Event()

        async def read() -> None:
            async for _ in stream:
                started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async for _ in stream:
            break
        if way == "close":
            await stream.aclose()
        else:
            del stream
    for _ in range(100):
        gc.collect()
        if books.held == 0 and (books.spent or way == "garbage"):
            break
        await asyncio.sleep(0.01)
    assert books.held == 0
    # Nothing is sent before somebody asks for the first piece.
    assert (books.spent > priced(outputs=4_096)) == bool(google.requests)


async def test_a_call_that_is_cancelled_keeps_its_hold(books: Books, google: FakeGoogle) -> None:
    client = checkrein.wrap(made(google), books.engine)
    google.then(Reply(hangs=True))
    task = asyncio.create_task(client.aio.models.generate_content(**ASKED))
    while not google.requests:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Whether it was answered nobody knows.
    assert books.spent == 0
    assert books.held > priced(outputs=4_096)


def test_an_error_in_the_middle_is_the_providers_and_charged(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    from google.genai import errors

    said = {"error": {"code": 503, "message": "later", "status": "UNAVAILABLE"}}
    google.then(Reply(events=[chunks_of(reply())[0], said]))
    with pytest.raises(errors.ServerError):
        streamed(client)
    assert books.spent > priced(outputs=4_096)
    assert books.held == 0


def test_a_stream_that_is_cut_off_is_charged(client: Client, books: Books, google: FakeGoogle) -> None:
    google.then(Reply(events=chunks_of(reply())[:1], drops=True))
    with pytest.raises(Exception, match=r"incomplete|peer closed|reset"):
        streamed(client)
    assert books.spent > priced(outputs=4_096)
    assert books.held == 0


def test_a_timeout_leaves_the_hold(client: Client, books: Books, google: FakeGoogle) -> None:
    from google.genai import types

    google.then(Reply(hangs=True))
    with pytest.raises(Exception, match="timed out"):
        client.models.generate_content(**ASKED, config=config(http_options=types.HttpOptions(timeout=200)))
    assert books.spent == 0
    assert books.held > priced(outputs=4_096)


@pytest.mark.parametrize("told", [True, False])
async def test_a_stream_that_brings_more_than_was_held_is_cut(
    told: bool, client: Client, books: Books, google: FakeGoogle
) -> None:
    words = reply(
        " ".join(["word"] * 100), usage={**USAGE, "candidatesTokenCount": 100, "totalTokenCount": 300}
    )
    chunks = chunks_of(words if told else {**words, "usageMetadata": None})
    few = config(max_output_tokens=20)
    google.then(Reply(events=chunks), Reply(events=chunks))
    seen: list[str] = []
    with pytest.raises(checkrein.BudgetExceeded) as cut:
        seen.extend(one.text for one in client.models.generate_content_stream(**ASKED, config=few))
    assert len(seen) == 21
    assert pickle.loads(pickle.dumps(cut.value)).code == "budget_exceeded"
    stream = await client.aio.models.generate_content_stream(**ASKED, config=few)
    with pytest.raises(checkrein.BudgetExceeded):
        seen.extend([one.text async for one in stream])
    assert len(google.requests) == 2
    assert books.spent > 2 * priced(outputs=20)
    assert books.held == 0


def test_two_answers_have_twice_the_maximum(client: Client, books: Books, google: FakeGoogle) -> None:
    said = reply("yes", usage={**USAGE, "candidatesTokenCount": 38, "totalTokenCount": 238})
    second = {**said["candidates"][0], "index": 1}
    google.then(Reply(events=[{**said, "candidates": [*said["candidates"], second]}]))
    settings = config(max_output_tokens=20, candidate_count=2)
    assert len(list(client.models.generate_content_stream(**ASKED, config=settings))) == 1
    assert (books.spent, books.held) == (priced(inputs=200, outputs=38), 0)


def test_twenty_calls_at_once_where_five_fit_send_five(books: Books, google: FakeGoogle) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client = checkrein.wrap(made(google), books.engine)
    stream = client.models.generate_content_stream(**ASKED)
    next(stream)
    one = books.held
    stream.close()
    books.limit(f"{one * 5 + Decimal('0.0001')} usd")
    checkrein.wrap(client, books.engine)
    google.requests.clear()
    google.reply = reply(usage=None)

    def call(_: int) -> bool:
        try:
            once(client)
        except checkrein.BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        passed = list(pool.map(call, range(20)))
    assert (sum(passed), len(google.requests)) == (5, 5)


async def test_a_store_that_waits_does_not_block_the_loop(kept: Books, google: FakeGoogle) -> None:
    client = checkrein.wrap(made(google), kept.engine)
    await client.aio.models.generate_content(**ASKED)
    async for _ in await client.aio.models.generate_content_stream(**ASKED):
        pass
    assert (kept.spent, kept.held) == (2 * COST, 0)


async def test_leaving_an_asynchronous_stream_is_quiet(books: Books, google: FakeGoogle) -> None:
    troubles: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: troubles.append(about))
    client = checkrein.wrap(made(google), books.engine)
    for _ in range(5):
        async for _ in await client.aio.models.generate_content_stream(**ASKED):
            break
        for _ in range(200):
            gc.collect()
            await asyncio.sleep(0.01)
            if books.held == 0:
                break
    assert troubles == []
    assert books.held == 0


def piece(text: str, usage: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """Make one chunk of an answer, which is not finished."""
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
    return {**reply(), "candidates": [candidate], "usageMetadata": usage}


EARLY = {"promptTokenCount": 5, "candidatesTokenCount": 1, "totalTokenCount": 6}


@pytest.mark.parametrize(
    "chunks",
    [
        [piece("word", EARLY), *(piece("word") for _ in range(20))],
        [piece("word", EARLY), *(piece("word") for _ in range(20)), piece("", finishReason="STOP")],
        [*(piece("word") for _ in range(20)), piece("", EARLY, finishReason="STOP")],
        [piece("word", EARLY, finishReason="STOP"), *(piece("word") for _ in range(20))],
    ],
    ids=["never finished", "told before", "too little", "goes on"],
)
def test_what_was_used_so_far_is_not_what_a_stream_used(
    chunks: list[Any], client: Client, books: Books, google: FakeGoogle
) -> None:
    google.then(Reply(events=chunks))
    streamed(client)
    assert books.spent > priced(outputs=4_096)
    assert books.held == 0


def test_a_prompt_that_is_blocked_costs_what_was_read(
    client: Client, books: Books, google: FakeGoogle
) -> None:
    usage = {"promptTokenCount": 200, "totalTokenCount": 200}
    said = {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": reply()["modelVersion"]}
    google.then(Reply(events=[{**said, "usageMetadata": usage}]))
    streamed(client)
    assert (books.spent, books.held) == (priced(inputs=200), 0)
