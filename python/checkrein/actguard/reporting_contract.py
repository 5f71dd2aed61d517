"""Which figure of a report may be computed from what."""

from __future__ import annotations

from typing import Literal

from checkrein.actguard.exceptions import ReportingContractError

MetricSource = Literal["deterministic", "attributed", "mixed"]

DETERMINISTIC_METRICS = frozenset(
    {
        "agent_total_spend",
        "average_spend_per_run",
        "budget_used_percentage",
        "run_total_spend",
        "spend_over_time",
        "total_spend",
        "workspace_total_spend",
    }
)
"""Figures that the settlements of budgets give."""

ATTRIBUTED_METRICS = frozenset(
    {
        "attributed_activity_timeline",
        "root_only_analysis",
        "run_spend_breakdown",
        "spend_by_scope",
        "spend_by_subagent",
        "spend_by_tool",
    }
)
"""Figures that need events which say whose spending they are."""

MIXED_RESPONSE_FIELDS = frozenset(
    {
        "attributed_usd_micros",
        "root_only_usd_micros",
        "total_usd_micros",
        "unattributed_usd_micros",
    }
)
"""Members of a report that put both beside each other."""

ROOT_ONLY_BUCKET = "root_only"
UNATTRIBUTED_BUCKET = "unattributed"
CANONICAL_USAGE_EVENT = ("llm", "usage")


def metric_source(metric_name: str) -> MetricSource:
    """Return what a figure is computed from; raises ReportingContractError for one that nobody knows."""
    if metric_name in DETERMINISTIC_METRICS:
        return "deterministic"
    if metric_name in ATTRIBUTED_METRICS:
        return "attributed"
    if metric_name in MIXED_RESPONSE_FIELDS:
        return "mixed"
    raise ReportingContractError(f"Unknown reporting metric: {metric_name!r}.")


def is_attributed_spend_event(*, category: str, name: str, usd_micros: int | None) -> bool:
    """Whether an event says who spent how much."""
    return (category, name) == CANONICAL_USAGE_EVENT and usd_micros is not None
