"""Whatever a provider answers, or does not: a limit that was given holds, and what may have been used is counted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from actguard_kit import FakeProvider, Reply

from checkrein import actguard
from checkrein.actguard.core.budget_context import get_budget_context
from checkrein.actguard.exceptions import BudgetExceededError

openai = pytest.importorskip("openai")
genai = pytest.importorskip("google.genai")

import fake_google  # noqa: E402
import fake_openai  # noqa: E402

MODEL = fake_openai.MODEL
SAID: Any = [{"role": "user", "content": "hi"}]
TOKENS = 1_400
OUTPUT = 4_096
"""What is held where a request names no maximum."""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with fake_openai.fake_openai() as fake:
        yield fake


@pytest.fixture
def ai(provider: FakeProvider) -> Iterator[Any]:
    with openai.OpenAI(api_key="sk-secret", base_url=f"{provider.url}/v1", max_retries=0) as made:
        yield made


def guard(**limits: Any) -> actguard.BudgetGuard:
    return actguard.BudgetGuard(user_id="u", **limits)


def ask(ai: Any, **more: Any) -> Any:
    return ai.chat.completions.create(**{"model": MODEL, "messages": SAID, **more})


def until_refused(call: Callable[[], Any]) -> list[Any]:
    """Return what twenty calls have brought at the most until the budget refused one."""
    brought = []
    try:
        for _ in range(20):
            brought.append(call())
    except BudgetExceededError:
        return brought
    pytest.fail("nothing was refused")


def held() -> int:
    context = get_budget_context()
    assert context is not None
    assert context.active_scope is not None
    return context.active_scope.held.tokens


def test_streams_that_one_thread_opens_end_at_the_limit(ai: Any, provider: FakeProvider) -> None:
    with guard(token_limit=5_000) as budget:
        streams = until_refused(lambda: ask(ai, stream=True))
        assert (len(provider.requests), held()) == (2, 5_000)
        for stream in streams:
            list(stream)
        assert (budget.tokens_used, held()) == (2 * TOKENS, 0)
        ask(ai)


def test_an_answer_without_a_report_counts_what_was_held(ai: Any, provider: FakeProvider) -> None:
    with guard(token_limit=5_000) as budget:
        provider.then(Reply(fake_openai.completion(usage=None)))
        ask(ai, max_tokens=700)
        assert 700 < budget.tokens_used < 800
        for _ in range(3):
            provider.then(Reply(fake_openai.completion(usage=None)))
        until_refused(lambda: ask(ai))
    assert budget.tokens_used == 5_000


def test_without_a_limit_nothing_is_held_and_nothing_guessed(ai: Any, provider: FakeProvider) -> None:
    provider.then(Reply(fake_openai.completion(usage=None)), Reply({}, status=500))
    with guard() as budget:
        ask(ai)
        with pytest.raises(openai.InternalServerError):
            ask(ai)
    assert budget.tokens_used == 0


def test_a_background_response_holds_until_it_is_looked_up(ai: Any, provider: FakeProvider) -> None:
    with guard(token_limit=100_000) as budget:
        provider.then(Reply(fake_openai.response(status="queued", id="resp_2")))
        ai.responses.create(model=MODEL, input="hi", background=True)
        assert budget.tokens_used == 0
        assert held() > OUTPUT
        provider.then(Reply(fake_openai.response(status="in_progress", id="resp_2", usage=None)))
        ai.responses.retrieve("resp_2")
        assert held() > OUTPUT
        provider.then(Reply(fake_openai.response(id="resp_2")))
        ai.responses.retrieve("resp_2")
        assert (budget.tokens_used, held()) == (TOKENS, 0)


def test_background_responses_that_nobody_looks_up_are_counted_at_the_end(
    ai: Any, provider: FakeProvider
) -> None:
    with guard(token_limit=5_000) as budget:
        for number in range(20):
            provider.then(Reply(fake_openai.response(status="queued", id=f"resp_{number}")))
        until_refused(lambda: ai.responses.create(model=MODEL, input="hi", background=True))
        assert len(provider.requests) == 2
    assert budget.tokens_used == 5_000


def test_a_model_that_the_book_does_not_have_costs_what_the_one_asked_for_does(
    ai: Any, provider: FakeProvider
) -> None:
    for _ in range(40):
        provider.then(Reply(fake_openai.completion(model="gpt-5.4-nano-2027-01-01-x")))
    with guard(usd_limit=0.002) as budget:
        until_refused(lambda: ask(ai))
    assert len(provider.requests) == 3
    assert budget.usd_used == pytest.approx(3 * float(fake_openai.COST))


@pytest.mark.parametrize(
    "reply",
    [Reply(drops=True), Reply({}, status=500), Reply({}, status=408), Reply({}, status=503)],
    ids=["lost", "500", "408", "503"],
)
def test_a_call_whose_end_nobody_knows_counts_what_was_held(
    ai: Any, provider: FakeProvider, reply: Reply
) -> None:
    with guard(token_limit=100_000, usd_limit=5) as budget:
        provider.then(reply)
        with pytest.raises(openai.APIError):
            ask(ai, max_tokens=1_000)
        assert held() == 0
        assert 1_000 < budget.tokens_used < 1_100
        assert budget.usd_used > 0.00125


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429])
def test_a_call_that_was_not_taken_counts_nothing(ai: Any, provider: FakeProvider, status: int) -> None:
    with guard(token_limit=5_000) as budget:
        provider.then(Reply({"error": {"message": "no"}}, status=status))
        with pytest.raises(openai.APIStatusError):
            ask(ai)
        assert (budget.tokens_used, held()) == (0, 0)


def test_a_call_that_never_left_counts_nothing() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with (
            openai.OpenAI(api_key="k", base_url=url, max_retries=0) as ai,
            guard(token_limit=5_000) as budget,
        ):
            with pytest.raises(openai.APIConnectionError):
                ask(ai)
            assert (budget.tokens_used, held()) == (0, 0)


def test_google_knows_the_same_ends() -> None:
    with fake_google.FakeGoogle() as fake:
        ai = genai.Client(api_key="k", http_options={"base_url": fake.url})
        with guard(token_limit=5_000) as budget:
            fake.then(Reply({"error": {"code": 400, "message": "no", "status": "INVALID"}}, status=400))
            with pytest.raises(genai.errors.ClientError):
                ai.models.generate_content(model="gemini-2.5-flash", contents="hi")
            assert budget.tokens_used == 0
            fake.then(Reply({"error": {"code": 500, "message": "no", "status": "INTERNAL"}}, status=500))
            with pytest.raises(genai.errors.ServerError):
                ai.models.generate_content(model="gemini-2.5-flash", contents="hi")
            assert budget.tokens_used > OUTPUT
            more = {"extra_body": {"generationConfig": {"maxOutputTokens": 100_000}}}
            with pytest.raises(BudgetExceededError):
                ai.models.generate_content(
                    model="gemini-2.5-flash",
                    contents="hi",
                    config={"max_output_tokens": 5, "http_options": more},
                )
        assert len(fake.requests) == 2


def test_a_request_is_read_as_it_is_sent(ai: Any, provider: FakeProvider) -> None:
    larger = {"max_tokens": 100_000, "model": "gpt-5.4-pro"}
    with guard(usd_limit=0.01), pytest.raises(BudgetExceededError):
        ask(ai, max_tokens=10, extra_body=larger)
    with guard(token_limit=10_000), pytest.raises(BudgetExceededError):
        ask(ai, max_tokens=10, extra_body={"max_completion_tokens": 100_000})
    with guard(token_limit=10_000), pytest.raises(BudgetExceededError):
        ask(ai, max_tokens=10, extra_body={"n": 2_000})
    assert provider.requests == []
    with guard(token_limit=10_000) as budget:
        list(ask(ai, stream=True, extra_body={"stream_options": {"include_usage": False}}))
    assert provider.requests[0].body["stream_options"] == {"include_usage": True}
    assert budget.tokens_used == TOKENS


@pytest.mark.parametrize(
    ("prompt", "more", "fits"),
    [
        (["a"] * 50, {}, False),
        ([[1, 2]] * 50, {}, False),
        ("a", {"best_of": 50}, False),
        ("a", {}, True),
        ([1, 2, 3], {}, True),
    ],
)
def test_each_prompt_of_a_list_is_answered(
    ai: Any, provider: FakeProvider, prompt: Any, more: Any, fits: bool
) -> None:
    provider.then(Reply(fake_openai.completion(object="text_completion", choices=[])))
    with guard(token_limit=600):
        if fits:
            ai.completions.create(model="davinci-002", prompt=prompt, max_tokens=100, **more)
        else:
            with pytest.raises(BudgetExceededError):
                ai.completions.create(model="davinci-002", prompt=prompt, max_tokens=100, **more)
    assert len(provider.requests) == (1 if fits else 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_report_of_nothing_is_none(ai: Any, provider: FakeProvider, stream: bool) -> None:
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    if stream:
        provider.then(Reply(events=fake_openai.chunks("word" * 50, usage=nothing)))
    else:
        provider.then(Reply(fake_openai.completion("word" * 50, usage=nothing)))
    with guard(token_limit=100_000) as budget:
        reply = ask(ai, stream=stream)
        if stream:
            list(reply)
        assert budget.tokens_used >= 50


def test_streams_left_open_count_against_later_guards_of_the_run(ai: Any, provider: FakeProvider) -> None:
    client = actguard.Client(event_mode="off")
    with client.run():
        with client.budget_guard(token_limit=5_000):
            streams = until_refused(lambda: ask(ai, stream=True))
        with client.budget_guard(token_limit=5_000), pytest.raises(BudgetExceededError):
            ask(ai)
    assert len(provider.requests) == len(streams) == 2
