"""`circuit_breaker`: no calls to a dependency that keeps failing."""

from __future__ import annotations

import time  # noqa: F401 - the native gate looks its clock up in these globals
from collections.abc import Callable, Set
from typing import Any, TypeVar, overload

from checkrein.actguard.exceptions import CircuitBreakerConfigurationError
from checkrein.actguard.tools._failures import FailureKind
from checkrein.actguard.tools._gates import Gates, guard
from checkrein.actguard.tools._specs import Breaker

F = TypeVar("F", bound=Callable[..., Any])

FAIL_ON_DEFAULT = frozenset({FailureKind.TRANSPORT, FailureKind.TIMEOUT, FailureKind.OVERLOADED})
"""The dependency cannot be reached, is too slow, or cannot cope."""

IGNORE_ON_DEFAULT = frozenset({FailureKind.INVALID, FailureKind.NOT_FOUND, FailureKind.CONFLICT})
"""The caller's own mistakes."""

FAIL_ON_STRICT = FAIL_ON_DEFAULT | {FailureKind.AUTH, FailureKind.THROTTLED}
"""The same, and a dependency that does not want us now."""

FAIL_ON_INFRA_ONLY = frozenset({FailureKind.TRANSPORT, FailureKind.TIMEOUT})
"""Only what is between us and the dependency."""

__all__ = [
    "FAIL_ON_DEFAULT",
    "FAIL_ON_INFRA_ONLY",
    "FAIL_ON_STRICT",
    "IGNORE_ON_DEFAULT",
    "FailureKind",
    "circuit_breaker",
]


@overload
def circuit_breaker(
    fn: F,
    *,
    name: str,
    max_fails: int = 3,
    reset_timeout: float = 60.0,
    fail_on: Set[FailureKind] = FAIL_ON_DEFAULT,
    ignore_on: Set[FailureKind] = IGNORE_ON_DEFAULT,
) -> F: ...
@overload
def circuit_breaker(
    fn: None = None,
    *,
    name: str,
    max_fails: int = 3,
    reset_timeout: float = 60.0,
    fail_on: Set[FailureKind] = FAIL_ON_DEFAULT,
    ignore_on: Set[FailureKind] = IGNORE_ON_DEFAULT,
) -> Callable[[F], F]: ...
def circuit_breaker(
    fn: Callable[..., Any] | None = None,
    *,
    name: str,
    max_fails: int = 3,
    reset_timeout: float = 60.0,
    fail_on: Set[FailureKind] = FAIL_ON_DEFAULT,
    ignore_on: Set[FailureKind] = IGNORE_ON_DEFAULT,
) -> Any:
    """Refuse calls for `reset_timeout` seconds after `max_fails` failures in a row of a kind in `fail_on`.

    Functions that give the same `name` share one circuit. After the pause one call probes the dependency, and the
    others are refused until it has answered; the late answer of a call from before changes nothing. Kinds in
    `ignore_on` and refusals of other guards do not count. Refused calls raise CircuitOpenError, a breaker that cannot
    work CircuitBreakerConfigurationError.
    """
    made = spec(
        name=name, max_fails=max_fails, reset_timeout=reset_timeout, fail_on=fail_on, ignore_on=ignore_on
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return guard(function, Gates(breaker=made))

    return decorate if fn is None else decorate(fn)


def spec(
    *,
    name: str,
    max_fails: int = 3,
    reset_timeout: float = 60.0,
    fail_on: Set[FailureKind] = FAIL_ON_DEFAULT,
    ignore_on: Set[FailureKind] = IGNORE_ON_DEFAULT,
) -> Breaker:
    """Return the breaker as data; raises CircuitBreakerConfigurationError."""
    if not isinstance(name, str) or not name.strip():
        raise CircuitBreakerConfigurationError("name must be a non-empty string")
    if isinstance(max_fails, bool) or not isinstance(max_fails, int) or not 1 <= max_fails < 2**32:
        raise CircuitBreakerConfigurationError("max_fails must be an integer >= 1")
    numeric = isinstance(reset_timeout, (int, float)) and not isinstance(reset_timeout, bool)
    if not numeric or not reset_timeout > 0:
        raise CircuitBreakerConfigurationError("reset_timeout must be > 0")
    for word, kinds in (("fail_on", fail_on), ("ignore_on", ignore_on)):
        if not isinstance(kinds, (set, frozenset)):
            raise CircuitBreakerConfigurationError(f"{word} must be a set of FailureKind")
        if not all(isinstance(kind, FailureKind) for kind in kinds):
            raise CircuitBreakerConfigurationError(f"{word} must contain only FailureKind values")
    both = sorted(kind.name for kind in fail_on & ignore_on)
    if both:
        raise CircuitBreakerConfigurationError(
            f"fail_on and ignore_on must be disjoint; overlapping values: {both}"
        )
    return Breaker(name, max_fails, reset_timeout, frozenset(fail_on), frozenset(ignore_on), globals())
