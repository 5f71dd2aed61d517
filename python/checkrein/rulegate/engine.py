"""The engine of `checkrein.rulegate`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from checkrein import _native
from checkrein._dropin import chosen, unchanged
from checkrein._wrap import wrap

from .core import Decision, Mode, PolicyViolationError, Result, Rule, Ruleset
from .emitter import Emitter
from .store import AsyncMemoryStore, AsyncStore, MemoryStore, Store

P = ParamSpec("P")
T = TypeVar("T")

_RAISING = (
    "$d = $check($rule, args=args, kwargs=kwargs, meta=$meta)\nif $d.blocked: raise $error($d)\nreturn CALL"
)
_RETURNING = (
    "$d = $check($rule, args=args, kwargs=kwargs, meta=$meta)\n"
    "if $d.blocked: return $result($d)\n"
    "return $result($d, CALL)"
)


class Engine(_native.RuleGateEngine):
    """Asks the predicates of a rule whether a call may run, and records what they said.

    A predicate that raises, or that is async, refuses. `clock` is any callable that returns seconds; it is called
    exactly once per check.
    """

    __slots__ = ()

    def __init__(
        self,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
        emitter: Emitter | None = None,
        async_store: AsyncStore | None = None,
    ) -> None:
        own: Any = chosen(store, "record")
        awaited: Any = chosen(async_store, "record")
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

    @property
    def store_errors(self) -> int:
        """How many decisions a store failed to record."""
        return self._store_errors

    def enforce(self, decision: Decision) -> None:
        """Raise `PolicyViolationError` when the decision is a block and its ruleset is HARD."""
        if decision.blocked and decision.ruleset.mode == Mode.HARD:
            raise PolicyViolationError(decision)

    def clear(self, rule: Rule) -> None:
        """Forget the recorded decisions on one rule."""
        self._store.clear(rule)

    def clear_all(self) -> None:
        """Forget all recorded decisions."""
        self._store.clear_all()

    def guard(
        self, rule: Rule, ruleset: Ruleset | None = None, *, meta: dict[str, Any] | None = None
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorator: raise `PolicyViolationError` instead of calling when a predicate refuses, in SOFT mode too."""
        self._remember(rule, ruleset)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            if self._overrides("check"):
                names = {"check": self.check, "rule": rule, "meta": meta, "error": PolicyViolationError}
                return wrap(function, _RAISING, names, as_called=True)  # type: ignore[no-any-return]
            run = _native.RuleGateGuard(self, rule, meta, False, function).run
            return wrap(function, "return $run(args, kwargs)", {"run": run}, as_called=True)  # type: ignore[no-any-return]

        return decorate

    def guard_result(
        self, rule: Rule, ruleset: Ruleset | None = None, *, meta: dict[str, Any] | None = None
    ) -> Callable[[Callable[P, T]], Callable[P, Result[T]]]:
        """Decorator: return a `Result` that holds the decision and, when it was allowed, the value."""
        self._remember(rule, ruleset)

        def decorate(function: Callable[P, T]) -> Callable[P, Result[T]]:
            names = {"check": self.check, "rule": rule, "meta": meta, "result": Result}
            return wrap(function, _RETURNING, names, as_called=True)  # type: ignore[no-any-return]

        return decorate

    async def async_check(
        self,
        rule: Rule,
        ruleset: Ruleset | None = None,
        *,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Decision:
        """Ask the predicates until one refuses."""
        return await self._check_async(rule, self._evaluate(rule, ruleset, args, kwargs, meta))

    async def async_check_all(
        self,
        rule: Rule,
        ruleset: Ruleset | None = None,
        *,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Decision:
        """Ask every predicate, also after one refused."""
        return await self._check_async(rule, self._evaluate(rule, ruleset, args, kwargs, meta, True))

    async def async_enforce(self, decision: Decision) -> None:
        """Raise `PolicyViolationError` when the decision is a block and its ruleset is HARD."""
        self.enforce(decision)

    async def async_clear(self, rule: Rule) -> None:
        """Forget the recorded decisions on one rule in the async store."""
        await self._async_store.clear(rule)

    async def async_clear_all(self) -> None:
        """Forget all recorded decisions in the async store."""
        await self._async_store.clear_all()

    def async_guard(
        self, rule: Rule, ruleset: Ruleset | None = None, *, meta: dict[str, Any] | None = None
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """`guard` for coroutine functions; decided when the call is awaited."""
        self._remember(rule, ruleset)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
            if self._async_is_native and not self._overrides("async_check"):
                admit = _native.RuleGateGuard(self, rule, meta, True).admit
                body = "$admit(args, kwargs)\nreturn await CALL"
                return wrap(function, body, {"admit": admit}, is_async=True, as_called=True)  # type: ignore[no-any-return]
            body = _RAISING.replace("$check", "await $check").replace("CALL", "await CALL")
            names = {"check": self.async_check, "rule": rule, "meta": meta, "error": PolicyViolationError}
            return wrap(function, body, names, is_async=True, as_called=True)  # type: ignore[no-any-return]

        return decorate

    def async_guard_result(
        self, rule: Rule, ruleset: Ruleset | None = None, *, meta: dict[str, Any] | None = None
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[Result[T]]]]:
        """`guard_result` for coroutine functions; decided when the call is awaited."""
        self._remember(rule, ruleset)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[Result[T]]]:
            body = _RETURNING.replace("$check", "await $check").replace("CALL", "await CALL")
            names = {"check": self.async_check, "rule": rule, "meta": meta, "result": Result}
            return wrap(function, body, names, is_async=True, as_called=True)  # type: ignore[no-any-return]

        return decorate

    async def _check_async(self, rule: Rule, evaluated: tuple[Any, Decision]) -> Decision:
        now, decision = evaluated
        self._conclude_async(rule, now, decision)
        if not self._async_is_native:
            try:
                await self._async_store.record(rule, now, decision)
            except Exception:
                self._count_store_error()
        return decision

    def _remember(self, rule: Rule, ruleset: Ruleset | None) -> None:
        if ruleset is not None:
            self.register(rule, ruleset)

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Engine, method)


def _is_native(store: Any, reference: type) -> bool:
    return unchanged(store, reference, "record", "get_records", "clear", "clear_all")


__all__ = ["Engine", "PolicyViolationError"]
