"""Budgets that are active here: a stack of scopes, each of which holds for everything that happens in it."""

from __future__ import annotations

import threading
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

from checkrein.actguard.core import inherit
from checkrein.actguard.core.amounts import ZERO
from checkrein.actguard.core.budget_state import (
    BudgetState,
    LocalTally,
    ScopeKind,
    SharedBudgetState,
    UsageBreakdownEntry,
)
from checkrein.actguard.exceptions import MissingRuntimeContextError

__all__ = [
    "BudgetExecutionContext",
    "BudgetLimitViolation",
    "BudgetState",
    "ScopeKind",
    "SharedBudgetState",
    "UsageBreakdownEntry",
    "active_scope_metadata",
    "add_cost",
    "blocked_scope_metadata",
    "check_budget_limits",
    "get_budget_context",
    "get_budget_stack",
    "get_budget_state",
    "install_budget_context",
    "record_usage",
    "require_budget_state",
    "reset_budget_context",
    "reset_budget_state",
    "set_budget_state",
]

_NO_BUDGET = "No active budget context. Wrap work with client.budget_guard(...)."


@dataclass(eq=False)
class BudgetExecutionContext:
    """The scopes that are active, the outermost first. Tasks and threads share them; nothing is copied."""

    shared_root: SharedBudgetState | None
    scope_stack: tuple[BudgetState, ...]
    owner_key: inherit.ExecutionKey = field(default_factory=inherit.execution_key)
    tallies: tuple[LocalTally, ...] = ()
    run: Any = None
    """Where there are no scopes: the run whose events say what calls use."""
    abandoned: bool = False
    """Whether it was left where something else was current, so that its own context may still name it."""
    outer: BudgetExecutionContext | None = None
    """What was current where it was entered."""

    @property
    def active_scope(self) -> BudgetState | None:
        """The innermost scope."""
        return self.scope_stack[-1] if self.scope_stack else None

    @property
    def ended(self) -> bool:
        """Whether the budget was closed: threads that it left behind have none any more, tasks stay below it."""
        return bool(self.scope_stack) and all(scope.closed for scope in self.scope_stack)


@dataclass(frozen=True)
class BudgetLimitViolation:
    """A scope in which nothing is left."""

    active_scope: BudgetState
    blocked_scope: BudgetState
    limit_type: str = "cost"


_budget_context: ContextVar[BudgetExecutionContext | None] = ContextVar("_budget_context", default=None)
_active_budget_states: dict[int, BudgetState] = {}
_active_budget_contexts: dict[int, BudgetExecutionContext] = {}
_active_budget_states_lock = threading.Lock()


def get_budget_context() -> BudgetExecutionContext | None:
    """Return the active budgets, or `None`."""
    context = _here()
    if context is not None:
        return context
    found: BudgetExecutionContext | None = inherit.inherited("budget")
    return found


def _here() -> BudgetExecutionContext | None:
    """Return what was entered last in this context and not left since."""
    context = _budget_context.get()
    while context is not None and context.abandoned:
        context = context.outer
    return context


def own_budget_context() -> BudgetExecutionContext | None:
    """Return the budgets of this context, without those that only the starter of this thread had."""
    context = _here()
    return None if context is None or context.ended else context


def get_budget_stack() -> tuple[BudgetState, ...]:
    """Return the active scopes, the outermost first."""
    context = get_budget_context()
    return () if context is None else context.scope_stack


def get_budget_state() -> BudgetState | None:
    """Return the innermost scope, or `None`."""
    context = get_budget_context()
    return None if context is None else context.active_scope


def require_budget_state() -> BudgetState:
    """Return the innermost scope; raises MissingRuntimeContextError."""
    state = get_budget_state()
    if state is None:
        raise MissingRuntimeContextError(_NO_BUDGET)
    return state


def install_budget_context(context: BudgetExecutionContext) -> Token[BudgetExecutionContext | None]:
    """Make these budgets the active ones; give what is returned to `reset_budget_context`."""
    inherit.install()
    context.outer = _here()
    state = context.active_scope
    with _active_budget_states_lock:
        _active_budget_contexts[id(context)] = context
        if state is not None:
            _active_budget_states[id(state)] = state
    return _budget_context.set(context)


def reset_budget_context(
    token: Token[BudgetExecutionContext | None], context: BudgetExecutionContext | None = None
) -> None:
    """End what `install_budget_context` began."""
    context = context or _budget_context.get()
    if context is not None:
        state = context.active_scope
        with _active_budget_states_lock:
            _active_budget_contexts.pop(id(context), None)
            if state is not None:
                _active_budget_states.pop(id(state), None)
    try:
        if _budget_context.get() is context:
            _budget_context.reset(token)
            return
    except ValueError:
        # As with a generator that another task finishes.
        pass
    if context is not None:
        # Something that was entered later is current, as with generators that take turns: it stays.
        context.abandoned = True


def set_budget_state(state: BudgetState) -> Token[BudgetExecutionContext | None]:
    """Make one scope the only active one."""
    return install_budget_context(BudgetExecutionContext(state.shared_root, (state,)))


def reset_budget_state(token: Token[BudgetExecutionContext | None]) -> None:
    """End what `set_budget_state` began."""
    reset_budget_context(token)


def record_usage(
    *,
    provider: str,
    provider_model_id: str,
    input_tokens: int,
    output_tokens: int,
    cached_input_tokens: int = 0,
) -> None:
    """Count the usage of one call of a model in every active scope; raises MissingRuntimeContextError."""
    context = get_budget_context()
    if context is None or not context.scope_stack:
        raise MissingRuntimeContextError(_NO_BUDGET)
    if input_tokens < 0 or output_tokens < 0 or cached_input_tokens < 0:
        input_tokens, output_tokens = max(0, input_tokens), max(0, output_tokens)
        cached_input_tokens = max(0, cached_input_tokens)
    record_in(context, provider, provider_model_id, input_tokens, cached_input_tokens, output_tokens)


def record_in(
    context: BudgetExecutionContext,
    provider: str,
    model: str,
    input_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    usd: Decimal | None = None,
) -> None:
    """Count one call of a model in these budgets."""
    stack = context.scope_stack
    active = stack[-1]
    tariff = active.tariff
    tokens = input_tokens + output_tokens
    cost = (
        0 if tariff is None else tariff.cost_of(provider, model, input_tokens, cached_tokens, output_tokens)
    )
    usage = (provider, model, input_tokens, cached_tokens, output_tokens, cost, active.scope_name, usd, None)
    with active._lock:
        for scope in stack:
            scope.tokens_used += tokens
            scope.log.append(usage)
            if scope.tariff is tariff:
                scope.cost_used += cost
            elif scope.tariff is not None:
                # A budget around this one, of another client.
                scope.cost_used += scope.tariff.cost_of(*usage[:5])
    if context.tallies and inherit.is_here(context.owner_key):
        for tally in context.tallies:
            tally.log.append(usage)


def add_cost(*, name: str, usd: float) -> None:
    """Count what something else than a model costs, in US dollars, in every active scope.

    It is counted whatever is left: the next call of a model is refused where it was too much. Raises ValueError for a
    negative amount, MissingRuntimeContextError without a budget.
    """
    amount = _exact(usd)
    state = require_budget_state()
    context = get_budget_context()
    assert context is not None
    tariff = state.tariff
    # Rounded up: a thousand costs of a twentieth of a unit are no gift.
    cost = 0 if tariff is None else int((amount * tariff.cu_per_usd).to_integral_value(ROUND_CEILING))
    usage = ("", "", 0, 0, 0, cost, state.scope_name, amount, name)
    with state._lock:
        for scope in context.scope_stack:
            scope.take(usage, 0, cost)
    if context.tallies and inherit.is_here(context.owner_key):
        for tally in context.tallies:
            tally.log.append(usage)


def _exact(usd: float) -> Decimal:
    if isinstance(usd, bool) or not isinstance(usd, int | float | Decimal):
        raise ValueError("add_cost usd must be a number.")
    amount = Decimal(str(usd))
    if not amount.is_finite():
        raise ValueError("add_cost usd must be finite.")
    if amount < ZERO:
        raise ValueError("add_cost usd must be non-negative.")
    return amount


def check_budget_limits() -> BudgetLimitViolation | None:
    """Return the innermost active scope in which nothing is left, or `None`."""
    context = get_budget_context()
    return None if context is None else violation_in(context)


def violation_in(context: BudgetExecutionContext) -> BudgetLimitViolation | None:
    """Return the innermost of these scopes in which nothing is left, or `None`."""
    for scope in reversed(context.scope_stack):
        spent = scope.spent_unit()
        if spent is not None:
            return BudgetLimitViolation(context.scope_stack[-1], scope, spent)
    return None


def active_scope_metadata() -> dict[str, Any] | None:
    """Return what events say about the innermost scope, or `None`."""
    state = get_budget_state()
    return None if state is None else state.scope_metadata()


def blocked_scope_metadata(blocked_scope: BudgetState) -> dict[str, Any]:
    """Return what events say about a scope."""
    return blocked_scope.scope_metadata()


inherit.inherit("budget", get_budget_context)
