"""Replies of OpenAI's API: where usage stands in bodies and streams, and how much of an answer has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from checkrein.integrations.sse import EventSplitter, data_of, event_of

MAX_BODY: Final = 64 << 20
"""A longer body is passed on and not read: its call is charged at its full hold."""
_BYTES_PER_TOKEN: Final = 16
"""Text of more bytes than this for each token does not occur: what is longer is more tokens."""
_TERMINAL: Final = frozenset({"completed", "failed", "incomplete", "cancelled"})


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class BodyReading:
    """A reply in one piece, that may come in several."""

    def __init__(self, in_background: bool = False, *, is_lookup: bool = False, is_json: bool = True) -> None:
        self.reply: object | None = None
        self.finished = False
        self.response_id: str | None = None
        self.most: int | None = None
        self._in_background = in_background
        self._is_lookup = is_lookup
        self._parts: list[bytes] = []
        self._left = MAX_BODY if is_json else 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take more of the body, all of which is passed on."""
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(data)
        else:
            self._parts.clear()
        return [data]

    def rest(self) -> bytes:
        """Take the end of the body."""
        body = _parsed(b"".join(self._parts))
        self._parts.clear()
        self.finished = True
        status, response_id = body.get("status"), body.get("id")
        if body.get("object") == "response" and status not in _TERMINAL:
            # It goes on in the background, and says later what it used.
            is_known = self._in_background and isinstance(response_id, str)
            self.response_id = response_id if is_known else None
        elif isinstance(body.get("usage"), dict) or self._is_lookup:
            self.reply = _counting(body)
        return b""

    def streamed(self) -> int:
        """Nothing is cut that comes in one piece."""
        return 0

    def ending(self) -> bytes:
        """Nothing is cut that comes in one piece."""
        return b""


@dataclass(frozen=True, slots=True)
class Shape:
    """The events of one endpoint."""

    has_choices: bool


SHAPES: Final = {
    "chat/completions": Shape(has_choices=True),
    "completions": Shape(has_choices=True),
    "responses": Shape(has_choices=False),
    "responses/compact": Shape(has_choices=False),
    "embeddings": Shape(has_choices=False),
    "decisions": Shape(has_choices=False),
}


class StreamReading:
    """A streamed reply."""

    def __init__(
        self,
        shape: Shape,
        *,
        most: int | None,
        hides_usage: bool,
        in_background: bool = False,
        answers: int = 1,
    ) -> None:
        self.reply: object | None = None
        self.finished = False
        self.response_id: str | None = None
        self.most = most
        self._shape = shape
        self._hides_usage = hides_usage
        self._in_background = in_background
        self._answers = answers
        self._told: object | None = None
        self._over: dict[object, bool] = {}
        self._events = EventSplitter()
        self._pieces = 0
        self._bytes = 0
        self._last: dict[str, Any] = {}
        self._sequence = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take more of the body; returns the events that its reader gets."""
        return [event for event in self._events.feed(data) if self._read(event)]

    def rest(self) -> bytes:
        """Take the end of the body: an event that was not ended is one all the same."""
        rest = self._events.rest()
        return rest if not rest or self._read(rest) else b""

    def streamed(self) -> int:
        """Return how many output tokens have come, at the least.

        A token has a byte at least, and a piece of an answer a token; but some servers cut answers into single
        characters, so that a piece only counts where it has two bytes on average.
        """
        return max(min(self._pieces, self._bytes // 2), self._bytes // _BYTES_PER_TOKEN)

    def ending(self) -> bytes:
        """Return the events that end an answer as one that reached its maximum."""
        if self._shape.has_choices:
            kept = {
                name: self._last[name] for name in ("id", "object", "created", "model") if name in self._last
            }
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
            is_chat = self._last.get("object") == "chat.completion.chunk"
            choice["delta" if is_chat else "text"] = {} if is_chat else ""
            return event_of(json.dumps({**kept, "choices": [choice]}).encode())
        response = self._last.get("response")
        if not isinstance(response, dict):
            return b""
        cut = {**response, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        event = {
            "type": "response.incomplete",
            "sequence_number": self._sequence + 1,
            "response": cut,
        }
        return event_of(json.dumps(event).encode(), "response.incomplete")

    def _read(self, event: bytes) -> bool:
        """Read an event; returns whether its reader gets it."""
        data = data_of(event)
        if data.startswith(b"[DONE]"):
            self.finished = True
            self.reply = self.reply or self._told
            return True
        body = _parsed(data)
        if not body:
            return True
        return self._choices(body) if self._shape.has_choices else self._response(body)

    def _choices(self, body: dict[str, Any]) -> bool:
        choices = body.get("choices")
        choices = choices if isinstance(choices, list) else []
        said = 0
        for choice in choices:
            if isinstance(choice, dict):
                length = _said(choice.get("delta")) + _said(choice.get("text"))
                self._count(length)
                said += length
                self._over[str(choice.get("index"))] = choice.get("finish_reason") is not None
        self._last = body
        has_usage = isinstance(body.get("usage"), dict)
        if has_usage:
            self._told = _counting(body)
        elif said:
            # What was told was so before this.
            self._told = None
        # Some servers tell with every piece what was used so far: only the end of all answers makes it all.
        is_over = not choices or (len(self._over) >= self._answers and all(self._over.values()))
        self.reply = self._told if is_over else None
        return not has_usage or bool(choices) or not self._hides_usage

    def _response(self, body: dict[str, Any]) -> bool:
        kind, response = str(body.get("type", "")), body.get("response")
        if isinstance(number := body.get("sequence_number"), int):
            self._sequence = number
        if kind.endswith(".delta") and not kind.endswith("audio.delta"):
            self._count(_said(body.get("delta")))
        if isinstance(response, dict):
            self._last = {"response": response}
            if self._in_background and isinstance(response.get("id"), str):
                self.response_id = response["id"]
            if response.get("status") in _TERMINAL:
                self.finished = True
                if isinstance(response.get("usage"), dict):
                    self.reply = {"type": kind, "response": _counting(response)}
                self.response_id = None
        return True

    def _count(self, length: int) -> None:
        if length:
            self._pieces += 1
            self._bytes += length


def _said(value: object) -> int:
    """Return the bytes of what a piece of an answer says: its texts, however deep, but no names and kinds."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, Mapping):
        silent = ("role", "type", "id", "index", "name", "obfuscation", "data")
        return sum(_said(inner) for name, inner in value.items() if name not in silent)
    if isinstance(value, list):
        return sum(map(_said, value))
    return 0


def _counting(body: dict[str, Any]) -> dict[str, Any]:
    """Return what of a reply says what it used, and leave out what it says."""
    kept = ("id", "object", "type", "model", "service_tier", "status", "usage", "output")
    return {name: body[name] for name in kept if name in body}
