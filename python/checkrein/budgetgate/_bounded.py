"""What happens around a call whose cost is only known afterwards: reserve, run, settle, or give back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from .core import BudgetExceededError, Decision, Ledger, StoreErrorMode

if TYPE_CHECKING:
    from .engine import Engine

# A call that fails gives its reservation back, whatever it raised; one that ran is charged, whatever its price
# function does.
SYNC_BODY = """
$held = $open()
try:
    $value = CALL
except BaseException:
    $abandon($held)
    raise
$settle($held, $value)
return $value
"""

SYNC_RESULT_BODY = """
$held, $decision = $reserve()
if $decision.blocked: return $result($decision)
try:
    $value = CALL
except BaseException:
    $abandon($held)
    raise
$settle($held, $value)
return $result($decision, $value)
"""

ASYNC_BODY = """
$held = await $open()
try:
    $value = await CALL
except BaseException:
    await $abandon($held)
    raise
await $settle($held, $value)
return $value
"""

ASYNC_RESULT_BODY = """
$held, $decision = await $reserve()
if $decision.blocked: return $result($decision)
try:
    $value = await CALL
except BaseException:
    await $abandon($held)
    raise
await $settle($held, $value)
return $result($decision, $value)
"""


class Bounded:
    """Reserves the estimate of one guarded function and settles what it really cost."""

    def __init__(
        self, engine: Engine, ledger: Ledger, estimate: Decimal, actual: Callable[[Any], Decimal]
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._estimate = estimate
        self._actual = actual

    def reserve(self) -> tuple[str | None, Decision]:
        """Hold the estimate."""
        return self._engine.reserve(self._ledger, self._estimate)

    def open(self) -> str | None:
        """Hold the estimate or raise. None when the store failed and the budget lets the call pass."""
        held, decision = self.reserve()
        if decision.blocked:
            raise BudgetExceededError(decision)
        return held

    def abandon(self, held: str | None) -> None:
        """Give the estimate back; what the call raised matters more than a failure here."""
        if held is not None:
            with contextlib.suppress(Exception):
                self._engine.release(held)

    def settle(self, held: str | None, value: Any) -> None:
        """Charge what the call cost. The full estimate is charged when the price function fails."""
        if held is None:
            self._actual(value)
            return
        cost, failure = self._price(value)
        try:
            self._engine.commit(held, cost)
        except Exception as error:
            self._lost(error, failure, value)
        if failure is not None:
            raise failure

    async def reserve_async(self) -> tuple[str | None, Decision]:
        """`reserve`, awaited."""
        return await self._engine.async_reserve(self._ledger, self._estimate)

    async def open_async(self) -> str | None:
        """`open`, awaited."""
        held, decision = await self.reserve_async()
        if decision.blocked:
            raise BudgetExceededError(decision)
        return held

    async def abandon_async(self, held: str | None) -> None:
        """`abandon`, awaited."""
        if held is not None:
            with contextlib.suppress(Exception):
                await self._engine.async_release(held)

    async def settle_async(self, held: str | None, value: Any) -> None:
        """`settle`, awaited."""
        if held is None:
            self._actual(value)
            return
        cost, failure = self._price(value)
        try:
            await self._engine.async_commit(held, cost)
        except Exception as error:
            self._lost(error, failure, value)
        if failure is not None:
            raise failure

    def _price(self, value: Any) -> tuple[Decimal, BaseException | None]:
        """The cost of the call, or its estimate and what was wrong with the price."""
        try:
            cost = self._actual(value)
            self._engine._require_amount(cost)
        except BaseException as error:
            return self._estimate, error
        return cost, None

    def _lost(self, error: Exception, failure: BaseException | None, value: Any) -> None:
        """The call ran and its cost could not be recorded: pass in FAIL_OPEN, else raise with the value attached."""
        budget = self._engine.budget_for(self._ledger)
        if budget.on_store_error is StoreErrorMode.FAIL_OPEN and not isinstance(error, KeyError):
            return
        with contextlib.suppress(AttributeError):
            error.result = value  # type: ignore[attr-defined]
        raise error from failure
