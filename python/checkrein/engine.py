"""`Engine`: where guards are made, asked, listed and reset, and where decisions are announced."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self, Unpack, overload

from checkrein import _native, deadline, events
from checkrein.acting import actor
from checkrein.adjust import Adjusted, adjust
from checkrein.errors import ConfigError
from checkrein.events import Event, Listener
from checkrein.facts import Prove
from checkrein.guard import Handle, handle, make_guard
from checkrein.guards import GuardForms
from checkrein.holds import BudgetHandle
from checkrein.model_call import ModelCall
from checkrein.options import Enforced, GuardOptions, Keeping, Returning
from checkrein.policy import look, watch_policy
from checkrein.reconcile import Reconciler
from checkrein.rules import RequireFact
from checkrein.runs import Runs
from checkrein.spec import Breaker, Budget, Cost, Duration, Key, Mode, Once, Rate, Reconcile, Rule, span_ns

_log = logging.getLogger("checkrein")


class Engine(Runs, GuardForms, _native.EngineBase):
    """Decides actions, in the memory of this process, in a file of one machine, or on a server that many hosts share.

    store: `"memory"` (the default), `"sqlite:PATH"`, or the URL of a Redis or Valkey server, as `"redis://HOST:PORT"`.
        All guards of one engine share its records, and so do all engines of one file or server: budgets, rates and
        breakers of the same name are the same.
    clock: a fake clock, for tests.
    max_keys: how many keys a gate may have alive per tenant.
    tenant: the tenant of actions that name none.
    prefix: what all keys on the server begin with, `"checkrein"` by default: stores of two prefixes share nothing.
    deadline: how long a decision may wait for the server, 0.5 seconds by default; then it is a refusal.
    accept_failover_loss: decide on once keys and hard budgets although the server is replicated, and a failover may
        lose what it acknowledged last.
    ledger: the file in which this host keeps its own ledger of what it did on the server. Its processes may share it,
        but none that was forked from one that has it open.
    ledger_arguments: what the ledger keeps of the arguments of calls: `"full"`, `"digest"` (salted, the
        default) or `"none"`.
    ledger_key: the private key file that signs the ledger; beside the store by default, made at first use.
    policy: the policy file, see `from_policy`.
    witness: a file or URL that gets each signed checkpoint, and is asked at the start whether it saw this ledger.

    An engine on a server goes on in forked children, together with its parent. Any other belongs to the process that
    made it, and raises `ForkedError` in a forked child. Raises ConfigError for what cannot work, StoreError for a file
    that cannot be a store, or a server that is not to be had.
    """

    def __init__(
        self,
        store: str | None = None,
        clock: _native.FakeClock | None = None,
        *,
        max_keys: int | None = None,
        name: str = "default",
        tenant: str = "",
        ledger_arguments: Literal["full", "digest", "none"] | None = None,
        ledger_key: str | os.PathLike[str] | None = None,
        witness: str | None = None,
        prefix: str | None = None,
        deadline: Duration | None = None,
        accept_failover_loss: bool | None = None,
        ledger: str | os.PathLike[str] | None = None,
        policy: str | os.PathLike[str] | None = None,
    ) -> None:
        # The native half reads the arguments in `__new__`.
        self.clock = clock
        self._policy = None if policy is None else os.path.abspath(policy)
        self._ledger_arguments = ledger_arguments or "digest"
        self.listener_errors = 0
        self.failed_open = 0
        self._listeners: tuple[Listener, ...] = ()
        # What finalizers have to say; more than this is nobody's to wait for.
        self._deferred: deque[Event] = deque(maxlen=10_000)
        # Guarded functions, and what puts something around them while somebody traces this engine.
        self._guarded: weakref.WeakSet[Any] = weakref.WeakSet()
        self._dress: Callable[[Any], None] | None = None
        self._names: dict[str, int] = {}
        # Where names outlive the process: which function has which.
        self._owners: dict[str, str] = {}
        self._shapes: dict[str, int] = {}
        self._warned = False
        # By once gate. Weak: a guard that is gone asks nobody any more.
        self._reconcilers: weakref.WeakValueDictionary[str, Reconciler] = weakref.WeakValueDictionary()
        self._reconciling: set[tuple[str, str, str | tuple[str, ...]]] = set()
        self._lock = threading.Lock()
        # What is compiled for scopes of one form serves all of them.
        self._scope_shapes: dict[Any, _native.ScopeShape] = {}
        self._joins()

    @classmethod
    def from_policy(
        cls, path: str | os.PathLike[str] | None = None, *, watch: Duration | None = None, **options: Any
    ) -> Self:
        """Make an engine whose guards get the gates of a policy file on top of their own.

        `path` is the file; without it, `checkrein.toml` or `[tool.checkrein]` of the `pyproject.toml` in the current
        directory, never above it. With `watch="2s"` the file is looked at so often, and one that has changed and is
        the same at two looks takes over. `options` are those of `Engine`.

        Raises PolicyFileError for a file that cannot be used, with every problem in it.
        """
        # Whoever changes the directory later still means this file.
        found = os.path.abspath(path if path is not None else _native.find_policy(os.getcwd()))
        every = None if watch is None else span_ns("watch", watch, least=1) / 1e9
        before = look(found)
        engine = cls(policy=found, **options)
        if every is not None:
            watch_policy(engine, every, before)
        return engine

    def reload(self, path: str | os.PathLike[str] | None = None) -> None:
        """Put the policy file as it is now, or another one, in the place of the one that counts.

        All of it takes over at once, for every guard; calls that are being decided end by the old one. After an error
        the old file goes on. Raises PolicyFileError for a file that cannot be used, and ConfigError for one that the
        guards in the code cannot work with.
        """
        self._reload(self._policy or "" if path is None else path)
        if path is not None:
            self._policy = os.path.abspath(path)

    @overload
    def guard(
        self, *, on_block: Literal["raise", "wait"] = "raise", **options: Unpack[GuardOptions]
    ) -> Keeping: ...

    @overload
    def guard(self, *, on_block: Literal["result"], **options: Unpack[GuardOptions]) -> Returning: ...

    def guard(
        self,
        *misplaced: object,
        rate: str | Rate | Sequence[str | Rate] | None = None,
        cooldown: Duration | None = None,
        budget: str | Budget | Sequence[str | Budget] | None = None,
        cost: Cost | None = None,
        actual: Callable[[Any], Any] | None = None,
        rules: Callable[..., Any] | str | Rule | Sequence[Callable[..., Any] | str | Rule] | None = None,
        enforce: Enforced | Sequence[Enforced] | None = None,
        facts: Mapping[str, str] | RequireFact | Sequence[RequireFact] | None = None,
        proves: Mapping[str, str | Callable[[Any], Any]] | Prove | Sequence[Prove] | None = None,
        attempts: int | None = None,
        once: Key | Sequence[str] | Literal[True] | Once | None = None,
        exclude: str | Sequence[str] = (),
        reconcile: Reconcile | None = None,
        safe_errors: type[Exception] | Sequence[type[Exception]] | None = None,
        breaker: str | Breaker | None = None,
        timeout: Duration | None = None,
        key: Key | None = None,
        tenant: Key | None = None,
        name: str | None = None,
        mode: Mode = "enforce",
        on_block: Literal["raise", "result", "wait"] = "raise",
        deadline: Duration | None = None,
        on_store_error: Literal["closed", "open"] = "closed",
    ) -> Any:
        """Make a decorator that admits every call over all these gates at once, or refuses it and takes nothing.

        rate: at most so many calls in a window, `"10/min"`; several are taken together.
        cooldown: what must pass between two calls.
        budget: at most so much of a unit in a window, `"50 usd/day"`; several are taken together.
        cost: what a call costs: text, `Decimal`, integer, an argument's name, a callable of the arguments or CEL text
            (in dollars: integers of nano-dollars). Never a float.
        actual: what a result really cost; then the cost is held as an upper bound and settled at the end.
        rules: conditions; each must return exactly `True` or `False`.
        enforce: rules on arguments: `RequireFact`, `Threshold`, `BlockRegex`, any `ArgumentRule` and any rule.
        facts: arguments that must be facts: `{"order_id": "order"}` or `RequireFact("order_id", "order")`.
        proves: what results prove: `{"order": "id"}` or `Prove("order", "id")`.
        attempts: at most so many calls until `reset`.
        once: the argument that names the operation; at most one run, repetitions get the stored result.
        exclude: arguments that `once` and the gates of a policy file do not see, and that no agent chooses.
        reconcile: looks up what became of an operation in doubt, and answers `Done(result)`, `NotExecuted` or `None`.
        safe_errors: exceptions of the function that mean it had no effect, as `NotExecuted` does.
        breaker: stops calls to a failing dependency, `"stripe: 3 failures/60s"`.
        timeout: how long a caller waits for the function.
        key: whom rate, cooldown, attempts and own budgets count for.
        tenant: the argument that names the tenant.
        name: the guard's name; guards of the same explicit name share their records.
        mode: `"observe"` decides and records but lets pass.
        on_block: `"raise"`, `"result"` (return the decision) or `"wait"` (until `deadline`).
        on_store_error: `"open"` lets calls through when the store is gone; for a guard of a single rate only.

        Raises ConfigError, here or when the decorator is applied, for whatever cannot work.
        """
        options = dict(locals())
        del options["self"], options["misplaced"]
        if misplaced:
            hint = 'write @engine.guard(rate="10/min"), with its gates in parentheses'
            raise ConfigError("the guard was given a function instead of gates", "decorator_order", hint)
        return make_guard(self, options)

    tool = guard

    def budget(self, budget: str | Budget, *, key: bool = False, name: str | None = None) -> BudgetHandle:
        """Make a budget for code that is no function call: `with budget.hold("0.30 usd") as hold: ...`.

        With `key=True` every hold names whom it counts for.
        """
        return BudgetHandle(self, budget, keyed=key, name=name)

    def model_call(
        self,
        model: str | None = None,
        *,
        provider: str | None = None,
        request: Mapping[str, Any] | str | bytes,
        max_output: int | None = None,
        unseen_tokens: int | None = None,
        at_most: Mapping[str, int] | None = None,
        context: Mapping[str, str] | None = None,
        tenant: str | None = None,
        safe_errors: type[Exception] | Sequence[type[Exception]] = (),
    ) -> ModelCall:
        """Make a call of a model an action of the policy file: `with engine.model_call(...) as call: ...`.

        model: the model, as the provider is asked for it; the request's own without it.
        provider: the provider, where the policy file and the price book do not tell.
        request: what is sent, as a dict, as JSON, or as the plain text of a prompt. Its bytes bound its tokens.
        max_output: the maximum of output tokens, if the request does not say it; the policy file's without both.
        unseen_tokens: the most tokens of what the request refers to and does not contain (images, files, earlier
            responses). The bound is an estimate then.
        at_most: the most of other things the call can use, by unit: `{"web_searches": 3}`.
        context: what kind of call it is, where that changes the price: `{"processing": "batch"}`. Without it the
            dearest kind is held.
        safe_errors: exceptions that mean that nothing was sent, as `NotExecuted` does.

        The calls are those of whom `acting(...)` names. Raises ConfigError for an engine without a policy file and for
        a request that cannot be bounded as it is written; entering raises what guards raise.
        """
        return ModelCall(
            self,
            model,
            provider,
            request,
            max_output=max_output,
            unseen_tokens=unseen_tokens,
            at_most=at_most,
            context=context,
            tenant=tenant,
            safe_errors=safe_errors,
        )

    def peek(self, guarded: Callable[..., Any] | Handle, /, *args: Any, **kwargs: Any) -> _native.Decision:
        """Decide a call of a guarded function without taking anything."""
        found = guarded if isinstance(guarded, Handle) else handle(guarded)
        return found.peek(*args, **kwargs)

    def reset(self, name: str | Callable[..., Any], key: object = None, *, tenant: str | None = None) -> int:
        """Forget what the gates of a name spent and close its breakers, for one key or all; returns how many."""
        if isinstance(name, str):
            return self._reset(name, key, tenant)
        return handle(name).reset(key, tenant=tenant)

    def adjust_budget(
        self,
        name: str,
        key: object = None,
        *,
        by: str,
        limit: str | None = None,
        add: str | None = None,
        clear: bool = False,
        until: datetime | float | None = None,
        lasts: Duration | None = None,
        note: str = "",
        tenant: str | None = None,
    ) -> Adjusted:
        """Change the limit of a budget for one key, from the next decision on and in every process of the store.

        name: the budget's name; `key` the key it counts for, as `list()` shows it.
        limit: counts instead of the policy's until it is cleared, as `"80 usd"`; `clear=True` clears it.
        add: a top-up, as `"5 usd"`. It ends with the calendar period, after one length of a rolling window, or never
            where there is no window, unless `lasts` (`"2d"`, or `"ever"`) or `until` says otherwise. A limit that is
            set or cleared ends all top-ups.
        by: who does it; the ledger says so, and `note` too.

        Raises ConfigError for what cannot be, with the code `unknown_budget`, `ambiguous_budget`, `wrong_unit`,
        `amount` or `invalid_amount`, `duration` or `invalid_time`, `missing_by`, `key`, `too_large`,
        `too_many_top_ups` or `capacity`; StoreError if the store did not commit it.
        """
        parts = self._shapes.get(name)
        given = len(key) if isinstance(key, tuple) else int(key is not None)
        if parts is not None and parts != given:
            hint = "name the key whose limit it is, with as many parts as the guard's"
            raise ConfigError(f"budget `{name}` has keys of {parts} parts, not of {given}", "key", hint)
        return adjust(
            self,
            name,
            key,
            limit=limit,
            add=add,
            clear=clear,
            until=until,
            lasts=lasts,
            by=by,
            note=note,
            tenant=tenant,
        )

    def resolve(
        self,
        name: str | Callable[..., Any],
        key: object,
        outcome: Literal["done", "failed"],
        result: Any = None,
        *,
        tenant: str | None = None,
    ) -> bool:
        """Say what became of an operation in doubt: `done` (with its result) or `failed` (run again).

        The result of a function is stored by the function's own codec; that of a gate named by text is plain JSON. One
        that cannot be stored leaves the operation done without a result: a warning is logged, and repetitions are
        refused.
        Returns whether there was such an operation.
        """
        if outcome not in ("done", "failed"):
            raise ConfigError("an outcome is `done` or `failed`", "outcome", "say what really happened")
        if isinstance(name, str):
            stored = self._plain(name, result)
            return self._resolve(name, key, outcome, stored, tenant)
        found = handle(name)
        stored = None if result is None else found.guard._encode(result)
        return self._resolve(_once_gate(found), key, outcome, stored, tenant, exact=True)

    def _plain(self, name: str, result: object) -> bytes | None:
        try:
            return None if result is None else json.dumps(result, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            self._warn(name, f"the result was not stored: {error}; repetitions will be refused")
            return None

    def in_doubt(
        self, function: Callable[..., Any] | None = None, *, limit: int = 1_000
    ) -> Sequence[_native.Operation]:
        """Return at most `limit` operations whose outcome is unknown: those of a guarded function, or all."""
        return self._doubts(None if function is None else _once_gate(handle(function)), limit)

    def reconcile(
        self, function: Callable[..., Any] | None = None, *, limit: int = 1_000
    ) -> Sequence[_native.Operation]:
        """Ask the `reconcile` hooks about operations in doubt, those of a guarded function or all that have a hook.

        Returns the operations whose outcome is known now; the others are still `in_doubt()`. The hooks get no
        arguments: nobody calls. Raises ConfigError for hooks that are coroutine functions; see `areconcile`.
        """
        known = []
        for doubt, reconciler in self._open_doubts(function, limit):
            if reconciler.is_async:
                hint = "await engine.areconcile(...) instead"
                raise ConfigError(f"the hook of `{doubt.gate}` is a coroutine function", "reconcile", hint)
            known.append(reconciler.look_up(doubt).operation)
        return _known(known)

    async def areconcile(
        self, function: Callable[..., Any] | None = None, *, limit: int = 1_000
    ) -> Sequence[_native.Operation]:
        """Do the same as `reconcile` with hooks of either kind; those that are not async run in a thread."""
        # Whoever awaits has asyncio already; nobody else pays for importing it.
        import asyncio

        if self._waits:
            found = await asyncio.to_thread(self._open_doubts, function, limit)
        else:
            found = self._open_doubts(function, limit)
        known = [(await reconciler.look_up_async(doubt)).operation for doubt, reconciler in found]
        return _known(known)

    def _open_doubts(
        self, function: Callable[..., Any] | None, limit: int
    ) -> Sequence[tuple[_native.Operation, Reconciler]]:
        if function is not None and handle(function)._reconciler is None:
            raise ConfigError(
                "the function has no reconcile hook", "reconcile", "give its guard one: reconcile="
            )
        hooks = self._reconcilers
        found = ((doubt, hooks.get(doubt.gate)) for doubt in self.in_doubt(function, limit=limit))
        return [(doubt, reconciler) for doubt, reconciler in found if reconciler is not None]

    def _begin_reconcile(self, doubt: _native.Operation) -> bool:
        """Claim the look-up of an operation; `False` when one is under way in this process."""
        name = (doubt.gate, doubt.tenant, doubt.key)
        with self._lock:
            if name in self._reconciling:
                return False
            self._reconciling.add(name)
            return True

    def _end_reconcile(self, doubt: _native.Operation) -> None:
        with self._lock:
            self._reconciling.discard((doubt.gate, doubt.tenant, doubt.key))

    def list(self, kind: str = "meter", *, limit: int = 1_000) -> list[dict[str, Any]]:
        """Return at most `limit` records as dicts: `meter`, `breaker`, `operation` or `fact`."""
        if kind not in ("meter", "breaker", "operation", "fact"):
            raise ConfigError(
                f"there are no records `{kind[:40]}`", "kind", "use meter, breaker, operation or fact"
            )
        return self._list(kind, limit)

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Have every event announced to a listener; returns what removes it again.

        docs/reference/events.md has the catalogue. Listeners are called one after the other, in the thread that
        decided, and outside every lock. One that raises is logged and counted in `listener_errors`: the others hear of
        the event all the same, and the call goes on.
        """
        if not callable(listener):
            raise ConfigError("a listener is a callable of one event", "listener", "give a function")
        attached = getattr(listener, "_attached", None)
        if callable(attached):
            attached(self)
        with self._lock:
            self._listeners = (*self._listeners, listener)
            self._listening = True
        return lambda: self.remove_listener(listener)

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Do the same as `on_event`."""
        return self.on_event(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop announcing to a listener; nothing happens if it is none."""
        with self._lock:
            rest = list(self._listeners)
            if listener in rest:
                rest.remove(listener)
            self._listeners = tuple(rest)
            self._listening = bool(rest)

    def __reduce__(self) -> Any:
        raise TypeError("an engine stays in the process that made it (hint: make one where the code runs)")

    def __repr__(self) -> str:
        return f"<checkrein.Engine `{self.name}` on {self.store}>"

    def _claim_key(self, name: str, parts: int) -> None:
        """Check that all guards that share a gate by name count for keys of the same shape."""
        with self._lock:
            known = self._shapes.setdefault(name, parts)
        if known != parts:
            hint = (
                "gates of one name count on the same records; use another name, or the same number of parts"
            )
            raise ConfigError(f"gate `{name}` has keys of {known} and of {parts} parts", "key", hint)

    def _warn_once_of_other_processes(self) -> None:
        """Warn that the limits of this memory count once per process, where there are visibly several."""
        if self._warned or self._waits:
            return
        self._warned = True
        multiprocessing = sys.modules.get("multiprocessing")
        workers = os.environ.get("WEB_CONCURRENCY", "")
        if (multiprocessing is not None and multiprocessing.parent_process() is not None) or (
            workers.isdigit() and int(workers) > 1
        ):
            _log.warning(
                "engine `%s` lives in the memory of one process of several: its limits count per process",
                self.name,
            )

    def _claim(self, explicit: str | None, derived: str, owner: str = "") -> str:
        """Give a guard its name: an explicit one is shared, a derived one is made unique."""
        if explicit is not None:
            if not isinstance(explicit, str) or not explicit or len(explicit) > 200 or explicit[0] == "@":
                raise ConfigError(
                    "a name is text of 1 to 200 characters that does not begin with @",
                    "name",
                    "leave it out to use the function's",
                )
            return explicit
        if self._waits or self._policy is not None:
            # Records that outlive the process, and the sections of a policy file, go by the name alone: a number in the
            # order of imports would be another function's tomorrow, and would lose its section.
            with self._lock:
                known = self._owners.setdefault(derived, owner)
            if known == owner:
                return derived
            hint = f'give both a name of their own: @engine.guard(name="{owner}", ...)'
            raise ConfigError(f"`{known}` and `{owner}` are both called `{derived}`", "name", hint)
        with self._lock:
            count = self._names[derived] = self._names.get(derived, 0) + 1
            is_again = self._owners.setdefault(derived, owner) == owner and count == 2 and bool(owner)
        if is_again:
            # A function that is made for each request, or a cell that ran twice.
            _log.warning("`%s` is guarded a second time and counts by itself; name= makes it one", owner)
        return derived if count == 1 else f"{derived}#{count}"

    # What the native half calls.

    def _announce(self, tool: str, decision: _native.Decision) -> None:
        self._emit(f"decision.{decision.verdict}", tool, decision=decision)

    def _ended(self, tool: str, outcome: str, stored: bool | None) -> None:
        self._emit(f"outcome.{outcome}", tool, outcome=outcome, stored=stored)

    def _crossed(self, tool: str, gate: str, percent: int) -> None:
        _log.warning("`%s` brought budget `%s` to %d %% of its limit", tool, gate, percent)
        self._emit("budget.threshold", tool, gate=gate, percent=percent)

    def _refused(self, decision: _native.Decision) -> None:
        _log.debug("`%s` was refused: %s", decision.tool, decision)

    def _observed(self, tool: str, reasons: Sequence[_native.Reason]) -> None:
        if any(reason.kind == "store" for reason in reasons):
            self.failed_open += 1
            _log.warning("`%s` was let through without a store: %s", tool, "; ".join(map(str, reasons)))
            self._emit("store.failed_open", tool)
            return
        _log.info("`%s` would have been refused: %s", tool, "; ".join(map(str, reasons)))

    def _warn(self, tool: str, text: str) -> None:
        _log.warning("`%s`: %s", tool, text)

    # What this package calls.

    def _made(self, guarded: Any) -> None:
        """Remember a guarded function, for whoever traces this engine now or later."""
        with self._lock:
            self._guarded.add(guarded)
            dress = self._dress
        if dress is not None:
            dress(guarded)

    def _dress_guards(self, dress: Callable[[Any], None]) -> None:
        """Have `dress` called for every guarded function there is and will be."""
        with self._lock:
            if self._dress is not None:
                hint = "keep what otel() returned, and remove() it first"
                raise ConfigError(f"engine `{self.name}` is traced already", "otel", hint)
            self._dress = dress
            guarded = list(self._guarded)
        for function in guarded:
            dress(function)

    def _undress_guards(self) -> Sequence[Any]:
        """Stop that, and return every guarded function there is."""
        with self._lock:
            self._dress = None
            return list(self._guarded)

    def _who(self) -> Mapping[str, str]:
        """Return who acts in this context, as events say it."""
        _, user, agent, run, session = actor()
        return {"user": user, "agent": agent, "run": run, "session": session, "tenant": self._tenant_here()}

    def _run_started(self, scope: Any) -> None:
        """Announce that a run, a session or a scope began."""
        events.tell_of_run(self, "run.start", scope)

    def _run_stopped(self, scope: Any) -> None:
        """Announce that one was stopped."""
        events.tell_of_run(self, "run.stopped", scope)

    def _run_ended(self, scope: Any, error: BaseException | None = None) -> None:
        """Announce that one ended, and how."""
        events.tell_of_run(self, "run.end", scope, error)

    def _emit(
        self,
        name: str,
        tool: str,
        detail: Mapping[str, Any] | None = None,
        *,
        who: Mapping[str, Any] | None = None,
        later: bool = False,
        **fields: Any,
    ) -> None:
        """Announce an event of the catalogue, if anybody listens; never raises.

        With `later` it is announced before the next event that is not: a finalizer must not call listeners.
        """
        if not self._listening:
            return
        try:
            event = events.make(self, name, tool, detail, **fields)
            if who:
                event = event._replace(**who)
        except Exception:
            self.listener_errors += 1
            _log.exception("a %s of `%s` could not be announced", name, tool)
            return
        if later:
            self._deferred.append(event)
            return
        while self._deferred:
            try:
                earlier = self._deferred.popleft()
            except IndexError:  # another thread was faster
                break
            self._tell(earlier)
        self._tell(event)

    def _tell(self, event: Event, *, without: object = None) -> None:
        for listener in self._listeners:
            if listener is without:
                continue
            try:
                listener(event)
            except Exception:
                self.listener_errors += 1
                _log.exception("a listener failed on a %s of `%s`", event.name, event.tool)


def _known(found: Sequence[_native.Operation | None]) -> Sequence[_native.Operation]:
    return [operation for operation in found if operation is not None and operation.state != "in_doubt"]


def _once_gate(found: Handle) -> str:
    for kind, gate in found.policy:
        if kind == "once":
            return gate
    raise ConfigError(f"`{found.name}` has no once gate", "once", "guard it with once=")


def _after_fork_in_child() -> None:
    _native._after_fork()
    deadline._forget_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
