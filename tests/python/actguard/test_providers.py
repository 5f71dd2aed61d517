"""Calls of the real SDKs are held before they are made and counted once, whichever way their replies are read."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actguard_kit import FakeProvider, Gateway, Reply, gateway

import checkrein
from checkrein import actguard
from checkrein.actguard.core.budget_context import get_budget_context
from checkrein.actguard.exceptions import BudgetExceededError

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")

import fake_anthropic  # noqa: E402
import fake_google  # noqa: E402
import fake_openai  # noqa: E402

__all__ = ["gateway"]

SAID: Any = [{"role": "user", "content": "hi"}]
MODEL = fake_openai.MODEL
TOKENS = 1_400
"""What a chat completion of the fake uses."""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_openai.fake_openai() as fake:
        yield fake


@pytest.fixture
def ai(provider: FakeProvider) -> Iterator[Any]:
    with openai.OpenAI(api_key="sk-secret", base_url=f"{provider.url}/v1", max_retries=0) as made:
        yield made


@pytest.fixture
async def aai(provider: FakeProvider) -> Any:
    async with openai.AsyncOpenAI(api_key="sk-secret", base_url=f"{provider.url}/v1", max_retries=0) as made:
        yield made


def guard(**limits: Any) -> actguard.BudgetGuard:
    return actguard.BudgetGuard(user_id="u", **{"token_limit": 1_000_000, **limits})


def held() -> int:
    context = get_budget_context()
    assert context is not None
    assert context.active_scope is not None
    return context.active_scope.held.tokens


LONG: Any = [{"role": "user", "content": "word " * 400}]
"""As many tokens as the fake says at the most, and no fewer bytes than tokens."""


def ask(ai: Any, **more: Any) -> Any:
    return ai.chat.completions.create(**{"model": MODEL, "messages": SAID, **more})


def test_the_streaming_sample_runs_as_printed(ai: Any, provider: FakeProvider) -> None:
    text = ""
    with guard() as budget:
        stream = ask(ai, stream=True)
        for chunk in stream:
            if chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
    assert (text, budget.tokens_used) == ("hello", TOKENS)
    assert budget.usd_used == pytest.approx(0.0007)
    assert provider.requests[0].body["stream_options"] == {"include_usage": True}


def test_who_asks_for_the_usage_gets_it(ai: Any) -> None:
    with guard() as budget:
        chunks = list(ask(ai, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.total_tokens == TOKENS
    assert budget.tokens_used == TOKENS


def test_who_does_not_want_the_usage_is_counted_all_the_same(ai: Any, provider: FakeProvider) -> None:
    with guard() as budget:
        chunks = list(ask(ai, stream=True, stream_options={"include_usage": False}))
    assert all(chunk.choices for chunk in chunks)
    assert provider.requests[0].body["stream_options"] == {"include_usage": True}
    assert budget.tokens_used == TOKENS


def test_streams_are_read_in_every_way(ai: Any) -> None:
    with guard() as budget:
        with ask(ai, stream=True) as stream:
            assert next(stream).choices[0].delta.content == "hel"
            assert [chunk.choices[0].delta.content for chunk in stream] == ["lo", None]
        assert stream.response.status_code == 200
        assert (budget.tokens_used, held()) == (TOKENS, 0)


@pytest.mark.parametrize("way", ["close", "with", "drop"])
def test_a_stream_that_is_left_early_counts_what_came(ai: Any, way: str) -> None:
    with guard() as budget:
        stream = ask(ai, stream=True)
        next(stream)
        assert held() > 0
        if way == "close":
            stream.close()
        elif way == "with":
            with stream:
                pass
        else:
            del stream
            gc.collect()
        assert held() == 0
    assert 0 < budget.tokens_used < 50


def test_a_stream_that_breaks_counts_what_came(ai: Any, provider: FakeProvider) -> None:
    provider.then(Reply(events=[fake_openai.chunk("a" * 400)], drops=True))
    with guard() as budget:
        with pytest.raises(openai.APIConnectionError):
            list(ask(ai, stream=True))
        assert held() == 0
    assert budget.tokens_used >= 100


def test_servers_that_count_in_every_piece_are_counted_once(ai: Any, provider: FakeProvider) -> None:
    def so_far(count: int) -> dict[str, int]:
        return {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}

    pieces = [fake_openai.chunk(text, usage=so_far(number)) for number, text in enumerate(("", "a", "b"))]
    last = fake_openai.chunk(None, usage=so_far(3))
    provider.then(Reply(events=[*pieces, last, "data: [DONE]\n\n"]))
    with guard() as budget:
        assert len(list(ask(ai, stream=True))) == 4
    assert budget.tokens_used == 13


async def test_asynchronous_calls_and_streams(aai: Any) -> None:
    async with guard() as budget:
        await ask(aai)
        stream = await ask(aai, stream=True)
        text = [chunk.choices[0].delta.content async for chunk in stream]
        assert text == ["hel", "lo", None]
        async with await ask(aai, stream=True) as stream:
            await anext(stream)
        assert held() == 0
    assert 2 * TOKENS < budget.tokens_used < 2 * TOKENS + 50


def test_responses_are_counted_once_however_often_they_are_looked_up(ai: Any, provider: FakeProvider) -> None:
    with guard() as budget:
        ai.responses.create(model=MODEL, input="hi")
        for _ in range(3):
            ai.responses.retrieve("resp_1")
        assert budget.tokens_used == TOKENS
        provider.then(Reply(fake_openai.response(status="queued", id="resp_2")))
        ai.responses.create(model=MODEL, input="hi", background=True)
        assert budget.tokens_used == TOKENS
        for _ in range(2):
            provider.then(Reply(fake_openai.response(id="resp_2")))
            ai.responses.retrieve("resp_2")
        assert budget.tokens_used == 2 * TOKENS
        provider.then(Reply(fake_openai.response(id="resp_of_somebody_else")))
        ai.responses.retrieve("resp_of_somebody_else")
        assert budget.tokens_used == 2 * TOKENS


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_streamed_responses_are_counted_however_they_end(
    ai: Any, provider: FakeProvider, status: str
) -> None:
    last = fake_openai.response(status=status)
    provider.then(Reply(events=fake_openai.events("hel", "lo", last=last)))
    with guard() as budget:
        list(ai.responses.create(model=MODEL, input="hi", stream=True))
    assert budget.tokens_used == TOKENS


def test_a_spent_budget_refuses_calls_and_nothing_else(ai: Any, provider: FakeProvider) -> None:
    with guard(token_limit=TOKENS):
        ask(ai)
        for refused in (lambda: ask(ai), lambda: ai.responses.create(model=MODEL, input="hi")):
            with pytest.raises(BudgetExceededError):
                refused()
        ai.models.list()
        ai.responses.retrieve("resp_1")
    assert provider.paths() == ["/v1/chat/completions", "/v1/models", "/v1/responses/resp_1"]


def test_an_answer_that_went_over_the_limit_is_not_thrown_away(ai: Any) -> None:
    with guard(token_limit=100) as budget:
        assert ask(ai).choices[0].message.content == "hello"
        assert budget.tokens_used == TOKENS
        with pytest.raises(BudgetExceededError):
            ask(ai)


def test_a_call_that_fails_gives_back_what_it_held(ai: Any, provider: FakeProvider) -> None:
    provider.then(Reply({"error": {"message": "no"}}, status=400))
    with guard() as budget:
        with pytest.raises(openai.BadRequestError):
            ask(ai)
        assert (held(), budget.tokens_used) == (0, 0)


def test_raw_and_streaming_responses_are_counted(ai: Any) -> None:
    with guard() as budget:
        raw = ai.chat.completions.with_raw_response.create(model=MODEL, messages=SAID)
        assert raw.parse().usage.total_tokens == TOKENS
        assert budget.tokens_used == TOKENS
        with ai.chat.completions.with_streaming_response.create(model=MODEL, messages=SAID) as response:
            assert held() > 0
            assert response.parse().usage.total_tokens == TOKENS
        assert (budget.tokens_used, held()) == (2 * TOKENS, 0)
        with ai.chat.completions.with_streaming_response.create(model=MODEL, messages=SAID) as response:
            for _ in response.iter_bytes():
                pass
        assert budget.tokens_used > 2 * TOKENS
        assert held() == 0
        raw = ai.chat.completions.with_raw_response.create(model=MODEL, messages=SAID, stream=True)
        before = budget.tokens_used
        assert [chunk.choices[0].delta.content for chunk in raw.parse()] == ["hel", "lo", None]
        assert budget.tokens_used == before + TOKENS


def test_embeddings_are_bounded_by_what_goes_in(ai: Any) -> None:
    with guard(token_limit=60) as budget:
        ai.embeddings.create(model="text-embedding-3-small", input="hi")
        assert budget.tokens_used == 8


@pytest.mark.parametrize("limits", [{"token_limit": 5 * TOKENS}, {"usd_limit": 0.0035, "token_limit": None}])
@pytest.mark.parametrize("most", [{"max_tokens": 400, "messages": LONG}, {}], ids=["bounded", "unbounded"])
def test_twenty_threads_under_a_limit_that_pays_for_five(
    ai: Any, provider: FakeProvider, limits: dict[str, Any], most: dict[str, Any]
) -> None:
    answers: list[Any] = []
    refused: list[BudgetExceededError] = []
    with guard(**limits) as budget:

        def work() -> None:
            try:
                answers.append(ask(ai, **most))
            except BudgetExceededError as error:
                refused.append(error)

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held() == 0
    assert (len(answers), len(provider.requests), len(refused)) == (5, 5, 15)
    assert budget.tokens_used == 5 * TOKENS


async def test_twenty_tasks_under_a_limit_that_pays_for_five(aai: Any, provider: FakeProvider) -> None:
    async with guard(token_limit=5 * TOKENS):
        done = await asyncio.gather(*(ask(aai) for _ in range(20)), return_exceptions=True)
    assert len(provider.requests) == 5
    assert sum(isinstance(one, BudgetExceededError) for one in done) == 15


def test_anthropic_counts_caches_whole_and_streamed() -> None:
    usage = {**fake_anthropic.USAGE, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 20}
    made = fake_anthropic.message(usage=usage)
    asked: dict[str, Any] = {"model": "claude-opus-5", "max_tokens": 100, "messages": SAID}
    with fake_anthropic.FakeAnthropic() as fake, guard() as budget:
        ai = anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0)
        fake.then(Reply(made))
        ai.messages.create(**asked)
        assert budget.tokens_used == 200 + 30 + 20 + 40
        fake.then(Reply(events=fake_anthropic.events_of(made)))
        assert list(ai.messages.create(stream=True, **asked))[-1].type == "message_stop"
        assert budget.tokens_used == 2 * 290
        fake.then(Reply(events=fake_anthropic.events_of(made)))
        with ai.messages.stream(**asked) as stream:
            assert stream.get_final_text() == "Hello there"
        assert budget.tokens_used == 3 * 290
        fake.then(Reply(made))
        assert ai.messages.with_raw_response.create(**asked).parse().id
        assert budget.tokens_used == 4 * 290
        assert held() == 0


def test_google_counts_thoughts_whole_and_streamed() -> None:
    usage = {
        "promptTokenCount": 200,
        "candidatesTokenCount": 40,
        "thoughtsTokenCount": 60,
        "totalTokenCount": 300,
    }
    made = fake_google.reply(usage=usage)
    with fake_google.FakeGoogle() as fake, guard() as budget:
        options = genai.types.HttpOptions(base_url=fake.url)
        ai = genai.Client(api_key="k", http_options=options)
        fake.then(Reply(made))
        ai.models.generate_content(model="gemini-3.8-flash", contents="hi")
        assert budget.tokens_used == 300
        fake.then(Reply(events=fake_google.chunks_of(made)))
        assert "".join(
            piece.text for piece in ai.models.generate_content_stream(model="gemini-3.8-flash", contents="hi")
        )
        assert budget.tokens_used == 600
        assert held() == 0


LATER = """
import sys
from checkrein import actguard
with actguard.BudgetGuard(user_id="u", token_limit=1_000_000) as guard:
    early = [name for name in ("openai", "anthropic", "google.genai") if name in sys.modules]
    import openai
    ai = openai.OpenAI(api_key="k", base_url=sys.argv[1])
    ai.chat.completions.create(model="gpt-5.4-nano", messages=[{"role": "user", "content": "hi"}])
print(early, guard.tokens_used)
"""


def test_a_guard_imports_no_sdk_and_counts_one_that_comes_later(provider: FakeProvider) -> None:
    ours = Path(checkrein.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LATER, f"{provider.url}/v1"],
        env={**os.environ, "PYTHONPATH": str(ours)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"[] {TOKENS}\n", "")


def test_outside_a_guard_nothing_is_counted_or_changed(ai: Any, provider: FakeProvider) -> None:
    with guard():
        pass
    assert ask(ai).usage.total_tokens == TOKENS
    list(ask(ai, stream=True))
    assert "stream_options" not in provider.requests[-1].body


def test_a_guard_counts_again_after_an_instrumentation_was_undone(ai: Any) -> None:
    with guard():
        pass
    from openai import _base_client

    ours = _base_client.SyncAPIClient.request
    try:
        _base_client.SyncAPIClient.request = ours.__wrapped__  # type: ignore[attr-defined]
        with guard() as budget:
            ask(ai)
        assert budget.tokens_used == TOKENS
    finally:
        _base_client.SyncAPIClient.request = ours


def test_calls_in_a_run_without_a_budget_are_told_once(ai: Any, gateway: Gateway) -> None:
    client = gateway.client(event_mode="verbose", flush_interval_ms=5)
    with client.run(user_id="alice", run_id="r1"):
        reply = ask(ai)
        list(ask(ai, stream=True))
        assert actguard.reporting.record_response_usage(reply, provider="openai")
        with client.budget_guard():
            ask(ai)
    client.close()
    told = [event for event in gateway.sent() if event["name"] == "usage"]
    assert len(told) == 2
    for event in told:
        assert (event["category"], event["run_id"], event["user_id"]) == ("llm", "r1", "alice")
        assert (event["provider"], event["model"]) == ("openai", MODEL)
        assert (event["input_tokens"], event["output_tokens"], event["usd_micros"]) == (1_000, 400, 700)


def test_one_hold_for_all_attempts_of_an_sdk(ai: Any, provider: FakeProvider) -> None:
    provider.then(
        Reply({}, status=500, headers={"retry-after-ms": "1"}),
        Reply({}, status=429, headers={"retry-after-ms": "1"}),
    )
    with guard() as budget:
        ask(ai.with_options(max_retries=2))
        assert (len(provider.requests), budget.tokens_used, held()) == (3, TOKENS, 0)


@pytest.mark.parametrize(
    ("usage", "least", "most"),
    [
        (None, 4_096, 4_400),
        ({"prompt_tokens": -5, "completion_tokens": 10, "total_tokens": 5}, 10, 10),
        ({"prompt_tokens": 10**15, "completion_tokens": 1, "total_tokens": 2}, 10**15 + 1, 10**15 + 1),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 700}, 7, 7),
    ],
)
def test_usage_that_is_none_or_cannot_be_true(
    ai: Any, provider: FakeProvider, usage: Any, least: int, most: int
) -> None:
    provider.then(Reply(fake_openai.completion("word" * 100, usage=usage)))
    with guard() as budget:
        ask(ai)
        assert least <= budget.tokens_used <= most
        assert held() == 0
