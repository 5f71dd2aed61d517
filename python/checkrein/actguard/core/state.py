"""Kept under the name that programs import from: the state of the innermost budget."""

from __future__ import annotations

from checkrein.actguard.core.budget_context import BudgetState, get_budget_state

__all__ = ["BudgetState", "get_current_state"]


def get_current_state() -> BudgetState | None:
    """Return the state of the innermost budget, or `None`."""
    return get_budget_state()
