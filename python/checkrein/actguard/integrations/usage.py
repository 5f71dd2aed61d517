"""Finds in a response, of whatever kind, which model used how many tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_MAX_CANDIDATES: Final = 64
_BELOW: Final = ("raw", "response", "result", "body", "message")
_USAGE: Final = ("usage", "usage_metadata", "usageMetadata")
_INPUT: Final = ("input_tokens", "prompt_tokens", "prompt_token_count", "promptTokenCount")
_OUTPUT: Final = ("output_tokens", "completion_tokens", "candidates_token_count", "candidatesTokenCount")
_CACHED: Final = (
    "cached_input_tokens",
    "cache_read_input_tokens",
    "cached_content_token_count",
    "cachedContentTokenCount",
)
_DETAILS: Final = (
    "input_token_details",
    "prompt_tokens_details",
    "input_tokens_details",
)
_IN_DETAILS: Final = ("cache_read", "cached_tokens")
_MODEL: Final = ("model", "model_name", "modelVersion", "model_version", "model_id")
_PROVIDER: Final = ("provider", "model_provider", "ls_provider")
_PREFIXES: Final = (
    ("claude", "anthropic"),
    ("gemini", "google"),
    ("gpt", "openai"),
    ("chatgpt", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("text-embedding", "openai"),
)


@dataclass(frozen=True)
class UsageInfo:
    """What one call of a model used."""

    provider: str
    model: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


def extract_usage_info(
    response: Any, *, provider: str | None = None, model: str | None = None
) -> UsageInfo | None:
    """Return what a response used; `None` where it does not say how much, of which model, whose."""
    candidates = list(_candidates(response))
    tokens = next((found for one in candidates if (found := usage_tokens(one)) is not None), None)
    if tokens is None:
        return None
    name = model or next((said for one in candidates if (said := _text(one, _MODEL))), "")
    owner = normalize_provider(provider) or next(
        (known for one in candidates if (known := normalize_provider(_text(one, _PROVIDER)))), ""
    )
    owner = owner or provider_of_model(name)
    if not name or not owner:
        return None
    return UsageInfo(owner, name, *tokens)


def usage_tokens(candidate: Any) -> tuple[int, int, int] | None:
    """Return input, cached and output tokens that a response, or a usage, reports; `None` without a report."""
    for holder in (*(field(candidate, name) for name in _USAGE), field(candidate, "token_usage"), candidate):
        if holder is None:
            continue
        given_input, given_output = first_int(holder, _INPUT), first_int(holder, _OUTPUT)
        if given_input is None and given_output is None:
            continue
        cached = first_int(holder, _CACHED)
        for details in _DETAILS:
            if cached is None:
                cached = first_int(field(holder, details), _IN_DETAILS)
        return given_input or 0, cached or 0, given_output or 0
    return None


def field(value: Any, name: str) -> Any:
    """Return a member of a mapping or an object, or `None`."""
    if value is None or isinstance(value, str | bytes | int | float):
        return None
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None)


def first_int(value: Any, names: tuple[str, ...]) -> int | None:
    """Return the first of these members that is a count."""
    for name in names:
        found = field(value, name)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
    return None


def normalize_provider(name: str | None) -> str:
    """Return "openai", "anthropic", "google", or what was given in lower case."""
    lower = (name or "").strip().lower()
    for known in ("openai", "anthropic", "google"):
        if known in lower:
            return known
    return "google" if lower in ("gemini", "vertexai") else lower


def provider_of_model(model: str) -> str:
    """Return whose model it is, by how its name begins, or ""."""
    lower = model.lower().rpartition("/")[2]
    return next((owner for prefix, owner in _PREFIXES if lower.startswith(prefix)), "")


def _text(value: Any, names: tuple[str, ...]) -> str:
    for name in names:
        found = field(value, name)
        if isinstance(found, str) and found:
            return found
    return ""


def _candidates(response: Any) -> Iterator[Any]:
    """Yield the response and what lies in it, the nearest first."""
    waiting = [response]
    seen: list[Any] = []
    while waiting and len(seen) < _MAX_CANDIDATES:
        current = waiting.pop(0)
        if isinstance(current, str | bytes):
            current = _from_json(current)
        if current is None or any(current is one for one in seen):
            continue
        seen.append(current)
        yield current
        waiting.extend(field(current, name) for name in (*_BELOW, "response_metadata"))


def _from_json(text: str | bytes) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
