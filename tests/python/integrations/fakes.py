"""A provider on the loopback interface: answers as it is told, and keeps what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Request:
    """What the provider got."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return isinstance(self.body, dict) and bool(self.body.get("stream"))


@dataclass
class Reply:
    """What it answers, or does instead."""

    body: Any = None
    """A value that is sent as JSON, or bytes."""
    events: Iterable[Any] | None = None
    """Instead of a body: server-sent events, each a dict, a pair of its name and a dict, or text as it is."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False
    """Ends the connection without an answer; with events, after them and without the end of the body."""
    hangs: bool = False
    """Answers nothing until the provider is closed; with events, nothing after them."""


class FakeProvider:
    """Serves on a thread until it is closed; `default` answers what no reply was queued for."""

    def __init__(self, default: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self.closed = threading.Event()
        self._default = default
        self._queue: deque[Reply] = deque()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and bodies are written apart: the second would wait for the client to acknowledge the first.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                raw = self.rfile.read(length)
                body = json.loads(raw) if raw.startswith(b"{") else raw
                fake._answer(self, Request(self.command, self.path, dict(self.headers), body))

            do_GET = do_POST
            do_DELETE = do_POST

            def log_message(self, *_: object) -> None:
                """Say nothing: the tests ask."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Say nothing of clients that went away."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def then(self, *replies: Reply) -> None:
        """Queue what it answers next."""
        self._queue.extend(replies)

    def paths(self) -> list[str]:
        """Return the paths it was asked for."""
        return [request.path for request in self.requests]

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            reply = self._queue.popleft() if self._queue else None
        reply = reply or self._default(request)
        if reply.events is not None:
            self._stream(handler, reply)
            return
        if reply.hangs:
            self.closed.wait()
        if reply.drops or reply.hangs:
            _break_off(handler)
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _stream(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        for name, value in {"content-type": "text/event-stream", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            for event in reply.events or ():
                data = event if isinstance(event, bytes) else written(event)
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                handler.wfile.flush()
            if reply.hangs:
                self.closed.wait()
            if reply.drops or reply.hangs:
                _break_off(handler)
                return
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            # Whoever asked has gone.
            handler.close_connection = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


def written(event: Any) -> bytes:
    """Return an event as it is sent."""
    if isinstance(event, str):
        return event.encode()
    name, value = event if isinstance(event, tuple) else (None, event)
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def _break_off(handler: BaseHTTPRequestHandler) -> None:
    """Reset the connection: nobody can take it for an end."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
