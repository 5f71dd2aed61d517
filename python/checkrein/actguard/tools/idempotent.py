"""`idempotent`: one run of a tool for each key."""

from __future__ import annotations

import inspect
import math
import time  # noqa: F401 - the native gate looks its clock up in these globals
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from checkrein.actguard.exceptions import InvalidIdempotentToolError
from checkrein.actguard.tools._gates import KEY, Gates, guard
from checkrein.actguard.tools._names import name_of
from checkrein.actguard.tools._specs import Once

F = TypeVar("F", bound=Callable[..., Any])
OnDuplicate = Literal["return", "raise"]


@overload
def idempotent(
    fn: F,
    *,
    ttl_s: float = 3600,
    on_duplicate: OnDuplicate = "return",
    safe_exceptions: tuple[type[BaseException], ...] = (),
) -> F: ...
@overload
def idempotent(
    fn: None = None,
    *,
    ttl_s: float = 3600,
    on_duplicate: OnDuplicate = "return",
    safe_exceptions: tuple[type[BaseException], ...] = (),
) -> Callable[[F], F]: ...
def idempotent(
    fn: Callable[..., Any] | None = None,
    *,
    ttl_s: float = 3600,
    on_duplicate: OnDuplicate = "return",
    safe_exceptions: tuple[type[BaseException], ...] = (),
) -> Any:
    """Run a tool once for each `idempotency_key` of a run; a second call gets the first one's result.

    The result is kept for `ttl_s` seconds. With `on_duplicate="raise"` a second call raises DuplicateIdempotencyKey,
    and so does one with other arguments. While the first call runs, others raise IdempotencyInProgress. A call that
    failed has an unknown outcome, which raises IdempotencyOutcomeUnknown, unless its exception is one of
    `safe_exceptions` or a guard did not let the tool start: then the key is free again.

    Raises InvalidIdempotentToolError when the tool has no parameter `idempotency_key`, or yields its results.
    """
    made = spec(ttl_s=ttl_s, on_duplicate=on_duplicate, safe_exceptions=safe_exceptions)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return guard(function, Gates(once=checked(made, function)))

    return decorate if fn is None else decorate(fn)


def spec(
    *,
    ttl_s: float = 3600,
    on_duplicate: str = "return",
    safe_exceptions: tuple[type[BaseException], ...] = (),
) -> Once:
    """Return it as data; raises InvalidIdempotentToolError."""
    numeric = isinstance(ttl_s, (int, float)) and not isinstance(ttl_s, bool)
    if not numeric or not ttl_s > 0 or math.isnan(ttl_s):
        raise InvalidIdempotentToolError(f"@idempotent: ttl_s must be a number > 0, got {ttl_s!r}")
    if on_duplicate not in ("return", "raise"):
        raise InvalidIdempotentToolError(
            f"@idempotent: on_duplicate must be 'return' or 'raise', got {on_duplicate!r}"
        )
    safe = (
        safe_exceptions if isinstance(safe_exceptions, (tuple, list, set, frozenset)) else (safe_exceptions,)
    )
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in safe):
        raise InvalidIdempotentToolError("@idempotent: safe_exceptions must be exception classes")
    return Once(ttl_s, on_duplicate, tuple(safe), globals())


def checked(once: Once, fn: Callable[..., Any]) -> Once:
    """Return it if it fits the function; raises InvalidIdempotentToolError."""
    if KEY not in inspect.signature(fn).parameters:
        raise InvalidIdempotentToolError(
            f"@idempotent requires '{name_of(fn)}' to have an '{KEY}' parameter."
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidIdempotentToolError(
            f"@idempotent does not support generator functions: {name_of(fn)}; a stream cannot be replayed."
        )
    return once
