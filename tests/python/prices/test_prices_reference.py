"""The price book against the package it was converted from: the same models, the same money, for random usages."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices import types
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.units import UnitRegistry

ROOT = Path(__file__).resolve().parents[3]
SEED = 20261121
NANO = Decimal("0.000000001")
PICO = Decimal("0.000000000001")
REGISTRY = UnitRegistry(unit_data)
UNITS = [unit for unit in unit_data if unit != "requests"]
COUNTS = [
    0,
    1,
    2,
    3,
    7,
    999,
    1_000,
    12_345,
    99_999,
    100_000,
    100_001,
    200_000,
    200_001,
    272_001,
    600_000,
    2_999_999,
]
TIMES = [
    datetime(2026, 11, 21, 12, tzinfo=UTC),
    datetime(2026, 11, 21, 0, 30, tzinfo=UTC),
    datetime(2026, 11, 21, 16, 29, 59, tzinfo=UTC),
    datetime(2026, 10, 13, 23, 59, 59, tzinfo=UTC),
    datetime(2026, 10, 14, tzinfo=UTC),
    datetime(2025, 6, 10, tzinfo=UTC),
    datetime(2024, 1, 1, 3, tzinfo=UTC),
    datetime(2027, 6, 1, 7, tzinfo=UTC),
]


def command() -> Path:
    """The command that belongs to this interpreter; `CHECKREIN_COMMAND` names another one while developing."""
    named = os.environ.get("CHECKREIN_COMMAND")
    return Path(named) if named else Path(sys.executable).parent / "checkrein"


def check(cases: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """What the command says of every case."""
    file = directory / "cases.jsonl"
    file.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    run = subprocess.run(
        [command(), "prices", "check", str(file), "--output", "jsonl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(cases)
    return answers


@cache
def rounded_up() -> int:
    """Round the package's own prices up to twelve decimals, as the conversion does, and count those that change.

    It is the only difference there may be between both: such prices are noise of binary fractions in the source.
    """
    changed = 0

    def up(price: Decimal) -> Decimal:
        nonlocal changed
        cut = price.quantize(PICO, rounding=ROUND_CEILING)
        changed += cut != price
        return cut

    for model in (model for provider in get_snapshot().providers for model in provider.models):
        prices = (
            [model.prices] if isinstance(model.prices, types.ModelPrice) else [p.prices for p in model.prices]
        )
        for price in [*prices, *(variant.prices for variant in model.price_variants or [])]:
            for key, value in list(price.__dict__.items()):
                if isinstance(value, types.TieredPrices):
                    value.base = up(value.base)
                    for tier in value.tiers:
                        tier.price = up(tier.price)
                elif value is not None:
                    setattr(price, key, up(value))
    return changed


def words(match: Any) -> Iterator[str]:
    """The texts inside a clause."""
    match match:
        case types.ClauseOr(or_=clauses) | types.ClauseAnd(and_=clauses):
            for inner in clauses:
                yield from words(inner)
        case types.ClauseRegex():
            return
        case _:
            yield from match.__dict__.values()


def random_usage(source: random.Random, model: types.ModelInfo) -> dict[str, int]:
    """Counts that add up, four times of five."""
    prices = (
        model.prices if isinstance(model.prices, types.ModelPrice) else source.choice(model.prices).prices
    )
    priced = [
        REGISTRY.unit_for_price_key(key).usage_key for key in prices.__dict__ if key != "requests_kcount"
    ]
    usage: dict[str, int] = {}
    for _ in range(source.randint(1, 5)):
        unit = source.choice(priced or UNITS) if source.random() < 0.8 else source.choice(UNITS)
        count = source.choice(COUNTS) if source.random() < 0.5 else source.randint(0, 400_000)
        for counted in (unit, *REGISTRY.ancestor_usage_keys(unit)):
            usage[counted] = usage.get(counted, 0) + count
    if source.random() < 0.2 and len(usage) > 1:
        unit = source.choice(list(usage))
        if source.random() < 0.5:
            del usage[unit]
        else:
            usage[unit] = source.choice(COUNTS)
    return usage


def contexts(model: types.ModelInfo) -> list[dict[str, str]]:
    """Nothing, everything the model has a price for, and what it has none for."""
    return [{}, {"service_tier": "scale"}, *(variant.when for variant in model.price_variants or [])]


def expected(case: dict[str, Any]) -> tuple[str, str, str]:
    """What the package says: provider, model and nano-USD, or the error that is ours for its own."""
    at = datetime.fromisoformat(case["at"])
    try:
        provider, model = get_snapshot().find_provider_model(case["model"], None, case.get("provider"), None)
    except LookupError:
        return "", "", "unknown_price"
    try:
        with localcontext() as context:
            context.prec = 60
            usage = types.Usage(**case["usage"])
            price = model.calc_price(
                usage, provider, genai_request_timestamp=at, price_context=case["context"]
            )
            # Thirds of a pico end in nines or ones after sixty digits; they are none after forty.
            total = price.total_price.quantize(Decimal(1).scaleb(-40)).quantize(NANO, rounding=ROUND_CEILING)
    except ValueError as error:
        return (
            provider.id,
            model.id,
            "usage_ambiguous" if "Missing usage" in str(error) else "usage_contradictory",
        )
    return provider.id, model.id, f"{total.normalize():f}"


def given(answer: dict[str, Any]) -> tuple[str, str, str]:
    """What the command says, in the same form."""
    if "error" in answer:
        return "", "", answer["error"]["code"]
    return answer["provider"], answer["model"], answer["usd"]


def same(case: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether both say the same. Which of two mistakes in one report is named first is nobody's promise."""
    theirs, ours = expected(case), given(answer)
    if "error" in answer:
        return theirs[2] == ours[2] or {theirs[2], ours[2]} == {"usage_ambiguous", "usage_contradictory"}
    return theirs == ours


def cases() -> Iterator[dict[str, Any]]:
    """Every model by its identifier, and by the texts its clauses have, with random usages, times and contexts."""
    source = random.Random(SEED)
    for provider in get_snapshot().providers:
        for model in provider.models:
            texts = sorted(set(words(model.match)))
            named = [model.id, model.id.upper(), source.choice([*texts, model.id])]
            named += [
                source.choice([*texts, model.id])
                + source.choice(["-20251211", "-latest", "@x", ":free", "-tts"])
            ]
            for reference in named:
                at = source.choice(TIMES) + timedelta(seconds=source.choice([0, 0, 1, -1]))
                case = {
                    "provider": provider.id,
                    "model": reference,
                    "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "context": source.choice(contexts(model)),
                    "usage": random_usage(source, model),
                }
                if source.random() < 0.2 and "/" not in reference:
                    del case["provider"]
                yield case


def test_the_book_is_of_the_package_that_is_installed() -> None:
    run = subprocess.run(
        [command(), "prices", "show", "o3", "--output", "json"], capture_output=True, text=True, check=True
    )
    book = json.loads(run.stdout)["book"]
    assert (book["source"], book["version"]) == ("genai-prices", genai_prices.__version__)
    header = json.loads(
        (ROOT / "crates/checkrein/data/prices.jsonl").read_text(encoding="utf-8").split("\n", 1)[0]
    )
    assert header["digest"] == book["digest"]
    assert header["rounded_up"] == rounded_up()


def test_the_conversion_gives_the_committed_file() -> None:
    # In a process of its own: this one has rounded the package's prices.
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts/prices.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_model_costs_what_it_costs_there(tmp_path: Path) -> None:
    rounded_up()
    asked = list(cases())
    answers = check(asked, tmp_path)
    differences = [
        (case, expected(case), given(answer))
        for case, answer in zip(asked, answers, strict=True)
        if not same(case, answer)
    ]
    assert differences == []
    priced = [answer for answer in answers if "error" not in answer]
    assert len(asked) > 9_000
    assert len(priced) > 6_000
    assert len({(answer["provider"], answer["model"]) for answer in priced}) > 2_000
    codes = {answer["error"]["code"] for answer in answers if "error" in answer}
    assert codes == {"unknown_price", "usage_ambiguous", "usage_contradictory"}


def details(source: random.Random, whole: int, *names: str) -> dict[str, int]:
    """Parts that are together no more than their whole."""
    left, parts = whole, {}
    for name in names:
        parts[name] = source.randint(0, left)
        left -= parts[name]
    return parts


def openai_chat(source: random.Random) -> dict[str, Any]:
    """A reply of OpenAI chat completions."""
    prompt, completion = source.randint(1, 400_000), source.randint(0, 9_000)
    return {
        "model": "gpt-5.4",
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": details(source, prompt, "cached_tokens"),
            "completion_tokens_details": details(source, completion, "reasoning_tokens"),
        },
    }


def openai_responses(source: random.Random) -> dict[str, Any]:
    """A reply of OpenAI responses."""
    given, made = source.randint(1, 400_000), source.randint(0, 9_000)
    return {
        "object": "response",
        "model": "gpt-5.4-2026-03-05",
        "usage": {
            "input_tokens": given,
            "output_tokens": made,
            "total_tokens": given + made,
            "input_tokens_details": details(source, given, "cached_tokens"),
            "output_tokens_details": details(source, made, "reasoning_tokens"),
        },
    }


def anthropic(source: random.Random) -> dict[str, Any]:
    """A reply of Anthropic messages."""
    written = source.randint(0, 50_000)
    short = source.randint(0, written)
    return {
        "type": "message",
        "model": "claude-haiku-5-5-20261001",
        "usage": {
            "input_tokens": source.randint(0, 90_000),
            "output_tokens": source.randint(0, 9_000),
            "cache_read_input_tokens": source.randint(0, 90_000),
            "cache_creation_input_tokens": written,
            "cache_creation": {
                "ephemeral_5m_input_tokens": short,
                "ephemeral_1h_input_tokens": written - short,
            },
            "server_tool_use": {"web_search_requests": source.randint(0, 3)},
        },
    }


def gemini(source: random.Random) -> dict[str, Any]:
    """A reply of Gemini."""
    prompt, candidates = source.randint(1, 300_000), source.randint(0, 9_000)
    thoughts, tools = source.randint(0, 5_000), source.randint(0, 5_000)
    cached = source.randint(0, prompt)
    modalities = details(source, prompt, "TEXT", "AUDIO", "IMAGE", "VIDEO")
    cached_text = min(cached, modalities["TEXT"])
    return {
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {
            "promptTokenCount": prompt,
            "candidatesTokenCount": candidates,
            "thoughtsTokenCount": thoughts,
            "toolUsePromptTokenCount": tools,
            "cachedContentTokenCount": cached_text,
            "totalTokenCount": prompt + candidates + thoughts + tools,
            "promptTokensDetails": [{"modality": name, "tokenCount": n} for name, n in modalities.items()],
            "cacheTokensDetails": [
                {"modality": name, "tokenCount": cached_text if name == "TEXT" else 0} for name in modalities
            ],
        },
    }


@pytest.mark.parametrize(
    ("reply", "provider", "flavor"),
    [
        (openai_chat, "openai", "chat"),
        (openai_responses, "openai", "responses"),
        (anthropic, "anthropic", "default"),
        (gemini, "google", "default"),
    ],
)
def test_replies_are_read_as_they_are_there(reply: Any, provider: str, flavor: str, tmp_path: Path) -> None:
    rounded_up()
    source = random.Random(SEED)
    replies = [reply(source) for _ in range(500)]
    at = datetime.now(tz=UTC)
    for sent, answer in zip(replies, check(replies, tmp_path), strict=True):
        read = genai_prices.extract_usage(sent, provider_id=provider, api_flavor=flavor)
        theirs = {unit: count for unit in UNITS if (count := read.usage.reported_value(unit))}
        assert {unit: count for unit, count in answer["usage"].items() if count} == theirs, sent
        total = read.calc_price(genai_request_timestamp=at).total_price.quantize(NANO, rounding=ROUND_CEILING)
        assert Decimal(answer["usd"]) == total, sent
        assert (answer["unread"], answer["without_price"]) == ([], [])
