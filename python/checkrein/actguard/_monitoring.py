"""Warnings about what only watches: events that were lost, settlements that the gateway did not take."""

from __future__ import annotations

import re
import socket
import ssl
import urllib.error
import warnings
from typing import Final

from checkrein.actguard._redact import redact_text
from checkrein.actguard.exceptions import MonitoringDegradedError

SSL_CERT_FIX_MESSAGE: Final = """\
SSL certificate verification failed while connecting to the ActGuard API.
Python has no certificate authority that it trusts for this server.

What helps, whichever fits:
  - macOS, Python from python.org: run 'Install Certificates.command' in /Applications/Python 3.x/
  - anywhere: pip install --upgrade certifi
  - a bundle of your own: set SSL_CERT_FILE to its path"""

MAX_SUMMARY: Final = 300
_MAX_CHAIN: Final = 16


class ActGuardMonitoringWarning(RuntimeWarning):
    """Says that something that only watches did not work; `error` is a MonitoringDegradedError."""

    def __init__(self, error: MonitoringDegradedError) -> None:
        self.error = error
        super().__init__(str(error))


def _error_chain(exc: BaseException) -> list[BaseException]:
    """Return the error and what lies below it: reasons, causes, contexts."""
    chain: list[BaseException] = []
    current: object = exc
    while isinstance(current, BaseException) and current not in chain and len(chain) < _MAX_CHAIN:
        chain.append(current)
        below = [
            getattr(current, "reason", None),
            getattr(current, "cause", None),
            current.__cause__,
            None if current.__suppress_context__ else current.__context__,
        ]
        current = next((one for one in below if isinstance(one, BaseException)), None)
    return chain


def _is_ssl_cert_error(exc: BaseException) -> bool:
    """Whether a certificate could not be verified."""
    return any(
        isinstance(one, ssl.SSLCertVerificationError)
        or (isinstance(one, ssl.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(one))
        for one in _error_chain(exc)
    )


def _status_code(exc: BaseException) -> int | None:
    for one in _error_chain(exc):
        code = one.code if isinstance(one, urllib.error.HTTPError) else getattr(one, "status_code", None)
        if isinstance(code, int):
            return code
    return None


def _failure_kind(exc: BaseException, *, status_code: int | None) -> str:
    """Return "ssl_cert", "http", "timeout", "connection" or "unknown"."""
    if _is_ssl_cert_error(exc):
        return "ssl_cert"
    if status_code is not None:
        return "http"
    chain = _error_chain(exc)
    if any(isinstance(one, TimeoutError) for one in chain):
        return "timeout"
    if any(isinstance(one, ConnectionError | socket.gaierror) for one in chain):
        return "connection"
    return "unknown"


def _failure_summary(exc: BaseException, *, status_code: int | None) -> str:
    if _is_ssl_cert_error(exc):
        return SSL_CERT_FIX_MESSAGE
    if status_code is not None:
        return _one_line(f"status {status_code}: {exc}")
    deepest = _error_chain(exc)[-1]
    return _one_line(f"{type(deepest).__name__}: {deepest}")


def _one_line(text: str) -> str:
    line = redact_text(re.sub(r"\s+", " ", text).strip())
    return line if len(line) <= MAX_SUMMARY else line[: MAX_SUMMARY - 3] + "..."


def monitoring_error_from_exception(
    *, subsystem: str, operation: str, exc: BaseException, path: str | None = None
) -> MonitoringDegradedError:
    """Describe what went wrong, for a warning."""
    status_code = _status_code(exc)
    return MonitoringDegradedError(
        subsystem=subsystem,
        operation=operation,
        failure_kind=_failure_kind(exc, status_code=status_code),
        cause=exc,
        path=path,
        status_code=status_code,
        summary=_failure_summary(exc, status_code=status_code),
    )


def warn_monitoring_error(error: MonitoringDegradedError, *, stacklevel: int = 2) -> MonitoringDegradedError:
    """Warn about something that only watches; returns the error that the warning carries."""
    try:
        warnings.warn(ActGuardMonitoringWarning(error), stacklevel=stacklevel + 1)
    except RuntimeWarning:
        # Somebody made warnings errors. What only watches must not break what it watches.
        return error
    return error


def warn_monitoring_issue(
    *, subsystem: str, operation: str, exc: BaseException, path: str | None = None, stacklevel: int = 2
) -> MonitoringDegradedError:
    """Warn about an exception of something that only watches."""
    error = monitoring_error_from_exception(subsystem=subsystem, operation=operation, exc=exc, path=path)
    return warn_monitoring_error(error, stacklevel=stacklevel + 1)
