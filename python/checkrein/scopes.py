"""Runs, sessions and scopes: what everything inside a `with` block may spend together."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Self, TypeVar

from checkrein import _native, events, threads
from checkrein.acting import ScopeNames, _acting, actor
from checkrein.errors import BudgetExceeded, ConfigError, Denied, Frozen, PermitError, a_type
from checkrein.holds import ScopeHold
from checkrein.spec import Duration, Quantity, span_ns
from checkrein.spend import (
    UNITS,
    Limits,
    Report,
    Spend,
    left_of,
    number,
    read_budget,
    read_limits,
    total,
    whole,
)

if TYPE_CHECKING:
    from checkrein.engine import Engine

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Run", "Scope", "current_run", "current_scope"]

Kind = Literal["run", "scope", "session"]

_LONGEST: Final = 200
_SHAPES: Final = 512
RESERVE_OUTPUT: Final = 4096
"""Output tokens that a model's call holds, and is sent as its maximum, where nobody sets one and a limit counts."""


_current: ContextVar[Scope | None] = ContextVar("checkrein_scope", default=None)


class Scope:
    """A stretch of work with meters of its own, as a context manager for `with` and `async with`.

    Whatever is spent inside counts here, in every scope around it, and in the totals of user, agent, session and
    tenant; all limits hold together, in one admission. Tasks, threads and thread pools that begin inside are inside.
    After the block they may not spend any more: what goes on for longer needs a run of its own.
    """

    def __init__(
        self,
        engine: Engine,
        kind: Kind,
        *,
        name: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        run_id: str | None = None,
        budget: str | Decimal | Sequence[str] | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        cu: int | None = None,
        reserve_output: int | None = None,
        wait: Duration | None = None,
    ) -> None:
        given = {"name": name, "user": user, "tenant": tenant, "agent": agent}
        check_names({**given, "session": session, "run_id": run_id})
        if reserve_output is not None:
            whole("reserve_output", reserve_output, least=1)
        self.engine: Engine = engine
        self.kind: Kind = kind
        self.name = name
        self.user, self.tenant, self.agent, self.session = user, tenant, agent, session
        self.run_id = run_id
        self.parent: Scope | None = None
        self._amounts = read_limits(budget, tokens=tokens, calls=calls, cu=cu)
        self._units = (*UNITS, "cu") if cu is not None else UNITS
        self._reserve = reserve_output
        self._wait = None if wait is None else span_ns("wait", wait) / 1e9
        self._is_own_id = run_id is None
        self._state: Literal["new", "open", "ended", "left"] = "new"
        self._stopped: str | None = None
        self._tokens: tuple[Token[Any], Token[Any]] | None = None
        self._scopes: _native.Scopes | None = None
        self._gate = ""
        self._where: tuple[int, object] = (0, None)
        self._id = uuid.uuid4().hex if kind == "scope" else ""
        self._last: list[tuple[Any, ...]] | None = None

    @property
    def gate(self) -> str:
        """What refusals call the limits of this scope: `reason.gate`. It is known once the scope was entered."""
        return self._gate

    def refused(self, error: Denied) -> bool:
        """Whether a limit of this scope itself is among the reasons of a refusal of a call inside it."""
        return any(reason.gate == self._gate and reason.kind == "budget" for reason in error.decision.reasons)

    @property
    def limits(self) -> Limits:
        """The limits of this scope itself; those around it hold as well."""
        return Limits(**{unit: number(unit, text) for unit, text in self._amounts.items()})

    @property
    def spent(self) -> Spend:
        """What was spent here and in everything inside."""
        return self._sum(2)

    @property
    def held(self) -> Spend:
        """What calls that have not ended hold: the most that they can cost."""
        return self._sum(3)

    @property
    def overrun(self) -> Spend:
        """What was spent beyond what had been held for it."""
        return self._sum(5)

    @property
    def forced(self) -> Spend:
        """What was recorded without asking, beyond the limit."""
        return self._sum(6)

    @property
    def remaining(self) -> Limits:
        """What is left of this scope's limits, at least zero; `None` for units that it does not limit."""
        return left_of(self._standing())

    @property
    def stopped(self) -> str | None:
        """Why this scope or one around it was stopped; `None` when none was."""
        scope: Scope | None = self
        while scope is not None:
            if scope._stopped is not None:
                return scope._stopped
            scope = scope.parent
        return None

    def report(self) -> Report:
        """Return where it stands, read once; `print(scope.report())` is for people."""
        rows = self._standing()
        spent, held, overrun, forced = (total(rows, at) for at in (2, 3, 5, 6))
        title = self.name or (self.run_id if self.kind == "run" else self.session) or "scope"
        return Report(
            name=f"{self.kind} `{title}`",
            limits=self.limits,
            spent=spent,
            held=held,
            remaining=left_of(rows),
            overrun=overrun,
            forced=forced,
            stopped=self.stopped,
        )

    def stop(self, reason: str = "it was stopped") -> None:
        """Refuse every later guarded call and every later call of a model in here, for good.

        It is no exception that a framework's tool loop could swallow: the next call meets it again.
        """
        if not isinstance(reason, str) or not reason:
            raise ConfigError("a reason is text", "reason", "say why, as the agent's owner should read it")
        if self._stopped is None:
            self._stopped = reason
            self.engine._run_stopped(self)
            if self._state == "open":
                self.engine._stops()

    def bind(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make of a function, or a coroutine function, one that runs inside this scope wherever it is called.

        For code that did not begin inside: workers that were started before, callbacks, and frameworks that enter a
        dependency in another context than they call the endpoint in.
        """
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def inside_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self._inside():
                    return await function(*args, **kwargs)

            return inside_async  # type: ignore[return-value]

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._inside():
                return function(*args, **kwargs)

        return inside

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if self._scopes is None:
            raise PermitError("the scope was not entered (hint: use it in a `with` block)")
        tokens = (_current.set(self), _acting.set(self._names))
        try:
            yield
        finally:
            _current.reset(tokens[0])
            _acting.reset(tokens[1])

    def hold(
        self, amounts: Mapping[str, Quantity], *, proven: bool = True, name: str | None = None
    ) -> ScopeHold:
        """Take amounts by unit from this scope, all around it and the totals at once, or raise and take nothing.

        amounts: by `"usd"`, `"tokens"`, `"calls"` and `"cu"`, as text, integers or `Decimal`.
        proven: whether the work cannot cost more.

        With `wait=` of a run it waits while nothing but other holds are in its way. The hold has to be settled; as a
        `with` block, one that ends without it is charged in full. Raises BudgetExceeded when it does not fit, Frozen
        in a scope that was stopped or has ended.
        """
        title, amounts = name or "hold", _by_unit(amounts)
        until = Patience(self)
        while True:
            try:
                permit = self._open(title).hold(dict(amounts), bool(proven), actor(), title)
                break
            except BudgetExceeded as error:
                time.sleep(until.pause(error))
        hold = ScopeHold(permit, self.engine, title)
        if self.engine._listening:
            bound = "proven" if proven else "estimated"
            hold._tell("hold.taken", held=events.rows(self._gate, amounts, bound))
        return hold

    async def ahold(
        self, amounts: Mapping[str, Quantity], *, proven: bool = True, name: str | None = None
    ) -> ScopeHold:
        """Do the same without blocking the event loop where the store waits for a disk or a server."""
        if not self.engine._waits and Patience(self).until is None:
            return self.hold(amounts, proven=proven, name=name)
        import asyncio

        taking = asyncio.ensure_future(asyncio.to_thread(self.hold, amounts, proven=proven, name=name))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # The thread goes on: what it still takes was never used.
            taking.add_done_callback(_give_back)
            raise

    def record(
        self, amounts: Mapping[str, Quantity], *, name: str | None = None, check: bool = False
    ) -> None:
        """Record what was spent already, whether it fits or not: here, in all around it and in the totals.

        check: raise BudgetExceeded afterwards when a limit of the chain is passed.
        """
        title, amounts = name or "recorded", _by_unit(amounts)
        scopes = self._open(title, stopped=False)
        scopes.record(dict(amounts), actor(), title)
        self.engine._emit("cost.recorded", title, {"amounts": events.sums(amounts), "name": title})
        if check:
            check_limits(scopes, title)

    # Entering and leaving.

    def _enter(self) -> None:
        if self._state != "new":
            raise ConfigError(
                f"a {self.kind} is entered once", "scope_reused", f"make another: engine.{self.kind}(...)"
            )
        self.engine._check_fork()
        parent = self._parent()
        if parent is not None and parent.engine is not self.engine:
            raise ConfigError(
                f"a {self.kind} of engine `{self.engine.name}` inside one of `{parent.engine.name}`",
                "nested_engine",
                "limits hold together on one engine only; use that of the outer one",
            )
        principal, user, agent, run, session = actor()
        if parent is not None:
            if self.tenant is not None and self.tenant != parent.tenant:
                raise ConfigError(
                    f"tenant `{self.tenant}` inside tenant `{parent.tenant}`",
                    "nested_tenant",
                    "one admission takes from the meters of one tenant",
                )
            self.tenant = parent.tenant
            self._units = max(self._units, parent._units, key=len)
        elif self.tenant is None:
            self.tenant = self.engine.tenant
        self.user, self.agent = self.user or user or None, self.agent or agent or None
        self.session = self.session or session or None
        if self.kind == "run" and self.run_id is None:
            self.run_id = f"run_{uuid.uuid4().hex}"
        elif self.kind != "run":
            self.run_id = run or None
        self.parent = parent
        self._scopes = self._chain()
        names = (principal, self.user or "", self.agent or "", self.run_id or "", self.session or "")
        self._names = ScopeNames.inside(names, actor(), self._is_over)
        self._where = where()
        threads.inherit()
        self._tokens = (_current.set(self), _acting.set(self._names))
        self._state = "open"
        if self._surrounds:
            self.engine._surround(True)
        if self._stopped is not None:
            self.engine._stops()
        if self.engine._listening:
            try:
                self.engine._run_started(self)
            except BaseException:  # Ctrl-C in a listener: the block does not begin
                self._leave(None)
                raise

    def _parent(self) -> Scope | None:
        """Find what this is a part of. A run may begin where another one has ended, and is no part of that."""
        found = here = current_scope()
        if self.kind == "run":
            for scope in _around(here):
                if scope._state != "open":
                    found = _alive(scope.parent)
        elif here is not None and here._ended is not None:
            raise Frozen(_native.frozen_decision(self.name or self.kind, here._closed() or ""))
        return found

    def _leave(self, error: BaseException | None) -> None:
        if self._state != "open" or self._tokens is None:
            return
        scope_token, acting_token = self._tokens
        self._tokens = None
        self._state = "left"
        # Generators may take turns, and what is around this one now is another's: that stays as it is.
        if _current.get() is self:
            # In another context than it was entered in, as with a generator that somebody else closes, there is
            # nothing to take back: whoever still sees it there stands in what is around it.
            with suppress(ValueError):
                _current.reset(scope_token)
                _acting.reset(acting_token)
                self._state = "ended"
        if self._surrounds:
            self.engine._surround(False)
        if self._state == "ended":
            self._forget()
        if self.engine._listening:
            self.engine._run_ended(self, error)

    def _forget(self) -> None:
        """Let go of the meters that nobody can come back to; in a file or on a server they go by themselves."""
        scopes = self._scopes
        if scopes is None or self.engine._waits or self.kind == "session":
            return
        if self.kind == "run" and not self._is_own_id:
            return
        try:
            rows = [row for row in scopes.status() if row[0] == self._gate]
            if all(Decimal(row[3]) == 0 for row in rows):
                scopes.forget(1)
                self._last = rows
        except Exception:
            # A block ends as it ended; its meters go when their time has come.
            self._last = None

    @property
    def _surrounds(self) -> bool:
        return self.parent is None and self.tenant != self.engine.tenant

    def _chain(self) -> _native.Scopes:
        """Put this scope, those around it, and the totals together, the innermost first."""
        around: list[Scope] = []
        scope: Scope | None = self
        while scope is not None:
            around.append(scope)
            scope = scope.parent
        depths = {"session": 0, "run": 0}
        gates: list[tuple[str, dict[str, str]]] = []
        keys: list[list[str]] = []
        for scope in reversed(around):
            line: Literal["session", "run"] = "session" if scope.kind == "session" else "run"
            scope._gate = f"@{line}" if depths[line] == 0 else f"@{line}.{depths[line]}"
            depths[line] += 1
            gates.append((scope._gate, scope._amounts))
            keys.append([scope._key()])
        gates.reverse()
        keys.reverse()
        reserve = next((s._reserve for s in around if s._reserve is not None), RESERVE_OUTPUT)
        whom = (None if depths["session"] else self.session, self.agent, self.user)
        return scopes_of(self.engine, gates, keys, whom, self.tenant or "", self._units, reserve)

    def _key(self) -> str:
        if self.kind == "session":
            return self.session or ""
        if self.kind == "run":
            return self.run_id or ""
        return self._id

    def _open(self, tool: str, *, stopped: bool = True) -> _native.Scopes:
        """Return the meters to spend from; raises in a scope in which nothing may be spent."""
        if self._scopes is None:
            raise PermitError("the scope was not entered (hint: use it in a `with` block)")
        why = self._closed(stopped=stopped)
        if why is not None:
            raise Frozen(_native.frozen_decision(tool, why))
        return self._scopes

    def _closed(self, *, stopped: bool = True) -> str | None:
        if stopped and (why := self.stopped) is not None:
            return f"{self._title()}: {why}"
        ended = self._ended
        if ended is not None:
            return (
                f"{ended._title()} has ended, and what it started may not spend any more (hint: wait for it inside "
                f"the block, or give it a run of its own)"
            )
        return None

    @property
    def _ended(self) -> Scope | None:
        """The scope in which this one lies, or itself, that has ended.

        One that was left out of turn, as generators may be, goes on counting for whoever began inside it.
        """
        return next((scope for scope in _around(self) if scope._state == "ended"), None)

    def _is_over(self) -> bool:
        """Whether it was left out of turn, and this is where it was entered: what is around it counts here."""
        return self._state == "left" and self._where == where()

    def _title(self) -> str:
        title = self.name or (self.session if self.kind == "session" else self.run_id) or ""
        return f"{self.kind} `{title}`" if title else f"the {self.kind}"

    def _standing(self) -> list[tuple[Any, ...]]:
        if self._last is not None:
            return self._last
        if self._scopes is None:
            return []
        return [row for row in self._scopes.status() if row[0] == self._gate]

    def _sum(self, at: int) -> Spend:
        return total(self._standing(), at)

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {self.kind} stays in the process that entered it (hint: pass its run_id, and enter a run of it there)"
        )

    def __repr__(self) -> str:
        limits = ", ".join(f"{text} {unit}" for unit, text in self._amounts.items())
        return f"<checkrein {self._title().replace('`', '')}, {self._state}{f', at most {limits}' if limits else ''}>"


class Run(Scope):
    """One piece of work of an agent: a scope with an id, for whom it is done, and what it may spend."""


def current_scope() -> Scope | None:
    """Return the innermost scope that this code runs in; `None` outside all of them."""
    found = _current.get()
    if found is not None and found._is_over():
        found = _alive(found)
        # What begins here later is to inherit nothing of it.
        _current.set(found)
        _acting.set(actor())
    return found


def current_run() -> Run | None:
    """Return the innermost run that this code runs in; `None` outside all of them."""
    return next((scope for scope in _around(current_scope()) if isinstance(scope, Run)), None)


def where() -> tuple[int, object]:
    """Return the thread and the task that this code runs in."""
    asyncio = sys.modules.get("asyncio")
    task = None
    if asyncio is not None:
        with suppress(RuntimeError):
            task = asyncio.current_task()
    return threading.get_ident(), None if task is None else weakref.ref(task)


def _around(scope: Scope | None) -> Iterator[Scope]:
    while scope is not None:
        yield scope
        scope = scope.parent


def _alive(scope: Scope | None) -> Scope | None:
    """Step out of scopes that were left out of turn, where they were entered: nobody could take them back there."""
    while scope is not None and scope._is_over():
        scope = scope.parent
    return scope


def scopes_of(
    engine: Engine,
    gates: list[tuple[str, dict[str, str]]],
    keys: list[list[str]],
    whom: tuple[str | None, str | None, str | None],
    tenant: str,
    units: tuple[str, ...] = UNITS,
    reserve: int = RESERVE_OUTPUT,
) -> _native.Scopes:
    """Put scopes and the totals of session, agent, user and tenant together."""
    every = list(gates)
    keys = list(keys)
    for what, name in zip(("session", "agent", "user"), whom, strict=True):
        if name is not None:
            every.append((f"@{what}", {}))
            keys.append([name])
    every.append(("@tenant", {}))
    keys.append([""])
    shape = tuple((gate, tuple((unit, amounts.get(unit)) for unit in units)) for gate, amounts in every)
    known = engine._scope_shapes.get((shape, reserve))
    if known is None:
        known = _native.ScopeShape([(gate, list(limits)) for gate, limits in shape], reserve)
        if len(engine._scope_shapes) >= _SHAPES:
            engine._scope_shapes.clear()
        engine._scope_shapes[(shape, reserve)] = known
    return _native.Scopes(engine, known, tenant, keys)


def spending_scopes(engine: Engine, tenant: str | None, tool: str) -> _native.Scopes:
    """Return what a call of this engine spends from here: the current scope, or the totals of who acts."""
    scope = current_scope()
    if scope is not None and scope.engine is engine:
        if tenant is not None and tenant != scope.tenant:
            raise ConfigError(
                f"a call for tenant `{tenant}` in a run of `{scope.tenant}`", "nested_tenant", "leave it out"
            )
        return scope._open(tool)
    _, user, agent, _, session = actor()
    whom = (session or None, agent or None, user or None)
    return scopes_of(engine, [], [], whom, engine.tenant if tenant is None else tenant)


def add_cost(engine: Engine, amount: object, name: str, *, check: bool) -> None:
    """Record what something else cost; see `Engine.add_cost`."""
    unit, exact = read_budget(amount, "cost")
    scopes = spending_scopes(engine, None, name)
    scopes.record({unit: exact}, actor(), name)
    engine._emit("cost.recorded", name, {"amounts": {unit: exact}, "name": name})
    if check:
        check_limits(scopes, name)


def spent_in(scopes: _native.Scopes, gate: str) -> Spend:
    """Return what was spent in one scope of a chain."""
    return total([row for row in scopes.status() if row[0] == gate], 2)


def check_names(names: Mapping[str, object]) -> None:
    """Check that names and ids are such; what was not given is left out."""
    for what, text in names.items():
        if text is None:
            continue
        if isinstance(text, str) and 0 < len(text) <= _LONGEST:
            if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
                continue
            raise ConfigError(f"`{what}` has half of a surrogate pair", what, "give text that has UTF-8")
        hint = "give a name or an id" if isinstance(text, str) else f"give text: str({what})"
        is_a = "" if isinstance(text, str) else f": it is {a_type(text)}"
        raise ConfigError(f"`{what}` is no text of 1 to {_LONGEST} characters{is_a}", what, hint)


def _by_unit(amounts: object) -> Mapping[str, Quantity]:
    if not isinstance(amounts, Mapping):
        raise ConfigError(
            f"amounts are {a_type(amounts)}", "amount", 'give them by unit: {"usd": "0.10", "tokens": 500}'
        )
    if not all(isinstance(unit, str) for unit in amounts):
        raise ConfigError("a unit is no text", "unit", "use usd, tokens, calls or cu")
    return amounts


def check_limits(scopes: _native.Scopes, title: str) -> None:
    """Raise BudgetExceeded when more is spent than one of the limits allows."""
    passed = []
    for gate, unit, spent, _, limit, _, _ in scopes.status():
        if limit is not None and Decimal(spent) > Decimal(limit):
            text = f"{spent} of {limit} {unit} are spent, with what was recorded now"
            told: tuple[Any, ...] = ("budget_exceeded", "budget", gate, ("never", 0), ("text", [], text))
            passed.append(_native.Reason._restore(told))
    if passed:
        raise BudgetExceeded(_native.Decision._restore(title, "block", tuple(passed), (), "D0"))


class Patience:
    """How long a call waits for what other calls hold, as its run says."""

    def __init__(self, scope: Scope | None) -> None:
        waits = (around._wait for around in _around(scope) if around._wait is not None)
        seconds = next(waits, None)
        self.until = None if seconds is None else time.monotonic() + seconds
        self._step = 0.01

    def pause(self, error: BudgetExceeded) -> float:
        """Return how long to wait before the next try; raises the refusal where waiting is of no use."""
        left = 0.0 if self.until is None else self.until - time.monotonic()
        if left <= 0 or not all(_is_held(reason) for reason in error.decision.reasons):
            raise error
        step, self._step = self._step, min(self._step * 1.5, 0.25)
        return min(step, left)


def _is_held(reason: _native.Reason) -> bool:
    """Whether it fits as soon as other calls have ended for less than they hold."""
    told = reason.to_dict().get("detail") or {}
    if reason.code != "budget_exceeded" or "held" not in told:
        return False
    spent, asked, limit = (Decimal(told[name]) for name in ("spent", "requested", "limit"))
    return spent + asked <= limit and Decimal(told["held"]) > 0


def _give_back(taking: Any) -> None:
    if not taking.cancelled() and taking.exception() is None:
        import threading

        threading.Thread(target=taking.result().release, daemon=True).start()
