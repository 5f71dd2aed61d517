"""Runs, budgets and guards of tools: a drop-in for programs written for the `actguard` package.

The names, signatures, codes, texts and the wire format are those of actguard 1.0.2; what differs is in the reference
page of this drop-in and in SEMANTICS.md.
"""

from __future__ import annotations

from checkrein.actguard.budget import BudgetGuard
from checkrein.actguard.client import Client
from checkrein.actguard.core.budget_context import add_cost
from checkrein.actguard.exceptions import (
    ActGuardError,
    ActGuardPaymentRequired,
    ActGuardToolError,
    BudgetExceededError,
    MonitoringDegradedError,
)
from checkrein.actguard.reporting import emit_event, emit_violation
from checkrein.actguard.session import session
from checkrein.actguard.tools import (
    FAIL_ON_DEFAULT,
    FAIL_ON_INFRA_ONLY,
    FAIL_ON_STRICT,
    IGNORE_ON_DEFAULT,
    BlockRegex,
    FailureKind,
    RequireFact,
    Threshold,
    circuit_breaker,
    enforce,
    idempotent,
    max_attempts,
    prove,
    rate_limit,
    shutdown,
    timeout,
    tool,
)

__version__ = "1.0.2"

__all__ = [
    "FAIL_ON_DEFAULT",
    "FAIL_ON_INFRA_ONLY",
    "FAIL_ON_STRICT",
    "IGNORE_ON_DEFAULT",
    "ActGuardError",
    "ActGuardPaymentRequired",
    "ActGuardToolError",
    "BlockRegex",
    "BudgetExceededError",
    "BudgetGuard",
    "Client",
    "FailureKind",
    "MonitoringDegradedError",
    "RequireFact",
    "Threshold",
    "__version__",
    "add_cost",
    "circuit_breaker",
    "emit_event",
    "emit_violation",
    "enforce",
    "idempotent",
    "max_attempts",
    "prove",
    "rate_limit",
    "session",
    "shutdown",
    "timeout",
    "tool",
]
