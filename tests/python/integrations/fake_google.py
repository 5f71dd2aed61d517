"""The Gemini API on 127.0.0.1, as far as google-genai can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakes import FakeProvider, Reply, Request

USAGE: Mapping[str, Any] = {
    "promptTokenCount": 200,
    "candidatesTokenCount": 40,
    "totalTokenCount": 240,
}


def reply(
    text: str = "Hello there",
    *,
    usage: Mapping[str, Any] | None = USAGE,
    model: str = "gemini-3.8-flash",
    parts: list[dict[str, Any]] | None = None,
    finish: str | None = "STOP",
) -> dict[str, Any]:
    """Write a reply as the provider does; without usage where that is `None`."""
    content = {"role": "model", "parts": [{"text": text}] if parts is None else parts}
    candidate: dict[str, Any] = {"content": content, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    made: dict[str, Any] = {"candidates": [candidate], "modelVersion": model, "responseId": "r1"}
    if usage is not None:
        made["usageMetadata"] = dict(usage)
    return made


def call_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write a reply that asks for a function."""
    return reply(parts=[{"functionCall": {"name": name, "args": dict(arguments)}}])


def refusal(status: int, word: str = "INTERNAL", said: str = "no") -> Reply:
    """Write an error as the provider does."""
    return Reply({"error": {"code": status, "message": said, "status": word}}, status=status)


def chunks_of(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split a reply of text into chunks; as the provider does, each tells the usage so far."""
    part = made["candidates"][0]["content"]["parts"][0]
    usage = made.get("usageMetadata")
    if "text" not in part:
        return [dict(made)]
    words = part["text"].split(" ")
    chunks = []
    for number, word in enumerate(words):
        last = number == len(words) - 1
        so_far = None
        if usage is not None:
            output = usage.get("candidatesTokenCount", 0)
            said = output if last else output * (number + 1) // len(words)
            so_far = {**usage, "candidatesTokenCount": said}
            so_far["totalTokenCount"] = usage["totalTokenCount"] - output + said
        text = word if number == 0 else f" {word}"
        chunks.append(reply(text, usage=so_far, model=made["modelVersion"], finish="STOP" if last else None))
    return chunks


def interaction(text: str = "Hello there", *, usage: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write an interaction as the provider does."""
    counted = {"total_input_tokens": 200, "total_output_tokens": 40, "total_tokens": 240}
    return {
        "id": "interaction-1",
        "object": "interaction",
        "status": "completed",
        "model": "gemini-3.8-flash",
        "steps": [{"type": "model_output", "content": [{"type": "text", "text": text}]}],
        "usage": counted if usage is None else dict(usage),
    }


def steps_of(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write an interaction as a stream of events."""
    begun = {"id": made["id"], "status": "in_progress", "model": made["model"]}
    words = made["steps"][0]["content"][0]["text"].split(" ")
    texts = [word if number == 0 else f" {word}" for number, word in enumerate(words)]
    return [
        {"event_type": "interaction.created", "interaction": begun},
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
        *(
            {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": text}}
            for text in texts
        ),
        {"event_type": "step.stop", "index": 0},
        {"event_type": "interaction.completed", "interaction": {**made, "steps": []}},
    ]


class FakeGoogle(FakeProvider):
    """The provider; what no reply was queued for it says with `reply`."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] = reply()
        self.calls: dict[str, Any] | None = None
        """The arguments with which it asks for the first function that it is offered, once in a conversation."""
        super().__init__(self._said)

    def generated(self) -> list[Any]:
        """Return the bodies of what it was asked to generate."""
        return [one.body for one in self.requests if "enerateContent" in one.path]

    def _said(self, request: Request) -> Reply:
        verb = request.path.partition("?")[0].rpartition(":")[2]
        if verb == "countTokens":
            return Reply({"totalTokens": 200})
        if verb == "batchEmbedContents":
            return Reply({"embeddings": [{"values": [0.1, 0.2]}] * len(request.body["requests"])})
        if verb == "streamGenerateContent":
            return Reply(events=chunks_of(self.reply))
        if verb == "generateContent":
            offered = request.body.get("tools") or [{}]
            functions = offered[0].get("functionDeclarations")
            if self.calls is not None and functions and "text" in request.body["contents"][-1]["parts"][0]:
                return Reply(call_of(functions[0]["name"], self.calls))
            return Reply(self.reply)
        if request.path.endswith("/interactions"):
            said = interaction()
            return Reply(events=steps_of(said)) if request.streams else Reply(said)
        return Reply({"name": "batches/b1", "metadata": {"state": "BATCH_STATE_PENDING"}})
