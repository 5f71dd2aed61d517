"""What the SDK of openai sends again: a hold for each attempt, given back, charged or left in doubt by its end."""

from __future__ import annotations

import socket
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL, USAGE, chunks, completion
from fakes import FakeProvider, Reply
from openai_kit import SAID, _impatient, aclient, client, is_hold, openai

import checkrein

__all__ = ["_impatient", "aclient", "client"]

PAID = Decimal(COST)


def create(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=SAID, **more)


@pytest.mark.parametrize(
    ("first", "is_charged"),
    [
        (Reply(status=429, body={"error": {"message": "slow down"}}), False),
        (Reply(status=409, body={}), False),
        (Reply(status=408, body={}), True),
        (Reply(status=500, body={}), True),
        (Reply(status=503, body={}), True),
        (Reply(drops=True), True),
        (Reply(hangs=True), True),
    ],
    ids=["429", "409", "408", "500", "503", "connection lost", "timeout"],
)
def test_each_attempt_has_a_hold_of_its_own(
    first: Reply, is_charged: bool, client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(first)
    create(client, timeout=2 if first.hangs else 30)
    assert len(fake.requests) == 2
    assert books.spent == PAID
    assert is_hold(books.held) if is_charged else books.held == 0


def test_all_attempts_of_a_call_are_one_call_to_who_listens(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    heard: list[checkrein.Event] = []
    books.engine.on_event(heard.append)
    fake.then(Reply(status=429, body={}), Reply(status=500, body={}))
    create(client)
    create(client)
    held = [event for event in heard if event.name.startswith("hold.")]
    taken = "hold.taken"
    ends = ["hold.released", "hold.in_doubt", "hold.settled"]
    assert [event.name for event in held] == [taken, ends[0], taken, ends[1], taken, ends[2], taken, ends[2]]
    assert len({event.call for event in held[:6]}) == 1
    assert len({event.call for event in held}) == 2


async def test_it_is_the_same_on_an_event_loop(aclient: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(status=429, body={}), Reply(drops=True))
    await create(aclient)
    assert len(fake.requests) == 3
    assert books.spent == PAID
    assert is_hold(books.held)


def test_a_refusal_before_a_retry_is_ours_and_nothing_more_is_sent(books: Books, fake: FakeProvider) -> None:
    books.limit("0.006 usd")
    client = checkrein.wrap(openai.OpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1"), books.engine)
    fake.then(Reply(status=500, body={}))
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        create(client.with_options(max_retries=5))
    assert refused.value.decision.reasons[0].detail["held"] == str(books.held)
    assert refused.value.__cause__ is None
    assert len(fake.requests) == 1


async def test_a_refusal_before_a_retry_on_an_event_loop(books: Books, fake: FakeProvider) -> None:
    books.limit("0.006 usd")
    client = checkrein.wrap(openai.AsyncOpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1"), books.engine)
    fake.then(Reply(status=500, body={}))
    with pytest.raises(checkrein.BudgetExceeded):
        await create(client.with_options(max_retries=5))
    assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
def test_what_a_provider_does_not_take_costs_nothing(
    status: int, client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(status=status, body={"error": {"message": "no"}}))
    with pytest.raises(openai.APIStatusError):
        create(client.with_options(max_retries=0))
    assert (books.spent, books.held) == (0, 0)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_streamed_call_that_is_answered_with_an_error(
    status: int, client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(status=status, body={"error": {"message": "no"}}))
    with pytest.raises(openai.APIStatusError):
        create(client.with_options(max_retries=0), stream=True)
    assert books.spent == 0
    assert is_hold(books.held) if status == 500 else books.held == 0


def test_a_refused_connection_costs_nothing(books: Books) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = checkrein.wrap(openai.OpenAI(api_key="x", base_url=f"http://127.0.0.1:{port}"), books.engine)
    with pytest.raises(openai.APIConnectionError):
        create(client)
    assert (books.spent, books.held) == (0, 0)


def test_a_call_that_is_never_sent_gives_its_hold_back(client: Any, books: Books, fake: FakeProvider) -> None:
    with pytest.raises(TypeError):
        create(client, extra_body={"object": object()})
    client.close()
    with pytest.raises(openai.APIConnectionError if openai.__version__ < "3" else RuntimeError):
        create(client.with_options(max_retries=0))
    assert (books.spent, books.held, fake.requests) == (0, 0, [])


def test_a_call_in_doubt_is_charged_when_its_lease_ends(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(status=500, body={}))
    with pytest.raises(openai.InternalServerError):
        create(client.with_options(max_retries=0))
    held = books.held
    books.clock.advance(3_601)
    books.engine.collect()
    assert (books.spent, books.held) == (held, 0)


def test_the_maximum_of_the_caller_stands_and_another_is_sent(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    create(client)
    create(client, max_completion_tokens=7)
    create(client, max_tokens=8)
    create(client, extra_body={"max_completion_tokens": 9})
    client.responses.create(model=MODEL, input="hi")
    client.responses.create(model=MODEL, input="hi", max_output_tokens=16)
    client.completions.create(model=MODEL, prompt="hi")
    client.embeddings.create(model="text-embedding-3-small", input="hi")
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    said = [{name: of.body[name] for name in names if name in of.body} for of in fake.requests]
    assert said == [
        {"max_completion_tokens": 4_096},
        {"max_completion_tokens": 7},
        {"max_tokens": 8},
        {"max_completion_tokens": 9},
        {"max_output_tokens": 4_096},
        {"max_output_tokens": 16},
        {"max_tokens": 4_096},
        {},
    ]


@pytest.mark.parametrize(
    ("usage", "is_full"),
    [
        (None, True),
        ({}, True),
        ({"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 4}, True),
        ({"prompt_tokens": "many", "completion_tokens": 5}, True),
        ({"prompt_tokens": 10, "completion_tokens": 2.5, "total_tokens": 12}, True),
        ({"prompt_tokens": 2**70, "completion_tokens": 5, "total_tokens": 5}, True),
        ({"prompt_tokens": 1_000, "completion_tokens": 400, "total_tokens": 1_400}, False),
    ],
    ids=["absent", "empty", "negative", "text", "a fraction", "huge", "good"],
)
def test_usage_that_cannot_be_believed_is_charged_at_the_full_hold(
    usage: Any, is_full: bool, client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(completion(usage=usage)))
    create(client)
    assert is_hold(books.spent) if is_full else books.spent == PAID
    assert books.held == 0


def test_usage_beyond_the_hold_is_charged_all_the_same(client: Any, books: Books, fake: FakeProvider) -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000, "total_tokens": 1_100_000}
    fake.then(Reply(completion(usage=usage)))
    create(client)
    assert books.spent == Decimal("0.325")


def test_another_model_than_asked_is_charged_at_its_price(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(completion(model="gpt-5.4")))
    create(client)
    assert books.spent > PAID


def test_a_body_that_is_no_json_is_charged_at_the_full_hold(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(b"<html>a proxy</html>"))
    client.chat.completions.with_raw_response.create(model=MODEL, messages=SAID)
    assert is_hold(books.spent)


def test_an_answer_is_asked_for_more_than_once(client: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(completion(usage=None)))
    create(client, n=3)
    assert is_hold(books.spent, 3 * 4_096)


def test_reads_are_never_refused_and_cost_nothing(books: Books, fake: FakeProvider) -> None:
    books.limit("0.0001 usd")
    client = checkrein.wrap(openai.OpenAI(api_key="x", base_url=f"{fake.url}/v1"), books.engine)
    with pytest.raises(checkrein.BudgetExceeded):
        create(client)
    client.responses.retrieve("resp_9")
    client.responses.cancel("resp_9")
    client.responses.delete("resp_9")
    list(client.models.list())
    assert len(fake.requests) == 4
    assert (books.spent, books.held) == (0, 0)


def test_an_unknown_model_is_refused(client: Any, fake: FakeProvider) -> None:
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        client.chat.completions.create(model="llama-of-my-own", messages=SAID)
    assert refused.value.code == "unknown_price"
    assert fake.requests == []


def test_what_is_no_text_is_held_at_an_estimate_or_refused(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    counted = {"input_tokens": 50, "output_tokens": 4_160, "total_tokens": 4_210}
    fake.then(Reply({"created": 1, "data": [{"b64_json": "aGk="}], "usage": counted}))
    client.images.generate(model="gpt-image-1", prompt="a rein")
    assert books.held == 0
    assert Decimal("0.1") < books.spent < Decimal("0.4")
    spent = books.spent
    with pytest.raises(checkrein.BudgetExceeded, match="price"):
        client.images.generate(model="dall-e-9", prompt="a rein")
    with pytest.raises(checkrein.InvalidAction, match="refers to what it does not contain"):
        client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"RIFF"))
    with pytest.raises(checkrein.Denied, match="refers to what it does not contain"):
        client.batches.create(completion_window="24h", endpoint="/v1/responses", input_file_id="file-1")
    assert (books.spent, books.held, len(fake.requests)) == (spent, 0, 1)


def test_a_decision_has_a_price_of_its_own(client: Any, books: Books, fake: FakeProvider) -> None:
    usage = {"input_tokens": 1_000, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0}
    reply = {"id": "dec_1", "object": "decision", "model": "gpt-6-luna", "answers": []}
    fake.then(Reply({**reply, "usage": {**usage, "total_tokens": 1_000}}))
    body = {"model": "gpt-6-luna", "input": "hi", "questions": []}
    client.post("/decisions", body=body, cast_to=object)
    assert (books.spent, books.held) == (Decimal("0.0001"), 0)


def test_a_request_without_a_model_has_no_price(client: Any, fake: FakeProvider) -> None:
    with pytest.raises(checkrein.Denied) as refused:
        client.responses.create(input="hi", prompt={"id": "pmpt_1"}, model=None)
    assert {reason.code for reason in refused.value.decision.reasons} <= {"unknown_price", "invalid_action"}
    assert fake.requests == []


@pytest.mark.parametrize(("own", "waits"), [(None, 0.2), (0.1, 0.1), (9, 0.2)])
def test_the_policy_says_how_long_to_wait(
    own: float | None, waits: float, books: Books, fake: FakeProvider
) -> None:
    books.limit("1 usd", more='timeout = "200ms"')
    client = openai.OpenAI(api_key="x", base_url=f"{fake.url}/v1", max_retries=0)
    fake.then(Reply(hangs=True))
    with pytest.raises(openai.APITimeoutError) as late:
        create(checkrein.wrap(client, books.engine), **({} if own is None else {"timeout": own}))
    assert late.value.request.extensions["timeout"]["read"] == waits
    assert is_hold(books.held)


@pytest.mark.parametrize("streams", [False, True])
def test_what_cannot_be_recorded_is_said_and_not_asked_again(
    streams: bool, client: Any, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object, response: object) -> None:
        raise checkrein.OutcomeNotRecorded("the disk is full", "store_error", response)

    monkeypatch.setattr(checkrein.ModelCall, "settle", gone)
    with pytest.raises(checkrein.OutcomeNotRecorded) as told:
        list(create(client, stream=streams))
    assert told.value.result["usage"] == USAGE
    assert len(fake.requests) == 1


def test_a_reply_of_another_kind_than_asked_is_read_all_the_same(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=chunks("hello")), Reply(completion()))
    client.chat.completions.with_raw_response.create(model=MODEL, messages=SAID, extra_body={"stream": True})
    assert (books.spent, books.held) == (PAID, 0)
    list(create(client, stream=True))
    assert (books.spent, books.held) == (2 * PAID, 0)


def test_what_is_long_and_no_json_is_not_kept(client: Any, books: Books, fake: FakeProvider) -> None:
    sound = {"content-type": "audio/mpeg"}
    fake.then(Reply(b"x" * 1_000_000, headers=sound))
    speech = client.audio.speech.with_streaming_response
    with speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hi") as reply:
        assert len(reply.read()) == 1_000_000
    assert books.held == 0
    assert books.spent > 0


def test_azure_is_a_client_like_the_others(books: Books, fake: FakeProvider) -> None:
    client = openai.AzureOpenAI(api_key="x", api_version="2026-01-01", azure_endpoint=fake.url)
    fake.then(Reply(completion()))
    create(checkrein.wrap(client, books.engine))
    assert fake.paths()[0].startswith(f"/openai/deployments/{MODEL}/chat/completions")
    assert (books.spent, books.held) == (PAID, 0)


@pytest.mark.parametrize(("most", "at_most"), [(None, None), (3, {"web_searches": 3})])
def test_tools_that_the_provider_runs_are_bounded_where_the_request_says_so(
    most: int | None, at_most: Any, client: Any, books: Books, fake: FakeProvider
) -> None:
    tools = [{"type": "web_search"}]
    more = {} if most is None else {"max_tool_calls": most}
    with pytest.raises(checkrein.InvalidAction, match="refers to what it does not contain"):
        client.responses.create(model=MODEL, input="hi", tools=tools, **more)
    books.limit("1 usd", more="reserve_unseen = 1000")
    checkrein.wrap(client, books.engine)
    asked: list[Any] = []
    ask = books.engine.model_call

    def listen(*args: Any, **named: Any) -> Any:
        asked.append(named["at_most"])
        return ask(*args, **named)

    books.engine.model_call = listen  # type: ignore[method-assign]
    with suppress(checkrein.Denied):
        client.responses.create(model=MODEL, input="hi", tools=tools, **more)
    assert asked == [at_most]
    assert books.held == 0


def test_a_refused_retry_says_what_made_the_sdk_try_again(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    with books.engine.run(calls=1):
        fake.then(Reply({"error": {"message": "a secret"}}, status=500))
        with pytest.raises(checkrein.BudgetExceeded) as refused:
            create(client)
    assert refused.value.__notes__ == ["attempt 2 of the call, after HTTP 500"]
    assert len(fake.requests) == 1


async def test_a_refused_retry_says_so_on_an_event_loop(
    aclient: Any, books: Books, fake: FakeProvider
) -> None:
    with books.engine.run(calls=1):
        fake.then(Reply(drops=True))
        with pytest.raises(checkrein.BudgetExceeded) as refused:
            await aclient.chat.completions.create(model=MODEL, messages=SAID)
    assert refused.value.__notes__[0].startswith("attempt 2 of the call, after ")
