"""The audit engine: records events, and wraps functions so that a call is recorded before it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from checkrein._native import AuditEngine
from checkrein.auditgate._turns import StoreTurns, turns_of
from checkrein.auditgate.core import (
    AuditEntry,
    AuditError,
    AuditPolicy,
    Decision,
    Mode,
    Result,
    Severity,
    StoreErrorMode,
    Trail,
    Verdict,
    wall_clock,
)
from checkrein.auditgate.emitter import Emitter
from checkrein.auditgate.store import AsyncMemoryStore, AsyncStore, MemoryStore, Store

__all__ = ["AuditError", "Engine"]

P = ParamSpec("P")
T = TypeVar("T")
_Event = tuple[Trail, Verdict, Severity, str, str, str | None, dict[str, Any] | None]


class Engine(AuditEngine):
    """Records audit events in a store.

    Without an `async_store` the asynchronous methods write to the same log as the others, as long as
    `store` is one of ours.
    """

    __slots__ = ("_async_turns", "_turns")

    def __init__(
        self,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
        wall_clock_fn: Callable[[], str] | None = None,
        recorded_by: str = "",
        emitter: Emitter | None = None,
        async_store: AsyncStore | None = None,
    ) -> None:
        if store is None:
            shared = type(async_store) is AsyncMemoryStore
            store = async_store._store if shared else MemoryStore()  # type: ignore[union-attr]
        if async_store is None:
            ours = isinstance(store, MemoryStore)
            async_store = AsyncMemoryStore.sharing(store) if ours else AsyncMemoryStore()  # type: ignore[arg-type]
        behind = async_store._store if type(async_store) is AsyncMemoryStore else None
        self._turns: StoreTurns = turns_of(store)
        self._async_turns: StoreTurns = turns_of(async_store if behind is None else behind)
        self._set_up(
            store,
            async_store,
            time.monotonic if clock is None else clock,
            wall_clock if wall_clock_fn is None else wall_clock_fn,
            recorded_by,
            Emitter() if emitter is None else emitter,
            behind if type(behind) is MemoryStore else None,
        )

    # Registration and listeners

    def on_decision(self, listener: Callable[[Decision], None]) -> None:
        """Call `listener` with every decision from now on."""
        self._emitter.add(listener)

    @property
    def listener_errors(self) -> int:
        """How often a listener failed."""
        return self._emitter.error_count

    def enforce(self, decision: Decision) -> None:
        """Raise AuditError if the event was dropped and its policy is hard and fails closed."""
        if decision.dropped and _must_stop(decision.policy):
            raise AuditError(decision)

    async def async_enforce(self, decision: Decision) -> None:
        """Raise AuditError if the event was dropped and its policy is hard and fails closed."""
        self.enforce(decision)

    def clear(self, trail: Trail) -> None:
        """Forget one trail's entries and restart its sequence."""
        self._store.clear(trail)
        self._turns.restart(trail)

    def clear_all(self) -> None:
        """Forget every entry and restart every sequence."""
        self._store.clear_all()
        self._turns.restart_all()

    # Records in stores that are not native

    def _record_foreign(
        self,
        trail: Trail,
        verdict: Verdict,
        severity: Severity,
        gate_type: str,
        gate_identity: str,
        reason: str | None,
        detail: dict[str, Any] | None,
        policy: AuditPolicy | None,
        *,
        through: tuple[Store, StoreTurns] | None = None,
    ) -> Decision:
        dropped, policy, now = self._begin(trail, severity, policy)
        if dropped is not None:
            return dropped
        store, all_turns = through or (self._store, self._turns)
        turns = all_turns.of(trail)
        entry, failure, cause = None, None, None
        with turns.blocking:
            try:
                last = store.last_entry(trail)
                sequence = (
                    turns.next_sequence if last is None else max(turns.next_sequence, last.sequence + 1)
                )
                event = (trail, verdict, severity, gate_type, gate_identity, reason, detail)
                entry = self._build(*event, policy, now, sequence, last)
            except Exception as error:
                failure, cause = f"Entry build failed: {error}", error
            if entry is not None:
                turns.next_sequence = sequence + 1
                try:
                    store.append(entry)
                except Exception as error:
                    if turns.next_sequence == sequence + 1:
                        turns.next_sequence = sequence
                    entry, failure, cause = None, f"Store append failed: {error}", error
        if entry is not None and policy.retention_seconds is not None:
            with contextlib.suppress(Exception):
                store.prune(trail, now - policy.retention_seconds)
        return self._finish(trail, policy, entry, failure, cause)

    async def async_record(
        self,
        trail: Trail,
        *,
        verdict: Verdict,
        severity: Severity,
        gate_type: str,
        gate_identity: str,
        reason: str | None = None,
        detail: dict[str, Any] | None = None,
        policy: AuditPolicy | None = None,
    ) -> Decision:
        """Record an event through the asynchronous store and return the decision."""
        event = (trail, verdict, severity, gate_type, gate_identity, reason, detail)
        recorded = self._record_async(*event, policy)
        if recorded is not None:
            return recorded
        if type(self._async_store) is AsyncMemoryStore:
            through = (self._async_store._store, self._async_turns)
            return self._record_foreign(*event, policy, through=through)
        dropped, policy, now = self._begin(trail, severity, policy)
        if dropped is not None:
            return dropped
        entry, failure, cause = await self._append_awaited(event, policy, now)
        if entry is not None and policy.retention_seconds is not None:
            with contextlib.suppress(Exception):
                await self._async_store.prune(trail, now - policy.retention_seconds)
        return self._finish(trail, policy, entry, failure, cause)

    async def _append_awaited(
        self, event: _Event, policy: AuditPolicy, now: float
    ) -> tuple[AuditEntry | None, str | None, Exception | None]:
        store, trail = self._async_store, event[0]
        turns = self._async_turns.of(trail)
        async with turns.awaited:
            try:
                last = await store.last_entry(trail)
                sequence = (
                    turns.next_sequence if last is None else max(turns.next_sequence, last.sequence + 1)
                )
                entry = self._build(*event, policy, now, sequence, last)
            except Exception as error:
                return None, f"Entry build failed: {error}", error
            try:
                await store.append(entry)
            except Exception as error:
                return None, f"Store append failed: {error}", error
            turns.next_sequence = sequence + 1
            return entry, None, None

    # Decorators

    def guard(
        self,
        trail: Trail,
        *,
        policy: AuditPolicy | None = None,
        verdict: Verdict = Verdict.ALLOW,
        severity: Severity = Severity.INFO,
        gate_type: str = "auditgate",
        meta: dict[str, Any] | None = None,
        outcome: bool = False,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Record each call before it runs; in hard mode a call that is not recorded does not run.

        With `outcome=True` a second entry says how the call ended.
        """
        self._register_given(trail, policy)

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            event = _event("guard", fn, trail, verdict, severity, gate_type, meta)

            @wraps(fn)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                decision = self.record(trail, **event)
                _stop_unless_soft(decision)
                if not outcome:
                    return fn(*args, **kwargs)
                try:
                    value = fn(*args, **kwargs)
                except Exception as error:
                    self.record(trail, **_ended(event, decision, error))
                    raise
                self.record(trail, **_ended(event, decision, None))
                return value

            return guarded

        return decorate

    def guard_result(
        self,
        trail: Trail,
        *,
        policy: AuditPolicy | None = None,
        verdict: Verdict = Verdict.ALLOW,
        severity: Severity = Severity.INFO,
        gate_type: str = "auditgate",
        meta: dict[str, Any] | None = None,
    ) -> Callable[[Callable[P, T]], Callable[P, Result[T]]]:
        """Record each call before it runs and return a Result; a call that is dropped does not run."""
        self._register_given(trail, policy)

        def decorate(fn: Callable[P, T]) -> Callable[P, Result[T]]:
            event = _event("guard_result", fn, trail, verdict, severity, gate_type, meta)

            @wraps(fn)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> Result[T]:
                decision = self.record(trail, **event)
                if decision.dropped:
                    return Result(decision)
                return Result(decision, fn(*args, **kwargs))

            return guarded

        return decorate

    def async_guard(
        self,
        trail: Trail,
        *,
        policy: AuditPolicy | None = None,
        verdict: Verdict = Verdict.ALLOW,
        severity: Severity = Severity.INFO,
        gate_type: str = "auditgate",
        meta: dict[str, Any] | None = None,
        outcome: bool = False,
    ) -> Callable[[Callable[P, Coroutine[object, object, T]]], Callable[P, Coroutine[object, object, T]]]:
        """Record each awaited call before it runs; in hard mode one that is not recorded does not run."""
        self._register_given(trail, policy)

        def decorate(
            fn: Callable[P, Coroutine[object, object, T]],
        ) -> Callable[P, Coroutine[object, object, T]]:
            event = _event("async_guard", fn, trail, verdict, severity, gate_type, meta)

            @wraps(fn)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                decision = await self.async_record(trail, **event)
                _stop_unless_soft(decision)
                if not outcome:
                    return await fn(*args, **kwargs)
                try:
                    value = await fn(*args, **kwargs)
                except Exception as error:
                    await self.async_record(trail, **_ended(event, decision, error))
                    raise
                await self.async_record(trail, **_ended(event, decision, None))
                return value

            return guarded

        return decorate

    def async_guard_result(
        self,
        trail: Trail,
        *,
        policy: AuditPolicy | None = None,
        verdict: Verdict = Verdict.ALLOW,
        severity: Severity = Severity.INFO,
        gate_type: str = "auditgate",
        meta: dict[str, Any] | None = None,
    ) -> Callable[
        [Callable[P, Coroutine[object, object, T]]], Callable[P, Coroutine[object, object, Result[T]]]
    ]:
        """Record each awaited call before it runs and return a Result."""
        self._register_given(trail, policy)

        def decorate(
            fn: Callable[P, Coroutine[object, object, T]],
        ) -> Callable[P, Coroutine[object, object, Result[T]]]:
            event = _event("async_guard_result", fn, trail, verdict, severity, gate_type, meta)

            @wraps(fn)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> Result[T]:
                decision = await self.async_record(trail, **event)
                if decision.dropped:
                    return Result(decision)
                return Result(decision, await fn(*args, **kwargs))

            return guarded

        return decorate

    def _register_given(self, trail: Trail, policy: AuditPolicy | None) -> None:
        if policy is not None:
            self.register(trail, policy)


def _must_stop(policy: AuditPolicy) -> bool:
    return policy.mode == Mode.HARD and policy.on_store_error == StoreErrorMode.FAIL_CLOSED


def _stop_unless_soft(decision: Decision) -> None:
    if decision.dropped and decision.policy.mode == Mode.HARD:
        raise AuditError(decision)


def _event(
    kind: str,
    fn: Callable[..., object],
    trail: Trail,
    verdict: Verdict,
    severity: Severity,
    gate_type: str,
    meta: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "severity": severity,
        "gate_type": gate_type,
        "gate_identity": str(trail),
        "reason": f"{kind}:{_name_of(fn)}",
        "detail": {} if meta is None else meta,
    }


def _name_of(fn: Callable[..., object]) -> str:
    """Return a function's qualified name; of a partial what it calls, of another object its class."""
    while isinstance(fn, partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__qualname__


def _ended(event: dict[str, Any], begun: Decision, error: Exception | None) -> dict[str, Any]:
    """Return the event that says how a recorded call ended."""
    intent = None if begun.entry is None else begun.entry.sequence
    ended = {**event, "reason": f"outcome:{event['reason']}", "detail": {"intent": intent, "outcome": "done"}}
    if error is not None:
        ended["verdict"], ended["severity"] = Verdict.ERROR, Severity.ERROR
        ended["detail"] = {"intent": intent, "outcome": "error", "error": type(error).__qualname__}
    return ended
