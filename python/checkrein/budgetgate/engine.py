"""The engine of `checkrein.budgetgate`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar

from checkrein import _native
from checkrein._dropin import chosen, unchanged
from checkrein._redis.pairing import paired
from checkrein._wrap import wrap

from . import _bounded
from ._bounded import Bounded
from .core import Budget, BudgetExceededError, Decision, Ledger, Mode, Result
from .emitter import Emitter
from .store import AsyncMemoryStore, AsyncStore, MemoryStore, Store

P = ParamSpec("P")
T = TypeVar("T")

_UNLIMITED = Budget(max_spend=Decimal("Infinity"))


class Engine(_native.BudgetGateEngine):
    """Decides whether money may be spent now, and records it when it may.

    Without stores of its own an engine records in memory, and its sync and async sides share the records. `clock` is
    any callable that returns seconds; it is called once per check, reservation and commit.
    `store="sqlite:PATH"` records in a file that all processes share; see `checkrein.budgetgate.sqlite`.
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
            _UNLIMITED,
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
        """Raise `BudgetExceededError` when the decision is a block and its budget is HARD."""
        if decision.blocked and decision.budget.mode == Mode.HARD:
            raise BudgetExceededError(decision)

    def clear(self, ledger: Ledger) -> None:
        """Forget the spend and the reservations of one ledger."""
        self._store.clear(ledger)

    def clear_all(self) -> None:
        """Forget all spend and reservations."""
        self._store.clear_all()

    def guard(
        self, ledger: Ledger, budget: Budget | None = None, *, cost: Decimal
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorator: charge `cost` before each call, or raise `BudgetExceededError` instead, in SOFT mode too."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            if self._overrides("check"):
                body = "$d = $check($ledger, $cost)\nif $d.blocked: raise $error($d)\nreturn CALL"
                names = {"check": self.check, "ledger": ledger, "cost": cost, "error": BudgetExceededError}
                return wrap(function, body, names)  # type: ignore[no-any-return]
            admit = _native.BudgetGateGuard(self, ledger, cost).admit
            return wrap(function, "$admit()\nreturn CALL", {"admit": admit})  # type: ignore[no-any-return]

        return decorate

    def guard_result(
        self, ledger: Ledger, budget: Budget | None = None, *, cost: Decimal
    ) -> Callable[[Callable[P, T]], Callable[P, Result[T]]]:
        """Decorator: return a `Result` that holds the decision and, when it was allowed, the value."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, T]) -> Callable[P, Result[T]]:
            body = "$d = $check()\nif $d.blocked: return $result($d)\nreturn $result($d, CALL)"
            if self._overrides("check"):
                body = body.replace("$check()", "$check($ledger, $cost)")
                names = {"check": self.check, "ledger": ledger, "cost": cost, "result": Result}
                return wrap(function, body, names)  # type: ignore[no-any-return]
            check = _native.BudgetGateGuard(self, ledger, cost).check
            return wrap(function, body, {"check": check, "result": Result})  # type: ignore[no-any-return]

        return decorate

    def guard_bounded(
        self,
        ledger: Ledger,
        budget: Budget | None = None,
        *,
        estimate: Decimal,
        actual: Callable[[T], Decimal],
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorator: reserve `estimate`, call, and charge `actual(result)`; raise when the estimate does not fit."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            around = Bounded(self, ledger, estimate, actual)
            names = {"open": around.open, "abandon": around.abandon, "settle": around.settle}
            return wrap(function, _bounded.SYNC_BODY, names)  # type: ignore[no-any-return]

        return decorate

    def guard_bounded_result(
        self,
        ledger: Ledger,
        budget: Budget | None = None,
        *,
        estimate: Decimal,
        actual: Callable[[T], Decimal],
    ) -> Callable[[Callable[P, T]], Callable[P, Result[T]]]:
        """`guard_bounded` that returns a `Result` instead of raising on a block."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, T]) -> Callable[P, Result[T]]:
            around = Bounded(self, ledger, estimate, actual)
            names = {"reserve": around.reserve, "abandon": around.abandon, "settle": around.settle}
            return wrap(function, _bounded.SYNC_RESULT_BODY, {**names, "result": Result})  # type: ignore[no-any-return]

        return decorate

    async def async_check(self, ledger: Ledger, amount: Decimal, budget: Budget | None = None) -> Decision:
        """Decide on one spend, and record it when it is allowed."""
        if self._async_is_native:
            return self._check_async(ledger, amount, budget)
        _, decision = await self._ask("check_and_reserve", ledger, amount, budget)
        return decision

    async def async_reserve(
        self, ledger: Ledger, estimate: Decimal, budget: Budget | None = None
    ) -> tuple[str | None, Decision]:
        """Hold an estimate until it is committed or released: (id or None, decision)."""
        if self._async_is_native:
            return self._reserve_async(ledger, estimate, budget)
        return await self._ask("reserve", ledger, estimate, budget)

    async def async_commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost."""
        if self._async_is_native:
            self._commit_async(reservation_id, actual)
        else:
            self._require_amount(actual)
            await self._async_store.commit(reservation_id, actual)

    async def async_release(self, reservation_id: str) -> None:
        """Give a reservation back unspent."""
        await self._async_store.release(reservation_id)

    async def async_get_remaining(self, ledger: Ledger, budget: Budget | None = None) -> Decimal:
        """What is left of a budget now."""
        if self._async_is_native:
            return self._remaining(ledger, budget, True)
        in_force = self.budget_for(ledger) if budget is None else budget
        spent = await self._async_store.get_spend(ledger, self._clock(), in_force.window)
        left: Decimal = in_force.max_spend - spent
        return max(Decimal("0"), left)

    async def async_enforce(self, decision: Decision) -> None:
        """Raise `BudgetExceededError` when the decision is a block and its budget is HARD."""
        self.enforce(decision)

    async def async_clear(self, ledger: Ledger) -> None:
        """Forget the spend and the reservations of one ledger in the async store."""
        await self._async_store.clear(ledger)

    async def async_clear_all(self) -> None:
        """Forget all spend and reservations in the async store."""
        await self._async_store.clear_all()

    def async_guard(
        self, ledger: Ledger, budget: Budget | None = None, *, cost: Decimal
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """`guard` for coroutine functions; charged when the call is awaited."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
            if self._async_is_native and not self._overrides("async_check"):
                admit = _native.BudgetGateGuard(self, ledger, cost).admit_async
                body = "$admit()\nreturn await CALL"
                return wrap(function, body, {"admit": admit}, is_async=True)  # type: ignore[no-any-return]
            body = "$d = await $check($ledger, $cost)\nif $d.blocked: raise $error($d)\nreturn await CALL"
            names = {"check": self.async_check, "ledger": ledger, "cost": cost, "error": BudgetExceededError}
            return wrap(function, body, names, is_async=True)  # type: ignore[no-any-return]

        return decorate

    def async_guard_result(
        self, ledger: Ledger, budget: Budget | None = None, *, cost: Decimal
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[Result[T]]]]:
        """`guard_result` for coroutine functions; charged when the call is awaited."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[Result[T]]]:
            body = (
                "$d = await $check($ledger, $cost)\n"
                "if $d.blocked: return $result($d)\n"
                "return $result($d, await CALL)"
            )
            names = {"check": self.async_check, "ledger": ledger, "cost": cost, "result": Result}
            return wrap(function, body, names, is_async=True)  # type: ignore[no-any-return]

        return decorate

    def async_guard_bounded(
        self,
        ledger: Ledger,
        budget: Budget | None = None,
        *,
        estimate: Decimal,
        actual: Callable[[T], Decimal],
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """`guard_bounded` for coroutine functions; a cancelled call gives its reservation back."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
            around = Bounded(self, ledger, estimate, actual)
            names = {
                "open": around.open_async,
                "abandon": around.abandon_async,
                "settle": around.settle_async,
            }
            return wrap(function, _bounded.ASYNC_BODY, names, is_async=True)  # type: ignore[no-any-return]

        return decorate

    def async_guard_bounded_result(
        self,
        ledger: Ledger,
        budget: Budget | None = None,
        *,
        estimate: Decimal,
        actual: Callable[[T], Decimal],
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[Result[T]]]]:
        """`guard_bounded_result` for coroutine functions."""
        self._remember(ledger, budget)

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[Result[T]]]:
            around = Bounded(self, ledger, estimate, actual)
            names = {
                "reserve": around.reserve_async,
                "abandon": around.abandon_async,
                "settle": around.settle_async,
                "result": Result,
            }
            return wrap(function, _bounded.ASYNC_RESULT_BODY, names, is_async=True)  # type: ignore[no-any-return]

        return decorate

    async def _ask(
        self, method: str, ledger: Ledger, amount: Decimal, budget: Budget | None
    ) -> tuple[str | None, Decision]:
        """Put a question to a user's async store."""
        in_force = self.budget_for(ledger) if budget is None else budget
        now = self._clock()
        refusal = self._refuse(ledger, amount, in_force)
        if refusal is not None:
            return None, refusal
        reserving = method == "reserve"
        try:
            reply = await getattr(self._async_store, method)(ledger, now, amount, in_force)
        except Exception as error:
            return self._replied(ledger, amount, in_force, None, error, reserving)
        return self._replied(ledger, amount, in_force, reply, None, reserving)

    def _remember(self, ledger: Ledger, budget: Budget | None) -> None:
        if budget is not None:
            self.register(ledger, budget)

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Engine, method)


def _is_native(store: Any, reference: type) -> bool:
    methods = ("check_and_reserve", "reserve", "commit", "release", "get_spend", "clear", "clear_all")
    return unchanged(store, reference, *methods)


__all__ = ["BudgetExceededError", "Engine"]
