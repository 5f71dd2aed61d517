"""What Anthropic says was used, believed or not, and streams that end in every way there is."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_anthropic import USAGE, Event, FakeAnthropic, events_of, message, refusal
from fakes import Reply

import checkrein

anthropic = pytest.importorskip("anthropic")

SAID = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": "claude-opus-5", "max_tokens": 100, "messages": SAID}
COST = Decimal("0.002")
PER_MILLION = Decimal(1_000_000)

Client = Any


@pytest.fixture
def claude() -> Iterator[FakeAnthropic]:
    """A provider that answers every call."""
    with FakeAnthropic() as provider:
        yield provider


@pytest.fixture
def client(books: Books, claude: FakeAnthropic) -> Client:
    """A client that is wrapped and tries once."""
    plain = anthropic.Anthropic(api_key="k", base_url=claude.url, max_retries=0)
    return checkrein.wrap(plain, books.engine)


def priced(**counts: int) -> Decimal:
    """Return what Opus 5 costs, in USD: input 5, output 25, read 0.50, written 6.25 for minutes and 10 for an hour."""
    per = {"inputs": "5", "outputs": "25", "read": "0.5", "short": "6.25", "long": "10"}
    return sum((Decimal(per[name]) * count for name, count in counts.items()), Decimal(0)) / PER_MILLION


def once(client: Client) -> None:
    client.messages.create(**ASKED)


def streamed(client: Client) -> None:
    for _ in client.messages.create(**ASKED, stream=True):
        pass


WAYS: dict[str, Callable[[Client], None]] = {"create": once, "stream": streamed}

CACHED = {
    "input_tokens": 10,
    "output_tokens": 20,
    "cache_read_input_tokens": 1_000,
    "cache_creation_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
}
ROUND = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
COMPACTED = {
    **USAGE,
    "iterations": [
        {"type": "compaction", "input_tokens": 1_000, "output_tokens": 50, **ROUND},
        {"type": "message", "input_tokens": 200, "output_tokens": 40, **ROUND},
    ],
}
SEARCHED = {**USAGE, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (USAGE, priced(inputs=200, outputs=40)),
        (CACHED, priced(inputs=10, outputs=20, read=1_000, short=100, long=200)),
        (COMPACTED, priced(inputs=1_200, outputs=90)),
        (SEARCHED, priced(inputs=200, outputs=40) + Decimal("0.02")),
        ({**USAGE, "service_tier": "batch"}, priced(inputs=200, outputs=40) / 2),
    ],
    ids=["plain", "cached", "compacted", "searched", "batch"],
)
def test_all_that_was_used_is_charged(
    way: Callable[[Client], None],
    usage: dict[str, Any],
    cost: Decimal,
    client: Client,
    books: Books,
    claude: FakeAnthropic,
) -> None:
    claude.reply = message(usage=usage)
    way(client)
    assert (books.spent, books.held) == (cost, 0)


def test_more_written_to_the_cache_than_the_start_told_is_charged_at_the_longest(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    end = {"input_tokens": 10, "output_tokens": 20, "cache_creation_input_tokens": 300}
    lives = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0}
    start = {
        "input_tokens": 10,
        "output_tokens": 1,
        "cache_creation_input_tokens": 100,
        "cache_creation": lives,
    }
    claude.then(Reply(events=events_of(message(usage=end), start=start)))
    streamed(client)
    assert books.spent == priced(inputs=10, outputs=20, short=100, long=200)


BAD: dict[str, dict[str, Any] | None] = {
    "absent": None,
    "empty": {},
    "negative": {"input_tokens": -1, "output_tokens": 40},
    "part": {"input_tokens": 200},
    "text": {"input_tokens": "200", "output_tokens": "40"},
    "true": {"input_tokens": True, "output_tokens": True},
    "fraction": {"input_tokens": 1.5, "output_tokens": 40},
    "huge": {"input_tokens": 10**30, "output_tokens": 40},
    "contradictory": {**CACHED, "cache_creation_input_tokens": 7},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("usage", BAD.values(), ids=BAD)
def test_usage_that_cannot_be_believed_is_charged_at_the_hold(
    usage: dict[str, Any] | None,
    way: Callable[[Client], None],
    client: Client,
    books: Books,
    claude: FakeAnthropic,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with client.messages.create(**ASKED, stream=True):
        hold = books.held
    spent = books.spent
    claude.reply = message(usage=usage)
    reply = Reply(claude.reply)
    if way is streamed:
        # At the start nothing is wrong yet: it is the end that counts.
        start = {"input_tokens": 1, "output_tokens": 1, "cache_creation": CACHED["cache_creation"]}
        reply = Reply(events=events_of(claude.reply, start=start))
    claude.then(reply)
    caplog.clear()
    way(client)
    charged = books.spent - spent
    assert hold * Decimal("0.8") < charged
    assert books.held == 0
    assert "charged at the full hold or more" in caplog.text


def test_more_than_was_held_is_charged_and_told(client: Client, books: Books, claude: FakeAnthropic) -> None:
    claude.reply = message(usage={"input_tokens": 10_000, "output_tokens": 100})
    once(client)
    assert (books.spent, books.held) == (priced(inputs=10_000, outputs=100), 0)


def test_another_model_that_answers_is_charged_at_its_own_price(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    asked = {**ASKED, "model": "claude-haiku-4-5"}
    client.messages.create(**asked)
    # 1 USD per million in, 5 out.
    assert books.spent == Decimal("0.0004")
    claude.then(Reply(message(model="claude-opus-5")))
    client.messages.create(**asked)
    assert books.spent == Decimal("0.0004") + COST
    # The dearer counts: whoever answers for less may be charged like the one that was asked.
    claude.then(Reply(message(model="claude-haiku-4-5")), Reply(message(model="claude-unheard-of")))
    once(client)
    assert books.spent == Decimal("0.0004") + 2 * COST
    # Nobody has a price for that one.
    once(client)
    assert (books.spent, books.held) == (Decimal("0.0004") + 3 * COST, 0)


def test_a_reply_that_is_no_message_is_charged_at_the_hold(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    for body in (b"[1, 2]", b'"no"'):
        claude.then(Reply(body))
        before = books.spent
        client.post("/v1/messages", body=ASKED, cast_to=object)
        assert books.spent - before > COST
    assert books.held == 0


def exhausted(client: Client) -> None:
    for _ in client.messages.create(**ASKED, stream=True):
        pass


def broken_off(client: Client) -> None:
    for event in client.messages.create(**ASKED, stream=True):
        if event.type == "content_block_delta":
            break
    gc.collect()


def closed(client: Client) -> None:
    stream = client.messages.create(**ASKED, stream=True)
    next(stream)
    stream.close()


def left(client: Client) -> None:
    with client.messages.stream(**ASKED) as stream:
        next(iter(stream))


def raised(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.messages.stream(**ASKED) as stream:
        _ = [1 // 0 for _ in stream]


def dropped(client: Client) -> None:
    stream = client.messages.create(**ASKED, stream=True)
    del stream
    gc.collect()


def unread(client: Client) -> None:
    with client.messages.with_streaming_response.create(**ASKED):
        pass


def raw_only(client: Client) -> None:
    with client.messages.with_streaming_response.create(**ASKED, stream=True) as reply:
        for _ in reply.http_response.iter_raw():
            break


UNREAD: dict[str, Callable[[Client], None]] = {
    "break": broken_off,
    "close": closed,
    "with": left,
    "exception": raised,
    "garbage": dropped,
    "never read": unread,
    "raw": raw_only,
}


def test_a_stream_that_was_read_is_settled_by_its_usage(client: Client, books: Books) -> None:
    exhausted(client)
    assert (books.spent, books.held) == (COST, 0)


@pytest.mark.parametrize("way", UNREAD.values(), ids=UNREAD)
def test_a_stream_that_nobody_read_to_its_end_is_charged_at_the_hold(
    way: Callable[[Client], None], client: Client, books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    way(client)
    assert books.spent > COST
    assert books.held == 0
    assert "charged at the full hold or more" in caplog.text


def test_a_stream_is_settled_as_soon_as_its_usage_is_there(client: Client, books: Books) -> None:
    for event in client.messages.create(**ASKED, stream=True):
        if event.type == "message_stop":
            break
    gc.collect()
    assert (books.spent, books.held) == (COST, 0)


@pytest.mark.parametrize("way", ["cancel", "break", "close", "garbage"])
async def test_an_asynchronous_stream_settles_however_it_ends(
    way: str, books: Books, claude: FakeAnthropic
) -> None:
    plain = anthropic.AsyncAnthropic(api_key="k", base_url=claude.url, max_retries=0)
    client = checkrein.wrap(plain, books.engine)
    claude.then(Reply(events=events_of(message())[:4], hangs=True))
    stream = await client.messages.create(**ASKED, stream=True)
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
            await stream.close()
        else:
            del stream
    for _ in range(100):
        gc.collect()
        if books.held == 0:
            break
        await asyncio.sleep(0.01)
    assert books.spent > COST
    assert books.held == 0


async def test_a_call_that_is_cancelled_keeps_its_hold(books: Books, claude: FakeAnthropic) -> None:
    plain = anthropic.AsyncAnthropic(api_key="k", base_url=claude.url, max_retries=0)
    client = checkrein.wrap(plain, books.engine)
    claude.then(Reply(hangs=True))
    task = asyncio.create_task(client.messages.create(**ASKED))
    while not claude.requests:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Whether it was answered nobody knows.
    assert books.spent == 0
    assert books.held > COST


def test_an_error_in_the_middle_is_the_providers_and_charged(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "later"}}
    claude.then(Reply(events=[*events_of(message())[:4], ("error", error)]))
    with pytest.raises(anthropic.APIStatusError):
        exhausted(client)
    assert books.spent > COST
    assert books.held == 0


def test_a_stream_that_is_cut_off_is_charged(client: Client, books: Books, claude: FakeAnthropic) -> None:
    claude.then(Reply(events=events_of(message())[:4], drops=True))
    with pytest.raises(Exception, match=r"incomplete|peer closed|reset"):
        exhausted(client)
    assert books.spent > COST
    assert books.held == 0


def test_a_timeout_leaves_the_hold(books: Books, claude: FakeAnthropic) -> None:
    plain = anthropic.Anthropic(api_key="k", base_url=claude.url, max_retries=0, timeout=0.2)
    claude.then(Reply(hangs=True))
    with pytest.raises(anthropic.APITimeoutError):
        once(checkrein.wrap(plain, books.engine))
    assert books.spent == 0
    assert books.held > COST


def test_a_stream_that_brings_more_than_was_held_is_cut(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    events = events_of(message(text=" ".join(["word"] * 500)))
    claude.then(Reply(events=events))
    seen: list[str] = []
    with client.messages.stream(**ASKED) as stream:
        with pytest.raises(checkrein.BudgetExceeded) as cut:
            seen.extend(event.type for event in stream)
        snapshot = stream.current_message_snapshot
    # What came is whole: the block and the message have an end.
    assert seen[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert snapshot.stop_reason == "max_tokens"
    assert 100 < len(snapshot.content[0].text.split()) < 500
    assert pickle.loads(pickle.dumps(cut.value)).code == "budget_exceeded"
    assert books.spent > COST
    assert books.held == 0


def spent_at_last(events: list[Event], most: int) -> list[Event]:
    """Make a provider go on after it told that it is past the maximum."""
    told = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": most + 1}}
    return [*events[:4], ("message_delta", told), *events[4:]]


def test_what_the_provider_tells_in_between_cuts_too(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    claude.then(Reply(events=spent_at_last(events_of(message()), 100)))
    with pytest.raises(checkrein.BudgetExceeded):
        exhausted(client)
    assert books.held == 0


def test_a_compressed_stream_is_read_all_the_same(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    import gzip
    import json

    text = "".join(f"event: {name}\ndata: {json.dumps(said)}\n\n" for name, said in events_of(message()))
    claude.then(Reply(events=[gzip.compress(text.encode())], headers={"content-encoding": "gzip"}))
    with client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Hello there"
    assert (books.spent, books.held) == (COST, 0)


def test_events_in_single_bytes_are_read_all_the_same(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    import json

    text = "".join(
        f"event: {name}\r\ndata: {json.dumps(said)}\r\n\r\n" for name, said in events_of(message())
    )
    claude.then(Reply(events=[bytes([byte]) for byte in text.encode()]))
    with client.messages.stream(**ASKED) as stream:
        assert stream.get_final_text() == "Hello there"
    assert (books.spent, books.held) == (COST, 0)


def test_twenty_calls_at_once_where_five_fit_send_five(books: Books, claude: FakeAnthropic) -> None:
    from concurrent.futures import ThreadPoolExecutor

    plain = anthropic.Anthropic(api_key="k", base_url=claude.url, max_retries=0)
    with checkrein.wrap(plain, books.engine).messages.create(**ASKED, stream=True):
        one = books.held
    books.limit(f"{one * 5 + Decimal('0.0001')} usd")
    client = checkrein.wrap(plain, books.engine)
    claude.requests.clear()
    claude.reply = message(usage=None)

    def call(_: int) -> bool:
        try:
            once(client)
        except checkrein.BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        passed = list(pool.map(call, range(20)))
    assert (sum(passed), len(claude.requests)) == (5, 5)


def test_a_refusal_of_the_provider_says_nothing_of_ours(client: Client, claude: FakeAnthropic) -> None:
    claude.then(refusal(401, "authentication_error", "bad key"))
    with pytest.raises(anthropic.AuthenticationError, match="bad key"):
        once(client)


async def test_a_store_that_waits_does_not_block_the_loop(kept: Books, claude: FakeAnthropic) -> None:
    plain = anthropic.AsyncAnthropic(api_key="k", base_url=claude.url, max_retries=0)
    client = checkrein.wrap(plain, kept.engine)
    await client.messages.create(**ASKED)
    async with client.messages.stream(**ASKED) as stream:
        assert await stream.get_final_text() == "Hello there"
    claude.then(refusal(429))
    with pytest.raises(anthropic.RateLimitError):
        await client.messages.create(**ASKED)
    assert (kept.spent, kept.held) == (2 * COST, 0)


COMPACTING = {"context_management": {"edits": [{"type": "compact_20260112"}]}}
DECLINING = {"fallbacks": [{"model": "claude-haiku-4-5"}, {"model": "claude-sonnet-5"}]}


@pytest.mark.parametrize(
    ("more", "times"), [(COMPACTING, 1), (DECLINING, 2)], ids=["compacting", "declining"]
)
def test_rounds_that_a_request_allows_are_held_for(
    more: dict[str, Any], times: int, client: Client, books: Books, claude: FakeAnthropic
) -> None:
    with client.messages.create(**ASKED, stream=True):
        one = books.held
    with client.messages.create(**ASKED, stream=True, extra_body=more):
        held = books.held
    # Their input is held at the dearest rate there is, and so is what they write.
    assert one * (1 + times) < held < 2 * one * (1 + times)
    # What the provider counts over all of them is no reason to cut one.
    claude.then(Reply(events=spent_at_last(events_of(message(usage=COMPACTED)), 100)))
    for _ in client.messages.create(**ASKED, stream=True, extra_body=more):
        pass
    assert books.held == 0


def test_rounds_and_what_nobody_sees_are_for_the_policy(client: Client, claude: FakeAnthropic) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}
    asked = {**ASKED, "messages": [{"role": "user", "content": [image]}]}
    with pytest.raises(checkrein.InvalidAction, match="refers to what it does not contain"):
        client.messages.create(**asked, extra_body=COMPACTING)
    assert claude.requests == []


def test_an_answer_that_goes_on_after_its_usage_was_told_has_used_more(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    events = events_of(message("word " * 20))
    told = [event for event in events if event[0] == "message_delta"]
    said = [event for event in events if event[0] not in ("message_delta", "message_stop")]
    claude.then(Reply(events=[*said[:2], *told, *said[2:]], drops=True))
    with pytest.raises(Exception, match=r"incomplete|peer closed|reset"):
        streamed(client)
    assert books.spent > priced(outputs=99)
    assert books.held == 0


def test_less_than_has_come_is_not_believed(
    client: Client, books: Books, claude: FakeAnthropic, caplog: pytest.LogCaptureFixture
) -> None:
    claude.then(Reply(events=events_of(message("word " * 20, usage={"input_tokens": 1, "output_tokens": 1}))))
    streamed(client)
    assert books.spent > priced(outputs=99)
    assert "1 output tokens are told, and" in caplog.text


def test_a_dearer_model_that_may_answer_instead_is_held_for(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    asked = {**ASKED, "model": "claude-haiku-4-5", "max_tokens": 1_000}
    usage = {**USAGE, "input_tokens": 2, "output_tokens": 1_000}
    claude.then(Reply(message(model="claude-opus-5", usage=usage)))
    client.messages.create(**asked, extra_body={"fallbacks": [{"model": "claude-opus-5"}]})
    paid = books.spent
    assert paid == priced(inputs=2, outputs=1_000)
    books.limit(f"{paid} usd")
    plain = anthropic.Anthropic(api_key="k", base_url=claude.url, max_retries=0)
    client = checkrein.wrap(plain, books.engine)
    with pytest.raises(checkrein.BudgetExceeded):
        client.messages.create(**asked, extra_body={"fallbacks": [{"model": "claude-opus-5"}]})
    assert len(claude.requests) == 1
