"""What Anthropic is asked and what it answers: messages and their streams, as the meter reads them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from checkrein.integrations import limits
from checkrein.integrations.metered import Asked, Attempt
from checkrein.integrations.sse import EventSplitter, data_of, event_of

if TYPE_CHECKING:
    from checkrein.engine import Engine

_MESSAGES: Final = re.compile(r"/v1/(messages|complete)$")
_BATCHES: Final = re.compile(r"/v1/messages/batches$")
# What makes the provider call models by itself, for as long as it likes: nobody can say before what that costs.
_UNBOUNDED: Final = re.compile(
    r"/v1/(sessions|dreams|deployments|sessions/[^/]+/(threads/[^/]+/)?events|deployments/[^/]+/(run|unpause))$"
)
_MAXIMA: Final = ("max_tokens", "max_tokens_to_sample")
_UNSEEN: Final = ("image", "document", "file_id", "container", "mcp_servers")
"""Words in a request that name what it does not contain, or what is no text."""
_OUTPUT_PER_INPUT: Final = 5
"""So many times as dear as a token of input is one of output, in every model of this provider."""
_FAMILIES: Final = ("haiku", "sonnet", "opus")
"""Families of models, the cheapest first; what is of none of them may be dearer."""
_DEARER_PER_FAMILY: Final = 3
_DEARER_IN_FAMILY: Final = 2
_BYTES_PER_TOKEN: Final = 128
"""No token of any model is longer than this, runs of spaces included."""
# Parts of an answer of which each holds a token at least; a summary of thoughts is not what was charged for them.
_COUNTED: Final = {"text_delta": "text", "input_json_delta": "partial_json"}


class Endpoint:
    """A request that makes a message, or a batch of them."""

    def __init__(self, bodies: list[Mapping[str, Any]], provider: str, *, is_batch: bool) -> None:
        context = {"processing": "batch"} if is_batch else None
        texts = [_text(one) for one in bodies]
        self._text = texts[0]
        self._has_rounds = any(_rounds(one) or not _has_own_tools(one) for one in bodies)
        self.all_asked = [
            Asked(
                text,
                model=one.get("model"),
                provider=provider,
                unseen_tokens=_unseen(one, text),
                context=context,
            )
            for text, one in zip(texts, bodies, strict=True)
        ]
        self.asked: Asked | None = self.all_asked[0]
        self.response_id: str | None = None
        self.unbounded: str | None = None
        self.is_batch = is_batch

    def maximum(self, body: Any, attempt: Attempt) -> dict[str, Any] | None:
        """Return the body with the maximum that was held for; nothing where the caller set one."""
        most = attempt.max_output
        if most is None or self.is_batch or not isinstance(body, Mapping):
            return None
        if any(body.get(name) is not None for name in _MAXIMA):
            return None
        return {**body, "max_tokens_to_sample" if "prompt" in body else "max_tokens": most}

    def sent(self, options: Any, attempt: Attempt) -> Any:
        """Return the options of a request with the maximum that was held for."""
        body = self.maximum(json.loads(self._text), attempt)
        if body is None:
            return options
        bounded = copy.copy(options)
        if getattr(options, "content", None) is not None:
            bounded.content = json.dumps(body).encode()
        else:
            bounded.json_data = body
        return bounded

    def whole(self, attempt: Attempt, body: bytes) -> MessageReading:
        """Read a reply that is there; a batch costs what its answers cost, and those come to whoever asks later."""
        reading = self.reading(attempt, "application/json")
        if not self.is_batch:
            reading.feed(body)
            reading.rest()
        return reading

    def reading(self, attempt: Attempt, content_type: str) -> MessageReading:
        """Begin to read one that comes in pieces."""
        # A provider that goes several rounds may use the maximum in each.
        most = None if self._has_rounds else attempt.max_output
        return MessageReading(most, is_stream="text/event-stream" in content_type)


def endpoint_of(method: str, url: str, body: Any, provider: str, engine: Engine) -> Endpoint | None:
    """Read a request; nothing for one that costs nothing: whatever only reads, counts, cancels or deletes.

    Raises BudgetExceeded for what cannot be bounded, where a limit counts in the engine.
    """
    if method.lower() != "post":
        return None
    path = url.partition("?")[0].rstrip("/")
    if isinstance(body, bytes | bytearray):
        body = _json(bytes(body))
    said = body if isinstance(body, Mapping) else {}
    if _MESSAGES.search(path):
        return Endpoint([said], provider, is_batch=False)
    if _BATCHES.search(path):
        requests = said.get("requests")
        bodies = [one.get("params") or {} for one in requests] if isinstance(requests, list | tuple) else []
        return Endpoint(bodies, provider, is_batch=True) if bodies else None
    if _UNBOUNDED.search(path):
        limits.refuse_unmetered(engine, "an agent that Anthropic runs")
    return None


class MessageReading:
    """A message as it comes: whole, or as events that tell its input at the start and all of it at the end."""

    response_id: str | None = None

    def __init__(self, most: int | None, *, is_stream: bool) -> None:
        self.reply: object | None = None
        self.finished = False
        self.most = most
        self._events = EventSplitter() if is_stream else None
        self._bytes = bytearray()
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._open_block: int | None = None
        self._parts = 0
        self._text_bytes = 0
        self._output = 0

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
            self.reply, self.finished = _told(_json(bytes(self._bytes))), True
            return b""
        rest = self._events.rest()
        self._event(rest)
        return rest

    def streamed(self) -> int:
        """Return how many output tokens have come, at the least: what was told, or what the text must be made of.

        A part of an answer is a token at least, unless a server cuts answers into single characters.
        """
        counted = min(self._parts, self._text_bytes // 2)
        return max(counted, self._text_bytes // _BYTES_PER_TOKEN, self._output)

    def ending(self) -> bytes:
        """Return the events that end a message in the middle."""
        events: list[dict[str, Any]] = []
        if self._open_block is not None:
            events.append({"type": "content_block_stop", "index": self._open_block})
        usage = {"output_tokens": self.streamed()}
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        events.append({"type": "message_stop"})
        return b"".join(event_of(json.dumps(event).encode(), event["type"]) for event in events)

    def _event(self, event: bytes) -> None:
        said = _json(data_of(event))
        if not isinstance(said, Mapping):
            return
        kind = said.get("type")
        if kind == "message_start":
            self._message = _mapping(said.get("message"))
            self._usage = _mapping(self._message.get("usage"))
        elif kind == "content_block_start":
            index = said.get("index")
            self._open_block = index if isinstance(index, int) else None
        elif kind == "content_block_delta":
            delta = _mapping(said.get("delta"))
            part = delta.get(_COUNTED.get(str(delta.get("type")), ""))
            if isinstance(part, str) and part:
                # What was told was not all, then.
                self.reply = None
                self._parts += 1
                self._text_bytes += len(part.encode(errors="replace"))
        elif kind == "content_block_stop":
            self._open_block = None
        elif kind == "message_delta":
            self._delta(said)
        elif kind == "message_stop":
            self.finished = True

    def _delta(self, said: Mapping[str, Any]) -> None:
        told = said.get("usage")
        if not isinstance(told, Mapping):
            return
        self._usage.update({name: count for name, count in told.items() if count is not None})
        if "cache_creation" not in told:
            self._usage["cache_creation"] = _lives(self._usage)
        output = told.get("output_tokens")
        if isinstance(output, int) and not isinstance(output, bool):
            self._output = output
        if "output_tokens" in told and _mapping(said.get("delta")).get("stop_reason") is not None:
            self.reply = {"type": "message", **self._message, "usage": self._usage}


def _lives(usage: Mapping[str, Any]) -> object:
    """Return how long what was written to the cache stays there: what the start did not tell of stays the longest."""
    told, written = usage.get("cache_creation"), usage.get("cache_creation_input_tokens")
    short = told.get("ephemeral_5m_input_tokens") if isinstance(told, Mapping) else None
    if isinstance(short, int) and isinstance(written, int) and written >= short:
        return {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": written - short}
    return told


def _rounds(body: Mapping[str, Any]) -> int:
    """Count the rounds that a request can make the provider go beside the one that answers it.

    Another model may be asked when the first declines, and what was said before may be made shorter first; both are
    charged.
    """
    fallbacks, management = body.get("fallbacks"), body.get("context_management")
    others = len(fallbacks) if isinstance(fallbacks, list | tuple) else 2 * bool(fallbacks)
    edits = management.get("edits") if isinstance(management, Mapping) else None
    kinds = (
        [edit.get("type") for edit in edits if isinstance(edit, Mapping)] if isinstance(edits, list) else []
    )
    return others + sum(str(kind).startswith("compact") for kind in kinds)


def _unseen(body: Mapping[str, Any], text: str) -> int | None:
    """Estimate what such rounds read and write, where all else of a request is seen; else the policy has to say it."""
    rounds = _rounds(body)
    if not rounds or not _has_own_tools(body) or any(f'"{part}"' in text for part in _UNSEEN):
        return None
    most = next((body[name] for name in _MAXIMA if isinstance(body.get(name), int)), 0)
    each = len(text) + _OUTPUT_PER_INPUT * most
    fallbacks = body.get("fallbacks")
    others = [
        _times_dearer(body.get("model"), one) - 1
        for one in (fallbacks if isinstance(fallbacks, list | tuple) else ())
    ]
    return each * (rounds + sum(others))


def _times_dearer(model: object, fallback: object) -> int:
    """Return how many times as dear as a model another is at the most, by the family that each is of."""
    other = fallback.get("model") if isinstance(fallback, Mapping) else None
    if other == model:
        return 1
    rank, own = _rank(other), _rank(model)
    return _DEARER_IN_FAMILY if rank == own else _DEARER_PER_FAMILY ** max(rank - own, 0)


def _rank(model: object) -> int:
    name = str(model)
    return next((rank for rank, family in enumerate(_FAMILIES) if family in name), len(_FAMILIES))


def _has_own_tools(body: Mapping[str, Any]) -> bool:
    """Whether the caller runs all the tools of a request."""
    tools = body.get("tools") or ()
    return all(isinstance(tool, Mapping) and tool.get("type") in (None, "custom") for tool in tools)


def _told(said: object) -> object | None:
    """Return a message that says what it used; nothing for one that does not."""
    return said if isinstance(said, Mapping) and isinstance(said.get("usage"), Mapping) else None


def _text(body: Mapping[str, Any]) -> str:
    """Write a request as it is sent; the SDK can send models where JSON knows only plain values."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", by_alias=True, exclude_unset=True)
    return dict(value) if isinstance(value, Mapping) else str(value)


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _json(data: bytes) -> object:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None
