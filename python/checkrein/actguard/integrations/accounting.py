"""Holds before a call of a model, counts after it, and refuses where nothing is left."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from checkrein.actguard import budget_events
from checkrein.actguard.core import inherit
from checkrein.actguard.core.amounts import ZERO, Amounts, Limits
from checkrein.actguard.core.budget_context import (
    BudgetExecutionContext,
    BudgetLimitViolation,
    record_in,
    violation_in,
)
from checkrein.actguard.core.budget_state import BudgetState
from checkrein.actguard.exceptions import ActGuardRuntimeContextError, ActGuardUsageError, BudgetExceededError
from checkrein.actguard.integrations import pricing
from checkrein.actguard.integrations.usage import UsageInfo, field
from checkrein.actguard.observability.events import emit_usage

WAIT_S: Final = 60.0
"""How long a call waits for others to settle before it is refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a call may use, as far as its request says."""

    provider: str
    model: str
    body: Any = None
    input_bytes: int = 0
    max_output: int | None = None
    """The most tokens that may come back; `None` where the request does not say."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call wants to hold."""

    most: Amounts
    likely: Amounts
    bounded: bool
    output: int = 0
    """How much of it is output."""


class CallHold:
    """What one call holds in every active scope, until it is settled. Settled once, by whoever is first."""

    def __init__(self, context: BudgetExecutionContext, request: Request) -> None:
        self.context = context
        self.request = request
        self._owner = inherit.execution_key()
        self._held: list[tuple[BudgetState, Amounts]] = []
        self._lock = threading.RLock()
        self._open = True
        self._ask: Ask | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody has said yet how the call ended."""
        return self._open

    @property
    def holds(self) -> bool:
        """Whether a limit is held for."""
        return bool(self._held)

    def settle_in_full(self) -> None:
        """Count all that is held: the call was made, or may have been, and nobody says what it used."""
        with self._lock:
            held = self._held[0][1] if self._open and self._held else None
        if held is None or self._ask is None:
            self.release()
            return
        output = min(self._ask.output, held.tokens)
        request = self.request
        self.settle(UsageInfo(request.provider, request.model, held.tokens - output, 0, output), in_full=True)

    def stay(self) -> None:
        """Keep what is held although the call has returned: nobody waits for it any more."""
        root = self.context.shared_root
        if root is not None:
            with root.room.lock:
                if self in root.room.calls:
                    root.room.calls.remove(self)
            root.room.changed()

    def settle_unread(self, read_bytes: int = 0) -> None:
        """Count a reply that its caller read without us: all of it as output, at most what was asked for."""
        output, most = -(-read_bytes // 4), self.request.max_output
        asked = -(-self.request.input_bytes // 4)
        self.settle(
            UsageInfo(
                self.request.provider,
                self.request.model,
                asked,
                0,
                output if most is None else min(output, most),
            )
        )

    def release(self) -> None:
        """Give back what is held: nothing was used."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            _give_back(self)

    def settle(self, info: UsageInfo | None, response: Any = None, *, in_full: bool = False) -> None:
        """Count what was used and give back what is held. Without a report of it, what is held is counted."""
        with self._lock:
            was_open, self._open = self._open, False
        if not was_open:
            return
        try:
            if info is not None:
                usd = self._usd(info, response, in_full=in_full) if self.context.scope_stack else None
                record_info(self.context, info, response, is_new=True, usd=usd)
        finally:
            _give_back(self)

    def _usd(self, info: UsageInfo, response: Any, *, in_full: bool) -> Decimal | None:
        """Return what it cost where the book does not say: by the model that was asked for, or all that is held."""
        limited = bool(self._held) and any(scope.usd_limit is not None for scope, _ in self._held)
        if limited and in_full:
            return self._held[0][1].usd
        usd = pricing.known_cost(info, response)
        if usd is None and self.request.model != info.model:
            usd = pricing.known_cost(replace(info, provider=self.request.provider, model=self.request.model))
        return self._held[0][1].usd if usd is None and limited else usd


def _room(context: BudgetExecutionContext) -> Any:
    root = context.shared_root
    return None if root is None else root.room


def hold(context: BudgetExecutionContext, request: Request) -> CallHold:
    """Hold what a call may use, waiting for other calls where that helps; raises BudgetExceededError."""
    call = CallHold(context, request)
    ask = _ask(context, request)
    room = _room(context)
    if ask is None or room is None:
        check_limits(context)
        return call
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with room.lock:
                bell = None if _try(call, ask, deadline, may_wait=not _on_a_loop()) else room.bell()
        except _Refused as refused:
            raise refused.told() from None
        if bell is None:
            return call
        bell.wait(max(0.0, deadline - time.monotonic()))
        room.leave(bell.set)


async def ahold(context: BudgetExecutionContext, request: Request) -> CallHold:
    """Do the same without blocking the event loop."""
    call = CallHold(context, request)
    ask = _ask(context, request)
    room = _room(context)
    if ask is None or room is None:
        check_limits(context)
        return call
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with room.lock:
                future = None if _try(call, ask, deadline, may_wait=True) else room.future()
        except _Refused as refused:
            raise refused.told() from None
        if future is None:
            return call
        await asyncio.wait([future], timeout=max(0.0, deadline - time.monotonic()))


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _ask(context: BudgetExecutionContext, request: Request) -> Ask | None:
    """Return what the call wants to hold; `None` where no scope has a limit."""
    limits = [scope.limits for scope in context.scope_stack if scope.limits]
    if not limits:
        return None
    _check_process(context)
    needs_usd = any(limit.usd is not None for limit in limits)
    output = pricing.RESERVE_OUTPUT if request.max_output is None else request.max_output
    most, likely = request.input_bytes, -(-request.input_bytes // 4)
    tariff = next((scope.tariff for scope in reversed(context.scope_stack) if scope.tariff), None)
    of_usd = _bounds(request, output) if needs_usd else (ZERO, ZERO)

    def amounts(tokens: int, usd: Decimal) -> Amounts:
        cost = 0
        if tariff is not None:
            cost = tariff.llm_cost(
                provider=request.provider,
                provider_model_id=request.model,
                input_tokens=tokens,
                output_tokens=output,
            )
        return Amounts(tokens + output, cost, usd)

    bounded = request.max_output is not None
    return Ask(amounts(most, of_usd[0]), amounts(likely, of_usd[1]), bounded, output)


def _check_process(context: BudgetExecutionContext) -> None:
    """Refuse in a process that was forked inside the guard: each would spend the whole limit."""
    for scope in context.scope_stack:
        if scope.shared_root is not None and scope.shared_root.pid != os.getpid():
            raise ActGuardRuntimeContextError(
                "This process was forked inside a budget_guard, whose limit counts in the process that entered it. "
                "Enter a guard after the fork, or share limits through an engine with a store.",
                code="runtime.forked_process",
                reason="forked_process",
                retryable=False,
            )


def _bounds(request: Request, output: int) -> tuple[Decimal, Decimal]:
    try:
        return pricing.bounds(request, output)
    except pricing.UnknownPrice as error:
        raise ActGuardUsageError(
            f"A budget with usd_limit cannot hold a call without a price: {error}.",
            code="budget.unknown_price",
            reason="unknown_price",
            cause=error,
        ) from error


def _try(call: CallHold, ask: Ask, deadline: float, *, may_wait: bool) -> bool:
    """Hold if there is room; False means to wait. With the lock of the budget held."""
    context = call.context
    violation = violation_in(context)
    if violation is not None:
        raise _Refused(violation.blocked_scope, violation.limit_type)
    left, free = Limits(), Limits()
    for scope in context.scope_stack:
        left = left.within(scope.limits.left(scope.counted))
        free = free.within(scope.limits.left(scope.counted, scope.held))
    if free.short(ask.most) is None:
        _take(call, ask, ask.most)
        return True
    if ask.bounded and left.short(ask.likely) is not None:
        # Even if everything that others hold came back, it would not do.
        raise _too_much(context, ask.likely)
    others = [one for one in _holders(context) if one is not call._owner and one != call._owner]
    if others and may_wait:
        if time.monotonic() < deadline:
            return False
        raise _too_much(context, ask.likely)
    if free.spent() is not None or (ask.bounded and free.short(ask.likely) is not None):
        # What is left is held by calls that this one cannot wait for, as streams that its own task reads.
        raise _too_much(context, ask.likely)
    # Nobody else is at it: the call may begin with what is there, and the next one waits for it.
    _take(call, ask, ask.most.least(free))
    return True


def _holders(context: BudgetExecutionContext) -> list[Any]:
    root = context.shared_root
    return [] if root is None else [call._owner for call in root.room.calls]


def _take(call: CallHold, ask: Ask, amounts: Amounts) -> None:
    call._ask = ask
    for scope in call.context.scope_stack:
        scope.held += amounts
        call._held.append((scope, amounts))
    root = call.context.shared_root
    if root is not None:
        root.room.calls.append(call)


def _give_back(call: CallHold) -> None:
    room = _room(call.context)
    if room is None:
        return
    with room.lock:
        for scope, amounts in call._held:
            scope.held -= amounts
        call._held.clear()
        if call in room.calls:
            room.calls.remove(call)
    room.changed()


def record_info(
    context: BudgetExecutionContext,
    info: UsageInfo,
    response: Any = None,
    *,
    is_new: bool = False,
    usd: Decimal | None = None,
) -> bool:
    """Count what a response used, once per response, and return whether it was counted now.

    is_new: it is the answer to a call that was just made; some servers give all of them one id.
    usd: what it cost, where the caller knows; otherwise the price book says.
    """
    if not context.scope_stack:
        return report(context.run, info, response, is_new=is_new)
    root = context.shared_root
    if root is not None and not root.first_sight(_response_id(response)) and not is_new:
        return False
    record_in(
        context,
        info.provider,
        info.model,
        info.input_tokens,
        info.cached_input_tokens,
        info.output_tokens,
        pricing.cost(info, response) if usd is None else usd,
    )
    return True


def report(run: Any, info: UsageInfo, response: Any = None, *, is_new: bool = False) -> bool:
    """Tell what a response used, in a run without a budget, once per response."""
    if run is None or (not run.first_report(_response_id(response)) and not is_new):
        return False
    emit_usage(run, info, pricing.cost(info, response))
    return True


def _response_id(response: Any) -> str | None:
    found = field(response, "id")
    return found if isinstance(found, str) else None


def check_limits(context: BudgetExecutionContext) -> None:
    """Raise BudgetExceededError, after an event, where nothing is left in a scope."""
    violation = violation_in(context)
    if violation is not None:
        raise blocked(violation)


def blocked(violation: BudgetLimitViolation) -> BudgetExceededError:
    """Send the event of a scope that is spent, and return the error."""
    budget_events.emit_budget_blocked(violation.blocked_scope)
    return _error(violation.blocked_scope, violation.limit_type)


def _too_much(context: BudgetExecutionContext, asked: Amounts) -> _Refused:
    """Return why a call is refused for which a scope has too little left."""
    may_take = {"cost": f"{asked.cost} CU", "token": f"{asked.tokens} tokens", "usd": f"${asked.usd:.6f}"}
    for scope in reversed(context.scope_stack):
        short = scope.limits.left(scope.counted, scope.held).short(asked)
        if short is not None:
            return _Refused(scope, short, f", and the call may take {may_take[short]}")
    return _Refused(context.scope_stack[-1], "cost")


class _Refused(Exception):
    """A refusal on its way out of the lock: whoever listens to events must not hold up others."""

    def __init__(self, scope: BudgetState, unit: str, more: str = "") -> None:
        super().__init__()
        self.scope = scope
        self.unit = unit
        self.more = more

    def told(self) -> BudgetExceededError:
        """Send the event, and return the error."""
        budget_events.emit_budget_blocked(self.scope)
        return _error(self.scope, self.unit, self.more)


def _dollars(scope: BudgetState) -> float:
    """Return what a scope has spent as its guard shows it: by its tariff, where no limit is held by the price book."""
    rate = 0 if scope.tariff is None else scope.tariff.cu_per_usd
    if scope.usd_limit is None and rate > 0:
        return scope.counted.cost / rate
    return float(scope.whole().usd)


def _error(scope: BudgetState, limit_type: str, more: str = "") -> BudgetExceededError:
    counted = scope.counted
    error = BudgetExceededError(
        user_id=scope.user_id,
        tokens_used=counted.tokens,
        cost_used=counted.cost,
        cost_limit=scope.cost_limit,
        usd_used=_dollars(scope),
        usd_limit=None if scope.usd_limit is None else float(scope.usd_limit),
        token_limit=scope.token_limit,
        limit_type=limit_type,
        scope_id=scope.scope_id,
        scope_name=scope.scope_name,
        scope_kind=scope.scope_kind,
        parent_scope_id=scope.parent_scope_id,
        root_scope_id=scope.root_scope_id,
    )
    if more:
        error.message += more
        error.args = (error.message,)
    return error
