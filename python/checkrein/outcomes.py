"""What an exception of a tool says about the tool's effect and about the dependency behind it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

from checkrein.errors import Denied, NotExecuted, TimedOut

_log = logging.getLogger("checkrein")

WORDS: Final = frozenset({"success", "failure", "neutral", "not_executed"})

# Errors of clients that are not imported here, by the module and name of a class anywhere in their ancestry. They are
# all about the way to the dependency or its state, never about what the caller asked for.
_FAILURES: Final = frozenset(
    {
        ("httpx", "TransportError"),
        ("httpx2", "TransportError"),
        ("requests.exceptions", "ConnectionError"),
        ("requests.exceptions", "Timeout"),
        ("urllib3.exceptions", "TimeoutError"),
        ("urllib3.exceptions", "ProtocolError"),
        ("urllib3.exceptions", "NewConnectionError"),
        ("urllib.error", "URLError"),
        ("aiohttp.client_exceptions", "ClientConnectionError"),
        ("botocore.exceptions", "HTTPClientError"),
        ("openai", "APIConnectionError"),
        ("openai", "InternalServerError"),
        ("anthropic", "APIConnectionError"),
        ("anthropic", "InternalServerError"),
        ("redis.exceptions", "ConnectionError"),
        ("redis.exceptions", "TimeoutError"),
    }
)
_GRPC_FAILURES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"})


def classifier(
    hook: Callable[[BaseException], str | None] | None, safe: tuple[type[Exception], ...] = ()
) -> Callable[[BaseException], str]:
    """Make the function that the native code asks: the user's hook first, then the built-in list.

    It answers `success`, `failure`, `neutral`, `not_executed`, `unreachable` (not executed because the dependency is
    down) or `timed_out`. What is one of the `safe` exceptions was not executed, whatever it says of the dependency.
    """
    ask = classify if hook is None else _asking(hook)
    if not safe:
        return ask

    def ask_safe(error: BaseException) -> str:
        word = ask(error)
        if not isinstance(error, safe):
            return word
        return "unreachable" if word in ("failure", "unreachable") else "not_executed"

    return ask_safe


def _asking(hook: Callable[[BaseException], str | None]) -> Callable[[BaseException], str]:

    def ask(error: BaseException) -> str:
        try:
            word = hook(error)
        except Exception:
            _log.exception("the classify hook failed; the built-in classification is used")
            return classify(error)
        if word is None:
            return classify(error)
        if not isinstance(word, str) or word not in WORDS:
            _log.error("the classify hook returned %r, not one of %s", word, ", ".join(sorted(WORDS)))
            return classify(error)
        return word

    return ask


def classify(error: BaseException) -> str:
    """Classify an exception by what is known of it; an unknown one says nothing about the dependency."""
    if isinstance(error, NotExecuted):
        cause = error.__cause__
        return "unreachable" if cause is not None and _is_failure(cause) else "not_executed"
    if isinstance(error, TimedOut):
        return "timed_out"
    if isinstance(error, Denied) or not isinstance(error, Exception):
        # A refusal of an inner gate, Ctrl-C, a cancellation: the dependency was not heard.
        return "neutral"
    return "failure" if _is_failure(error) else "neutral"


def _is_failure(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        return True
    status = _http_status(error)
    if status is not None:
        return status >= 500 or status == 408
    if any((cls.__module__.partition("._")[0], cls.__name__) in _FAILURES for cls in type(error).__mro__):
        return True
    code = getattr(error, "code", None)
    if callable(code) and type(error).__module__.startswith("grpc"):
        try:
            return getattr(code(), "name", "") in _GRPC_FAILURES
        except Exception:
            return False
    # SQLSTATE class 08 is "connection exception", 53 "insufficient resources", 57P "operator intervention".
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return isinstance(sqlstate, str) and sqlstate.startswith(("08", "53", "57P"))


def _http_status(error: BaseException) -> int | None:
    """Find the status of the reply that an HTTP client's exception carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {})
        status = response.get("HTTPStatusCode") if isinstance(response, dict) else None
    else:
        status = getattr(response, "status_code", None) or getattr(response, "status", None)
    if status is None:
        status = getattr(error, "status_code", None)
    if status is None and type(error).__module__ == "urllib.error":
        status = getattr(error, "code", None)
    return status if isinstance(status, int) and not isinstance(status, bool) else None
