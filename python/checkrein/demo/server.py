"""A model server on the loopback interface that speaks the OpenAI chat completions API."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

# A model: the messages so far in, the next assistant message out.
Model = Callable[[list[dict[str, Any]]], dict[str, Any]]

MAX_BODY = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    """One request to the API; the server that owns it has the model."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer `/v1/chat/completions`; everything else is refused in the API's own error form."""
        length = int(self.headers.get("content-length") or 0)
        if not 0 < length <= MAX_BODY:
            # The body stays unread, so the connection cannot be used again.
            self.close_connection = True
            self._error(413, f"a body of 1 to {MAX_BODY} bytes is needed")
            return
        body = self.rfile.read(length)
        if self.path != "/v1/chat/completions":
            self._error(404, f"unknown path {self.path}")
        elif not self.headers.get("authorization", "").startswith("Bearer "):
            self._error(401, "no API key")
        else:
            self._complete(body)

    def _complete(self, body: bytes) -> None:
        """Ask the model for the next message of a conversation."""
        try:
            request = json.loads(body)
            messages, model, stream = request["messages"], request["model"], request.get("stream", False)
            wants_usage = bool(stream) and (request.get("stream_options") or {}).get("include_usage") is True
        except (ValueError, KeyError, TypeError, AttributeError):
            self._error(400, "a JSON object with `model` and `messages` is needed")
            return
        message = self.server.model(messages)
        usage = _usage(messages, message)
        head = {"id": f"chatcmpl-{len(messages)}", "created": int(time.time()), "model": model}
        if stream:
            self._stream(head, message, usage if wants_usage else None)
            return
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": None, **message},
            "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
            "logprobs": None,
        }
        self._send(200, {"object": "chat.completion", **head, "choices": [choice], "usage": usage})

    def _stream(self, head: dict[str, Any], message: dict[str, Any], usage: dict[str, int] | None) -> None:
        """Send an answer word by word, and at its end what it used if that was asked for."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in _chunks(head, message, usage):
            data = b"data: " + (chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()) + b"\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal for the timeline."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: Model) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the terminal for the timeline: clients hang up as they like."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _usage(messages: list[dict[str, Any]], answer: dict[str, Any]) -> dict[str, int]:
    """Token counts at four bytes a token, as a rough scripted model would report them."""
    prompt, completion = (len(json.dumps(part)) // 4 for part in (messages, answer))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chunks(
    head: dict[str, Any], message: dict[str, Any], usage: dict[str, int] | None
) -> Iterator[dict[str, Any] | bytes]:
    """The pieces of a streamed answer."""
    head = {"object": "chat.completion.chunk", **head}
    for word in re.findall(r"\S+\s*", message.get("content") or ""):
        delta = {"role": "assistant", "content": word}
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}]}
    if usage is not None:
        yield {**head, "choices": [], "usage": usage}
    yield b"[DONE]"


@contextmanager
def serve(model: Model) -> Iterator[str]:
    """Serve `model` on a free port while the context lasts; yields the API's base URL."""
    server = _Server(model)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
