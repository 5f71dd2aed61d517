"""Streams through the `openai` package: metered however they are read, and settled once however they end."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import threading
from collections.abc import Iterator
from decimal import Decimal
from itertools import repeat
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL, USAGE, chunk, chunks, events, response
from fakes import FakeProvider, Reply
from fakes import written as bytes_of
from openai_kit import SAID, _impatient, aclient, client, is_hold, openai

import checkrein
from checkrein.integrations import responses

__all__ = ["_impatient", "aclient", "client"]

PAID = Decimal(COST)


def stream(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=SAID, stream=True, **more)


def text_of(pieces: Any) -> str:
    return "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)


def endless() -> Iterator[Any]:
    yield from (chunk("hello ") for _ in repeat(None))


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [
        (None, False),
        ({"include_usage": False}, False),
        ({"include_usage": True}, True),
        ({"include_obfuscation": False}, False),
    ],
)
def test_usage_is_asked_for_and_only_shown_to_who_asked(
    options: Any, is_shown: bool, client: Any, books: Books, fake: FakeProvider
) -> None:
    pieces = list(stream(client, **({} if options is None else {"stream_options": options})))
    assert fake.requests[0].body["stream_options"] == {**(options or {}), "include_usage": True}
    assert [piece.usage is not None for piece in pieces] == [
        False,
        False,
        False,
        *([True] if is_shown else []),
    ]
    assert text_of(pieces) == "hello"
    assert (books.spent, books.held) == (PAID, 0)


def test_it_is_settled_as_soon_as_the_last_event_is_read(client: Any, books: Books) -> None:
    reading = iter(stream(client))
    seen = [next(reading), next(reading), next(reading)]
    assert is_hold(books.held)
    with pytest.raises(StopIteration):
        next(reading)
    assert text_of(seen) == "hello"
    assert (books.spent, books.held) == (PAID, 0)


def test_events_may_come_in_any_pieces(client: Any, books: Books, fake: FakeProvider) -> None:
    whole = b"".join(bytes_of(event) for event in chunks("hel", "lo")).replace(b"\n", b"\r\n")
    fake.then(Reply(events=[whole[at : at + 1] for at in range(len(whole))]))
    assert text_of(stream(client)) == "hello"
    assert (books.spent, books.held) == (PAID, 0)


def test_a_compressed_stream_is_read_as_well(client: Any, books: Books, fake: FakeProvider) -> None:
    packed = gzip.compress(b"".join(bytes_of(event) for event in chunks("hel", "lo")))
    headers = {"content-encoding": "gzip"}
    fake.then(Reply(events=[packed[:20], packed[20:]], headers=headers))
    assert text_of(stream(client)) == "hello"
    fake.then(Reply(events=[packed[:20], packed[20:]], headers=headers))
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=SAID, stream=True
    ) as reply:
        lines = list(reply.iter_lines())
    assert lines[-2] == "data: [DONE]"
    assert not any('"usage": {' in line for line in lines)
    assert (books.spent, books.held) == (2 * PAID, 0)


def test_a_stream_that_something_has_collected_is_read_as_well(books: Books) -> None:
    http = pytest.importorskip("httpx2" if openai.__version__ >= "3" else "httpx")
    whole = b"".join(bytes_of(event) for event in chunks("hel", "lo"))
    headers = {"content-type": "text/event-stream"}
    transport = http.MockTransport(lambda _: http.Response(200, headers=headers, content=whole))
    client = openai.OpenAI(api_key="x", http_client=http.Client(transport=transport))
    pieces = list(stream(checkrein.wrap(client, books.engine)))
    assert [piece.usage for piece in pieces] == [None] * 3
    assert (books.spent, books.held) == (PAID, 0)


@pytest.mark.parametrize("way", ["break", "close", "with", "next", "raise", "dropped"])
def test_a_stream_that_is_left_early_is_charged_its_hold(
    way: str, client: Any, books: Books, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    fake.then(Reply(events=endless()))
    reading = stream(client)
    with caplog.at_level(logging.WARNING, "checkrein"):
        if way == "break":
            for _ in reading:
                break
            reading.close()
        elif way == "close":
            reading.close()
        elif way == "with":
            with reading:
                next(iter(reading))
        elif way == "next":
            next(reading)
            reading.response.close()
        elif way == "raise":
            with pytest.raises(ZeroDivisionError), reading:
                sum(1 // 0 for _ in reading)
        else:
            next(reading)
            del reading
            gc.collect()
    assert is_hold(books.spent)
    assert books.held == 0
    assert "charged at the full hold" in caplog.text
    assert "hello" not in caplog.text


def test_the_collector_may_find_a_stream_in_the_middle_of_anything(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=(chunk(None, usage=USAGE) for _ in repeat(None))))
    reading = [stream(client)]
    next(reading[0])

    def collect() -> None:
        # As when it runs while a reply is being remembered.
        with responses._lock, responses.of(books.engine)._lock:
            reading.clear()
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert (books.spent, books.held) == (PAID, 0)


@pytest.mark.parametrize("way", ["break", "close", "with", "cancel", "cancel before", "dropped"])
async def test_it_is_the_same_on_an_event_loop(
    way: str, aclient: Any, books: Books, fake: FakeProvider
) -> None:
    hangs = way.startswith("cancel")
    fake.then(Reply(events=[chunk("hel")] if hangs else endless(), hangs=hangs))
    begun = asyncio.Event()

    async def read() -> None:
        reading = await stream(aclient)
        if way == "cancel before":
            begun.set()
        if way == "with":
            async with reading:
                await anext(reading)
            return
        async for _ in reading:
            begun.set()
            if not hangs:
                break
        if way == "close":
            await reading.close()

    if hangs:
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await read()
    # Generators of streams that were dropped are closed by the loop, one after the other.
    for _ in range(1_000):
        gc.collect()
        if not books.held:
            break
        await asyncio.sleep(0.001)
    assert is_hold(books.spent)
    assert books.held == 0


async def test_all_of_a_stream_on_an_event_loop(aclient: Any, books: Books) -> None:
    assert text_of([piece async for piece in await stream(aclient)]) == "hello"
    async with aclient.chat.completions.stream(model=MODEL, messages=SAID) as helped:
        assert (await helped.get_final_completion()).choices[0].message.content == "hello"
    async with aclient.responses.stream(model=MODEL, input="hi") as helped:
        assert (await helped.get_final_response()).output_text == "hello"
    async with aclient.chat.completions.with_streaming_response.create(model=MODEL, messages=SAID) as reply:
        assert (await reply.parse()).choices[0].message.content == "hello"
    assert (books.spent, books.held) == (4 * PAID, 0)


async def test_a_call_that_is_cancelled_stays_held(aclient: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(hangs=True))
    task = asyncio.create_task(aclient.chat.completions.create(model=MODEL, messages=SAID))
    while not fake.requests:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert books.spent == 0
    assert is_hold(books.held)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(events=[chunk("hel"), chunk(None), "data: [DONE]\n\n"]), None),
        (Reply(events=[chunk("hel")]), None),
        (Reply(events=[chunk("hel"), "data: {not json\n\n"]), ValueError),
        (Reply(events=[chunk("hel"), {"error": {"message": "overloaded"}}]), openai.APIError),
        (Reply(events=[chunk("hel")], drops=True), Exception),
        (Reply(events=[chunk("hel"), {**chunk(None), "choices": [], "usage": {"prompt_tokens": -5}}]), None),
    ],
    ids=["no usage", "no end", "no json", "an error", "connection lost", "nonsense"],
)
def test_a_stream_without_usage_is_charged_its_hold(
    reply: Reply, error: Any, client: Any, books: Books, fake: FakeProvider
) -> None:
    reply.events = list(reply.events or ())
    fake.then(reply)
    reading = stream(client)
    if error is None:
        assert text_of(reading) == "hel"
    else:
        with pytest.raises(error):
            list(reading)
    assert is_hold(books.spent)
    assert books.held == 0


def test_the_last_usage_of_several_counts(client: Any, books: Books, fake: FakeProvider) -> None:
    early = {**chunk("hel"), "usage": {"prompt_tokens": 1_000, "completion_tokens": 1, "total_tokens": 1_001}}
    last = {**chunk(None), "usage": USAGE}
    fake.then(Reply(events=[early, last, "data: [DONE]\n\n"]))
    pieces = list(stream(client))
    assert len(pieces) == 2
    assert (books.spent, books.held) == (PAID, 0)


def test_a_stream_is_cut_when_its_hold_is_spent(client: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(events=endless()))
    pieces: list[Any] = []
    with pytest.raises(checkrein.BudgetExceeded, match="100 were held for it") as cut:
        pieces.extend(stream(client, max_completion_tokens=100))
    assert text_of(pieces) == "hello " * 101
    assert [piece.choices[0].finish_reason for piece in pieces[-2:]] == [None, "length"]
    assert cut.value.code == "budget_exceeded"
    assert "hello" not in str(cut.value)
    assert is_hold(books.spent, 100)
    assert books.held == 0


def test_usage_with_every_piece_does_not_keep_a_stream_from_being_cut(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 11, "total_tokens": 1_011}
    fake.then(Reply(events=(chunk("hello ", usage=usage) for _ in repeat(None))))
    pieces: list[Any] = []
    with pytest.raises(checkrein.BudgetExceeded):
        pieces.extend(stream(client, max_completion_tokens=10))
    assert text_of(pieces) == "hello " * 11
    assert is_hold(books.spent, 10)


async def test_a_stream_is_cut_on_an_event_loop(aclient: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(events=endless()))
    manager = aclient.chat.completions.stream(model=MODEL, messages=SAID, max_completion_tokens=10)
    async with manager as helped:
        with pytest.raises(checkrein.BudgetExceeded):
            await helped.until_done()
    partial = helped.current_completion_snapshot.choices[0]
    assert (partial.message.content, partial.finish_reason) == ("hello " * 11, "length")
    assert is_hold(books.spent, 10)


def test_a_streamed_response_is_cut_as_one_that_is_incomplete(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=events(*["hello "] * 50)))
    seen: list[Any] = []
    with pytest.raises(checkrein.BudgetExceeded):
        seen.extend(client.responses.create(model=MODEL, input="hi", max_output_tokens=20, stream=True))
    assert sum(event.type == "response.output_text.delta" for event in seen) == 21
    assert seen[-1].type == "response.incomplete"
    assert seen[-1].response.incomplete_details.reason == "max_output_tokens"
    assert is_hold(books.spent, 20)


def test_an_answer_in_single_characters_is_not_cut_early(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    text = "not one of these is a token of its own"
    fake.then(Reply(events=chunks(*text)))
    assert text_of(stream(client, max_completion_tokens=20)) == text
    assert books.spent == PAID


@pytest.mark.parametrize("status", ["incomplete", "failed", "completed"])
def test_a_response_that_ends_early_is_settled_too(
    status: str, client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=events("hel", last=response("hel", status=status))))
    seen = list(client.responses.create(model=MODEL, input="hi", stream=True))
    assert seen[-1].type == f"response.{status}"
    assert (books.spent, books.held) == (PAID, 0)


def test_a_response_that_ends_without_its_last_event_is_charged_its_hold(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=events("hel", last={})))
    list(client.responses.create(model=MODEL, input="hi", stream=True))
    assert is_hold(books.spent)
    assert books.held == 0


RUNNING = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
"""What some servers tell with a piece: so much was used before it."""


@pytest.mark.parametrize("way", ["break", "connection lost", "no end"])
def test_what_was_used_so_far_is_not_what_a_stream_used(
    way: str, client: Any, books: Books, fake: FakeProvider
) -> None:
    pieces = [chunk("word " * 20, usage=RUNNING), *(chunk("word " * 20) for _ in range(100))]
    fake.then(Reply(events=pieces, drops=way == "connection lost"))
    reading = stream(client)
    if way == "break":
        for _, _ in zip(range(50), reading, strict=False):
            pass
        reading.close()
    elif way == "no end":
        list(reading)
    else:
        with pytest.raises(openai.APIConnectionError if openai.__version__ >= "3" else Exception):
            list(reading)
    assert is_hold(books.spent)
    assert books.held == 0


def test_an_answer_that_goes_on_after_its_usage_was_told_has_used_more(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    pieces = [
        chunk("hel"),
        chunk(None, usage=RUNNING),
        *(chunk("word ") for _ in range(9)),
        "data: [DONE]\n\n",
    ]
    fake.then(Reply(events=pieces))
    list(stream(client))
    assert is_hold(books.spent)


def test_both_answers_of_a_call_have_to_be_finished(client: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(events=[chunk("hel"), chunk(None, usage=RUNNING)]))
    list(stream(client, n=2, max_completion_tokens=100))
    assert books.spent > Decimal("0.0002")


@pytest.mark.parametrize("tokens", [0, 1])
def test_less_than_has_come_is_not_believed(
    tokens: int, client: Any, books: Books, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    fake.then(Reply(events=chunks(*["word "] * 9, usage=usage)))
    list(stream(client))
    assert is_hold(books.spent)
    assert f"{tokens} output tokens are told, and 9 have come" in caplog.text
    assert "word" not in caplog.text


async def test_less_than_has_come_is_not_believed_on_an_event_loop(
    aclient: Any, books: Books, fake: FakeProvider
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    fake.then(Reply(events=chunks(*["word "] * 9, usage=usage)))
    assert len([piece async for piece in await stream(aclient)]) == 10
    assert is_hold(books.spent)


def test_thoughts_that_are_only_in_the_total_are_output(
    client: Any, books: Books, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 2, "total_tokens": 1_400}
    fake.then(Reply(events=chunks(*["word "] * 9, usage=usage)))
    list(stream(client, max_completion_tokens=10))
    assert "have come" not in caplog.text
    assert books.held == 0


def test_sound_is_not_counted_by_its_bytes(client: Any, books: Books, fake: FakeProvider) -> None:
    sound = chunk(None)
    sound["choices"] = [{"index": 0, "delta": {"audio": {"data": "A" * 9_000}}, "finish_reason": None}]
    fake.then(Reply(events=[sound, *chunks("hel")]))
    list(stream(client, max_completion_tokens=400))
    assert books.spent == PAID


def test_every_prompt_of_a_list_has_the_maximum(client: Any, books: Books, fake: FakeProvider) -> None:
    def piece(at: int, text: str = "word ", **more: Any) -> Any:
        choice = {"index": at, "text": text, "finish_reason": None, "logprobs": None, **more}
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": MODEL,
            "choices": [choice],
        }

    said = [piece(at) for at in range(3) for _ in range(8)]
    ends = [piece(at, "", finish_reason="stop") for at in range(3)]
    fake.then(Reply(events=[*said, *ends, {**ends[0], "choices": [], "usage": USAGE}, "data: [DONE]\n\n"]))
    asked = client.completions.create(model=MODEL, prompt=["a", "b", "c"], max_tokens=10, stream=True)
    assert sum(len(one.choices) for one in asked) == 27
    assert books.spent == PAID


def test_a_stream_that_is_left_early_is_settled_without_the_collector(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=endless()), Reply(events=events(*["hello "] * 50)))
    gc.disable()
    try:
        for _ in stream(client):
            break
        assert is_hold(books.spent)
        for _ in client.responses.create(model=MODEL, input="hi", stream=True):
            break
        assert books.held == 0
    finally:
        gc.enable()


def test_a_stream_that_is_left_can_be_read_on(client: Any, books: Books) -> None:
    reading = stream(client)
    for piece in reading:
        assert piece.choices[0].delta.content == "hel"
        break
    assert is_hold(books.held)
    assert text_of(reading) == "lo"
    assert (books.spent, books.held) == (PAID, 0)


async def test_a_stream_that_is_left_early_is_settled_by_the_loop_without_the_collector(
    aclient: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=endless()))
    gc.disable()
    try:
        async for _ in await stream(aclient):
            break
        for _ in range(1_000):
            if not books.held:
                break
            await asyncio.sleep(0.001)
        assert is_hold(books.spent)
    finally:
        gc.enable()
