"""The engine of `checkrein.actiongate`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from checkrein import _native
from checkrein._dropin import chosen, unchanged
from checkrein._redis.pairing import paired
from checkrein._wrap import wrap

from .core import Blocked, Decision, Gate, Mode, Policy, Result
from .emitter import Emitter
from .store import AsyncMemoryStore, AsyncStore, MemoryStore, Store

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULT = Policy()


class Engine(_native.ActionGateEngine):
    """Decides whether an action may run now, and counts it when it may.

    Without stores of its own an engine counts in memory, and its sync and async sides share the counts. `clock` is any
    callable that returns seconds; it is called exactly once per check. `store="sqlite:PATH"` counts in a file that all
    processes share; see `SQLiteStore` in `checkrein.actiongate.sqlite`.
    """

    __slots__ = ()

    def __init__(
        self,
        store: Store | str | None = None,
        clock: Callable[[], float] | None = None,
        emitter: Emitter | None = None,
        async_store: AsyncStore | None = None,
    ) -> None:
        if isinstance(store, str):
            # Nobody else pays for importing it.
            from .sqlite import AsyncSQLiteStore, SQLiteStore

            store = SQLiteStore(store)
            async_store = AsyncSQLiteStore(store) if async_store is None else async_store
        own: Any = chosen(store, "check_and_reserve")
        awaited: Any = chosen(async_store, "check_and_reserve")
        own, awaited = paired(own, awaited, clock)
        if own is None:
            own = MemoryStore(_share=awaited) if _is_native(awaited, AsyncMemoryStore) else MemoryStore()
        if awaited is None:
            awaited = AsyncMemoryStore(_share=own) if _is_native(own, MemoryStore) else AsyncMemoryStore()
        announcer = chosen(emitter, "emit")
        self._configure(
            own,
            awaited,
            (_is_native(own, MemoryStore), _is_native(awaited, AsyncMemoryStore)),
            clock,
            Emitter() if announcer is None else announcer,
            _DEFAULT,
        )

    def on_decision(self, listener: Callable[[Decision], Any]) -> None:
        """Call `listener` with every decision."""
        self._emitter.add(listener)

    def remove_listener(self, listener: Callable[[Decision], Any]) -> None:
        """Stop calling `listener`; ValueError when it was not registered."""
        self._emitter.remove(listener)

    @property
    def listener_errors(self) -> int:
        """How many times a listener raised."""
        count: int = self._emitter.error_count
        return count

    def enforce(self, decision: Decision) -> None:
        """Raise `Blocked` when the decision is a block and its policy is HARD."""
        if decision.blocked and decision.policy.mode == Mode.HARD:
            raise Blocked(decision)

    def remaining(self, gate: Gate, policy: Policy | None = None) -> float:
        """How many calls of `gate` would be allowed right now, its cooldown apart; nothing is counted."""
        decision = self.peek(gate, policy)
        counted = decision.calls_in_window - (1 if decision.allowed else 0)
        return max(0, decision.policy.max_calls - counted)

    def clear(self, gate: Gate) -> None:
        """Forget the calls of one gate."""
        self._store.clear(gate)

    def clear_all(self) -> None:
        """Forget all calls."""
        self._store.clear_all()

    def guard(self, gate: Gate, policy: Policy | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorator: raise `Blocked` instead of calling when the gate is closed, in SOFT mode too."""
        self._remember(gate, policy)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            if self._overrides("check"):
                body = "$d = $check($gate)\nif $d.blocked: raise $blocked($d)\nreturn CALL"
                return wrap(function, body, {"check": self.check, "gate": gate, "blocked": Blocked})  # type: ignore[no-any-return]
            admit = _native.ActionGateGuard(self, gate).admit
            return wrap(function, "$admit()\nreturn CALL", {"admit": admit})  # type: ignore[no-any-return]

        return decorate

    def guard_result(
        self, gate: Gate, policy: Policy | None = None
    ) -> Callable[[Callable[P, T]], Callable[P, Result[T]]]:
        """Decorator: return a `Result` that holds the decision and, when it was allowed, the value."""
        self._remember(gate, policy)

        def decorate(function: Callable[P, T]) -> Callable[P, Result[T]]:
            body = "$d = $check()\nif $d.blocked: return $result($d)\nreturn $result($d, CALL)"
            if self._overrides("check"):
                body = body.replace("$check()", "$check($gate)")
                return wrap(function, body, {"check": self.check, "gate": gate, "result": Result})  # type: ignore[no-any-return]
            check = _native.ActionGateGuard(self, gate).check
            return wrap(function, body, {"check": check, "result": Result})  # type: ignore[no-any-return]

        return decorate

    async def async_check(self, gate: Gate, policy: Policy | None = None) -> Decision:
        """Decide on one call, and count it when it is allowed."""
        if self._async_is_native:
            return self._check_async(gate, policy)
        in_force = self.policy_for(gate) if policy is None else policy
        now = self._clock()
        try:
            reply = await self._async_store.check_and_reserve(gate, now, in_force)
        except Exception as error:
            return self._replied(gate, in_force, None, error)
        return self._replied(gate, in_force, reply, None)

    async def async_enforce(self, decision: Decision) -> None:
        """Raise `Blocked` when the decision is a block and its policy is HARD."""
        self.enforce(decision)

    async def async_clear(self, gate: Gate) -> None:
        """Forget the calls of one gate in the async store."""
        await self._async_store.clear(gate)

    async def async_clear_all(self) -> None:
        """Forget all calls in the async store."""
        await self._async_store.clear_all()

    def async_guard(
        self, gate: Gate, policy: Policy | None = None
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """`guard` for coroutine functions; decided when the call is awaited."""
        self._remember(gate, policy)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
            if self._async_is_native and not self._overrides("async_check"):
                admit = _native.ActionGateGuard(self, gate).admit_async
                body = "$admit()\nreturn await CALL"
                return wrap(function, body, {"admit": admit}, is_async=True)  # type: ignore[no-any-return]
            body = "$d = await $check($gate)\nif $d.blocked: raise $blocked($d)\nreturn await CALL"
            return wrap(  # type: ignore[no-any-return]
                function, body, {"check": self.async_check, "gate": gate, "blocked": Blocked}, is_async=True
            )

        return decorate

    def async_guard_result(
        self, gate: Gate, policy: Policy | None = None
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[Result[T]]]]:
        """`guard_result` for coroutine functions; decided when the call is awaited."""
        self._remember(gate, policy)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[Result[T]]]:
            body = (
                "$d = await $check($gate)\nif $d.blocked: return $result($d)\nreturn $result($d, await CALL)"
            )
            return wrap(  # type: ignore[no-any-return]
                function, body, {"check": self.async_check, "gate": gate, "result": Result}, is_async=True
            )

        return decorate

    def _remember(self, gate: Gate, policy: Policy | None) -> None:
        if policy is not None:
            self.register(gate, policy)

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Engine, method)


def _is_native(store: Any, reference: type) -> bool:
    return unchanged(store, reference, "check_and_reserve", "clear", "clear_all")


__all__ = ["Blocked", "Engine"]
