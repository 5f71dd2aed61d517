"""Makes events of what happens in a run and gives them to the run's client."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from checkrein.actguard.core.budget_context import active_scope_metadata
from checkrein.actguard.core.run_context import RunState, get_run_state
from checkrein.actguard.events.catalog import VERBOSE
from checkrein.actguard.events.context import get_tool_name
from checkrein.actguard.events.envelope import Envelope
from checkrein.actguard.integrations.usage import UsageInfo, extract_usage_info, usage_tokens

_RESPONSES = ("raw", "response", "result", "usage", "usage_metadata", "response_metadata", "body")
_SCOPE = ("scope_id", "scope_name", "scope_kind", "parent_scope_id", "root_scope_id", "plan_key")
_COUNTS = ("usd_micros", "input_tokens", "cached_input_tokens", "output_tokens")


def event_client_of(run: RunState | None) -> Any:
    """Return where the events of a run go, or `None`."""
    return None if run is None or run.client is None else run.client.event_client


def emit_event(
    category: str,
    name: str,
    payload: dict[str, Any],
    *,
    severity: str = "",
    outcome: str = "",
    evidence: list[Any] | None = None,
    user_id: str | None = None,
    run_id: str = "",
    trace_id: str = "",
    span_id: str = "",
    model: str | None = None,
    provider: str | None = None,
    usd_micros: int | None = None,
    input_tokens: int | None = None,
    cached_input_tokens: int | None = None,
    output_tokens: int | None = None,
    tool_name: str | None = None,
) -> None:
    """Send an event of the catalogue; nothing happens outside a run, or with a client that sends none."""
    run = get_run_state()
    client = event_client_of(run)
    if run is None or client is None or f"{category}.{name}" not in VERBOSE:
        return
    said = with_scope(payload)
    given = {
        "model": model,
        "provider": provider,
        "usd_micros": usd_micros,
        "input_tokens": input_tokens,
        "cached_input_tokens": cached_input_tokens,
        "output_tokens": output_tokens,
    }
    client.enqueue(
        Envelope(
            category=category,
            name=name,
            severity=severity,
            outcome=outcome,
            run_id=run_id or run.run_id,
            user_id=user_id or run.user_id or None,
            trace_id=trace_id,
            span_id=span_id,
            payload=said,
            evidence=list(evidence or ()),
            tool_name=tool_name or _text(said.get("tool_name")),
            **_usage(said, given),
            **_scope_members(said),
        )
    )


def emit_usage(run: RunState, info: UsageInfo, usd: Decimal) -> None:
    """Send `llm.usage` for a call that was made in a run, whoever sees its end."""
    client = event_client_of(run)
    if client is None:
        return
    payload = with_scope({})
    client.enqueue(
        Envelope(
            category="llm",
            name="usage",
            outcome="success",
            run_id=run.run_id,
            user_id=run.user_id or None,
            payload=payload,
            provider=info.provider,
            model=info.model,
            input_tokens=info.input_tokens,
            cached_input_tokens=info.cached_input_tokens,
            output_tokens=info.output_tokens,
            # Nothing is said of a model without a price: that is not nothing.
            usd_micros=math.ceil(usd * 1_000_000) if usd else None,
            tool_name=_text(payload.get("tool_name")),
        )
    )


def with_scope(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload with the active scope and the running tool, where it does not name its own."""
    said = dict(payload)
    for name, value in (active_scope_metadata() or {}).items():
        said.setdefault(name, value)
    tool = get_tool_name()
    if tool:
        said.setdefault("tool_name", tool)
    return said


def _usage(said: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Fill what is not given from the payload, and then from a response in it."""
    found = dict(given)
    for name in ("model", "provider"):
        found[name] = found[name] or _text(said.get(name))
    for name in _COUNTS:
        value = said.get(name)
        if found[name] is None and isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
    for name in _RESPONSES:
        if said.get(name) is not None and any(found[count] is None for count in _COUNTS[1:]):
            _from_response(found, {name: said[name]})
    return found


def _from_response(found: dict[str, Any], holder: dict[str, Any]) -> None:
    info = extract_usage_info(holder, provider=found["provider"], model=found["model"])
    if info is not None:
        found["model"], found["provider"] = found["model"] or info.model, found["provider"] or info.provider
        counts: tuple[int, int, int] | None = (
            info.input_tokens,
            info.cached_input_tokens,
            info.output_tokens,
        )
    else:
        counts = usage_tokens(next(iter(holder.values())))
    if counts is not None:
        for name, count in zip(_COUNTS[1:], counts, strict=True):
            if found[name] is None:
                found[name] = count


def _scope_members(said: dict[str, Any]) -> dict[str, Any]:
    return {key: _text(said.get(key)) for key in _SCOPE}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
