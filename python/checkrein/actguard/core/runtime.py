"""A run as a context manager: `with client.run(...)`."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Any

from checkrein.actguard import reporting
from checkrein.actguard._monitoring import warn_monitoring_issue
from checkrein.actguard.core.run_context import RunState, get_run_state, reset_run_state, set_run_state
from checkrein.actguard.exceptions import NestedRuntimeContextError

if TYPE_CHECKING:
    from contextvars import Token

    from checkrein.actguard.client import Client


class ClientRunContext:
    """One run of a client, for `with` and `async with`. Several may be open at once, in as many threads or tasks."""

    def __init__(self, *, client: Client, user_id: str | None = None, run_id: str | None = None) -> None:
        self.client = client
        self.run_id = run_id or str(uuid.uuid4())
        self.user_id = user_id
        self._state: RunState | None = None
        self._token: Token[RunState | None] | None = None

    def __repr__(self) -> str:
        user = "" if self.user_id is None else f" user_id={self.user_id!r}"
        return f"<run {self.run_id!r}{user}>"

    def get_attempt_count(self, tool_id: str) -> int:
        """Return how often a tool, as "module:qualname", was attempted in this run."""
        return 0 if self._state is None else self._state.get_attempt_count(tool_id)

    def __enter__(self) -> ClientRunContext:
        active = get_run_state()
        if active is not None and not active.ended:
            raise NestedRuntimeContextError(
                "Nested runtime contexts are not supported. "
                f"Active run_id='{active.run_id}'; finish the current client.run(...) before entering another."
            )
        self._state = RunState(client=self.client, run_id=self.run_id, user_id=self.user_id)
        self._token = set_run_state(self._state)
        if self.client.event_client is not None:
            # What calls of models use is told in runs without a budget too.
            self.client.prepare_budget_scope()
        self._emit("start", {"run_id": self.run_id, "user_id": self.user_id})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is None:
            return
        payload: dict[str, Any] = {"run_id": self.run_id}
        if kind is None:
            self._emit("end", payload, outcome="success")
        else:
            payload["error_type"] = kind.__name__
            blocked = getattr(kind, "outcome", None) == "blocked"
            self._emit("end", payload, severity="error", outcome="blocked" if blocked else "failed")
        token, self._token = self._token, None
        reset_run_state(token, self._state)

    async def __aenter__(self) -> ClientRunContext:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _emit(self, name: str, payload: dict[str, Any], **more: Any) -> None:
        try:
            # Looked up at each call: programs put their own in its place.
            reporting.emit_event("run", name, payload, **more)
        except Exception as error:
            warn_monitoring_issue(subsystem="reporting", operation=f"run.{name}", exc=error, stacklevel=3)
