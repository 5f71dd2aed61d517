"""Makes events of errors."""

from __future__ import annotations

from typing import Any

from checkrein.actguard.core.run_context import get_run_state
from checkrein.actguard.events.catalog import VERBOSE
from checkrein.actguard.events.envelope import ActGuardContextEvidenceProvider, Envelope
from checkrein.actguard.exceptions import ActGuardError
from checkrein.actguard.observability.events import _SCOPE, _text, event_client_of, with_scope


def emit_violation(error: BaseException, **context_overrides: Any) -> None:
    """Send the event of an error that has one; anything else, and an error outside a run, is ignored.

    context_overrides: members of the event that are to differ from what the error and the run say.
    """
    run = get_run_state()
    client = event_client_of(run)
    if run is None or client is None or not isinstance(error, ActGuardError) or not error.is_reportable:
        return
    if f"{error.event_category}.{error.event_name}" not in VERBOSE:
        return
    said = with_scope(error.payload())
    members: dict[str, Any] = {
        "category": error.event_category,
        "name": error.event_name,
        "severity": error.severity,
        "outcome": error.outcome,
        "run_id": run.run_id,
        "user_id": run.user_id or None,
        "payload": said,
        "evidence": [*error.evidence(), *ActGuardContextEvidenceProvider().current()],
        "tool_name": _text(said.get("tool_name")),
        **{key: _text(said.get(key)) for key in _SCOPE},
    }
    known = Envelope.__dataclass_fields__
    members.update({name: value for name, value in context_overrides.items() if name in known})
    client.enqueue(Envelope(**members))
