"""What an exception says about the dependency behind a tool: its kind, read without importing any client library."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from checkrein.errors import Denied, NotExecuted, TimedOut

__all__ = ["FAIL_ON_DEFAULT", "FailureKind", "failure_kind", "kind_of_status"]


class FailureKind(StrEnum):
    """What kind of failure an exception is."""

    TRANSPORT = "transport"
    """The dependency was not reached, or the connection to it broke."""
    TIMEOUT = "timeout"
    """It did not answer in time."""
    OVERLOADED = "overloaded"
    """It answered that it cannot work now: HTTP 5xx, no connections left."""
    THROTTLED = "throttled"
    """It works, and this caller asks too often."""
    AUTH = "auth"
    """The caller is not known to it, or may not do this."""
    INVALID = "invalid"
    """The request is wrong."""
    NOT_FOUND = "not_found"
    """What was asked for is not there."""
    CONFLICT = "conflict"
    """It does not fit the state of things: a duplicate, a deadlock, a version that is out of date."""
    UNKNOWN = "unknown"
    """It says nothing about the dependency."""


FAIL_ON_DEFAULT: Final = frozenset({FailureKind.TRANSPORT, FailureKind.TIMEOUT, FailureKind.OVERLOADED})
"""The kinds that count as failures of a dependency, unless a breaker names others."""

_T, _TIME, _BUSY, _OFTEN = (
    FailureKind.TRANSPORT,
    FailureKind.TIMEOUT,
    FailureKind.OVERLOADED,
    FailureKind.THROTTLED,
)
_AUTH, _WRONG, _GONE, _CLASH = (
    FailureKind.AUTH,
    FailureKind.INVALID,
    FailureKind.NOT_FOUND,
    FailureKind.CONFLICT,
)

# By the package and the name of a class, the nearest ancestor first. `httpcore._exceptions` and the like count as their
# package. What an HTTP status, a gRPC code or an SQLSTATE says better is not here.
_NAMES: Final[dict[str, dict[str, FailureKind]]] = {
    "httpx": {
        "TimeoutException": _TIME,
        "TransportError": _T,
        "UnsupportedProtocol": _WRONG,
        "LocalProtocolError": _WRONG,
        "InvalidURL": _WRONG,
    },
    "httpcore": {
        "TimeoutException": _TIME,
        "NetworkError": _T,
        "RemoteProtocolError": _T,
        "ProxyError": _T,
        "ConnectionNotAvailable": _T,
        "UnsupportedProtocol": _WRONG,
        "LocalProtocolError": _WRONG,
    },
    "requests": {
        "Timeout": _TIME,
        "ConnectionError": _T,
        "ChunkedEncodingError": _T,
        "InvalidURL": _WRONG,
        "MissingSchema": _WRONG,
        "InvalidSchema": _WRONG,
        "InvalidHeader": _WRONG,
    },
    "urllib3": {
        "TimeoutError": _TIME,
        "ProtocolError": _T,
        "NewConnectionError": _T,
        "SSLError": _T,
        "ProxyError": _T,
        "NameResolutionError": _T,
        "LocationValueError": _WRONG,
    },
    "aiohttp": {
        "ServerTimeoutError": _TIME,
        "ConnectionTimeoutError": _TIME,
        "SocketTimeoutError": _TIME,
        "ClientConnectionError": _T,
        "ClientPayloadError": _T,
        "InvalidURL": _WRONG,
    },
    "http": {"IncompleteRead": _T, "BadStatusLine": _T},
    "ssl": {"SSLError": _T},
    "anyio": {"BrokenResourceError": _T, "ClosedResourceError": _T, "EndOfStream": _T},
    "asyncio": {"IncompleteReadError": _T},
    "websockets": {"ConnectionClosed": _T},
    "botocore": {
        "ConnectTimeoutError": _TIME,
        "ReadTimeoutError": _TIME,
        "HTTPClientError": _T,
        "ConnectionError": _T,
        "NoCredentialsError": _AUTH,
        "PartialCredentialsError": _AUTH,
        "TokenRetrievalError": _AUTH,
        "ParamValidationError": _WRONG,
    },
    "openai": {"APITimeoutError": _TIME, "APIConnectionError": _T},
    "anthropic": {"APITimeoutError": _TIME, "APIConnectionError": _T},
    "redis": {
        "TimeoutError": _TIME,
        "BusyLoadingError": _BUSY,
        "MaxConnectionsError": _BUSY,
        "AuthenticationError": _AUTH,
        "NoPermissionError": _AUTH,
        "ConnectionError": _T,
    },
    "pymongo": {
        "NetworkTimeout": _TIME,
        "ServerSelectionTimeoutError": _TIME,
        "ExecutionTimeout": _TIME,
        "DuplicateKeyError": _CLASH,
        "ConnectionFailure": _T,
    },
    "sqlalchemy": {"TimeoutError": _TIME},
    # A server that refuses or drops a connection has no SQLSTATE to give.
    "psycopg": {"ConnectionTimeout": _TIME, "OperationalError": _T},
    "psycopg2": {"OperationalError": _T},
    "asyncpg": {"ConnectionDoesNotExistError": _T, "InterfaceError": FailureKind.UNKNOWN},
    "google": {"RetryError": _TIME, "TransportError": _T, "RefreshError": _AUTH},
}

_GRPC: Final = {
    "UNAVAILABLE": _T,
    "DEADLINE_EXCEEDED": _TIME,
    "RESOURCE_EXHAUSTED": _BUSY,
    "INTERNAL": _BUSY,
    "DATA_LOSS": _BUSY,
    "PERMISSION_DENIED": _AUTH,
    "UNAUTHENTICATED": _AUTH,
    "INVALID_ARGUMENT": _WRONG,
    "OUT_OF_RANGE": _WRONG,
    "FAILED_PRECONDITION": _WRONG,
    "UNIMPLEMENTED": _WRONG,
    "NOT_FOUND": _GONE,
    "ALREADY_EXISTS": _CLASH,
    "ABORTED": _CLASH,
}

# Codes of AWS services, in lower case; what an HTTP status says is taken from there. Throttling often comes as a 400.
_BOTO_THROTTLED: Final = (
    "throttl",
    "toomanyrequests",
    "requestlimitexceeded",
    "slowdown",
    "bandwidthlimitexceeded",
    "provisionedthroughputexceeded",
    "limitexceededexception",
)
_BOTO_AUTH: Final = (
    "accessdenied",
    "unauthorized",
    "unrecognizedclient",
    "invalidtoken",
    "expiredtoken",
    "invalidclienttokenid",
    "signaturedoesnotmatch",
    "invalidaccesskeyid",
)

# By SQLSTATE: a whole code before its class of two characters.
_SQLSTATE: Final = {
    "40001": _CLASH,
    "40P01": _CLASH,
    "55P03": _CLASH,
    "23505": _CLASH,
    "42501": _AUTH,
    "57014": _TIME,
    "57P05": _TIME,
    "25P03": _TIME,
    "08": _T,
    "53": _BUSY,
    "57": _T,
    "58": _BUSY,
    "40": _CLASH,
    "28": _AUTH,
    "22": _WRONG,
    "23": _WRONG,
    "42": _WRONG,
}

_MYSQL: Final = {
    2002: _T, 2003: _T, 2006: _T, 2013: _T, 1053: _T,
    1040: _BUSY, 1203: _BUSY,
    1205: _CLASH, 1213: _CLASH, 1062: _CLASH,
    1044: _AUTH, 1045: _AUTH, 1142: _AUTH,
    1054: _WRONG, 1064: _WRONG, 1146: _WRONG,
}  # fmt: skip

_ERRNO: Final = {
    errno.ETIMEDOUT: _TIME,
    **dict.fromkeys(
        (
            errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.EHOSTUNREACH,
            errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENOTCONN, errno.ESHUTDOWN,
            errno.EADDRNOTAVAIL,
        ),
        _T,
    ),
}  # fmt: skip

_DEEPEST: Final = 8
"""So many wrapped exceptions are looked into."""


def failure_kind(error: BaseException) -> FailureKind:
    """Say what kind of failure an exception is.

    Understood are HTTP statuses of every client's exceptions (httpx, requests, urllib, aiohttp, boto, the SDKs of
    model providers), the transport errors of these, sockets, TLS, gRPC codes, SQLSTATE (also of what SQLAlchemy wraps)
    and our own `TimedOut`. Whatever is not known is `unknown`.
    """
    return _kind(error, _DEEPEST)


def kind_of_status(status: int) -> FailureKind:
    """Say what kind of failure an HTTP status is; `unknown` for one that is none."""
    if status >= 500:
        return FailureKind.OVERLOADED
    if status < 400:
        return FailureKind.UNKNOWN
    return _STATUS.get(status, FailureKind.INVALID)


_STATUS: Final = {
    401: _AUTH, 403: _AUTH, 407: _AUTH, 404: _GONE, 410: _GONE, 408: _TIME, 409: _CLASH, 412: _CLASH, 423: _CLASH,
    425: _OFTEN, 429: _OFTEN,
}  # fmt: skip


def _kind(error: BaseException, deepest: int) -> FailureKind:
    if isinstance(error, TimedOut):
        return FailureKind.TIMEOUT
    if isinstance(error, Denied) or not isinstance(error, Exception) or deepest == 0:
        # A refusal of an inner gate, Ctrl-C, a cancellation: the dependency was not heard.
        return FailureKind.UNKNOWN
    if isinstance(error, NotExecuted):
        cause = error.__cause__
        return FailureKind.UNKNOWN if cause is None else _kind(cause, deepest - 1)
    for ask in (_by_service_code, _by_status, _by_grpc, _by_database, _by_name, _by_system):
        kind = ask(error)
        if kind is not None:
            return kind
    inner = _wrapped(error)
    return FailureKind.UNKNOWN if inner is None else _kind(inner, deepest - 1)


def _attribute(error: object, name: str) -> Any:
    """Read an attribute of a stranger's exception, which may do what it likes."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None


def _by_service_code(error: Exception) -> FailureKind | None:
    """The code that an AWS service gives, where it says more than the status that comes with it."""
    response = _attribute(error, "response")
    if not isinstance(response, Mapping):
        return None
    told = response.get("Error")
    code = told.get("Code") if isinstance(told, Mapping) else None
    if not isinstance(code, str):
        return None
    code = code.lower()
    if any(word in code for word in _BOTO_THROTTLED):
        return FailureKind.THROTTLED
    if any(word in code for word in _BOTO_AUTH):
        return FailureKind.AUTH
    return FailureKind.TIMEOUT if "requesttimeout" in code else None


def _by_status(error: Exception) -> FailureKind | None:
    status = _http_status(error)
    return None if status is None else kind_of_status(status)


def _http_status(error: Exception) -> int | None:
    """Find the status of the reply that an exception carries."""
    response = _attribute(error, "response")
    if isinstance(response, Mapping):  # boto
        metadata = response.get("ResponseMetadata")
        found = metadata.get("HTTPStatusCode") if isinstance(metadata, Mapping) else None
        candidates = [found, response.get("status_code")]
    else:
        candidates = [_attribute(response, "status_code"), _attribute(response, "status")]
    candidates.append(_attribute(error, "status_code"))
    package = _package(type(error))
    if package in ("aiohttp", "urllib3"):
        candidates.append(_attribute(error, "status"))
    if package in ("urllib", "google"):
        # `HTTPError.code`, and `APIError.code` of the Google SDKs.
        candidates.append(_attribute(error, "code"))
    reply = _attribute(error, "resp")
    if reply is not None:  # googleapiclient
        candidates.append(_attribute(reply, "status"))
    for found in candidates:
        if isinstance(found, int) and not isinstance(found, bool) and 100 <= found < 600:
            return int(found)
    return None


def _by_grpc(error: Exception) -> FailureKind | None:
    code = _attribute(error, "code")
    if not callable(code):
        return None
    try:
        name = _attribute(code(), "name")
    except Exception:
        return None
    return _GRPC.get(name) if isinstance(name, str) else None


def _by_database(error: Exception) -> FailureKind | None:
    """The SQLSTATE of an exception or of the driver's that it wraps, and MySQL's own numbers."""
    for found in (error, _attribute(error, "orig")):
        for name in ("sqlstate", "pgcode"):
            code = _attribute(found, name)
            if isinstance(code, str) and len(code) == 5:
                return _SQLSTATE.get(code) or _SQLSTATE.get(code[:2]) or FailureKind.UNKNOWN
        if found is not None and _package(type(found)) in ("pymysql", "MySQLdb", "mysql"):
            number = next(iter(_attribute(found, "args") or ()), None)
            if isinstance(number, int) and number in _MYSQL:
                return _MYSQL[number]
    if _attribute(error, "connection_invalidated") is True:  # sqlalchemy
        return FailureKind.TRANSPORT
    return None


def _by_name(error: Exception) -> FailureKind | None:
    for cls in type(error).__mro__:
        names = _NAMES.get(_package(cls))
        if names is not None and cls.__name__ in names:
            return names[cls.__name__]
    return None


def _by_system(error: Exception) -> FailureKind | None:
    """What sockets and the standard library's HTTP client raise."""
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, (ConnectionError, socket.gaierror, socket.herror)):
        return FailureKind.TRANSPORT
    if isinstance(error, OSError):
        if error.errno in _ERRNO:
            return _ERRNO[error.errno]
        if _package(type(error)) == "urllib":
            reason = _attribute(error, "reason")
            # An exception is looked into by the caller; a text about the URL is the caller's own mistake.
            if isinstance(reason, BaseException):
                return None
            is_wrong = "unknown url type" in str(reason) or "no host given" in str(reason)
            return FailureKind.INVALID if is_wrong else FailureKind.TRANSPORT
    return None


def _wrapped(error: Exception) -> BaseException | None:
    """The exception that this one stands for, where it says so itself."""
    for name in ("orig", "reason"):
        inner = _attribute(error, name)
        if isinstance(inner, BaseException) and inner is not error:
            return inner
    return None


def _package(cls: type) -> str:
    module = cls.__module__
    name = module.partition(".")[0] if isinstance(module, str) else ""
    return _ALIASES.get(name, name)


_ALIASES: Final = {"httpx2": "httpx", "httpcore2": "httpcore"}
