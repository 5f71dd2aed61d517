"""The events of runs, guards and budgets, and how they reach the gateway."""

from __future__ import annotations

from checkrein.actguard.events.catalog import SIGNIFICANT, VERBOSE

__all__ = ["SIGNIFICANT", "VERBOSE"]
