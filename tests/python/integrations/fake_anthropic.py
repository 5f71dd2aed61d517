"""Anthropic's messages on 127.0.0.1, as far as its SDK can tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fakes import FakeProvider, Reply, Request

USAGE: Mapping[str, Any] = {
    "input_tokens": 200,
    "output_tokens": 40,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "service_tier": "standard",
}


def message(
    text: str = "Hello there",
    *,
    usage: Mapping[str, Any] | None = USAGE,
    model: str = "claude-opus-5",
    content: list[dict[str, Any]] | None = None,
    stop_reason: str = "end_turn",
    number: int = 1,
) -> dict[str, Any]:
    """Write a message as the provider does; without `usage` where that is `None`."""
    made: dict[str, Any] = {
        "id": f"msg_{number:04}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}] if content is None else content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    if usage is not None:
        made["usage"] = dict(usage)
    return made


def tool_use(name: str, arguments: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    """Write a message that asks for a tool."""
    block = {"type": "tool_use", "id": f"toolu_{number:04}", "name": name, "input": dict(arguments)}
    return message(content=[block], stop_reason="tool_use", number=number)


def refusal(status: int, kind: str = "api_error", said: str = "no") -> Reply:
    """Write an error as the provider does; the SDK tries again at once."""
    body = {"type": "error", "error": {"type": kind, "message": said}}
    return Reply(body, status=status, headers={"retry-after-ms": "1"})


Event = tuple[str, dict[str, Any]]


def events_of(made: Mapping[str, Any], *, start: Mapping[str, Any] | None = None) -> list[Event]:
    """Write a message as a stream: the input is told at the start, the output at the end."""
    usage = made.get("usage")
    first = {**made, "content": [], "stop_reason": None}
    if usage is not None:
        first["usage"] = {**usage, "output_tokens": 1} if start is None else dict(start)
    events: list[dict[str, Any]] = [{"type": "message_start", "message": first}]
    for index, block in enumerate(made["content"]):
        opened, parts = _parts(block)
        events += [{"type": "content_block_start", "index": index, "content_block": opened}, {"type": "ping"}]
        events += [{"type": "content_block_delta", "index": index, "delta": part} for part in parts]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": made["stop_reason"], "stop_sequence": None}
    end: dict[str, Any] = {"type": "message_delta", "delta": delta}
    if usage is not None:
        end["usage"] = {
            name: count for name, count in usage.items() if name not in ("service_tier", "cache_creation")
        }
    events += [end, {"type": "message_stop"}]
    return [(event["type"], event) for event in events]


def _parts(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        words = block["text"].split(" ")
        texts = [word if number == 0 else f" {word}" for number, word in enumerate(words)]
        return {**block, "text": ""}, [{"type": "text_delta", "text": text} for text in texts]
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]


class FakeAnthropic(FakeProvider):
    """The provider; what no reply was queued for it says with `reply`."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] = message()
        self.calls: dict[str, Any] | None = None
        """The arguments with which it asks for the first tool that it is offered, once in a conversation."""
        super().__init__(self._said)

    def messages(self) -> list[Any]:
        """Return the bodies of what it was asked to answer."""
        return [one.body for one in self.requests if one.path.partition("?")[0].endswith("/messages")]

    def _said(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        if path.endswith("/count_tokens"):
            return Reply({"input_tokens": 200})
        if "/batches" in path:
            return Reply(_batch("canceling" if path.endswith("/cancel") else "in_progress"))
        if path.endswith("/messages"):
            made = self.reply
            offered, last = request.body.get("tools"), request.body.get("messages", [{}])[-1]
            if self.calls is not None and offered and isinstance(last.get("content"), str):
                made = tool_use(offered[0]["name"], self.calls)
            said = {**made, "model": request.body.get("model", made["model"])}
            return Reply(events=events_of(said)) if request.streams else Reply(said)
        return Reply({"data": [], "has_more": False, "first_id": None, "last_id": None})


def _batch(status: str) -> dict[str, Any]:
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    return {
        "id": "msgbatch_1",
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        "created_at": "2026-11-21T12:00:00Z",
        "expires_at": "2026-11-22T12:00:00Z",
        "ended_at": None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": None,
    }
