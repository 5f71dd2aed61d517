"""Calls of models from Python: held before they are made, settled by whatever a provider's reply looks like."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein.testing import FakeClock

NOON = 1_795_262_400.0
"""2026-11-21 12:00 UTC."""

POLICY = """
version = 1
[budgets.team]
key = "action.tenant"
limit = "1 usd"
thresholds = [1]
[budgets.run]
key = "action.run"
limit = "100000 tokens"
[models."claude-*"]
budgets = ["team", "run"]
reserve_output = 50
max_output = 4000
timeout = "90s"
[models."gpt-*"]
budgets = ["team"]
"""
OPUS = {"model": "claude-opus-5", "provider": "anthropic", "context": {}}
REPLY = {"type": "message", "usage": {"input_tokens": 200, "output_tokens": 40}}


@pytest.fixture
def engine(place: dict[str, Any], tmp_path: Path) -> checkrein.Engine:
    """An engine with the policy, on a store of each kind."""
    path = tmp_path / "checkrein.toml"
    path.write_text(POLICY)
    return checkrein.Engine.from_policy(path, clock=FakeClock(NOON), tenant="acme", **place)


def stands(engine: checkrein.Engine, gate: str = "team") -> tuple[str, str]:
    rows = [row for row in engine.list("meter") if row["gate"] == gate]
    return (rows[0]["spent"], rows[0]["held"]) if rows else ("0", "0")


def opus(engine: checkrein.Engine, **more: Any) -> checkrein.ModelCall:
    return engine.model_call(request=more.pop("request", "x" * 1_000), **{**OPUS, **more})


def test_a_call_is_held_at_its_bound_and_settled_at_its_usage(engine: checkrein.Engine) -> None:
    with checkrein.acting(run="r1"), opus(engine, max_output=100) as call:
        assert (call.max_output, call.timeout) == (100, 90.0)
        # Each byte, and 32 around it, a token written to the cache for an hour: 1,032 x 10 + 100 x 25 per million.
        assert stands(engine) == ("0", "0.01282")
        assert [row["amount"] for row in call.held] == ["0.01282", "1132"]
        assert {row["bound"] for row in call.held} == {"proven"}
        settled = call.settle(REPLY)
    # 200 x 5 + 40 x 25 USD per million.
    assert (settled.usd, settled.tokens, settled.exact) == ("0.002", 240, True)
    assert settled.charged == [("team", "0.002 usd"), ("run", "240 tokens")]
    assert (stands(engine), stands(engine, "run")) == (("0.002", "0"), ("240", "0"))
    with pytest.raises(checkrein.PermitError):
        call.settle(REPLY)
    with pytest.raises(checkrein.PermitError):
        call.__enter__()


def test_the_maximum_of_output_is_named_and_never_made_smaller(engine: checkrein.Engine) -> None:
    with checkrein.acting(run="r1"):
        with opus(engine) as call:
            assert call.max_output == 50
            call.release()
        with opus(engine, request={"max_tokens": 70, "messages": []}) as call:
            assert call.max_output == 70
            call.release()
        with (
            pytest.raises(checkrein.RuleViolated, match="at most 4000 output tokens"),
            opus(engine, max_output=4_001),
        ):
            pass
        with pytest.raises(checkrein.ConfigError, match="the request asks for at most 70"):
            opus(engine, request={"max_tokens": 70}, max_output=60).__enter__()
    with (
        pytest.raises(checkrein.InvalidAction, match="no maximum of `output_tokens`"),
        engine.model_call("gpt-5", request="x"),
    ):
        pass
    assert stands(engine) == ("0", "0")


def test_refusals_are_those_of_guards(engine: checkrein.Engine) -> None:
    with checkrein.acting(run="r1"):
        with pytest.raises(checkrein.BudgetExceeded) as refused, opus(engine, request="x" * 200_000):
            pass
        assert {reason.gate for reason in refused.value.decision.reasons} == {"team", "run"}
        with pytest.raises(checkrein.BudgetExceeded, match="price"), opus(engine, model="claude-unheard-of"):
            pass
    with pytest.raises(checkrein.InvalidAction, match=r"action\.run"), opus(engine):
        pass
    with pytest.raises(checkrein.UnknownTool), engine.model_call("mistral-large", request="x", max_output=1):
        pass
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}
    with pytest.raises(checkrein.InvalidAction, match="refers to what it does not contain"):
        engine.model_call("gpt-5", request={"max_tokens": 9, "messages": [image]}).__enter__()
    with engine.model_call(
        request={"model": "gpt-5", "max_tokens": 9, "messages": [image]}, unseen_tokens=900
    ) as call:
        assert call.held[0]["bound"] == "estimated"
        call.release()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"request": 7}, "request"),
        ({"request": {"messages": [object()]}}, "no canonical form"),
        ({"request": '{"messages": ['}, "no JSON"),
        ({"request": {"max_tokens": -1}}, "max_tokens"),
        ({"request": {"model": "gpt-5"}}, "another model"),
        ({"max_output": 1.5}, "max_output"),
        ({"max_output": True}, "max_output"),
        ({"unseen_tokens": -1}, "unseen_tokens"),
        ({"at_most": {"web_serches": 1}}, "web_serches"),
        ({"model": 3}, "model"),
    ],
)
def test_what_cannot_be_bounded_is_an_error(
    engine: checkrein.Engine, options: dict[str, Any], match: str
) -> None:
    with checkrein.acting(run="r1"), pytest.raises((checkrein.ConfigError, TypeError), match=match):
        opus(engine, **options).__enter__()
    assert stands(engine) == ("0", "0")


def test_an_engine_without_a_policy_file_goes_by_the_price_book() -> None:
    engine = checkrein.Engine()
    with engine.model_call("gpt-5", request="x", max_output=10) as call:
        assert call.held == [], "nothing limits it"
        settled = call.settle({"model": "gpt-5", "usage": {"prompt_tokens": 100, "completion_tokens": 10}})
    assert str(engine.totals().usd) == settled.usd


class Dumped:
    """What the replies of SDKs look like."""

    def __init__(self, **members: Any) -> None:
        self.members = members

    def model_dump(self, *, mode: str = "python", by_alias: bool = False, exclude_none: bool = False) -> Any:
        assert (mode, by_alias, exclude_none) == ("json", True, True)
        return self.members


class OldDumped:
    """A reply whose `model_dump` knows no options."""

    def model_dump(self) -> dict[str, Any]:
        return {"usage": Dumped(input_tokens=200, output_tokens=40)}


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        json.dumps(REPLY),
        json.dumps(REPLY).encode(),
        REPLY["usage"],
        {**REPLY, "content": [object()]},
        {
            "usage": {"prompt_tokens": 200, "completion_tokens": 40, "total_tokens": 240},
            "choices": [object()],
        },
        {"usageMetadata": {"promptTokenCount": 200, "candidatesTokenCount": 40, "totalTokenCount": 240}},
        Dumped(**REPLY),
        OldDumped(),
    ],
    ids=range(9),
)
def test_replies_of_many_forms_are_read(engine: checkrein.Engine, reply: object) -> None:
    with checkrein.acting(run="r1"), opus(engine) as call:
        settled = call.settle(reply)
    assert (settled.usd, settled.tokens, settled.exact) == ("0.002", 240, True), settled.shortfalls


def test_searches_of_gemini_are_charged(engine: checkrein.Engine) -> None:
    counts = {"promptTokenCount": 200, "candidatesTokenCount": 40, "totalTokenCount": 240}
    answer = {
        "content": object(),
        "groundingMetadata": {"webSearchQueries": ["rome", "pisa"], "searchEntryPoint": object()},
    }
    with checkrein.acting(run="r1"), opus(engine) as call:
        settled = call.settle({"usageMetadata": counts, "candidates": [answer, {"content": object()}]})
    # Claude has searches at ten dollars per thousand.
    assert (settled.usd, settled.tokens) == ("0.022", 240)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (None, "usage_unknown_form"),
        (7, "usage_unknown_form"),
        ("", "usage_unknown_form"),
        ({}, "usage_unknown_form"),
        ({"usage": None}, "usage_unknown_form"),
        ({"usage": {"prompt_tokens": float("nan"), "completion_tokens": 1}}, "usage_unknown_form"),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 1}}, "usage_negative"),
        ({"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}}, "usage_fraction"),
        ({"usage": {"prompt_tokens": 10**13, "completion_tokens": 1}}, "usage_too_large"),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, "usage_incomplete"),
    ],
)
def test_usage_that_cannot_be_believed_is_charged_in_full(
    engine: checkrein.Engine, reply: object, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "checkrein")
    with checkrein.acting(run="r1"), opus(engine, max_output=100) as call:
        settled = call.settle(reply)
    assert (settled.exact, settled.shortfalls[0][0]) == (False, code)
    assert stands(engine) == ("0.01282", "0")
    assert "charged at the full hold" in caplog.text


def test_a_block_that_ends_without_settling(engine: checkrein.Engine) -> None:
    with checkrein.acting(run="r1"):
        with opus(engine, max_output=100):
            pass
        assert stands(engine) == ("0.01282", "0")
        with pytest.raises(checkrein.NotExecuted), opus(engine, max_output=100):
            raise checkrein.NotExecuted("the connection was refused")
        unmade = opus(engine, max_output=100, safe_errors=ConnectionRefusedError)
        with pytest.raises(ConnectionRefusedError), unmade:
            raise ConnectionRefusedError
        assert stands(engine) == ("0.01282", "0")
        with pytest.raises(ValueError, match="unknown"), opus(engine, max_output=100) as call:
            raise ValueError("unknown")
        # Nobody knows: it stays held, and a reply that comes late still settles it.
        assert stands(engine) == ("0.01282", "0.01282")
        call.settle(REPLY)
        assert stands(engine) == ("0.01482", "0")
        opus(engine, max_output=100).__enter__()
    # A call that nobody ends is in doubt.
    engine.collect()
    assert stands(engine) == ("0.01482", "0.01282")


def test_coroutines_hold_and_settle(engine: checkrein.Engine) -> None:
    async def one(number: int) -> None:
        with checkrein.acting(run=f"r{number}"):
            async with opus(engine, max_output=100) as call:
                await asyncio.sleep(0)
                await call.asettle(REPLY)

    async def cancelled(inside: asyncio.Event) -> None:
        with checkrein.acting(run="c"):
            async with opus(engine, max_output=100):
                inside.set()
                await asyncio.sleep(60)

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(10)))
        inside = asyncio.Event()
        task = asyncio.create_task(cancelled(inside))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert stands(engine) == ("0.02", "0.01282")


def test_a_cancelled_admission_leaves_nothing_behind(
    engine: checkrein.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine._waits:
        pytest.skip("nothing is awaited in memory")
    begun, go_on, admitted = threading.Event(), threading.Event(), threading.Event()
    admit = checkrein.ModelCall._admit

    def slow(call: checkrein.ModelCall) -> Any:
        begun.set()
        go_on.wait()
        permit = admit(call)
        admitted.set()
        return permit

    monkeypatch.setattr(checkrein.ModelCall, "_admit", slow)

    async def enter() -> None:
        with checkrein.acting(run="c"):
            async with opus(engine, max_output=100):
                raise AssertionError("it was cancelled")

    async def main() -> None:
        task = asyncio.create_task(enter())
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(admitted.wait)
        while stands(engine) != ("0", "0"):
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_many_threads_never_pass_a_budget(engine: checkrein.Engine) -> None:
    # Each holds 0.25182 (the prompt has 25,140 bytes) and costs 0.1.
    reply = {"usage": {"input_tokens": 20_000, "output_tokens": 0}}
    settled: list[str | None] = []

    def work(number: int) -> None:
        for turn in range(6):
            with checkrein.acting(run=f"{number}-{turn}"):
                try:
                    with opus(engine, request="x" * 25_140, max_output=4) as call:
                        settled.append(call.settle(reply).usd)
                except checkrein.BudgetExceeded:
                    continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(settled) == {"0.1"}
    # 0.7 spent leaves room for one more hold, 0.8 does not.
    assert stands(engine) == ("0.8", "0")
    assert len(settled) == 8


def test_listeners_hear_of_calls(engine: checkrein.Engine) -> None:
    heard: list[tuple[str, str, str | None]] = []

    def listen(event: checkrein.Event) -> None:
        verdict = None if event.decision is None else event.decision.verdict
        heard.append((event.kind, event.tool, event.outcome or verdict))

    engine.add_listener(listen)
    with checkrein.acting(run="r1"):
        with opus(engine) as call:
            call.settle(REPLY)
        with pytest.raises(checkrein.BudgetExceeded):
            opus(engine, request="x" * 200_000).__enter__()
    assert heard == [
        # 0.01157 of 1 usd is held.
        ("threshold", "claude-opus-5", None),
        ("decision", "claude-opus-5", "allow"),
        ("hold", "claude-opus-5", None),
        ("outcome", "claude-opus-5", "done"),
        ("hold", "claude-opus-5", None),
        ("decision", "claude-opus-5", "block"),
    ]
