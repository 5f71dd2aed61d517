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


class FakeGoogle(FakeProvider):
    """The provider; what no reply was queued for it says with `reply`."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] = reply()
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
            return Reply(self.reply)
        return Reply({"name": "batches/b1", "metadata": {"state": "BATCH_STATE_PENDING"}})
