"""The names of the events that are sent."""

from __future__ import annotations

VERBOSE = frozenset(
    {
        "budget.blocked",
        "budget.limit_exceeded",
        "guard.blocked",
        "guard.intervention",
        "llm.usage",
        "run.end",
        "run.start",
        "tool.failure",
        "tool.invoke",
    }
)
"""Sent with `event_mode="verbose"`."""

SIGNIFICANT = VERBOSE
"""Sent with `event_mode="significant"`: the catalogue has nothing that is less than that."""
