"""What programs report themselves: events, errors, and the usage of calls that nobody saw."""

from __future__ import annotations

from typing import Any

from checkrein.actguard.core.budget_context import get_budget_context
from checkrein.actguard.core.run_context import get_run_state
from checkrein.actguard.integrations.usage import extract_usage_info
from checkrein.actguard.observability.events import emit_event
from checkrein.actguard.observability.violations import emit_violation

__all__ = ["emit_event", "emit_violation", "record_response_usage"]


def record_response_usage(response: Any, *, provider: str | None = None, model: str | None = None) -> bool:
    """Count what a response used, once, and return whether it says so.

    Inside a budget it is counted there, and BudgetExceededError raised where nothing is left; outside, an event
    `llm.usage` says it.
    """
    info = extract_usage_info(response, provider=provider, model=model)
    if info is None:
        return False
    # Imported here: providers import what is reported.
    from checkrein.actguard.integrations.accounting import check_limits, record_info, report

    context = get_budget_context()
    if context is None:
        report(get_run_state(), info, response)
        return True
    record_info(context, info, response)
    check_limits(context)
    return True
