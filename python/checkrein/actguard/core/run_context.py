"""The run that is active here: in this task, in this thread, or inherited from the thread that started it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from checkrein.actguard.core import inherit
from checkrein.actguard.core.amounts import Amounts
from checkrein.actguard.core.budget_state import remember
from checkrein.actguard.exceptions import MissingRuntimeContextError

if TYPE_CHECKING:
    from checkrein.actguard.client import Client
    from checkrein.actguard.core.budget_context import SharedBudgetState


@dataclass(eq=False)
class RunState:
    """What belongs to one run: its attempts, its idempotency keys and its root budget."""

    client: Client | None
    run_id: str
    user_id: str | None = None
    _tool_attempts: dict[str, int] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _idem_store: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    _idem_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _budget_root: SharedBudgetState | None = field(default=None, repr=False)
    _budget_lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    spent_before: Amounts = field(default_factory=Amounts, repr=False)
    ended: bool = field(default=False, repr=False)
    _reported: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)
    abandoned: bool = field(default=False, repr=False)
    """Whether it was left in another context than it was entered in, so that the first one still names it."""

    def get_attempt_count(self, tool_id: str) -> int:
        """Return how often a tool, as "module:qualname", was attempted in this run."""
        with self._lock:
            return self._tool_attempts.get(tool_id, 0)

    def first_report(self, response_id: str | None) -> bool:
        """Return whether the usage of a response was not told yet. One without an id is always told."""
        with self._lock:
            return not response_id or remember(self._reported, response_id)

    def get_budget_root(self) -> SharedBudgetState | None:
        """Return the root budget that is open now."""
        with self._budget_lock:
            return self._budget_root

    def set_budget_root(self, root: SharedBudgetState | None) -> None:
        """Put a root budget in place, or none."""
        with self._budget_lock:
            self._budget_root = root


_run_state: ContextVar[RunState | None] = ContextVar("_run_state", default=None)
_active_states: dict[int, RunState] = {}
_active_states_lock = threading.Lock()


def get_run_state() -> RunState | None:
    """Return the active run, or `None`. A thread that was started outside every run has none."""
    state = _run_state.get()
    # Tasks that outlive their run stay in it.
    if state is not None and not state.abandoned:
        return state
    found: RunState | None = inherit.inherited("run")
    return found


def require_run_state() -> RunState:
    """Return the active run; raises MissingRuntimeContextError."""
    state = get_run_state()
    if state is None:
        raise MissingRuntimeContextError
    return state


def set_run_state(state: RunState) -> Token[RunState | None]:
    """Make a run the active one here; give what is returned to `reset_run_state`."""
    inherit.install()
    with _active_states_lock:
        _active_states[id(state)] = state
    return _run_state.set(state)


def reset_run_state(token: Token[RunState | None], state: RunState | None = None) -> None:
    """End the run that `set_run_state` made active."""
    state = state or _run_state.get()
    if state is not None:
        # Threads that the run left behind are not in it any more.
        state.ended = True
        with _active_states_lock:
            _active_states.pop(id(state), None)
    try:
        _run_state.reset(token)
    except ValueError:
        # As with a generator that another thread or task finishes.
        if state is not None:
            state.abandoned = True


inherit.inherit("run", get_run_state)
