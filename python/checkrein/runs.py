"""The part of `Engine` that is about runs: what everything inside them may spend, and what was spent."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from checkrein import _native
from checkrein.errors import ConfigError
from checkrein.model_call import record_usage
from checkrein.scopes import Run, Scope, add_cost, check_names, current_scope, scopes_of, spent_in
from checkrein.spec import Duration
from checkrein.spend import UNITS, Spend

if TYPE_CHECKING:
    from checkrein.engine import Engine


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Every engine of this process."""
_have_stopped = False
"""Whether a run was ever stopped: asking costs guards little, and a count of stopped runs could be wrong."""


class Runs:
    """What an engine knows of runs."""

    @property
    def _self(self) -> Engine:
        return cast("Engine", self)

    def run(
        self,
        user: str | None = None,
        *,
        tenant: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        run_id: str | None = None,
        name: str | None = None,
        budget: str | Decimal | Sequence[str] | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        cu: int | None = None,
        reserve_output: int | None = None,
        wait: Duration | None = None,
    ) -> Run:
        """Prepare a run: `with engine.run(user="alice", budget="$0.50") as run: ...`, or `async with`.

        user, tenant, agent, session: for whom, and by whom; what is left out is that of the run around it.
        run_id: the run's id. A run of an id that was used before goes on with what that one has spent, in every
            process of the store, for 30 days; without one it gets an id of its own, and its meters end with it.
        budget: the most money (`"$0.50"`), or several budgets of different units.
        tokens: the most tokens, input and output.
        calls: the most calls of models, and holds.
        cu: the most compute units, for those who count in them.
        reserve_output: the maximum of output tokens that is sent with a call where nobody sets one, 4096 without it.
        wait: how long a call waits, as `"30s"`, while nothing but what other calls hold is in its way.

        A run inside a run is part of it: the limits of both hold, for everything inside.
        """
        return Run(
            self._self,
            "run",
            user=user,
            tenant=tenant,
            agent=agent,
            session=session,
            run_id=run_id,
            name=name,
            budget=budget,
            tokens=tokens,
            calls=calls,
            cu=cu,
            reserve_output=reserve_output,
            wait=wait,
        )

    def scope(
        self,
        name: str | None = None,
        *,
        budget: str | Decimal | Sequence[str] | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        cu: int | None = None,
        reserve_output: int | None = None,
        wait: Duration | None = None,
    ) -> Scope:
        """Prepare a part of a run with limits of its own, which hold beside those around it; see `run`."""
        return Scope(
            self._self,
            "scope",
            name=name,
            budget=budget,
            tokens=tokens,
            calls=calls,
            cu=cu,
            reserve_output=reserve_output,
            wait=wait,
        )

    def session(
        self,
        session_id: str,
        *,
        user: str | None = None,
        tenant: str | None = None,
        agent: str | None = None,
        budget: str | Decimal | Sequence[str] | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        cu: int | None = None,
    ) -> Scope:
        """Prepare a conversation: runs inside belong to it, and share its totals and its limits.

        What a session spent counts for 30 days, in every process of the store.
        """
        if session_id is None:
            raise ConfigError("a session needs an id", "session", "give the id of the conversation")
        return Scope(
            self._self,
            "session",
            session=session_id,
            user=user,
            tenant=tenant,
            agent=agent,
            budget=budget,
            tokens=tokens,
            calls=calls,
            cu=cu,
        )

    def totals(
        self,
        *,
        user: str | None = None,
        tenant: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        run_id: str | None = None,
    ) -> Spend:
        """Return what was spent in the last 30 days, in every process of the store: by one of these, or by the tenant.

        With `tenant` beside another one, by that one within the tenant.
        """
        check_names({"user": user, "tenant": tenant, "agent": agent, "session": session, "run_id": run_id})
        named = {"user": user, "agent": agent, "session": session, "run": run_id}
        asked = [(what, name) for what, name in named.items() if name is not None]
        if len(asked) > 1:
            hint = "ask for one user, agent, session or run; each has meters of its own"
            raise ConfigError("totals of several at once", "totals", hint)
        gate, key = (f"@{asked[0][0]}", asked[0][1]) if asked else ("@tenant", "")
        gates: list[tuple[str, dict[str, str]]] = [(gate, {})] if asked else []
        keys = [[key]] if asked else []
        whose = self._self.tenant if tenant is None else tenant
        return spent_in(scopes_of(self._self, gates, keys, (None, None, None), whose, (*UNITS, "cu")), gate)

    def record_usage(
        self,
        response: object,
        *,
        model: str | None = None,
        provider: str | None = None,
        check: bool = True,
    ) -> _native.ModelSettlement | None:
        """Record what a call of a model used that was not held before: for SDKs that nothing here knows.

        response: the reply, or its usage alone, as `ModelCall.settle` takes it.
        model: the model, if the reply does not name it.
        check: raise BudgetExceeded when a limit is passed by it; it is recorded all the same.

        It counts in the current scope, all around it, the totals, and the budgets of the policy file for the model. A
        reply with an id is charged once: `None` comes back for one that was, by this or by a wrapped client.
        Raises ConfigError, and records nothing, when the usage cannot be read.
        """
        return record_usage(self._self, response, model, provider, check=check)

    def add_cost(self, amount: str | Decimal, *, name: str = "cost", check: bool = True) -> None:
        """Record what something else cost, as `"0.01 usd"`: in the current scope, all around it, and the totals.

        check: raise BudgetExceeded when a limit is passed by it; it is recorded all the same.
        """
        add_cost(self._self, amount, name, check=check)

    def _around(self) -> tuple[str | None, str | None]:
        """Say why the run around a call was stopped, whosever it is, and its tenant, if it is not the engine's."""
        scope = current_scope()
        if scope is None:
            return None, None
        stopped = scope._closed() if scope.stopped is not None else None
        is_ours = scope.engine is self._self and scope.tenant != self._self.tenant
        return stopped, scope.tenant if is_ours else None

    def _stops(self) -> None:
        """Have the guards of every engine ask for stopped runs from now on, those of later engines too."""
        global _have_stopped
        # Before the look at the engines: one that is made meanwhile is in the set, or sees this.
        _have_stopped = True
        for engine in list(_engines):
            engine._surround(True)

    def _joins(self) -> None:
        """Take a new engine in."""
        _engines.add(self._self)
        if _have_stopped:
            self._self._surround(True)

    def _tenant_here(self) -> str:
        """Return the tenant of the run of this engine that this code is in, else the engine's."""
        scope = current_scope()
        return (
            self._self.tenant
            if scope is None or scope.engine is not self._self
            else scope.tenant or self._self.tenant
        )


class Here(Runs):
    """The same for where code is: on the engine of the scope that it runs in, else on the default one."""

    def __init__(self, default: Engine) -> None:
        self._default = default

    @property
    def _self(self) -> Engine:
        scope = current_scope()
        return self._default if scope is None else scope.engine
