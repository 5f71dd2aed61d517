"""The exceptions of refused calls, and their events."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from checkrein.actguard.exceptions import (
    ActGuardError,
    CircuitOpenError,
    DuplicateIdempotencyKey,
    IdempotencyInProgress,
    IdempotencyOutcomeUnknown,
    MaxAttemptsExceeded,
    MissingIdempotencyKeyError,
    RateLimitExceeded,
)
from checkrein.actguard.tools import _observability
from checkrein.actguard.tools._names import id_of, name_of

if TYPE_CHECKING:
    from checkrein.actguard.tools._gates import Gates


def mark_not_started(error: BaseException, original: Callable[..., Any]) -> None:
    """Note on an exception that the tool did not run, for an idempotency key that is held around it."""
    # Its number and not the function itself: programs log `vars(error)` as JSON.
    error._not_started = id(original)  # type: ignore[attr-defined]


def not_started(error: BaseException, original: Callable[..., Any]) -> bool:
    """Whether an exception says that this tool, and not one that it called, did not run."""
    return getattr(error, "_not_started", None) == id(original)


def reused(tool_name: str, key: str) -> DuplicateIdempotencyKey:
    """The error of a key that comes again with other arguments."""
    error = DuplicateIdempotencyKey(tool_name, key)
    error.message = f"Tool '{tool_name}' with key='{key}' has already been executed with other arguments."
    error.args = (error.message,)
    error.details["other_arguments"] = True
    return error


class Refusals:
    """Makes and reports the exceptions of one tool."""

    def __init__(self, fn: Callable[..., Any], gates: Gates) -> None:
        self.original = inspect.unwrap(fn)
        self.name = name_of(fn)
        self.id = id_of(fn)
        self.gates = gates

    def refuse(self, word: str, detail: Any, run: Any, key: Any, scope: str | None) -> ActGuardError:
        """Return the exception of a refusal, reported. The native gate calls this, with no lock held."""
        if word == "rate":
            return self._rate(detail, scope)
        if word == "circuit":
            return self._circuit(detail)
        if word == "attempts":
            return self._attempts(detail, run)
        return self._once(word, detail, str(key))

    def intervened(self) -> None:
        """Report that a call got the result of an earlier one."""
        _observability.emit_guard_intervention(self.id, "idempotent", extra={"action": "return_cached"})

    def duplicate(self, key: str) -> ActGuardError:
        """Return the exception of a key whose result cannot be given again, reported."""
        return self._once("duplicate", None, key)

    def _rate(self, retry_after: float, scope: str | None) -> ActGuardError:
        rate = self.gates.rate
        assert rate is not None
        shown = "__global__" if scope is None else scope.rpartition("\0")[2]
        error = RateLimitExceeded(
            func_name=self.name,
            scope_value=shown,
            max_calls=rate.max_calls,
            period=rate.period,
            retry_after=retry_after,
        )
        extra = {
            "max_calls": rate.max_calls,
            "period": rate.period,
            "scope_value": shown,
            "retry_after": retry_after,
        }
        return self._told(error, self.name, "rate_limit", extra)

    def _circuit(self, reset_at: float) -> ActGuardError:
        breaker = self.gates.breaker
        assert breaker is not None
        error = CircuitOpenError(dependency_name=breaker.name, reset_at=reset_at)
        extra = {"dependency_name": breaker.name, "reset_at": reset_at}
        return self._told(error, self.name, "circuit_breaker", extra)

    def _attempts(self, used: int, run: Any) -> ActGuardError:
        limit = self.gates.attempts
        assert limit is not None
        error = MaxAttemptsExceeded(run_id=run.run_id, tool_name=self.id, limit=limit, used=used)
        return self._told(error, self.id, "max_attempts", {"limit": limit, "used": used})

    def _once(self, word: str, detail: Any, key: str) -> ActGuardError:
        error: ActGuardError
        if word == "missing_key":
            error = MissingIdempotencyKeyError(self.id)
        elif word == "in_progress":
            error = IdempotencyInProgress(self.id, key)
        elif word == "unknown":
            error = IdempotencyOutcomeUnknown(self.id, key, detail)
        elif word == "reused":
            error = reused(self.id, key)
        else:
            error = DuplicateIdempotencyKey(self.id, key)
        return self._told(error, self.id, "idempotent", {})

    def _told(
        self, error: ActGuardError, tool_name: str, guard_name: str, extra: dict[str, Any]
    ) -> ActGuardError:
        mark_not_started(error, self.original)
        _observability.emit_guard_blocked(tool_name, guard_name, error, extra=extra)
        return error
