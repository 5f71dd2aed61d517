"""`rate_limit`: so many calls in any window."""

from __future__ import annotations

import math
import time  # noqa: F401 - the native gate looks its clock up in these globals
from collections.abc import Callable
from typing import Any, TypeVar, overload

from checkrein.actguard.exceptions import ActGuardUsageError
from checkrein.actguard.tools._gates import Gates, guard
from checkrein.actguard.tools._scope import validate_scope
from checkrein.actguard.tools._specs import Rate

F = TypeVar("F", bound=Callable[..., Any])


@overload
def rate_limit(fn: F, *, max_calls: int = 10, period: float = 60.0, scope: str | None = None) -> F: ...
@overload
def rate_limit(
    fn: None = None, *, max_calls: int = 10, period: float = 60.0, scope: str | None = None
) -> Callable[[F], F]: ...
def rate_limit(
    fn: Callable[..., Any] | None = None,
    *,
    max_calls: int = 10,
    period: float = 60.0,
    scope: str | None = None,
) -> Any:
    """Let at most `max_calls` calls start in any `period` seconds, for each value of the parameter `scope`.

    Each decorated function counts for itself, and so does each instance of a class whose method is decorated. A refused
    call is not counted and raises RateLimitExceeded; `max_calls=0` refuses every call. Raises ScopeValidationError when
    the function has no such parameter, ActGuardUsageError for numbers that limit nothing.
    """
    made = spec(max_calls=max_calls, period=period, scope=scope)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return guard(function, Gates(rate=checked(made, function)))

    return decorate if fn is None else decorate(fn)


def spec(*, max_calls: int = 10, period: float = 60.0, scope: str | None = None) -> Rate:
    """Return the limit as data; raises ActGuardUsageError."""
    if isinstance(max_calls, bool) or not isinstance(max_calls, int) or max_calls < 0:
        raise _usage(f"rate_limit: max_calls must be an integer >= 0, got {max_calls!r}")
    if isinstance(period, bool) or not isinstance(period, (int, float)) or not period > 0:
        raise _usage(f"rate_limit: period must be a number > 0, got {period!r}")
    if math.isinf(period):
        raise _usage("rate_limit: period must be finite; use max_attempts for a limit without a window")
    return Rate(max_calls, period, scope, globals())


def checked(limit: Rate, fn: Callable[..., Any]) -> Rate:
    """Return the limit if it fits the function; raises ScopeValidationError."""
    if limit.scope is not None:
        validate_scope(fn, limit.scope)
    return limit


def _usage(message: str) -> ActGuardUsageError:
    return ActGuardUsageError(
        message,
        code="usage.rate_limit_configuration",
        reason="rate_limit_configuration",
        retryable=False,
    )
