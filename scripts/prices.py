"""Converts the data of the `genai-prices` package into `crates/checkrein/data/prices.jsonl`.

Run it in an environment that has the package: `python scripts/prices.py --date 2026-11-21`. It needs no network, and
builds read only the file that it wrote. `--check` says whether that file is what this package gives.

Nothing is estimated: prices are the package's decimal texts, in USD per `per` units (a million tokens, a thousand
searches, an hour). Those with more than 12 decimals are rounded up to the twelfth and listed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import date, time
from decimal import ROUND_CEILING, Decimal
from importlib import metadata
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as regex_parser  # type: ignore[attr-defined]
from typing import Any

from genai_prices import types
from genai_prices.data import providers
from genai_prices.data_units import unit_data
from genai_prices.units import UnitRegistry
from genai_prices.validation import validate_model_price

OUT = Path(__file__).resolve().parents[1] / "crates" / "checkrein" / "data" / "prices.jsonl"
SOURCE = "genai-prices"
FORMAT = 1
DECIMALS = 12
MOST_WORDS = 64

Clause = str | list[Any]

# Look-aheads have no counterpart in the clauses of the book. `checked` compares both with the real expressions.
BY_HAND: dict[str, Clause] = {
    r"^(?![^/]+/)(?:labs-)?(?:(?:mi|code|dev|magi|mini)stral|mixtral|pixtral|voxtral|open-(?:mistral|mixtral))": [
        "&",
        ["!", "*/"],
        [
            "|",
            *(
                f"^{lab}{family}"
                for lab in ("", "labs-")
                for family in (
                    *(f"{head}stral" for head in ("mi", "code", "dev", "magi", "mini")),
                    *("mixtral", "pixtral", "voxtral", "open-mistral", "open-mixtral"),
                )
            ),
        ],
    ],
    r"^(?!.*-[tT][tT][sS](?:$|-))": ["!", ["|", "$-tts", "*-tts-"]],
}


def words(parsed: Iterable[Any]) -> Iterator[str]:
    """Every text that a parsed expression of literals, sets, digits and groups accepts, `#` standing for a digit."""
    choices: list[list[str]] = []
    for code, argument in parsed:
        if code is op.LITERAL:
            assert chr(argument) != "#", "`#` stands for a digit"
            choices.append([chr(argument)])
        elif code is op.IN and argument == [(op.CATEGORY, op.CATEGORY_DIGIT)]:
            choices.append(["#"])
        elif code is op.IN and all(kind is op.LITERAL for kind, _ in argument):
            choices.append([chr(character) for _, character in argument])
        elif code is op.MAX_REPEAT:
            least, most, inner = argument
            assert most <= MOST_WORDS, "an open repetition"
            inside = list(words(inner))
            choices.append(
                ["".join(run) for n in range(least, most + 1) for run in itertools.product(inside, repeat=n)]
            )
        elif code is op.SUBPATTERN:
            choices.append(list(words(argument[-1])))
        elif code is op.BRANCH:
            choices.append([word for branch in argument[1] for word in words(branch)])
        else:
            raise ValueError(f"cannot convert {code} {argument}")
    for run in itertools.product(*choices):
        yield "".join(run)


def pattern(expression: str) -> Clause:
    """The clause of a regular expression: `#...` must be the whole text, `~...` its beginning."""
    if expression in BY_HAND:
        return BY_HAND[expression]
    parsed = list(regex_parser.parse(expression))
    assert parsed[0] == (op.AT, op.AT_BEGINNING), f"{expression} has no beginning"
    whole = parsed[-1] == (op.AT, op.AT_END)
    found = sorted({word.lower() for word in words(parsed[1 : -1 if whole else None])})
    assert 0 < len(found) <= MOST_WORDS, f"{expression} becomes {len(found)} texts"
    clauses = [("#" if whole else "~") + word for word in found]
    return clauses[0] if len(clauses) == 1 else ["|", *clauses]


def clause(match: Any) -> Clause:
    """The clause of the book for one of the package."""
    match match:
        case types.ClauseEquals(equals=text):
            return f"={text.lower()}"
        case types.ClauseStartsWith(starts_with=text):
            return f"^{text.lower()}"
        case types.ClauseEndsWith(ends_with=text):
            return f"${text.lower()}"
        case types.ClauseContains(contains=text):
            return f"*{text.lower()}"
        case types.ClauseRegex(regex=expression):
            return pattern(expression)
        case types.ClauseOr(or_=clauses):
            return ["|", *map(clause, clauses)]
        case types.ClauseAnd(and_=clauses):
            return ["&", *map(clause, clauses)]
        case _:
            raise ValueError(f"an unknown clause: {match}")


def matches(clause: Clause, text: str) -> bool:
    """What the book makes of a clause; the library has the same in Rust."""
    if isinstance(clause, list):
        inner = (matches(part, text) for part in clause[1:])
        return {"|": any, "&": all, "!": lambda parts: not any(parts)}[clause[0]](inner)
    kind, word = clause[0], clause[1:]
    fits = len(text) == len(word) if kind == "#" else len(text) >= len(word)
    return {
        "=": lambda: text == word,
        "^": lambda: text.startswith(word),
        "$": lambda: text.endswith(word),
        "*": lambda: word in text,
    }.get(
        kind,
        lambda: (
            fits and all(c in "0123456789" if w == "#" else c == w for w, c in zip(word, text, strict=False))
        ),
    )()


def expressions(match: Any) -> Iterator[str]:
    """The regular expressions inside a clause of the package."""
    match match:
        case types.ClauseRegex(regex=expression):
            yield expression
        case types.ClauseOr(or_=clauses) | types.ClauseAnd(and_=clauses):
            for inner in clauses:
                yield from expressions(inner)


def checked() -> None:
    """Compare every converted expression with the real one, on all model names and what lies near them."""
    clauses = [model.match for provider in providers for model in provider.models]
    clauses += [p.model_match for p in providers if p.model_match]
    clauses += [p.provider_match for p in providers if p.provider_match]
    found = sorted({expression for match in clauses for expression in expressions(match)})
    converted = {expression: (re.compile(expression), pattern(expression)) for expression in found}
    names = {model.id.lower() for provider in providers for model in provider.models}
    near = {word[1:].replace("#", "7") for _, made in converted.values() for word in flat(made)}
    tails = ("", "1", "-tts", "-tts-x", "/", "-20251211", "-2025-12-11", "x")
    texts = {head + name + tail for name in names | near for head in ("", "labs-", "a/") for tail in tails}
    texts |= {name[:-1] for name in names | near}
    for expression, (real, made) in converted.items():
        for text in texts:
            assert bool(real.search(text)) == matches(made, text), (
                f"{expression} and {made} differ on {text!r}"
            )


def flat(clause: Clause) -> Iterator[str]:
    """The words of a clause."""
    if isinstance(clause, str):
        yield clause
    else:
        for inner in clause[1:]:
            yield from flat(inner)


class Converter:
    """Writes the lines of the book, and remembers what had to be rounded."""

    def __init__(self) -> None:
        self.rounded: list[str] = []
        self.latest = date.min
        self.registry = UnitRegistry(unit_data)

    def rate(self, value: Decimal, where: str) -> str:
        """The price as the shortest decimal with at most 12 places."""
        if not value.is_finite() or value < 0:
            raise ValueError(f"{where}: {value} is no price")
        cut = value.quantize(Decimal(1).scaleb(-DECIMALS), rounding=ROUND_CEILING)
        if cut != value:
            self.rounded.append(f"{where}: {value} became {cut.normalize():f}")
        return f"{cut.normalize():f}"

    def prices(self, price: types.ModelPrice, where: str) -> dict[str, Any]:
        """The prices of one condition."""
        found: dict[str, Any] = {}
        for key, value in price.__dict__.items():
            if value is None:
                continue
            if isinstance(value, types.TieredPrices):
                steps = [[tier.start, self.rate(tier.price, f"{where} {key}")] for tier in value.tiers]
                found[key] = [self.rate(value.base, f"{where} {key}"), *steps]
            else:
                found[key] = self.rate(value, f"{where} {key}")
        return found

    def constraint(self, limit: Any) -> dict[str, Any]:
        """When a price holds: from a day (UTC), or between two seconds of the day (UTC)."""
        match limit:
            case None:
                return {}
            case types.StartDateConstraint(start_date=day):
                self.latest = max(self.latest, day)
                return {"from": day.isoformat()}
            case types.TimeOfDateConstraint(start_time=begin, end_time=end):
                return {"between": [seconds(begin), seconds(end)]}
            case _:
                raise ValueError(f"an unknown constraint: {limit}")

    def model(self, provider: types.Provider, model: types.ModelInfo) -> dict[str, Any]:
        """The line of one model."""
        where = f"{provider.id}/{model.id}"
        line: dict[str, Any] = {"model": model.id}
        match = clause(model.match)
        if match != f"={model.id}":
            line["match"] = match
        if model.context_window is not None:
            line["context"] = model.context_window
        if model.deprecated:
            line["deprecated"] = True
        if provider.id == "groq" and model.id in ("whisper-large-v3", "whisper-large-v3-turbo"):
            # In the package this is code: a request is charged for ten seconds at least.
            line["minimum"] = {"audio_seconds": 10}
        variants = model.price_variants or []
        if isinstance(model.prices, types.ModelPrice):
            standards = [model.prices]
            line["prices"] = self.prices(model.prices, where)
        else:
            standards = [conditional.prices for conditional in model.prices]
            line["prices"] = [
                {**self.constraint(conditional.constraint), "prices": self.prices(conditional.prices, where)}
                for conditional in model.prices
            ]
        if variants:
            line["variants"] = [
                {
                    "when": variant.when,
                    **self.constraint(variant.constraint),
                    "prices": self.prices(variant.prices, where),
                }
                for variant in variants
            ]
        for standard, overlay in itertools.product(standards, [None, *(v.prices for v in variants)]):
            keys = {
                key
                for part in (standard, overlay)
                if part
                for key, price in part.__dict__.items()
                if price is not None
            }
            validate_model_price(keys, self.registry)
        return line

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line below the header."""
        yield {
            "units": {
                key: {"price": unit.get("price_key", key), "per": unit["per"], **unit["dimensions"]}
                for key, unit in unit_data.items()
            }
        }
        for provider in providers:
            line: dict[str, Any] = {"provider": provider.id, "name": provider.name}
            if provider.model_match:
                line["models"] = clause(provider.model_match)
            if provider.provider_match:
                line["match"] = clause(provider.provider_match)
            if provider.fallback_model_providers:
                line["fallback"] = provider.fallback_model_providers
            yield line
            for model in provider.models:
                yield self.model(provider, model)


def seconds(moment: time) -> int:
    """The second of the day in UTC."""
    offset = moment.utcoffset()
    assert not offset, "times of day are given in UTC"
    assert moment.microsecond == 0, "times of day are whole seconds"
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def dump(value: dict[str, Any]) -> str:
    """One line of the file."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"


def book(day: str) -> tuple[str, Converter]:
    """The whole file, and what happened on the way."""
    converter = Converter()
    body = "".join(map(dump, converter.lines()))
    header = {
        "format": FORMAT,
        "source": SOURCE,
        "version": metadata.version(SOURCE),
        "licence": "MIT",
        "date": day,
        "latest_change": converter.latest.isoformat(),
        "providers": len(providers),
        "models": sum(len(provider.models) for provider in providers),
        "rounded_up": len(converter.rounded),
        "digest": "sha256:" + hashlib.sha256(body.encode()).hexdigest(),
    }
    return dump(header) + body, converter


def main() -> int:
    """Write or check the file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--date", help="the day the data was taken, YYYY-MM-DD; by default that of the file there is"
    )
    options.add_argument("--check", action="store_true", help="write nothing; fail if the file would change")
    given = options.parse_args()
    found = OUT.read_text(encoding="utf-8") if OUT.exists() else ""
    day = given.date or json.loads(found.split("\n", 1)[0])["date"]
    checked()
    text, converter = book(date.fromisoformat(day).isoformat())
    for line in converter.rounded:
        print(f"rounded up  {line}")
    print(text.split("\n", 1)[0])
    if given.check:
        return int(text != found)
    OUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
