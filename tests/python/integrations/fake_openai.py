"""OpenAI's API as the tests need it: the shapes of its replies, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fakes import FakeProvider, Reply, Request

MODEL = "gpt-5.4-nano"
"""0.20 USD for a million tokens of input, 1.25 for output."""
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 400, "total_tokens": 1_400}
RESPONSE_USAGE = {
    "input_tokens": 1_000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 400,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1_400,
}
COST = "0.0007"
"""What either of them costs."""


def completion(text: str = "hello", **more: Any) -> dict[str, Any]:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
        **more,
    }


def chunk(text: str | None, **more: Any) -> dict[str, Any]:
    """Return a piece of one; without a text the last."""
    delta: dict[str, Any] = {} if text is None else {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if text is None else None, "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_795_000_000,
        "model": MODEL,
        "choices": [choice],
        **more,
    }


def chunks(*texts: str, usage: Any = USAGE, asked: bool = True) -> Iterator[Any]:
    """Yield a streamed completion."""
    for text in texts:
        yield chunk(text, **({"usage": None} if asked else {}))
    yield chunk(None)
    if usage is not None and asked:
        yield {**chunk(None), "choices": [], "usage": usage}
    yield "data: [DONE]\n\n"


def response(text: str = "hello", *, status: str = "completed", **more: Any) -> dict[str, Any]:
    """Return a response of the Responses API."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    is_over = status in ("completed", "incomplete", "failed", "cancelled")
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_795_000_000,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "model": MODEL,
        "output": [message] if is_over else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "metadata": {},
        "usage": RESPONSE_USAGE if is_over else None,
        **more,
    }


def events(
    *texts: str, last: dict[str, Any] | None = None, begun: dict[str, Any] | None = None
) -> Iterator[Any]:
    """Yield a streamed response."""
    empty = {**response(status="in_progress"), **(begun or {})}
    if last is None:
        last = {**response("".join(texts)), "id": empty["id"], "model": empty["model"]}
    listed: list[dict[str, Any]] = [
        {"type": "response.created", "response": empty},
        {"type": "response.in_progress", "response": empty},
    ]
    for index, item in enumerate(last.get("output") or response()["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        begun_item = {**item, "status": "in_progress", **({"content": []} if "content" in item else {})}
        listed.append({"type": "response.output_item.added", "output_index": index, "item": begun_item})
        if item["type"] == "message":
            listed += _said({**at, "content_index": 0}, texts or (item["content"][0]["text"],))
        else:
            said = {**at, "arguments": item["arguments"], "name": item["name"]}
            listed.append({"type": "response.function_call_arguments.done", **said})
        listed.append({"type": "response.output_item.done", "output_index": index, "item": item})
    if last:
        listed.append({"type": f"response.{last['status']}", "response": last})
    for number, event in enumerate(listed):
        yield event["type"], {**event, "sequence_number": number}


def _said(at: dict[str, Any], texts: tuple[str, ...]) -> list[dict[str, Any]]:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    text = "".join(texts)
    return [
        {"type": "response.content_part.added", **at, "part": part},
        *({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []} for piece in texts),
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": {**part, "text": text}},
    ]


def embedding(**more: Any) -> dict[str, Any]:
    """Return the embedding of a text."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
        **more,
    }


def answer(request: Request) -> Reply:
    """Answer as the API does."""
    path = request.path.partition("?")[0].removeprefix("/v1")
    model = (
        {"model": request.body["model"]} if isinstance(request.body, dict) and "model" in request.body else {}
    )
    if path == "/chat/completions":
        if request.streams:
            asked = (request.body.get("stream_options") or {}).get("include_usage") is True
            pieces = chunks("hel", "lo", asked=asked)
            return Reply(events=[of if isinstance(of, str) else {**of, **model} for of in pieces])
        return Reply(completion(**model))
    if path == "/responses":
        return Reply(events=events("hel", "lo", begun=model)) if request.streams else Reply(response(**model))
    if path == "/embeddings":
        return Reply(embedding(**model))
    if path == "/completions":
        choice = {"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": None}
        if request.streams:
            piece = {"id": "cmpl-1", "object": "text_completion", "created": 1, **model}
            listed = [{**piece, "choices": [choice]}, {**piece, "choices": [], "usage": USAGE}]
            return Reply(events=[*listed, "data: [DONE]\n\n"])
        return Reply(completion(object="text_completion", choices=[choice], **model))
    if path.startswith("/responses/"):
        return Reply(response())
    if path == "/models":
        return Reply({"object": "list", "data": []})
    return Reply({"error": {"message": f"no {path} here"}}, status=404)


def fake_openai() -> FakeProvider:
    """Start one."""
    return FakeProvider(answer)
