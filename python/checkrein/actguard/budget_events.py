"""The event of a budget that refuses."""

from __future__ import annotations

from typing import Any

from checkrein.actguard import reporting
from checkrein.actguard._monitoring import warn_monitoring_issue
from checkrein.actguard.core.budget_state import BudgetState


def emit_budget_blocked(state: BudgetState) -> None:
    """Send `budget.blocked` for a scope; a reporter that fails only warns."""
    payload: dict[str, Any] = {
        "user_id": state.user_id,
        **state.scope_metadata(),
        "tokens_used": state.tokens_used,
        "cost_used": state.cost_used,
        "cost_limit": state.cost_limit,
    }
    if state.tariff_version is not None:
        payload["tariff_version"] = state.tariff_version
    try:
        reporting.emit_event("budget", "blocked", payload, severity="error", outcome="blocked")
    except Exception as error:
        warn_monitoring_issue(subsystem="reporting", operation="budget.blocked", exc=error, stacklevel=3)
