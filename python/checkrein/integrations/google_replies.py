"""What Google's interactions say was used, in the words of its replies with content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from checkrein.integrations.sse import EventSplitter, data_of

_MOST_SEARCHES: Final = 1_000
_COUNTS: Final = {
    "total_input_tokens": "promptTokenCount",
    "total_output_tokens": "candidatesTokenCount",
    "total_thought_tokens": "thoughtsTokenCount",
    "total_cached_tokens": "cachedContentTokenCount",
    "total_tool_use_tokens": "toolUsePromptTokenCount",
    "total_tokens": "totalTokenCount",
}
_TEXTS: Final = ("text", "arguments")


class InteractionReading:
    """An interaction as it comes: whole, or as events of which the last tells what was used."""

    response_id: str | None = None

    def __init__(self, most: int | None, *, is_stream: bool) -> None:
        self.reply: object | None = None
        self.finished = False
        self.most = most
        self._events = EventSplitter() if is_stream else None
        self._bytes = bytearray()
        self._parts = 0
        self._text_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take more of the body."""
        if self._events is None:
            self._bytes += data
            return [data]
        events = self._events.feed(data)
        for event in events:
            self._event(event)
        return events

    def rest(self) -> bytes:
        """Take its end."""
        if self._events is None:
            self.reply, self.finished = said_of(_json(bytes(self._bytes))), True
            return b""
        rest = self._events.rest()
        self._event(rest)
        return rest

    def streamed(self) -> int:
        """Return how many output tokens have come, at the least: a part of an answer is a token, if not one letter."""
        return min(self._parts, self._text_bytes // 2)

    def ending(self) -> bytes:
        """Events are whole, and nothing has to follow."""
        return b""

    def _event(self, event: bytes) -> None:
        said = _json(data_of(event))
        if not isinstance(said, Mapping):
            return
        if said.get("event_type") == "interaction.completed":
            self.reply, self.finished = said_of(said.get("interaction")), True
        delta = said.get("delta")
        if isinstance(delta, Mapping) and delta.get("type") in (*_TEXTS, "arguments_delta"):
            part = next((delta[name] for name in _TEXTS if isinstance(delta.get(name), str)), "")
            self._parts += bool(part)
            self._text_bytes += len(part.encode(errors="replace"))


def said_of(interaction: object) -> dict[str, Any] | None:
    """Say what an interaction used as a reply with content does; nothing where it does not say it."""
    usage = interaction.get("usage") if isinstance(interaction, Mapping) else None
    if not isinstance(interaction, Mapping) or not isinstance(usage, Mapping):
        return None
    counts = {name: usage[told] for told, name in _COUNTS.items() if usage.get(told) is not None}
    said: dict[str, Any] = {"usageMetadata": _apart(counts), "id": interaction.get("id")}
    if isinstance(interaction.get("model"), str):
        said["modelVersion"] = interaction["model"].rpartition("/")[2]
    searches = _searches(usage.get("grounding_tool_count") or [])
    if searches is None:
        return None
    if searches:
        queries = [f"search {number}" for number in range(searches)]
        said["candidates"] = [{"groundingMetadata": {"webSearchQueries": queries}}]
    return said


def _searches(tools: object) -> int | None:
    """Count the searches of an interaction; nothing where it used what has no price here, or does not say."""
    searches = 0
    for tool in tools if isinstance(tools, list) else [None]:
        if not isinstance(tool, Mapping):
            return None
        count = tool.get("count", 0)
        if type(count) is not int or not 0 <= count <= _MOST_SEARCHES:
            return None
        if count and tool.get("type") != "google_search":
            return None
        searches += count
    return searches


def _apart(counts: dict[str, Any]) -> dict[str, Any]:
    """Take thoughts out of the output where the total shows that they are counted in it."""
    names = ("promptTokenCount", "candidatesTokenCount", "toolUsePromptTokenCount", "totalTokenCount")
    prompt, output, tools, total = (counts.get(name, 0) for name in names)
    thoughts = counts.get("thoughtsTokenCount", 0)
    are_numbers = all(type(count) is int for count in (prompt, output, tools, total, thoughts))
    if are_numbers and thoughts and prompt + output + tools == total and output >= thoughts >= 0:
        return {**counts, "candidatesTokenCount": output - thoughts}
    return counts


def _json(data: bytes) -> object:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None
