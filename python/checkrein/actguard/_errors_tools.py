"""What the guards of tools and the budgets raise."""

from __future__ import annotations

import time
from typing import Any

from checkrein.actguard._errors_base import ToolExecutionError, ToolGuardError


class RateLimitExceeded(ToolGuardError):
    """The calls of a window are used up; `retry_after` is in seconds."""

    code = "guard.rate_limit_exceeded"
    reason = "rate_limit_exceeded"

    def __init__(
        self, *, func_name: str, scope_value: str, max_calls: int, period: float, retry_after: float
    ) -> None:
        self.func_name = func_name
        self.tool_name = func_name
        self.scope_value = scope_value
        self.max_calls = max_calls
        self.period = period
        self.retry_after = retry_after
        super().__init__(
            f"Rate limit exceeded for '{func_name}' (scope='{scope_value}'): {max_calls} calls per {period}s. "
            f"Retry after {retry_after:.1f}s.",
            details={
                "tool_name": func_name,
                "scope_value": scope_value,
                "max_calls": max_calls,
                "period": period,
                "retry_after": retry_after,
            },
            retryable=True,
        )


class CircuitOpenError(ToolGuardError):
    """The dependency has failed too often; `retry_after` is fixed when the error is made."""

    code = "guard.circuit_open"
    reason = "circuit_open"

    def __init__(self, *, dependency_name: str, reset_at: float) -> None:
        self.dependency_name = dependency_name
        self.tool_name = dependency_name
        self.reset_at = reset_at
        self.retry_after = max(0.0, reset_at - time.time())
        super().__init__(
            f"Circuit open for '{dependency_name}'. Retry after {self.retry_after:.1f}s.",
            details={
                "dependency_name": dependency_name,
                "reset_at": reset_at,
                "retry_after": self.retry_after,
            },
            retryable=True,
        )


class MaxAttemptsExceeded(ToolGuardError):
    """A tool has used all its attempts in the run."""

    code = "guard.max_attempts_exceeded"
    reason = "max_attempts_exceeded"

    def __init__(self, *, run_id: str, tool_name: str, limit: int, used: int) -> None:
        self.run_id = run_id
        self.tool_name = tool_name
        self.limit = limit
        self.used = used
        super().__init__(
            f"MAX_ATTEMPTS_EXCEEDED tool='{tool_name}' used={used}/{limit} run='{run_id}'",
            details={"run_id": run_id, "tool_name": tool_name, "limit": limit, "used": used},
            retryable=False,
        )


class ToolTimeoutError(ToolExecutionError):
    """A tool took longer than it may; whether it had its effect is unknown."""

    code = "tool.timeout"
    reason = "timeout"

    def __init__(self, tool_name: str, timeout_s: float, run_id: str | None = None) -> None:
        self.tool_name = tool_name
        self.timeout_s = timeout_s
        self.run_id = run_id
        super().__init__(
            f"TOOL_TIMEOUT tool='{tool_name}' limit={timeout_s}s",
            details={"tool_name": tool_name, "timeout_s": timeout_s, "run_id": run_id},
            retryable=True,
        )


class IdempotencyInProgress(ToolGuardError):
    """A call with the same key is running."""

    code = "guard.idempotency_in_progress"
    reason = "idempotency_in_progress"

    def __init__(self, tool_name: str, key: str) -> None:
        self.tool_name = tool_name
        self.key = key
        super().__init__(
            f"Tool '{tool_name}' with key='{key}' is already in progress.",
            details={"tool_name": tool_name, "key": key},
            retryable=True,
        )


class DuplicateIdempotencyKey(ToolGuardError):
    """A call with the same key was done, and duplicates are to be refused."""

    code = "guard.idempotency_duplicate"
    reason = "idempotency_duplicate"

    def __init__(self, tool_name: str, key: str) -> None:
        self.tool_name = tool_name
        self.key = key
        super().__init__(
            f"Tool '{tool_name}' with key='{key}' has already been executed.",
            details={"tool_name": tool_name, "key": key},
            retryable=False,
        )


class IdempotencyOutcomeUnknown(ToolGuardError):
    """An earlier call with the same key failed, and what it did is unknown."""

    code = "guard.idempotency_outcome_unknown"
    reason = "idempotency_outcome_unknown"

    def __init__(self, tool_name: str, key: str, last_error_type: type) -> None:
        self.tool_name = tool_name
        self.key = key
        self.last_error_type = last_error_type
        name = last_error_type.__name__
        super().__init__(
            f"Tool '{tool_name}' with key='{key}' has an unknown outcome after {name}. "
            "Retry blocked until TTL expires.",
            details={"tool_name": tool_name, "key": key, "last_error_type": name},
            retryable=False,
        )


class PolicyViolationError(ToolGuardError):
    """A rule of `prove` or `enforce` was broken."""

    def __init__(
        self, code: str, message: str, details: dict[str, Any] | None = None, fix_hint: str | None = None
    ) -> None:
        self.fix_hint = fix_hint
        told = dict(details or {})
        if fix_hint is not None:
            told.setdefault("fix_hint", fix_hint)
        super().__init__(message, code=code, reason=code.lower(), details=told, retryable=False)

    def to_prompt(self) -> str:
        """Return what to tell the model."""
        if self.code == "NO_SESSION":
            return "BLOCKED: No active ActGuard session. Wrap your agent loop with actguard.session()."
        if self.code == "MISSING_FACT":
            kind = self.details.get("kind", "resource")
            value = self.details.get("value", "?")
            hint = self.fix_hint or f"Call a read tool to fetch '{kind}' first."
            return f"BLOCKED: You cannot use {kind}='{value}' because it was not verified in this session. Fix: {hint}"
        return f"BLOCKED [{self.code}]: {self.message}. Fix: {self.fix_hint or ''}"


class BudgetExceededError(ToolGuardError):
    """A budget is spent, or what is left does not pay for the call.

    `limit_type` is "cost", "token" or "usd"; `origin` says whether the refusal is ours or the gateway's.
    """

    code = "budget.limit_exceeded"
    reason = "budget_exhausted"
    event_category = "budget"
    event_name = "limit_exceeded"

    def __init__(
        self,
        *,
        user_id: str | None,
        tokens_used: int,
        cost_used: int = 0,
        cost_limit: int | None = None,
        usd_limit: float | None = None,
        limit_type: str = "cost",
        scope_id: str | None = None,
        scope_name: str | None = None,
        scope_kind: str | None = None,
        parent_scope_id: str | None = None,
        root_scope_id: str | None = None,
        origin: str = "local",
        path: str | None = None,
        status_code: int | None = None,
        cause: BaseException | None = None,
        usd_used: float = 0.0,
        token_limit: int | None = None,
        message: str | None = None,
    ) -> None:
        details = {
            "user_id": user_id,
            "tokens_used": tokens_used,
            "cost_used": cost_used,
            "cost_limit": cost_limit,
            "usd_limit": usd_limit,
            "limit_type": limit_type,
            "scope_id": scope_id,
            "scope_name": scope_name,
            "scope_kind": scope_kind,
            "parent_scope_id": parent_scope_id,
            "root_scope_id": root_scope_id,
            "origin": origin,
            "path": path,
            "status_code": status_code,
        }
        who = "<unknown>" if user_id is None else user_id
        if message is None:
            if origin == "remote":
                message = f"Budget exceeded for user '{who}' at {path} (status {status_code})."
            elif limit_type == "token" and token_limit is not None:
                message = f"Token limit exceeded for user '{who}': {tokens_used} / {token_limit} tokens used"
            elif limit_type == "usd" and usd_limit is not None:
                message = f"USD limit exceeded for user '{who}': ${usd_used:.6f} / ${usd_limit:.6f} used"
            else:
                limit = "<unknown>" if cost_limit is None else cost_limit
                message = f"Cost limit exceeded for user '{who}': {cost_used} / {limit} CU used"
        self.user_id = user_id
        self.tokens_used = tokens_used
        self.cost_used = cost_used
        self.cost_limit = cost_limit
        self.usd_limit = usd_limit
        self.usd_used = usd_used
        self.token_limit = token_limit
        self.limit_type = limit_type
        self.scope_id = scope_id
        self.scope_name = scope_name
        self.scope_kind = scope_kind
        self.parent_scope_id = parent_scope_id
        self.root_scope_id = root_scope_id
        self.origin = origin
        self.path = path
        super().__init__(message, details=details, cause=cause, retryable=False, status_code=status_code)

    def payload(self) -> dict[str, Any]:
        """Return what the error's event says; what a gateway said besides stays in `details`."""
        return {name: value for name, value in self.details.items() if name != "summary"}
