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

__version__ = "1.0.2"

__all__ = [
    "ActGuardError",
    "ActGuardPaymentRequired",
    "ActGuardToolError",
    "BudgetExceededError",
    "BudgetGuard",
    "Client",
    "MonitoringDegradedError",
    "__version__",
    "add_cost",
    "emit_event",
    "emit_violation",
]
