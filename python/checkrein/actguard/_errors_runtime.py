"""What runs, budgets in the wrong place, the gateway and wrong configuration raise."""

from __future__ import annotations

from typing import Any

from checkrein.actguard._errors_base import (
    ActGuardRuntimeContextError,
    ActGuardRuntimeError,
    ActGuardUsageError,
)


class MissingRuntimeContextError(ActGuardRuntimeContextError):
    """The call needs a run, or a budget, around it."""

    code = "runtime.context_missing"
    reason = "missing_runtime_context"

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message or "No active runtime context. Wrap your agent loop with client.run().",
            details={"requires": "client.run"},
            retryable=False,
        )


class _ContextError(ActGuardRuntimeContextError):
    _default = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self._default, retryable=False)


class NestedRuntimeContextError(_ContextError):
    """A run was entered inside a run."""

    code = "runtime.context_nested"
    reason = "nested_runtime_context"
    _default = (
        "Nested runtime contexts are not supported. "
        "Use one active client.run(...) root execution context at a time."
    )


class NestedBudgetGuardError(_ContextError):
    """Kept for programs that name it; guards may be nested."""

    code = "runtime.budget_nested"
    reason = "nested_budget_guard"
    _default = "Nested budget scopes are not supported. Use one active client.budget_guard(...) per run."


class BudgetConfigurationError(_ContextError):
    """A guard that joins the run's root guard says something else than that does."""

    code = "runtime.budget_configuration_mismatch"
    reason = "budget_configuration_mismatch"
    _default = (
        "budget_guard configuration does not match the active root scope. "
        "The first root definition wins for the run."
    )


class BudgetClientMismatchError(_ContextError):
    """A guard of one client was entered in a run of another."""

    code = "runtime.client_mismatch"
    reason = "budget_client_mismatch"
    _default = (
        "Active runtime belongs to a different Client. Use the same client instance for run and budget_guard."
    )


class ActGuardPaymentRequired(ActGuardRuntimeError):
    """The gateway wants to be paid first (HTTP 402)."""

    code = "budget.payment_required"
    reason = "payment_required"

    def __init__(
        self,
        *,
        path: str,
        status: int = 402,
        user_message: str | None = None,
        current_balance: int | None = None,
        required_amount: int | None = None,
        shortfall: int | None = None,
        topup_url: str | None = None,
        topup_session_id: str | None = None,
        user_id: str | None = None,
        response_payload: dict[str, Any] | None = None,
        cause: BaseException | None = None,
    ) -> None:
        said: dict[str, Any] = {
            "path": path,
            "status": status,
            "user_message": user_message,
            "current_balance": current_balance,
            "required_amount": required_amount,
            "shortfall": shortfall,
            "topup_url": topup_url,
            "topup_session_id": topup_session_id,
            "user_id": user_id,
            "response_payload": response_payload,
        }
        self.path = path
        self.status = status
        self.user_message = user_message
        self.current_balance = current_balance
        self.required_amount = required_amount
        self.shortfall = shortfall
        self.topup_url = topup_url
        self.topup_session_id = topup_session_id
        self.user_id = user_id
        self.response_payload = response_payload
        super().__init__(
            f"Budget API request failed with status {status} at {path}: {user_message or 'payment required.'}",
            details={name: value for name, value in said.items() if value is not None},
            cause=cause,
            retryable=False,
            status_code=status,
        )


class BudgetTransportError(ActGuardRuntimeError):
    """The gateway cannot be reached, or gave an answer that is none."""

    code = "runtime.transport_error"
    reason = "budget_transport_error"

    def __init__(
        self, message: str = "", *, cause: BaseException | None = None, status_code: int | None = None
    ) -> None:
        super().__init__(message, cause=cause, retryable=True, status_code=status_code)


class MonitoringDegradedError(ActGuardRuntimeError):
    """Something that only watches did not work. A warning carries it; it is never raised."""

    code = "runtime.monitoring_degraded"
    reason = "monitoring_degraded"

    def __init__(
        self,
        *,
        subsystem: str,
        operation: str,
        failure_kind: str,
        cause: BaseException | None = None,
        path: str | None = None,
        status_code: int | None = None,
        summary: str | None = None,
        degraded: bool = True,
    ) -> None:
        self.subsystem = subsystem
        self.operation = operation
        self.failure_kind = failure_kind
        self.path = path
        self.summary = summary
        self.degraded = degraded
        where = f" at {path}" if path else ""
        why = f" ({summary})" if summary else ""
        super().__init__(
            f"ActGuard monitoring degraded during {subsystem}.{operation}{where}: {failure_kind}{why}.",
            details={
                "subsystem": subsystem,
                "operation": operation,
                "failure_kind": failure_kind,
                "path": path,
                "summary": summary,
                "degraded": degraded,
                "cause_type": None if cause is None else type(cause).__name__,
            },
            cause=cause,
            retryable=True,
            status_code=status_code,
        )


class _UsageError(ActGuardUsageError):
    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class InvalidIdempotentToolError(_UsageError):
    """An idempotent tool has no parameter `idempotency_key`."""

    code = "usage.invalid_idempotent_tool"
    reason = "invalid_idempotent_tool"


class MissingIdempotencyKeyError(ActGuardUsageError):
    """An idempotent tool was called without a key."""

    code = "usage.missing_idempotency_key"
    reason = "missing_idempotency_key"

    def __init__(self, tool_name: str) -> None:
        self.tool_name = tool_name
        super().__init__(
            f"idempotency_key must be a non-empty string for tool '{tool_name}'.",
            details={"tool_name": tool_name},
            retryable=False,
        )


class CircuitBreakerConfigurationError(_UsageError):
    """A circuit breaker is described in a way that cannot work."""

    code = "usage.circuit_breaker_configuration"
    reason = "circuit_breaker_configuration"


class MaxAttemptsConfigurationError(_UsageError):
    """`calls` is no whole number, one or more."""

    code = "usage.max_attempts_configuration"
    reason = "max_attempts_configuration"


class TimeoutUsageError(_UsageError):
    """What is to be timed cannot be."""

    code = "usage.timeout_configuration"
    reason = "timeout_configuration"


class ScopeValidationError(_UsageError):
    """The named scope is no parameter of the tool."""

    code = "usage.scope_validation"
    reason = "scope_validation"


class SessionUsageError(_UsageError):
    """A session is described in a way that cannot work."""

    code = "usage.session_configuration"
    reason = "session_configuration"


class ReportingContractError(_UsageError):
    """No metric of the reporting contract has this name."""

    code = "usage.reporting_contract"
    reason = "reporting_contract"
