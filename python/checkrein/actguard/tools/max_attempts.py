"""`max_attempts`: so many calls in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from checkrein.actguard.exceptions import MaxAttemptsConfigurationError
from checkrein.actguard.tools._gates import Gates, guard

F = TypeVar("F", bound=Callable[..., Any])


@overload
def max_attempts(fn: F, *, calls: int) -> F: ...
@overload
def max_attempts(fn: None = None, *, calls: int) -> Callable[[F], F]: ...
def max_attempts(fn: Callable[..., Any] | None = None, *, calls: int) -> Any:
    """Let a tool be called at most `calls` times in a run, failed calls included; then raise MaxAttemptsExceeded.

    A call outside a run raises MissingRuntimeContextError. Raises MaxAttemptsConfigurationError unless `calls` is a
    whole number, one or more.
    """
    limit = spec(calls=calls)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return guard(function, Gates(attempts=limit))

    return decorate if fn is None else decorate(fn)


def spec(*, calls: int) -> int:
    """Return the limit; raises MaxAttemptsConfigurationError."""
    if isinstance(calls, bool) or not isinstance(calls, int) or not 1 <= calls < 2**63:
        raise MaxAttemptsConfigurationError(f"max_attempts: calls must be an integer >= 1, got {calls!r}")
    return calls
