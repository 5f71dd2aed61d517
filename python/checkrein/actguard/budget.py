"""Budgets: `with client.budget_guard(...)`, and `with BudgetGuard(...)` without a client or a run."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import uuid
from contextvars import Token
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING

from checkrein.actguard.core import opening
from checkrein.actguard.core.budget_context import (
    BudgetExecutionContext,
    get_budget_context,
    install_budget_context,
    own_budget_context,
    reset_budget_context,
)
from checkrein.actguard.core.budget_state import BudgetState, LocalTally, SharedBudgetState
from checkrein.actguard.core.run_context import RunState, get_run_state, require_run_state
from checkrein.actguard.exceptions import (
    ActGuardRuntimeContextError,
    ActGuardUsageError,
    BudgetClientMismatchError,
    BudgetConfigurationError,
)
from checkrein.actguard.integrations.manager import ensure_patched

if TYPE_CHECKING:
    from checkrein.actguard.client import Client


class BudgetGuard:
    """A budget, for `with` and `async with`.

    Calls of models inside it are held before they are made and counted by what the provider reports. The first guard
    of a run is its root, further ones inside it are scopes of their own; all limits on the way hold together, in
    child tasks and in threads too. Without a limit the guard only counts.

    client: whose run it belongs to. Without one, the run that is active, or none at all: the budget is local then.
    cost_limit: compute units of the gateway's tariff, a whole number.
    token_limit: input and output tokens together.
    usd_limit: US dollars, by the price book.
    name, user_id, plan_key: what events and the gateway are told. run_id: must be that of the active run.
    on_unreachable: as for Client, for this guard alone.
    """

    def __init__(
        self,
        *,
        client: Client | None = None,
        user_id: str | None = None,
        name: str | None = None,
        cost_limit: int | None = None,
        run_id: str | None = None,
        plan_key: str | None = None,
        token_limit: int | None = None,
        usd_limit: float | Decimal | None = None,
        on_unreachable: str | None = None,
    ) -> None:
        self._client = client
        self.user_id = user_id
        self.name = name
        self.cost_limit = cost_limit
        self.token_limit = token_limit
        self.usd_limit = usd_limit
        self.run_id = run_id
        self.plan_key = plan_key
        self._requested_run_id = run_id
        self._on_unreachable = on_unreachable
        self._run_state: RunState | None = None
        self._shared_root: SharedBudgetState | None = None
        self._state: BudgetState | None = None
        self._is_root_scope = False
        self._created_root = False
        self._tally = LocalTally()
        self._context: BudgetExecutionContext | None = None
        self._token: Token[BudgetExecutionContext | None] | None = None

    def __repr__(self) -> str:
        limits = {"token_limit": self.token_limit, "usd_limit": self.usd_limit, "cost_limit": self.cost_limit}
        said = "".join(f" {name}={value}" for name, value in limits.items() if value is not None)
        user = "" if self.user_id is None else f" user_id={self.user_id!r}"
        return f"<BudgetGuard {self.name or 'without a name'}{user}{said}: {self.tokens_used} tokens used>"

    # --- what was used ---

    @property
    def tokens_used(self) -> int:
        """Input and output tokens of every call inside, wherever it ran."""
        return 0 if self._state is None else self._state.tokens_used

    @property
    def cost_used(self) -> int:
        """Compute units; 0 where no tariff was asked for."""
        return 0 if self._state is None else self._state.cost_used

    @property
    def usd_used(self) -> float:
        """US dollars: by the tariff where there is one, by the price book otherwise."""
        return self._dollars(self._state)

    @property
    def local_tokens_used(self) -> int:
        """Tokens of the task or thread that entered the guard alone."""
        return self._tally.tokens_used

    @property
    def local_cost_used(self) -> int:
        """Compute units of the task or thread that entered the guard alone."""
        return self._tally.cost_used

    @property
    def local_usd_used(self) -> float:
        """US dollars of the task or thread that entered the guard alone."""
        return self._dollars(self._tally)

    @property
    def root_tokens_used(self) -> int:
        """Tokens of the whole run's budget."""
        return 0 if self._shared_root is None else self._shared_root.tokens_used

    @property
    def root_cost_used(self) -> int:
        """Compute units of the whole run's budget."""
        return 0 if self._shared_root is None else self._shared_root.cost_used

    @property
    def root_usd_used(self) -> float:
        """US dollars of the whole run's budget."""
        return self._dollars(self._shared_root)

    def _dollars(self, used: BudgetState | SharedBudgetState | LocalTally | None) -> float:
        if used is None:
            return 0.0
        root = self._shared_root
        rate = 0 if root is None else root.cu_per_usd or 0
        # A limit in dollars is held by the price book, and what is shown is what is held.
        return used.cost_used / rate if rate > 0 and self.usd_limit is None else float(used.usd_spent)

    # --- entering ---

    def __enter__(self) -> BudgetGuard:
        self._begin()
        if self._created_root:
            self._run_open()
        elif self._is_root_scope and self._shared_root is not None:
            # Another thread is asking the gateway for the same budget.
            self._shared_root.opened.wait()
        self._checked_open()
        self._install()
        return self

    async def __aenter__(self) -> BudgetGuard:
        self._begin()
        if self._created_root and opening.may_wait(self._plan()):
            await self._open_elsewhere()
        elif self._created_root:
            self._run_open()
        elif self._is_root_scope and self._shared_root is not None and not self._shared_root.opened.is_set():
            await self._wait_opened(self._shared_root)
        self._checked_open()
        self._install()
        return self

    def _begin(self) -> None:
        """Check what was asked for and find the place among the budgets."""
        if self._token is not None:
            raise ActGuardUsageError(
                "budget_guard was entered before. Make another one.", code="usage.budget_guard_configuration"
            )
        self._check_limits()
        run = get_run_state() if self._client is None else require_run_state()
        if self._client is None and run is not None:
            self._client = run.client
        if run is not None:
            if run.client is not self._client:
                raise BudgetClientMismatchError
            if self._requested_run_id is not None and self._requested_run_id != run.run_id:
                raise ActGuardRuntimeContextError(
                    "budget_guard run_id does not match active runtime run_id.",
                    code="runtime.run_id_mismatch",
                    retryable=False,
                )
        self._run_state = run
        self.run_id = run.run_id if run is not None else self._requested_run_id or f"run_{uuid.uuid4().hex}"
        ensure_patched() if self._client is None else self._client.prepare_budget_scope()
        around = own_budget_context()
        root = None if run is None else run.get_budget_root()
        if around is not None and not around.ended and (run is None or around.shared_root is root):
            self._nest(around)
        else:
            self._attach(run)

    def _check_limits(self) -> None:
        for name in ("cost_limit", "token_limit"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value <= 0):
                raise ActGuardUsageError(
                    f"budget_guard requires {name} to be a positive integer when provided.",
                    code="usage.budget_guard_configuration",
                )
        if self._on_unreachable not in (None, "closed", "open"):
            raise ActGuardUsageError(
                'budget_guard requires on_unreachable to be "closed" or "open".',
                code="usage.budget_guard_configuration",
            )
        usd = self.usd_limit
        if usd is not None and (
            isinstance(usd, bool)
            or not isinstance(usd, int | float | Decimal)
            or not (usd.is_finite() if isinstance(usd, Decimal) else math.isfinite(usd))
            or usd <= 0
        ):
            raise ActGuardUsageError(
                "budget_guard requires usd_limit to be a positive number when provided.",
                code="usage.budget_guard_configuration",
            )

    def _user(self) -> str | None:
        run_user = None if self._run_state is None else self._run_state.user_id
        return self.user_id if self.user_id is not None else run_user

    def _nest(self, around: BudgetExecutionContext) -> None:
        """Become a scope inside the innermost one."""
        root, parent = around.shared_root, around.active_scope
        assert parent is not None
        if root is not None and self.plan_key is not None and self.plan_key != root.plan_key:
            raise _mismatch("plan_key")
        self._shared_root = root
        tariff = parent.tariff
        if self.cost_limit is not None and tariff is None:
            tariff = opening.tariff(self._plan())
            if root is not None and tariff is not None and root.tariff is None:
                root.install_tariff(tariff)
        self._state = BudgetState(
            user_id=self._user() if self._user() is not None else parent.user_id,
            run_id=self.run_id or "",
            scope_name=self.name,
            scope_kind="nested",
            parent_scope_id=parent.scope_id,
            root_scope_id=parent.root_scope_id,
            cost_limit=self.cost_limit,
            token_limit=self.token_limit,
            usd_limit=self.usd_limit,
            plan_key=parent.plan_key,
            reserve_id=parent.reserve_id,
            tariff=tariff,
            tariff_version=None if tariff is None else tariff.tariff_version,
            shared_root=root,
        )

    def _attach(self, run: RunState | None) -> None:
        """Become the root of the run, or join the one that it has."""
        self._is_root_scope = True
        lock = threading.RLock() if run is None else run._budget_lock
        with lock:
            root = None if run is None else run.get_budget_root()
            if root is None:
                self._created_root = True
                root = self._new_root(run)
                if run is not None:
                    run.set_budget_root(root)
            else:
                self._check_same(root)
            root.attach()
        self._shared_root = root
        self._state = root.root_state

    def _new_root(self, run: RunState | None) -> SharedBudgetState:
        around = get_budget_context()
        outer = None if around is None or around.ended else around.shared_root
        return SharedBudgetState(
            user_id=self._user(),
            run_id=self.run_id or "",
            root_scope_name=self.name,
            root_cost_limit=self.cost_limit,
            plan_key=self.plan_key,
            token_limit=self.token_limit,
            usd_limit=self.usd_limit,
            # A run has one budget: what an earlier guard of it spent is spent.
            before=None if run is None else run.spent_before,
            room=None if outer is None else outer.room,
        )

    def _check_same(self, root: SharedBudgetState) -> None:
        asked = {
            "name": (self.name, root.root_scope_name),
            "user_id": (self.user_id, root.user_id),
            "cost_limit": (self.cost_limit, root.root_cost_limit),
            "token_limit": (self.token_limit, root.token_limit),
            "usd_limit": (self.usd_limit, root.usd_limit),
            "plan_key": (self.plan_key, root.plan_key),
        }
        for name, (mine, its) in asked.items():
            if mine is not None and mine != its:
                raise _mismatch(name)

    def _plan(self) -> opening.Plan:
        client = self._client
        choice = self._on_unreachable or ("closed" if client is None else client.on_unreachable)
        limited = not (self.cost_limit is None and self.token_limit is None and self.usd_limit is None)
        return opening.Plan(
            client=client,
            run_id=self.run_id or "",
            user_id=self._user(),
            cost_limit=self.cost_limit,
            plan_key=self.plan_key,
            limited=limited,
            fail_open=choice == "open",
        )

    def _run_open(self) -> None:
        root = self._shared_root
        assert root is not None
        try:
            opening.open_root(self._plan(), root)
        except BaseException as error:
            root.failure = error
            self._leave_root()
            raise
        finally:
            root.opened.set()

    async def _open_elsewhere(self) -> None:
        """Ask the gateway in a thread; a cancelled wait gives back what it reserves later."""
        asking = asyncio.ensure_future(asyncio.to_thread(self._run_open))
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._abandon)
            raise

    async def _wait_opened(self, root: SharedBudgetState) -> None:
        try:
            await asyncio.to_thread(root.opened.wait)
        except asyncio.CancelledError:
            self._close_root()
            raise

    def _abandon(self, asked: asyncio.Future[None]) -> None:
        if not asked.cancelled() and asked.exception() is None:
            threading.Thread(target=self._close_root, name="actguard-settle", daemon=True).start()

    def _checked_open(self) -> None:
        root = self._shared_root
        if root is not None and self._is_root_scope and not self._created_root and root.failure is not None:
            root.detach()
            raise root.failure
        if self._is_root_scope and root is not None:
            # The gateway may have set one, or a smaller one.
            self.cost_limit = root.root_state.cost_limit if self._created_root else self.cost_limit

    def _install(self) -> None:
        assert self._state is not None
        around = get_budget_context()
        stack = () if around is None or around.ended else around.scope_stack
        if self._state not in stack:
            stack = (*stack, self._state)
        tallies: tuple[LocalTally, ...] = (self._tally,)
        own = own_budget_context()
        self._context = BudgetExecutionContext(self._shared_root, stack)
        if own is not None and own.owner_key == self._context.owner_key:
            tallies = (*own.tallies, *tallies)
        self._context.tallies = tallies
        self._token = install_budget_context(self._context)

    # --- leaving ---

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uninstall()
        if self._is_root_scope:
            self._close_root()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uninstall()
        root = self._shared_root
        if not self._is_root_scope or root is None:
            return
        if root.reserve_id is None:
            self._close_root()
        else:
            # Settled even if the task is cancelled meanwhile.
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self._close_root)))

    def _uninstall(self) -> None:
        token = self._token
        if token is None or self._context is None:
            return
        reset_budget_context(token, self._context)
        if self._state is not None and not self._is_root_scope:
            self._state.closed = True

    def _leave_root(self) -> bool:
        """Leave the root budget, and return whether it is to be settled now."""
        root, run = self._shared_root, self._run_state
        assert root is not None
        lock = threading.RLock() if run is None else run._budget_lock
        with lock:
            if not root.detach():
                return False
            root.count_expected()
            root.root_state.closed = True
            if run is not None and run.get_budget_root() is root:
                run.set_budget_root(None)
                # With what is still held: streams that are read later count what they held against later guards.
                run.spent_before = root.root_state.whole() + root.root_state.held
        return root.mark_settled()

    def _close_root(self) -> None:
        # A forked child leaves the reservation to the process that made it.
        if self._leave_root() and self._shared_root is not None and self._shared_root.pid == os.getpid():
            opening.settle_root(self._client, self._shared_root)


def _mismatch(name: str) -> BudgetConfigurationError:
    return BudgetConfigurationError(f"budget_guard {name} does not match the existing root scope.")
