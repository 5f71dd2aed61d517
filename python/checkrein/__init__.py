"""Checkrein: runtime control of AI agents. Every gate of an action is decided in one atomic admission."""

from __future__ import annotations

from checkrein._native import Decision, MeterStatus, ModelSettlement, Operation, Reason, __version__
from checkrein.acting import acting
from checkrein.adjust import Adjusted
from checkrein.bind import Context
from checkrein.current import current_operation
from checkrein.deadline import TimeoutWorkers, timeout_workers
from checkrein.engine import Engine
from checkrein.errors import (
    AlreadyDone,
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
    NotProved,
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
from checkrein.facts import Prove
from checkrein.failures import FAIL_ON_DEFAULT, FailureKind, failure_kind
from checkrein.guard import Handle, handle
from checkrein.holds import BudgetHandle, Hold, ScopeHold
from checkrein.integrations import instrument, uninstrument, wrap
from checkrein.model_call import ModelCall
from checkrein.reconcile import Done
from checkrein.rules import ArgumentRule, BlockRegex, RequireFact, Threshold
from checkrein.runs import Here
from checkrein.scopes import Run, Scope, current_run, current_scope
from checkrein.spec import PER_RUN, Breaker, Budget, Once, Rate, Rule
from checkrein.spend import Spend

__all__ = [
    "FAIL_ON_DEFAULT",
    "PER_RUN",
    "Adjusted",
    "AlreadyDone",
    "ApprovalRequired",
    "ArgumentRule",
    "AttemptsExceeded",
    "BlockRegex",
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
    "FailureKind",
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
    "NotProved",
    "Once",
    "Operation",
    "OutcomeNotRecorded",
    "PermitError",
    "PolicyError",
    "PolicyFileError",
    "Prove",
    "Rate",
    "RateLimited",
    "Reason",
    "RequireFact",
    "ResultPruned",
    "Rule",
    "RuleViolated",
    "Run",
    "Scope",
    "ScopeHold",
    "SecretUnavailable",
    "Spend",
    "StoreError",
    "Threshold",
    "TimedOut",
    "TimeoutWorkers",
    "ToolChanged",
    "UnknownTool",
    "__version__",
    "acting",
    "add_cost",
    "circuit_breaker",
    "current_operation",
    "current_run",
    "current_scope",
    "default_engine",
    "enforce",
    "failure_kind",
    "handle",
    "idempotent",
    "instrument",
    "max_attempts",
    "prove",
    "rate_limit",
    "record_usage",
    "run",
    "scope",
    "session",
    "timeout",
    "timeout_workers",
    "tool",
    "totals",
    "uninstrument",
    "wrap",
]

default_engine = Engine()
"""The engine behind `checkrein.tool`."""


tool = default_engine.guard
"""`default_engine.guard`: puts gates before a function."""

_here = Here(default_engine)

run = _here.run
"""`default_engine.run`, or that of the engine whose run this code is in: a run, and what it may spend."""

scope = _here.scope
"""The same of `Engine.scope`: a part of a run with limits of its own."""

session = _here.session
"""The same of `Engine.session`: a conversation, and what it may spend."""

totals = _here.totals
"""The same of `Engine.totals`: what a user, agent, session, run or tenant has spent."""

record_usage = _here.record_usage
"""The same of `Engine.record_usage`: counts a call of a model that nothing here saw."""

add_cost = _here.add_cost
"""The same of `Engine.add_cost`: counts what something else cost."""
rate_limit = default_engine.rate_limit
circuit_breaker = default_engine.circuit_breaker
timeout = default_engine.timeout
max_attempts = default_engine.max_attempts
idempotent = default_engine.idempotent
prove = default_engine.prove
enforce = default_engine.enforce
