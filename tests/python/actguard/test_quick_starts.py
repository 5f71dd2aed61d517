"""The quick starts of the documents this drop-in has to satisfy, as programs: the real SDKs, fakes of the providers.

Each program is what a newcomer pastes, with `from checkrein import actguard` for its import.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import checkrein

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))

from fake_anthropic import FakeAnthropic
from fake_google import FakeGoogle
from fake_openai import answer
from fakes import FakeProvider, Reply, Request

pytest.importorskip("openai")

COST = 0.0007
"""What each call of the fake costs: 1,000 tokens of gpt-5.4-nano in, 400 out."""

LONG = "And then? " * 400
"""A prompt of the 1,000 tokens that the fake says it is."""

_numbers = itertools.count(1)


def numbered(request: Request) -> Reply:
    """Answer as the API does: no two responses have one id, for one that is seen twice is charged once."""
    reply, number = answer(request), f"chatcmpl-{next(_numbers)}"
    if reply.events is not None:
        events = [{**event, "id": number} if isinstance(event, dict) else event for event in reply.events]
        return Reply(events=events)
    return Reply({**reply.body, "id": number})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    """OpenAI's API on this machine, where a program without arguments finds it."""
    with FakeProvider(numbered) as made:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{made.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("ACTGUARD_CONFIG", "ACTGUARD_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        yield made


def play(program: str, **given: Any) -> dict[str, Any]:
    """Run a program; returns its variables."""
    namespace: dict[str, Any] = {"__name__": "__main__", **given}
    exec(compile(textwrap.dedent(program), "<quick start>", "exec"), namespace)
    return namespace


def test_the_headline_a_run_and_a_budget_of_tokens(fake: FakeProvider) -> None:
    left = play("""
        import openai
        from checkrein import actguard

        client = actguard.Client()
        llm = openai.OpenAI()

        with client.run(user_id="alice"):
            with client.budget_guard(token_limit=50_000) as guard:
                response = llm.chat.completions.create(
                    model="gpt-5.4-nano", messages=[{"role": "user", "content": "Summarise the report"}]
                )
        answer = response.choices[0].message.content
    """)
    assert left["answer"] == "hello"
    guard = left["guard"]
    assert (guard.tokens_used, guard.usd_used) == (1_400, pytest.approx(COST))
    assert (guard.token_limit, guard.user_id or "alice") == (50_000, "alice")
    assert len(fake.requests) == 1


def test_the_headline_stops_before_the_limit_is_passed(fake: FakeProvider) -> None:
    left = play(
        """
        import openai
        from checkrein import actguard

        client = actguard.Client()
        llm = openai.OpenAI()
        answers, refusal = [], None

        with client.run(user_id="alice"):
            try:
                with client.budget_guard(token_limit=50_000) as guard:
                    while True:
                        response = llm.chat.completions.create(
                            model="gpt-5.4-nano",
                            messages=[{"role": "user", "content": text}],
                            max_tokens=400,
                        )
                        answers.append(response.choices[0].message.content)
            except actguard.BudgetExceededError as error:
                refusal = error
        """,
        text=LONG,
    )
    guard, refusal = left["guard"], left["refusal"]
    assert 0 < guard.tokens_used == 1_400 * len(left["answers"]) <= 50_000
    assert len(fake.requests) == len(left["answers"]), "what was refused was never sent"
    assert (refusal.user_id, refusal.limit_type, refusal.code) == ("alice", "token", "budget.limit_exceeded")


def test_a_budget_alone_without_client_and_run(fake: FakeProvider) -> None:
    left = play("""
        import openai
        from checkrein.actguard import BudgetExceededError, BudgetGuard

        llm = openai.OpenAI()

        with BudgetGuard(user_id="alice", token_limit=10_000, usd_limit=0.05) as guard:
            response = llm.chat.completions.create(
                model="gpt-5.4-nano", messages=[{"role": "user", "content": "Hello"}], max_tokens=500
            )
        spent = f"{guard.tokens_used} tokens, ${guard.usd_used:.4f}"
    """)
    assert left["spent"] == "1400 tokens, $0.0007"
    assert fake.requests[0].body["max_tokens"] == 500


@pytest.mark.parametrize(
    ("limits", "kind"), [({"token_limit": 2_000}, "token"), ({"usd_limit": 0.0012}, "usd")], ids=str
)
def test_either_limit_of_it_stops(fake: FakeProvider, limits: dict[str, Any], kind: str) -> None:
    left = play(
        """
        import openai
        from checkrein.actguard import BudgetExceededError, BudgetGuard

        llm = openai.OpenAI()
        refusal = None

        def ask():
            return llm.chat.completions.create(
                model="gpt-5.4-nano", messages=[{"role": "user", "content": text}], max_tokens=500
            )

        try:
            with BudgetGuard(user_id="alice", **limits) as guard:
                ask()
                ask()
                ask()
        except BudgetExceededError as error:
            refusal = error
        """,
        limits=limits,
        text=LONG,
    )
    refusal, guard = left["refusal"], left["guard"]
    assert refusal is not None
    assert (refusal.limit_type, refusal.user_id) == (kind, "alice")
    assert guard.tokens_used == 1_400 * len(fake.requests) <= limits.get("token_limit", 2_800)
    assert guard.usd_used <= limits.get("usd_limit", 1)
    assert str(refusal).startswith(f"{'Token' if kind == 'token' else 'USD'} limit exceeded for user 'alice'")


def test_the_streaming_sample_as_it_is_printed(fake: FakeProvider) -> None:
    # Each chunk has a choice: that of the usage, which nobody asked for here, is not shown to the program.
    left = play("""
        import openai
        from checkrein import actguard

        client = actguard.Client()
        llm = openai.OpenAI()
        said = ""

        with client.run(user_id="alice"):
            with client.budget_guard(token_limit=50_000) as guard:
                stream = llm.chat.completions.create(
                    model="gpt-5.4-nano", messages=[{"role": "user", "content": "Tell me"}], stream=True
                )
                for chunk in stream:
                    said += chunk.choices[0].delta.content or ""
    """)
    assert left["said"] == "hello"
    assert (left["guard"].tokens_used, left["guard"].usd_used) == (1_400, pytest.approx(COST))
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}


def test_streams_that_ask_for_usage_get_it_and_early_ends_are_charged(fake: FakeProvider) -> None:
    left = play("""
        import openai
        from checkrein import actguard

        llm = openai.OpenAI()
        ask = dict(model="gpt-5.4-nano", messages=[{"role": "user", "content": "Tell me"}], stream=True)

        with actguard.BudgetGuard(user_id="alice", token_limit=50_000) as guard:
            with llm.chat.completions.create(**ask, stream_options={"include_usage": True}) as stream:
                usages = [chunk.usage for chunk in stream if chunk.usage]
            after_first = guard.tokens_used
            for chunk in llm.chat.completions.create(**ask, max_tokens=500):
                break
    """)
    assert [usage.total_tokens for usage in left["usages"]] == [1_400]
    assert left["after_first"] == 1_400
    assert left["guard"].tokens_used > 1_400, "a stream that nobody reads to its end is not free"


def test_one_budget_over_all_three_sdks(fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anthropic")
    pytest.importorskip("google.genai")
    with FakeAnthropic() as claude, FakeGoogle() as gemini:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gemini.url)
        monkeypatch.setenv("GEMINI_API_KEY", "test")
        left = play("""
            import anthropic, openai
            from google import genai
            from checkrein import actguard

            client = actguard.Client()
            gpt, claude, gemini = openai.OpenAI(), anthropic.Anthropic(), genai.Client()
            asked = [{"role": "user", "content": "Hello"}]

            with client.run(user_id="alice"):
                with client.budget_guard(token_limit=50_000) as guard:
                    gpt.chat.completions.create(model="gpt-5.4-nano", messages=asked)
                    with client.budget_guard(name="claude", token_limit=5_000) as of_claude:
                        claude.messages.create(model="claude-opus-5", max_tokens=500, messages=asked)
                        with claude.messages.stream(
                            model="claude-opus-5", max_tokens=500, messages=asked
                        ) as stream:
                            said = "".join(stream.text_stream)
                    with client.budget_guard(name="gemini", token_limit=5_000) as of_gemini:
                        gemini.models.generate_content(model="gemini-3.8-flash", contents="Hello")
                        pieces = gemini.models.generate_content_stream(
                            model="gemini-3.8-flash", contents="Hello"
                        )
                        heard = "".join(piece.text for piece in pieces)
        """)
    assert left["said"] == left["heard"] == "Hello there"
    # 1,400 tokens of the first, and of the others 240 for each of two calls.
    assert (left["of_claude"].tokens_used, left["of_gemini"].tokens_used) == (480, 480)
    assert left["guard"].tokens_used == 1_400 + 480 + 480
    assert left["guard"].usd_used > left["of_claude"].usd_used > 0


def test_the_same_on_an_event_loop(fake: FakeProvider) -> None:
    left = play("""
        import asyncio, openai
        from checkrein import actguard

        client = actguard.Client()

        async def ask(llm, guard_limit):
            async with client.run(user_id="alice"):
                async with client.budget_guard(token_limit=guard_limit) as guard:
                    await llm.chat.completions.create(
                        model="gpt-5.4-nano", messages=[{"role": "user", "content": "Hello"}]
                    )
                    said = ""
                    async for chunk in await llm.chat.completions.create(
                        model="gpt-5.4-nano", messages=[{"role": "user", "content": "Hello"}], stream=True
                    ):
                        said += chunk.choices[0].delta.content or ""
            return said, guard

        async def main():
            async with openai.AsyncOpenAI() as llm:
                return await asyncio.gather(*(ask(llm, 50_000) for _ in range(5)))
    """)
    answers = asyncio.run(left["main"]())
    # Five runs at once in one process: each has its own.
    assert [(said, guard.tokens_used) for said, guard in answers] == [("hello", 2_800)] * 5


def test_tools_with_their_guards(fake: FakeProvider) -> None:
    left = play("""
        from checkrein import actguard

        client = actguard.Client()
        sent = []

        @actguard.tool(
            idempotent={"ttl_s": 3600},
            max_attempts={"calls": 3},
            rate_limit={"max_calls": 2, "period": 60, "scope": "user_id"},
            circuit_breaker={"name": "mail", "max_fails": 3},
            timeout=5,
        )
        def send(user_id: str, text: str, *, idempotency_key: str) -> str:
            sent.append((user_id, text))
            return f"sent to {user_id}"

        with client.run(user_id="alice"):
            first = send("alice", "hello", idempotency_key="k1")
            again = send("alice", "hello", idempotency_key="k1")
            send("alice", "more", idempotency_key="k2")
            refusal = None
            try:
                send("alice", "and more", idempotency_key="k3")
            except actguard.ActGuardToolError as error:
                refusal = error
    """)
    assert left["first"] == left["again"] == "sent to alice"
    assert left["sent"] == [("alice", "hello"), ("alice", "more")]
    assert left["refusal"].code == "guard.rate_limit_exceeded"
    assert 0 < left["refusal"].retry_after <= 60


def test_facts_that_were_read_before_they_are_used() -> None:
    left = play("""
        from checkrein import actguard
        from checkrein.actguard import RequireFact, Threshold, enforce, prove, session
        from checkrein.actguard.exceptions import PolicyViolationError

        @prove(kind="order_id", extract="id")
        def find_orders(customer):
            return [{"id": "o1"}, {"id": "o2"}]

        @enforce([RequireFact("order_id", "order_id", hint="Call find_orders first."), Threshold("amount", 100)])
        def refund(order_id, amount):
            return f"{amount} for {order_id}"

        refusals = []

        def attempt(*args):
            try:
                return refund(*args)
            except PolicyViolationError as error:
                refusals.append(error)

        attempt("o1", 5)
        with session("s1", {"user": "alice"}):
            attempt("o1", 5)
            find_orders("maria")
            done = attempt("o1", 5)
            attempt("o3", 5)
            attempt("o2", 500)
    """)
    assert left["done"] == "5 for o1"
    codes = [refusal.code for refusal in left["refusals"]]
    assert codes == ["NO_SESSION", "MISSING_FACT", "MISSING_FACT", "THRESHOLD_EXCEEDED"]
    assert "find_orders" in left["refusals"][1].to_prompt()


def test_the_names_of_the_documents_are_where_they_say() -> None:
    from checkrein import actguard

    for name in ("BudgetGuard", "BudgetExceededError", "Client", "tool", "session", "prove", "enforce"):
        assert getattr(actguard, name)
    assert not issubclass(actguard.BudgetExceededError, checkrein.CheckreinError)
