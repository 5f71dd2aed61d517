"""One HTTP request over urllib, and what `debug=True` says about it."""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPMessage
from typing import IO, Any, Final

from checkrein.actguard import _debug
from checkrein.actguard._monitoring import _error_chain
from checkrein.actguard._redact import redact_text, redact_value

MAX_BODY: Final = 4 * 1024 * 1024
"""How many bytes of an answer are read."""


_create_default_context: Final = ssl.create_default_context


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection what it is, an answer: following it would hand the key to another host."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return nothing, so that urllib raises the answer as an HTTPError."""
        return None


def _ssl_context_for_url(url: str) -> ssl.SSLContext | None:
    if not url.lower().startswith("https:"):
        return None
    bundle = certificates()
    return ssl.create_default_context() if bundle is None else ssl.create_default_context(cafile=bundle)


def certificates() -> str | None:
    """Return the path of certifi's bundle, or `None` where it is not installed."""
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()


class Route:
    """How a thread of ours sends: fixed when it is made, whatever others put in the place of parts of it later."""

    def __init__(self, url: str | None) -> None:
        self.send = urllib.request.urlopen
        self._is_https = (url or "").lower().startswith("https:")
        self._bundle = certificates() if self._is_https else None
        self._made: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context, made once: that takes longer than a request."""
        if self._is_https and self._made is None:
            self._made = _create_default_context(cafile=self._bundle)
        return self._made


def urlopen(request: Any, *, timeout: float, route: Route | None = None) -> Any:
    """Send a request; no redirection is followed. Raises what urllib raises."""
    context = _ssl_context_for_url(_url(request)) if route is None else route.context()
    named: dict[str, Any] = {} if context is None else {"context": context}
    send = urllib.request.urlopen if route is None else route.send
    if getattr(send, "__module__", "") != "urllib.request":
        # Somebody put their own in its place, to watch or to answer.
        return send(request, timeout=timeout, **named)
    handlers: list[Any] = [_NoRedirect()]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout)


def read_body(response: Any, *, deadline: float | None = None) -> bytes:
    """Read an answer within its bounds; raises TimeoutError, or ValueError for one that is too long."""
    step = getattr(response, "read1", None)
    if step is None:
        whole: bytes = response.read()
        return whole
    parts: list[bytes] = []
    size = 0
    while part := step(65_536):
        size += len(part)
        parts.append(part)
        if size > MAX_BODY:
            raise ValueError(f"the answer is longer than {MAX_BODY} bytes")
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError("the answer took too long")
    return b"".join(parts)


class TransportDebugTrace:
    """The lines about one attempt at a request, on stderr."""

    def __init__(
        self, *, request: Any, timeout: float, attempt: int | None, max_attempts: int | None
    ) -> None:
        self._request = request
        self._timeout = timeout
        self._attempt = None if attempt is None else f"attempt={attempt}/{max_attempts}"
        self._began = time.perf_counter()

    def _line(self, kind: str, *more: str) -> None:
        words = [kind, self._attempt or "", _method(self._request), _url(self._request), *more]
        line = _debug.format_transport_debug([word for word in words if word], stream=sys.stderr)
        print(line, file=sys.stderr, flush=True)

    def _body(self, kind: str, body: bytes | str | None) -> None:
        text = _body_text(body)
        if text:
            print(_debug.format_transport_debug([kind, text], stream=sys.stderr), file=sys.stderr, flush=True)

    def _took(self) -> str:
        return f"duration_ms={(time.perf_counter() - self._began) * 1000:.1f}"

    def log_request(self) -> None:
        """Say what is asked."""
        self._line("request", f"timeout={self._timeout:.3f}s")
        self._body("request-body", getattr(self._request, "data", None))

    def log_success(self, *, response: Any, body: bytes | None) -> None:
        """Say what was answered."""
        status = _status(response)
        self._line("response", "" if status is None else f"status={status}", self._took())
        self._body("response-body", body)

    def log_failure(self, *, exc: BaseException) -> None:
        """Say what went wrong."""
        status = f"status={exc.code}" if isinstance(exc, urllib.error.HTTPError) else ""
        deepest = _error_chain(exc)[-1]
        why = redact_text(f"{type(deepest).__name__}: {deepest}")
        self._line("error", status, self._took(), f"error={why}")


def start_debug_trace(
    *,
    request: Any,
    timeout: float,
    debug: bool,
    attempt: int | None = None,
    max_attempts: int | None = None,
) -> TransportDebugTrace | None:
    """Say that a request begins, and return who says how it ends; nothing without `debug`."""
    if not debug:
        return None
    trace = TransportDebugTrace(request=request, timeout=timeout, attempt=attempt, max_attempts=max_attempts)
    trace.log_request()
    return trace


def _url(request: Any) -> str:
    return str(getattr(request, "full_url", request))


def _method(request: Any) -> str:
    method = getattr(request, "get_method", None)
    return str(method()) if callable(method) else "GET"


def _status(response: Any) -> int | None:
    for name in ("status", "code"):
        value = getattr(response, name, None)
        if isinstance(value, int):
            return value
    return None


def _body_text(body: bytes | str | None) -> str | None:
    if not body:
        return None
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    try:
        value = json.loads(text)
    except ValueError:
        return redact_text(text.strip()) or None
    return json.dumps(redact_value(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
