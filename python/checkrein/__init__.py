"""Checkrein: runtime control of AI agents. Every gate of an action is decided in one atomic admission."""

from __future__ import annotations

from checkrein._native import Decision, MeterStatus, ModelSettlement, Operation, Reason, __version__
from checkrein.acting import acting
from checkrein.adjust import Adjusted
from checkrein.bind import Context
from checkrein.current import current_operation
from checkrein.engine import Engine
from checkrein.errors import (
    ApprovalRequired,
    AttemptsExceeded,
    BudgetExceeded,
    CapacityExceeded,
    CheckreinError,
    CircuitOpen,
    ConfigError,
    Denied,
    ForkedError,
    Frozen,
    InDoubt,
    InProgress,
    InvalidAction,
    KeyReused,
    LedgerError,
    LoopDetected,
    MissingFact,
    NotExecuted,
    OutcomeNotRecorded,
    PermitError,
    PolicyError,
    PolicyFileError,
    RateLimited,
    ResultPruned,
    RuleViolated,
    SecretUnavailable,
    StoreError,
    TimedOut,
    ToolChanged,
    UnknownTool,
)
from checkrein.events import Event
from checkrein.guard import Handle, handle
from checkrein.holds import BudgetHandle, Hold
from checkrein.integrations import instrument, uninstrument, wrap
from checkrein.model_call import ModelCall
from checkrein.reconcile import Done
from checkrein.spec import Breaker, Budget, Once, Rate, Rule

__all__ = [
    "Adjusted",
    "ApprovalRequired",
    "AttemptsExceeded",
    "Breaker",
    "Budget",
    "BudgetExceeded",
    "BudgetHandle",
    "CapacityExceeded",
    "CheckreinError",
    "CircuitOpen",
    "ConfigError",
    "Context",
    "Decision",
    "Denied",
    "Done",
    "Engine",
    "Event",
    "ForkedError",
    "Frozen",
    "Handle",
    "Hold",
    "InDoubt",
    "InProgress",
    "InvalidAction",
    "KeyReused",
    "LedgerError",
    "LoopDetected",
    "MeterStatus",
    "MissingFact",
    "ModelCall",
    "ModelSettlement",
    "NotExecuted",
    "Once",
    "Operation",
    "OutcomeNotRecorded",
    "PermitError",
    "PolicyError",
    "PolicyFileError",
    "Rate",
    "RateLimited",
    "Reason",
    "ResultPruned",
    "Rule",
    "RuleViolated",
    "SecretUnavailable",
    "StoreError",
    "TimedOut",
    "ToolChanged",
    "UnknownTool",
    "__version__",
    "acting",
    "current_operation",
    "default_engine",
    "handle",
    "instrument",
    "tool",
    "uninstrument",
    "wrap",
]

default_engine = Engine()
"""The engine behind `checkrein.tool`."""


tool = default_engine.guard
"""`default_engine.guard`: puts gates before a function."""
