"""Spend recorded on a Redis or Valkey server that many hosts share, through the user's own `redis-py` client."""

from __future__ import annotations

import copy
import os
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar, Final, TypeVar

from checkrein._errors import UnreadableRecord
from checkrein._redis import clock as time
from checkrein._redis import money
from checkrein._redis.client import ATTEMPTS, Script, clear_all, clear_all_async, require
from checkrein._redis.keys import DIGITS, Names

from .core import Budget, Ledger

_TABLES: Final = ("money.lua", "search.lua", "spend.lua")
_CHECK: Final = Script("record.lua", "short.lua", *_TABLES, "check.lua")
_RESERVE: Final = Script("record.lua", *_TABLES, "reserve.lua")
_SETTLE: Final = Script("record.lua", *_TABLES, "settle.lua")
_SPENT: Final = Script("record.lua", *_TABLES, "spent.lua")

_NOW: Final = struct.Struct("<d")
_WINDOW: Final = struct.Struct("<d")
_AMOUNT: Final = struct.Struct("<6d")
_LIMIT: Final = struct.Struct("<5d")
_SETTLEMENT: Final = struct.Struct("<8d")
_SERVER_NOW: Final = _NOW.pack(time.SERVER)
_NO_LIMIT: Final = (-1, 0, 0, 0, 0)
_REMEMBERED: Final = 256
_NAME: Final = re.compile(f"[0-9a-f]{{{2 * DIGITS}}}")

_S = TypeVar("_S", bound="_Spend")


class _Spend:
    """What both stores share: the names of keys, the arguments of the scripts, and what their replies mean."""

    def __init__(self, prefix: str | bytes) -> None:
        self._names = Names(prefix, "spend", "holds", "leases", "tries", "tried")
        self._machine = False
        self._clock: Callable[[], float] | None = None
        self._budgets: dict[int, tuple[Budget, bytes, bytes]] = {}
        self._latest: tuple[Any, bytes] = (None, b"")

    def _on_clock(self: _S, clock: Any) -> _S:
        """The same store for an engine: on the server's time, unless the engine has a clock of its own."""
        bound = copy.copy(self)
        bound._machine = time.is_machine(clock)
        bound._clock = None if bound._machine else time.given(clock)
        return bound

    def _keys(self, ledger: Ledger) -> tuple[bytes, ...]:
        known = self._names.known.get(ledger)
        return known or self._names.of(ledger, ledger.namespace, ledger.resource, ledger.principal)

    def _stamp(self, now: float) -> bytes:
        return _SERVER_NOW if self._machine else _NOW.pack(time.micros(now))

    def _question(self, now: float, amount: Decimal, budget: Budget, name: bytes) -> bytes:
        """The argument of a check or a reservation."""
        known = self._budgets.get(id(budget))
        if known is None or known[0] is not budget:
            known = self._remember(budget)
        latest = self._latest
        if latest[0] is not amount:
            places, limbs = money.limbs(amount)
            latest = (amount, _AMOUNT.pack(places, *limbs))
            if type(amount) is Decimal:
                # Guards and loops pass the same object again and again, and it cannot change.
                self._latest = latest
        return b"".join((self._stamp(now), known[1], latest[1], known[2], name))

    def _remember(self, budget: Budget) -> tuple[Budget, bytes, bytes]:
        """The numbers of a budget as the scripts take them. A budget cannot change, so each is read once."""
        exact = budget if type(budget) is Budget else Budget(budget.max_spend, budget.window)
        limit = money.limit(exact.max_spend) or _NO_LIMIT
        known = (budget, _WINDOW.pack(_span(exact.window)), _LIMIT.pack(*limit))
        if exact is budget:
            if len(self._budgets) >= _REMEMBERED:
                self._budgets.clear()
            self._budgets[id(budget)] = known
        return known

    def _settlement(self, reservation_id: str, actual: Decimal | None) -> tuple[tuple[bytes, ...], bytes]:
        """The keys and the argument that end a reservation; KeyError for what never was the name of one."""
        places, limbs = (0, _ZERO) if actual is None else money.limbs(actual)
        if not isinstance(reservation_id, str) or not _NAME.fullmatch(reservation_id):
            raise KeyError(f"Reservation not found: {reservation_id}")
        keys = self._names.at(reservation_id[:DIGITS])
        name = reservation_id[DIGITS:].encode()
        numbers = _SETTLEMENT.pack(self._commit_time(), float(actual is None), places, *limbs)
        return keys, numbers + name + ATTEMPTS.next()

    def _commit_time(self) -> float:
        """The time of a settlement: what was spent is recorded even when the user's clock fails now."""
        if self._machine:
            return time.SERVER
        if self._clock is not None:
            try:
                return time.micros(self._clock())
            except Exception:
                return time.LATEST
        return time.LATEST

    def _new_name(self, keys: tuple[bytes, ...]) -> tuple[str, bytes]:
        """A name for a reservation: it says which ledger's keys it is under, so that one round trip ends it."""
        name = os.urandom(DIGITS // 2).hex()
        return self._names.tag(keys) + name, name.encode()


_ZERO: Final = (0, 0, 0, 0, 0)


def _span(window: float | None) -> float:
    length = None if window is None else time.span(window)
    return -1.0 if length is None else length


def _read(reply: bytes | str) -> tuple[bool, Decimal]:
    """What a script's reply to a question means."""
    text = reply.decode() if isinstance(reply, bytes) else reply
    allowed, *words = text.split(" ")
    if words:
        return allowed == "1", money.decimal(words)
    raise _trouble(reply)


def _settled(reply: bytes | str, reservation_id: str) -> None:
    """What a script's reply to a settlement means."""
    if reply in (b"?", "?"):
        raise KeyError(f"Reservation not found: {reservation_id}")
    if reply not in (b"1", "1"):
        raise _trouble(reply)


def _trouble(reply: bytes | str) -> Exception:
    if reply in (b"!", "!"):
        return OverflowError("the sum of the ledger is out of range")
    found = "written by a newer version" if len(reply) > 1 else "not a record of this store"
    return UnreadableRecord(f"what Redis holds for this ledger is {found}")


class RedisStore(_Spend):
    """Records spend on a Redis server, for all processes and hosts that use the same prefix there.

    `client` is a `redis.Redis` or a `redis.cluster.RedisCluster`, decoding responses or not. The server's clock counts,
    not the engine's, unless the engine was given a clock of its own; a call of the store itself uses its `now`. Sums
    are exact. Every operation is one script and one round trip. What the client raises passes through, and the
    budget's `on_store_error` decides about checks and reservations.
    """

    _is_async_redis: ClassVar[bool] = False

    def __init__(self, client: Any, prefix: str = "budgetgate") -> None:
        super().__init__(prefix)
        self._client = require(client, asynchronous=False)

    def check_and_reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record, in one atomic step: (spent, allowed)."""
        argument = self._question(now, amount, budget, ATTEMPTS.next())
        allowed, spent = _read(_CHECK.run(self._client, self._keys(ledger), argument))
        return spent, allowed

    def reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits: (id or None, spent)."""
        keys = self._keys(ledger)
        reservation_id, name = self._new_name(keys)
        argument = self._question(now, amount, budget, name)
        allowed, spent = _read(_RESERVE.run(self._client, keys, argument))
        return reservation_id if allowed else None, spent

    def commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost; KeyError when it is not open."""
        _settled(_SETTLE.run(self._client, *self._settlement(reservation_id, actual)), reservation_id)

    def release(self, reservation_id: str) -> None:
        """Give a reservation back; KeyError when it is not open."""
        _settled(_SETTLE.run(self._client, *self._settlement(reservation_id, None)), reservation_id)

    def get_spend(self, ledger: Ledger, now: float, window: float | None) -> Decimal:
        """Spent and reserved within the window."""
        argument = self._stamp(now) + _WINDOW.pack(_span(window))
        return _read(_SPENT.run(self._client, self._keys(ledger), argument))[1]

    def clear(self, ledger: Ledger) -> None:
        """Forget one ledger and its reservations."""
        self._client.unlink(*self._keys(ledger))

    def clear_all(self) -> None:
        """Forget every ledger of this prefix, and nothing else on the server."""
        clear_all(self._client, self._names)


class AsyncRedisStore(_Spend):
    """The same for `async` callers: `client` is one of `redis.asyncio`."""

    _is_async_redis: ClassVar[bool] = True

    def __init__(self, client: Any, prefix: str = "budgetgate") -> None:
        super().__init__(prefix)
        self._client = require(client, asynchronous=True)

    async def check_and_reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[Decimal, bool]:
        """Decide and, when allowed, record, in one atomic step: (spent, allowed)."""
        argument = self._question(now, amount, budget, ATTEMPTS.next())
        allowed, spent = _read(await _CHECK.run_async(self._client, self._keys(ledger), argument))
        return spent, allowed

    async def reserve(
        self, ledger: Ledger, now: float, amount: Decimal, budget: Budget
    ) -> tuple[str | None, Decimal]:
        """Hold an amount if it fits: (id or None, spent)."""
        keys = self._keys(ledger)
        reservation_id, name = self._new_name(keys)
        argument = self._question(now, amount, budget, name)
        allowed, spent = _read(await _RESERVE.run_async(self._client, keys, argument))
        return reservation_id if allowed else None, spent

    async def commit(self, reservation_id: str, actual: Decimal) -> None:
        """Record what a reservation really cost; KeyError when it is not open."""
        keys, argument = self._settlement(reservation_id, actual)
        _settled(await _SETTLE.run_async(self._client, keys, argument), reservation_id)

    async def release(self, reservation_id: str) -> None:
        """Give a reservation back; KeyError when it is not open."""
        keys, argument = self._settlement(reservation_id, None)
        _settled(await _SETTLE.run_async(self._client, keys, argument), reservation_id)

    async def get_spend(self, ledger: Ledger, now: float, window: float | None) -> Decimal:
        """Spent and reserved within the window."""
        argument = self._stamp(now) + _WINDOW.pack(_span(window))
        return _read(await _SPENT.run_async(self._client, self._keys(ledger), argument))[1]

    async def clear(self, ledger: Ledger) -> None:
        """Forget one ledger and its reservations."""
        await self._client.unlink(*self._keys(ledger))

    async def clear_all(self) -> None:
        """Forget every ledger of this prefix, and nothing else on the server."""
        await clear_all_async(self._client, self._names)
