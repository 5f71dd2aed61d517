"""The events of guards. Reporting one never changes what the guard decided."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

VARIABLE: Final = "ACTGUARD_EMIT_ALL_TOOL_RUNS"
"""The variable of the environment that asks for an event of every run of a tool."""

MAX_MESSAGE: Final = 256
"""Characters of an exception's text that an event tells."""


def emit_all_tool_runs_enabled() -> bool:
    """Whether successful runs of tools are reported, too."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")


def emit_tool_invoke(tool_name: str) -> None:
    """Report a run of a tool that returned."""
    _emit("tool", "invoke", {"tool_name": tool_name}, outcome="success", tool_name=tool_name)


def emit_tool_failure(tool_name: str, exc: BaseException) -> None:
    """Report an exception of a tool."""
    payload = {"tool_name": tool_name, **_of(exc)}
    _emit("tool", "failure", payload, severity="error", outcome="failed", tool_name=tool_name)


def emit_guard_blocked(
    tool_name: str, guard_name: str, exc: BaseException, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Report a call that a guard refused."""
    payload = {"tool_name": tool_name, "guard_name": guard_name, **_of(exc), **(extra or {})}
    _emit("guard", "blocked", payload, severity="error", outcome="blocked", tool_name=tool_name)


def emit_guard_intervention(
    tool_name: str, guard_name: str, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Report that a guard did something other than let the call run."""
    payload = {"tool_name": tool_name, "guard_name": guard_name, **(extra or {})}
    _emit("guard", "intervention", payload, outcome="intervened", tool_name=tool_name)


def _of(exc: BaseException) -> dict[str, str]:
    return {"error_type": type(exc).__name__, "error_message": _safe_message(exc)}


def _safe_message(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:
        text = ""
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def _emit(category: str, name: str, payload: dict[str, Any], **fields: Any) -> None:
    # Looked up here and now: programs and tests replace it.
    from checkrein.actguard import _monitoring, reporting

    try:
        reporting.emit_event(category, name, payload, **fields)
    except Exception as error:
        _monitoring.warn_monitoring_issue(subsystem="event", operation=f"{category}.{name}", exc=error)
