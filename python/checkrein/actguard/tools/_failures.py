"""What an outcome says of a dependency: what the contract of this drop-in says first, then what Checkrein knows."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Final

from checkrein.actguard.exceptions import ActGuardError, ToolExecutionError, ToolTimeoutError
from checkrein.errors import Denied
from checkrein.failures import FailureKind, failure_kind


class NotHeard:
    """The kind of an outcome in which the dependency had no part: a refusal, a cancellation, Ctrl-C."""


__all__ = ["NOT_HEARD", "FailureKind", "Kind", "NotHeard", "kind_of", "kind_of_result"]

NOT_HEARD: Final = NotHeard()
Kind = FailureKind | NotHeard

_BY_STATUS: Final = {
    401: FailureKind.AUTH,
    403: FailureKind.AUTH,
    404: FailureKind.NOT_FOUND,
    409: FailureKind.CONFLICT,
    429: FailureKind.THROTTLED,
}
_BY_GRPC: Final = {
    "UNAVAILABLE": FailureKind.TRANSPORT,
    "DEADLINE_EXCEEDED": FailureKind.TIMEOUT,
    "RESOURCE_EXHAUSTED": FailureKind.OVERLOADED,
    "PERMISSION_DENIED": FailureKind.AUTH,
    "UNAUTHENTICATED": FailureKind.AUTH,
    "INVALID_ARGUMENT": FailureKind.INVALID,
    "NOT_FOUND": FailureKind.NOT_FOUND,
}
_BY_CLOUD_CODE: Final = (
    (("throttl", "toomanyrequests"), FailureKind.THROTTLED),
    (("accessdenied", "unauthorized", "unrecognizedclient", "invalidtoken"), FailureKind.AUTH),
    (("requesttimeout",), FailureKind.TIMEOUT),
)
_BY_SQLSTATE: Final = {
    "40P01": FailureKind.CONFLICT,
    "40001": FailureKind.CONFLICT,
    "42601": FailureKind.INVALID,
    "42P01": FailureKind.INVALID,
    "42703": FailureKind.INVALID,
    "53300": FailureKind.OVERLOADED,
}
_BY_DATABASE_TEXT: Final = (
    (("deadlock", "could not serialize access"), FailureKind.CONFLICT),
    (("too many connections", "remaining connection slots"), FailureKind.OVERLOADED),
)
_INVALID_SQL: Final = ("syntax error", "undefined table", "undefined column")
_LOST: Final = frozenset(
    {errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT}
)


def kind_of_result(result: object) -> FailureKind | None:
    """Return the kind of failure that a returned object reports by its status; `None` for a success."""
    status = getattr(result, "status_code", None)
    return _of_status(status) if _is_status(status) else None


def kind_of(error: BaseException) -> Kind:
    """Return the kind of failure that an exception is."""
    if not isinstance(error, Exception) or isinstance(error, Denied):
        return NOT_HEARD
    if isinstance(error, ActGuardError):
        return _of_own(error)
    for look in (_of_http, _of_grpc, _of_cloud, _of_builtin, _of_database):
        try:
            kind = look(error)
        except Exception:
            # An exception whose own attributes raise says nothing.
            kind = None
        if kind is not None:
            return kind
    return failure_kind(error)


def _of_own(error: ActGuardError) -> Kind:
    """Ours: a time-out of the tool is one; whatever else a guard, a run or a budget raised is no outcome."""
    if isinstance(error, ToolTimeoutError):
        # Where the tool never got a thread it is us who are slow.
        never_ran = getattr(error, "_not_started", None) is not None
        return NOT_HEARD if never_ran else FailureKind.TIMEOUT
    return FailureKind.UNKNOWN if isinstance(error, ToolExecutionError) else NOT_HEARD


def _is_status(status: object) -> bool:
    return isinstance(status, int) and not isinstance(status, bool)


def _of_status(status: Any) -> FailureKind | None:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 500 <= status < 600:
        return FailureKind.OVERLOADED
    return FailureKind.INVALID if 400 <= status < 500 else None


def _of_http(error: Exception) -> FailureKind | None:
    response = getattr(error, "response", None)
    candidates = [getattr(error, "status_code", None), getattr(response, "status_code", None)]
    if isinstance(response, dict):
        about = response.get("ResponseMetadata")
        candidates.append(about.get("HTTPStatusCode") if isinstance(about, dict) else None)
        candidates.append(response.get("status_code"))
    status = next((one for one in candidates if _is_status(one)), None)
    return None if status is None else _of_status(status)


def _of_grpc(error: Exception) -> FailureKind | None:
    code = getattr(error, "code", None)
    if not callable(code):
        return None
    return _BY_GRPC.get(str(getattr(code(), "name", "")).upper())


def _of_cloud(error: Exception) -> FailureKind | None:
    response = getattr(error, "response", None)
    about = response.get("Error") if isinstance(response, dict) else None
    if not isinstance(about, dict):
        return None
    code = "".join(letter for letter in str(about.get("Code", "")).lower() if letter.isalnum())
    return next((kind for words, kind in _BY_CLOUD_CODE if any(word in code for word in words)), None)


def _of_builtin(error: Exception) -> FailureKind | None:
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, ConnectionError):
        return FailureKind.TRANSPORT
    return FailureKind.TRANSPORT if isinstance(error, OSError) and error.errno in _LOST else None


def _of_database(error: Exception) -> FailureKind | None:
    for state in _sqlstates(error):
        kind = _BY_SQLSTATE.get(state)
        if kind is not None:
            return kind
    text = str(error).lower()
    for words, kind in _BY_DATABASE_TEXT:
        if any(word in text for word in words):
            return kind
    # A syntax error of Python is none of a database.
    if not isinstance(error, SyntaxError) and any(word in text for word in _INVALID_SQL):
        return FailureKind.INVALID
    return None


def _sqlstates(error: Exception) -> Iterator[str]:
    for one in (error, getattr(error, "orig", None)):
        for attribute in ("sqlstate", "pgcode"):
            state = getattr(one, attribute, None)
            if isinstance(state, str):
                yield state.upper()
