"""What an event looks like on the wire."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

_ALWAYS = (
    "tenant_id",
    "run_id",
    "trace_id",
    "span_id",
    "category",
    "name",
    "version",
    "severity",
    "outcome",
    "digest",
    "digest_algo",
    "payload",
    "meta",
)
_WHERE_SET = (
    "agent_id",
    "user_id",
    "model",
    "provider",
    "usd_micros",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "scope_id",
    "scope_name",
    "scope_kind",
    "parent_scope_id",
    "root_scope_id",
    "plan_key",
    "tool_name",
)


@dataclass
class Evidence:
    """Where something that supports an event can be found."""

    kind: str = ""
    system: str = ""
    locator: str = ""
    url: str = ""
    digest_algo: str = ""
    digest: str = ""
    attrs: dict[str, str] = field(default_factory=dict)
    inline: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is sent."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}


class EvidenceProvider(Protocol):
    """Whoever has evidence for what is happening now."""

    def current(self) -> list[Evidence]:
        """Return the evidence for an event of now."""
        ...


class ActGuardContextEvidenceProvider:
    """The run that is active, as evidence."""

    def current(self) -> list[Evidence]:
        """Return one item for the active run, or nothing outside every run."""
        # Imported here, because runs import what events are made of.
        from checkrein.actguard.core.run_context import get_run_state

        state = get_run_state()
        if state is None:
            return []
        attrs = {"run_id": state.run_id}
        if state.user_id:
            attrs["user_id"] = state.user_id
        return [Evidence(kind="run_context", system="actguard", attrs=attrs)]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass
class Envelope:
    """One event."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ts: datetime.datetime = field(default_factory=_now)
    ingested_at: datetime.datetime | None = None
    tenant_id: str = ""
    agent_id: str | None = None
    user_id: str | None = None
    run_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    category: str = ""
    name: str = ""
    version: int = 1
    severity: str = ""
    outcome: str = ""
    model: str | None = None
    provider: str | None = None
    usd_micros: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    scope_id: str | None = None
    scope_name: str | None = None
    scope_kind: str | None = None
    parent_scope_id: str | None = None
    root_scope_id: str | None = None
    plan_key: str | None = None
    tool_name: str | None = None
    digest: str = ""
    digest_algo: str = ""
    payload: dict[str, Any] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is sent: what is empty and optional is left out."""
        sent: dict[str, Any] = {
            "id": self.id,
            "ts": _stamp(self.ts),
            "ingested_at": _stamp(self.ingested_at or self.ts),
            **{name: getattr(self, name) for name in _ALWAYS},
            "evidence": [item.to_dict() for item in self.evidence],
        }
        for name in _WHERE_SET:
            value = getattr(self, name)
            if value is not None and value != "":
                sent[name] = value
        return sent


def _stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
