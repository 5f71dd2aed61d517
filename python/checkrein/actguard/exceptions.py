"""Everything this drop-in raises, under the names that programs catch."""

from __future__ import annotations

from checkrein.actguard._errors_base import (
    ActGuardError,
    ActGuardRuntimeContextError,
    ActGuardRuntimeError,
    ActGuardToolError,
    ActGuardUsageError,
    ToolExecutionError,
    ToolGuardError,
)
from checkrein.actguard._errors_runtime import (
    ActGuardPaymentRequired,
    BudgetClientMismatchError,
    BudgetConfigurationError,
    BudgetTransportError,
    CircuitBreakerConfigurationError,
    InvalidIdempotentToolError,
    MaxAttemptsConfigurationError,
    MissingIdempotencyKeyError,
    MissingRuntimeContextError,
    MonitoringDegradedError,
    NestedBudgetGuardError,
    NestedRuntimeContextError,
    ReportingContractError,
    ScopeValidationError,
    SessionUsageError,
    TimeoutUsageError,
)
from checkrein.actguard._errors_tools import (
    BudgetExceededError,
    CircuitOpenError,
    DuplicateIdempotencyKey,
    IdempotencyInProgress,
    IdempotencyOutcomeUnknown,
    MaxAttemptsExceeded,
    PolicyViolationError,
    RateLimitExceeded,
    ToolTimeoutError,
)

# Names of earlier releases.
ActGuardViolation = ToolGuardError
GuardError = PolicyViolationError
NestedRunContextError = NestedRuntimeContextError
BudgetPaymentRequiredError = ActGuardPaymentRequired

__all__ = [
    "ActGuardError",
    "ActGuardPaymentRequired",
    "ActGuardRuntimeContextError",
    "ActGuardRuntimeError",
    "ActGuardToolError",
    "ActGuardUsageError",
    "ActGuardViolation",
    "BudgetClientMismatchError",
    "BudgetConfigurationError",
    "BudgetExceededError",
    "BudgetPaymentRequiredError",
    "BudgetTransportError",
    "CircuitBreakerConfigurationError",
    "CircuitOpenError",
    "DuplicateIdempotencyKey",
    "GuardError",
    "IdempotencyInProgress",
    "IdempotencyOutcomeUnknown",
    "InvalidIdempotentToolError",
    "MaxAttemptsConfigurationError",
    "MaxAttemptsExceeded",
    "MissingIdempotencyKeyError",
    "MissingRuntimeContextError",
    "MonitoringDegradedError",
    "NestedBudgetGuardError",
    "NestedRunContextError",
    "NestedRuntimeContextError",
    "PolicyViolationError",
    "RateLimitExceeded",
    "ReportingContractError",
    "ScopeValidationError",
    "SessionUsageError",
    "TimeoutUsageError",
    "ToolExecutionError",
    "ToolGuardError",
    "ToolTimeoutError",
]

# A traceback names the module that programs import from, and pickles stay readable when files move.
for _name in __all__:
    globals()[_name].__module__ = __name__
