"""Calls through the `anthropic` package: each is held before it is sent, and settled at what it used."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_anthropic import FakeAnthropic, message, refusal
from fakes import Reply

import checkrein

anthropic = pytest.importorskip("anthropic")

MODEL = "claude-opus-5"
SAID = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": SAID}
COST = Decimal("0.002")
"""200 tokens of input at 5 USD per million and 40 of output at 25."""

Client = Any

HAS_MIDDLEWARE = hasattr(anthropic.Anthropic, "with_middleware")
of_middleware = pytest.mark.skipif(not HAS_MIDDLEWARE, reason="this version of anthropic has no middleware")


@pytest.fixture
def claude() -> Iterator[FakeAnthropic]:
    """A provider that answers every call."""
    with FakeAnthropic() as provider:
        yield provider


def made(claude: FakeAnthropic, **more: Any) -> Client:
    return anthropic.Anthropic(api_key="sk-ant-secret", base_url=claude.url, **more)


def amade(claude: FakeAnthropic, **more: Any) -> Client:
    return anthropic.AsyncAnthropic(api_key="sk-ant-secret", base_url=claude.url, **more)


@pytest.fixture
def client(books: Books, claude: FakeAnthropic) -> Iterator[Client]:
    """A client that is wrapped."""
    with made(claude) as one:
        yield checkrein.wrap(one, books.engine)


def helped(client: Client) -> str:
    with client.messages.stream(**ASKED) as stream:
        return "".join(stream.text_stream)


def finally_had(client: Client) -> str:
    with client.beta.messages.stream(**ASKED) as stream:
        return str(stream.get_final_message().content[0].text)


def read_late(client: Client) -> str:
    with client.messages.with_streaming_response.create(**ASKED) as reply:
        return str(reply.parse().content[0].text)


def lines_of(client: Client) -> str:
    with client.messages.with_streaming_response.create(**ASKED, stream=True) as reply:
        return "".join(line for line in reply.iter_lines() if '"text_delta"' in line)


def chunked(client: Client) -> str:
    with client.messages.with_streaming_response.create(**ASKED) as reply:
        return b"".join(reply.iter_bytes(7)).decode()


CALLS: dict[str, Callable[[Client], Any]] = {
    "create": lambda client: client.messages.create(**ASKED).content[0].text,
    "beta": lambda client: client.beta.messages.create(**ASKED).content[0].text,
    "parse": lambda client: client.messages.parse(**ASKED).content[0].text,
    "raw": lambda client: client.messages.with_raw_response.create(**ASKED).parse().content[0].text,
    "raw http": lambda client: client.messages.with_raw_response.create(**ASKED).http_response.text,
    "streaming response": read_late,
    "bytes": chunked,
    "stream": lambda client: [
        event.delta.text
        for event in client.messages.create(**ASKED, stream=True)
        if event.type == "content_block_delta"
    ][-1],
    "lines": lines_of,
    "stream helper": helped,
    "beta stream helper": finally_had,
    "options": lambda client: client.with_options(timeout=5).messages.create(**ASKED).content[0].text,
    "copy": lambda client: client.copy(max_retries=0).messages.create(**ASKED).content[0].text,
    "post": lambda client: str(client.post("/v1/messages", body=ASKED, cast_to=object)),
    "response": lambda client: client.post("/v1/messages", body=ASKED, cast_to=_response()).text,
}


def _response() -> Any:
    from anthropic import _base_client as base

    return (getattr(base, "httpx2", None) or base.httpx).Response


async def ahelped(client: Client) -> str:
    async with client.messages.stream(**ASKED) as stream:
        return "".join([text async for text in stream.text_stream])


async def aread_late(client: Client) -> str:
    async with client.messages.with_streaming_response.create(**ASKED) as reply:
        return str((await reply.parse()).content[0].text)


async def astreamed(client: Client) -> str:
    stream = await client.messages.create(**ASKED, stream=True)
    return [event.delta.text async for event in stream if event.type == "content_block_delta"][-1]


async def acreated(client: Client) -> str:
    return str((await client.messages.create(**ASKED)).content[0].text)


async def araw(client: Client) -> str:
    reply = await client.messages.with_raw_response.create(**ASKED)
    parsed = reply.parse()
    return str((await parsed if HAS_MIDDLEWARE else parsed).content[0].text)


ASYNC_CALLS: dict[str, Callable[[Client], Awaitable[str]]] = {
    "create": acreated,
    "raw": araw,
    "streaming response": aread_late,
    "stream": astreamed,
    "stream helper": ahelped,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_held_and_settled(
    call: Callable[[Client], Any], client: Client, books: Books, claude: FakeAnthropic
) -> None:
    assert "there" in call(client)
    assert (books.spent, books.held) == (COST, 0)
    assert len(claude.requests) == 1


@pytest.mark.parametrize("call", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
async def test_every_asynchronous_way_is_held_and_settled(
    call: Callable[[Client], Awaitable[str]], books: Books, claude: FakeAnthropic
) -> None:
    async with amade(claude) as one:
        assert "there" in await call(checkrein.wrap(one, books.engine))
    assert (books.spent, books.held) == (COST, 0)
    assert len(claude.requests) == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_refused_before_anything_is_sent(
    call: Callable[[Client], Any], books: Books, claude: FakeAnthropic
) -> None:
    books.limit("0.001 usd")
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        call(checkrein.wrap(made(claude), books.engine))
    assert "sk-ant-secret" not in str(refused.value) + repr(refused.value.decision.to_dict())
    assert claude.requests == []
    assert (books.spent, books.held) == (0, 0)


@pytest.mark.parametrize("call", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
async def test_every_asynchronous_way_is_refused_before_anything_is_sent(
    call: Callable[[Client], Awaitable[str]], books: Books, claude: FakeAnthropic
) -> None:
    books.limit("0.001 usd")
    with pytest.raises(checkrein.BudgetExceeded):
        await call(checkrein.wrap(amade(claude), books.engine))
    assert claude.requests == []
    assert (books.spent, books.held) == (0, 0)


def test_what_is_free_passes_a_spent_budget(books: Books, claude: FakeAnthropic) -> None:
    books.limit("0.001 usd")
    client = checkrein.wrap(made(claude), books.engine)
    assert client.messages.count_tokens(model=MODEL, messages=SAID).input_tokens == 200
    assert client.messages.batches.retrieve("msgbatch_1").id == "msgbatch_1"
    assert client.messages.batches.cancel("msgbatch_1").processing_status == "canceling"
    assert client.models.list().data == []
    with pytest.raises(checkrein.BudgetExceeded):
        client.messages.create(**ASKED)
    assert len(claude.requests) == 4
    assert (books.spent, books.held) == (0, 0)


@of_middleware
def test_a_batch_is_charged_at_what_it_can_cost_or_not_sent(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    requests = [{"custom_id": f"r{number}", "params": ASKED} for number in range(3)]
    client.messages.batches.create(requests=requests)
    one = books.spent / 3
    # At the price of batches, which is half of that of the slowest call, and batches are never hurried.
    with client.messages.create(**ASKED, stream=True):
        assert 2 * one < books.held < 5 * one
    books.limit(f"{one * Decimal('2.5')} usd")
    client = checkrein.wrap(made(claude), books.engine)
    sent = len(claude.requests)
    with pytest.raises(checkrein.BudgetExceeded):
        client.messages.batches.create(requests=requests)
    assert len(claude.requests) == sent
    assert (books.spent, books.held) == (0, 0)


def test_agents_that_the_provider_runs_are_refused_under_a_limit(
    client: Client, books: Books, claude: FakeAnthropic
) -> None:
    with pytest.raises(checkrein.BudgetExceeded, match="cannot be bounded") as refused:
        client.post("/v1/sessions/s1/events?beta=true", body={"events": []}, cast_to=object)
    assert refused.value.code == "unknown_price"
    assert claude.requests == []


@of_middleware
def test_the_users_middleware_stays_and_what_it_sends_is_held(books: Books, claude: FakeAnthropic) -> None:
    seen: list[str] = []

    def twice(request: Any, call_next: Callable[[Any], Any]) -> Any:
        seen.append("mine")
        call_next(request)
        return call_next(request)

    plain = made(claude, middleware=[twice])
    client = checkrein.wrap(plain, books.engine)
    assert plain.middleware == (twice,)
    client.messages.create(**ASKED)
    assert (books.spent, seen) == (2 * COST, ["mine"])
    # Whatever is added later stands before ours, and nothing takes ours away.
    client.with_middleware(twice).messages.create(**ASKED)
    assert (books.spent, len(claude.requests)) == (6 * COST, 6)
    client.with_options(middleware=[]).messages.create(**ASKED)
    client.copy(middleware=None).with_options(timeout=3).messages.create(**ASKED)
    assert books.spent == 8 * COST
    plain.messages.create(**ASKED)
    assert books.spent == 8 * COST


def test_a_wrapped_client_keeps_its_settings(books: Books, claude: FakeAnthropic) -> None:
    plain = made(claude, max_retries=7, timeout=9.0, default_headers={"x-mine": "yes"})
    client = checkrein.wrap(plain, books.engine)
    assert isinstance(client, anthropic.Anthropic)
    assert (client.api_key, client.max_retries, client.timeout) == ("sk-ant-secret", 7, 9.0)
    client.messages.create(**ASKED)
    sent = claude.requests[0].headers
    assert sent["x-mine"] == "yes"
    assert "sk-ant-secret" in (sent.get("Authorization") or sent["X-Api-Key"])
    assert claude.requests[0].body == ASKED


def test_wrapped_again_it_is_held_once_by_the_engine_given_last(books: Books, claude: FakeAnthropic) -> None:
    first = checkrein.wrap(made(claude), books.engine)
    before = books.engine
    books.limit("1 usd")
    checkrein.wrap(first, books.engine).messages.create(**ASKED)
    assert (books.spent, books.held) == (COST, 0)
    assert before.list("meter") == []


def test_all_clients_are_held_until_that_is_undone(books: Books, claude: FakeAnthropic) -> None:
    old = made(claude)
    checkrein.instrument("anthropic", engine=books.engine)
    try:
        old.messages.create(**ASKED)
        with made(claude).messages.stream(**ASKED) as stream:
            stream.until_done()
        asyncio.run(acreated(amade(claude)))
        assert books.spent == 3 * COST
        # A client that is wrapped as well is held once.
        checkrein.wrap(made(claude), books.engine).messages.create(**ASKED)
        assert books.spent == 4 * COST
    finally:
        checkrein.uninstrument("anthropic")
    old.messages.create(**ASKED)
    assert books.spent == 4 * COST


def test_each_attempt_has_a_hold_of_its_own(client: Client, books: Books, claude: FakeAnthropic) -> None:
    claude.then(refusal(429, "rate_limit_error"), refusal(529, "overloaded_error"))
    client.messages.create(**ASKED)
    # Neither of them was taken up.
    assert (books.spent, books.held, len(claude.requests)) == (COST, 0, 3)
    claude.then(refusal(500))
    client.messages.create(**ASKED)
    # What became of that one nobody knows.
    assert books.spent == 2 * COST
    assert Decimal("0.002") < books.held < Decimal("0.02")
    assert len(claude.requests) == 5


def test_a_retry_that_does_not_fit_any_more_is_refused(books: Books, claude: FakeAnthropic) -> None:
    books.limit("0.01 usd")
    client = checkrein.wrap(made(claude), books.engine)
    claude.then(refusal(500))
    with pytest.raises(checkrein.BudgetExceeded):
        client.messages.create(**ASKED)
    assert len(claude.requests) == 1


def test_nobody_there_costs_nothing(books: Books, claude: FakeAnthropic) -> None:
    import socket

    with socket.socket() as taken:
        # Bound and not listening: whoever connects is refused.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = anthropic.Anthropic(api_key="k", base_url=url, max_retries=0)
        with pytest.raises(anthropic.APIConnectionError):
            checkrein.wrap(client, books.engine).messages.create(**ASKED)
    assert (books.spent, books.held) == (0, 0)


def test_a_bad_request_costs_nothing(client: Client, books: Books, claude: FakeAnthropic) -> None:
    claude.then(refusal(400, "invalid_request_error"))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(**ASKED)
    assert (books.spent, books.held) == (0, 0)


def test_an_unknown_model_is_refused(client: Client, claude: FakeAnthropic) -> None:
    with pytest.raises(checkrein.BudgetExceeded, match="price") as refused:
        client.messages.create(**{**ASKED, "model": "claude-unheard-of"})
    assert refused.value.code == "unknown_price"
    assert claude.requests == []


def test_the_maximum_that_was_held_for_is_sent(client: Client, books: Books, claude: FakeAnthropic) -> None:
    asked = {"model": MODEL, "messages": SAID}
    client.post("/v1/messages", body=asked, cast_to=object)
    assert claude.requests[0].body == {**asked, "max_tokens": 4096}
    assert books.spent == COST


def test_texts_of_a_prompt_are_in_no_refusal(books: Books, claude: FakeAnthropic) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(made(claude), books.engine)
    secret = "the-word-nobody-may-see"
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        client.messages.create(
            **{**ASKED, "messages": [{"role": "user", "content": secret}], "system": secret}
        )
    error = refused.value
    assert secret not in f"{error}{error!r}{error.to_prompt()}{error.decision.to_dict()}{error.__context__}"


def test_a_body_of_bytes_is_read_too(client: Client, books: Books, claude: FakeAnthropic) -> None:
    if "content" not in inspect.signature(client.post).parameters:
        pytest.skip("this version of anthropic sends no bytes")
    sent = json.dumps(ASKED).encode()
    client.post("/v1/messages", content=sent, cast_to=object)
    assert claude.requests[0].body == ASKED
    assert (books.spent, books.held) == (COST, 0)


@pytest.mark.parametrize("streams", [False, True])
def test_an_outcome_that_cannot_be_recorded_carries_the_message(
    streams: bool, client: Client, claude: FakeAnthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object, response: object) -> None:
        raise checkrein.OutcomeNotRecorded("the disk is full", "store_error", response)

    monkeypatch.setattr(checkrein.ModelCall, "settle", gone)
    with pytest.raises(checkrein.OutcomeNotRecorded) as told:
        list(client.messages.create(**ASKED, stream=streams))
    assert told.value.result["usage"]["output_tokens"] == 40
    assert told.value.result["id"] == "msg_0001"
    assert streams or told.value.result["content"][0]["text"] == "Hello there"
    assert len(claude.requests) == 1


def test_a_message_is_charged_once(client: Client, books: Books) -> None:
    said = client.messages.create(**ASKED)
    assert books.engine.record_usage(said) is None
    with client.messages.stream(**{**ASKED, "max_tokens": 90}) as stream:
        assert books.engine.record_usage(stream.get_final_message()) is None
    assert (books.spent, books.held) == (2 * COST, 0)


def test_a_thousand_clients_leave_nothing_behind(books: Books, claude: FakeAnthropic) -> None:
    def count() -> int:
        gc.collect()
        return sum(
            type(one).__name__ in ("GateMiddleware", "Attempt", "Anthropic") for one in gc.get_objects()
        )

    plain = made(claude)
    checkrein.wrap(plain, books.engine).messages.create(**ASKED)
    before = count()
    for _ in range(1_000):
        checkrein.wrap(plain, books.engine).with_options(timeout=3)
    for _ in range(20):
        checkrein.wrap(plain, books.engine).messages.create(**ASKED)
    assert count() <= before


def test_vertex_ai_is_held_and_priced_as_its_own(claude: FakeAnthropic) -> None:
    where = {"region": "us-east5", "project_id": "p", "access_token": "t", "base_url": f"{claude.url}/v1"}
    client = checkrein.wrap(anthropic.AnthropicVertex(**where, timeout=3))
    claude.then(Reply(message()))
    with checkrein.run(budget="$1") as run:
        client.with_options(timeout=5).messages.create(**{**ASKED, "model": "claude-opus-4-6"})
    assert claude.requests[0].path.endswith("/publishers/anthropic/models/claude-opus-4-6:rawPredict")
    assert (run.spent.usd, run.held.usd) == (COST, 0)
    with checkrein.run(budget="$0.0001"), pytest.raises(checkrein.BudgetExceeded):
        client.messages.create(**{**ASKED, "model": "claude-opus-4-6"})
    assert len(claude.requests) == 1


@of_middleware
def test_each_model_that_the_sdk_falls_back_to_is_a_call_of_its_own(
    books: Books, claude: FakeAnthropic
) -> None:
    falls_back = anthropic.BetaRefusalFallbackMiddleware([{"model": "claude-haiku-4-5"}])
    client = checkrein.wrap(made(claude, middleware=[falls_back]), books.engine)
    declined = {**message("no", stop_reason="refusal"), "stop_details": {"type": "refusal"}}
    claude.then(Reply(declined), Reply(message("yes", model="claude-haiku-4-5")))
    said = client.beta.messages.create(**ASKED)
    assert said.content[-1].text == "yes"
    assert [body["model"] for body in claude.messages()] == [MODEL, "claude-haiku-4-5"]
    # Each at the price of the model that was asked.
    assert (books.spent, books.held) == (COST + COST / 5, 0)


@of_middleware
def test_who_uses_the_client_that_was_wrapped_is_told_once(
    books: Books, claude: FakeAnthropic, caplog: pytest.LogCaptureFixture
) -> None:
    plain = anthropic.Anthropic(api_key="k", base_url=claude.url, max_retries=0)
    wrapped = checkrein.wrap(plain, checkrein.Engine())
    asked = {"model": "claude-opus-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    plain.messages.create(**asked)
    assert caplog.text == ""
    with books.engine.run(budget="$1") as run:
        wrapped.messages.create(**asked)
        assert caplog.text == ""
        plain.messages.create(**asked)
        plain.messages.create(**asked)
    assert caplog.text.count("use what `checkrein.wrap` returned") == 1
    assert (run.spent.calls, len(claude.requests)) == (1, 4)
