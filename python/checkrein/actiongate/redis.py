"""Calls counted on a Redis or Valkey server that many hosts share, through the user's own `redis-py` client."""

from __future__ import annotations

import copy
import math
import struct
from typing import Any, ClassVar, Final, TypeVar

from checkrein._errors import UnreadableRecord
from checkrein._redis import clock as time
from checkrein._redis.client import ATTEMPTS, Script, clear_all, clear_all_async, require
from checkrein._redis.keys import Names

from .core import Gate, Policy

_CALLS: Final = Script("search.lua", "calls.lua")
_SHAPE: Final = struct.Struct("<3d")
_NOW: Final = struct.Struct("<d")
_SERVER_NOW: Final = _NOW.pack(time.SERVER)
_REMEMBERED: Final = 256

_S = TypeVar("_S", bound="_Calls")


class _Calls:
    """What both stores share: the names of keys, the argument of the script, and what its reply means."""

    def __init__(self, prefix: str | bytes) -> None:
        self._names = Names(prefix, "calls", "tries", "tried")
        self._machine = False
        self._shapes: dict[int, tuple[Policy, bytes]] = {}

    def _on_clock(self: _S, clock: Any) -> _S:
        """The same store for an engine: on the server's time, unless the engine has a clock of its own."""
        bound = copy.copy(self)
        bound._machine = time.is_machine(clock)
        return bound

    def _keys(self, gate: Gate) -> tuple[bytes, ...]:
        known = self._names.known.get(gate)
        return known or self._names.of(gate, gate.namespace, gate.action, gate.principal)

    def _argument(self, now: float, policy: Policy) -> bytes:
        known = self._shapes.get(id(policy))
        if known is None or known[0] is not policy:
            known = self._remember(policy)
        stamp = _SERVER_NOW if self._machine else _NOW.pack(time.micros(now))
        return stamp + known[1] + ATTEMPTS.next()

    def _remember(self, policy: Policy) -> tuple[Policy, bytes]:
        """The numbers of a policy as the script takes them. A policy cannot change, so each is read once."""
        exact = policy
        if type(policy) is not Policy:
            exact = Policy(policy.max_calls, policy.window, policy.cooldown)
        window = None if exact.window is None else time.span(exact.window)
        cooldown = time.span(exact.cooldown)
        most = exact.max_calls
        shape = _SHAPE.pack(
            -1.0 if window is None else window,
            time.SERVER if cooldown is None else cooldown,
            time.SERVER if most >= time.SERVER else math.ceil(most),
        )
        known = (policy, shape)
        if exact is policy:
            if len(self._shapes) >= _REMEMBERED:
                self._shapes.clear()
            self._shapes[id(policy)] = known
        return known


def _read(reply: bytes | str) -> tuple[int, bool, float | None]:
    """What the script's reply means."""
    words = reply.split()
    if len(words) != 3:
        found = "written by a newer version" if len(reply) > 1 else "not a record of this store"
        raise UnreadableRecord(f"what Redis holds for this gate is {found}")
    allowed, count, age = words
    elapsed = None if age in (b"-", "-") else int(age) / 1_000_000
    return int(count), allowed in (b"1", "1"), elapsed


class RedisStore(_Calls):
    """Counts on a Redis server, for all processes and hosts that use the same prefix there.

    `client` is a `redis.Redis` or a `redis.cluster.RedisCluster`, decoding responses or not. The server's clock counts,
    not the engine's, unless the engine was given a clock of its own; a call of the store itself uses its `now`. Every
    operation is one script and one round trip. What the client raises passes through, and the policy's
    `on_store_error` decides.
    """

    _is_async_redis: ClassVar[bool] = False

    def __init__(self, client: Any, prefix: str = "actiongate") -> None:
        super().__init__(prefix)
        self._client = require(client, asynchronous=False)

    def check_and_reserve(self, gate: Gate, now: float, policy: Policy) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count, in one atomic step: (calls counted, allowed, age of the last call)."""
        return _read(_CALLS.run(self._client, self._keys(gate), self._argument(now, policy)))

    def clear(self, gate: Gate) -> None:
        """Forget one gate."""
        self._client.unlink(*self._keys(gate))

    def clear_all(self) -> None:
        """Forget every gate of this prefix, and nothing else on the server."""
        clear_all(self._client, self._names)


class AsyncRedisStore(_Calls):
    """The same for `async` callers: `client` is one of `redis.asyncio`."""

    _is_async_redis: ClassVar[bool] = True

    def __init__(self, client: Any, prefix: str = "actiongate") -> None:
        super().__init__(prefix)
        self._client = require(client, asynchronous=True)

    async def check_and_reserve(
        self, gate: Gate, now: float, policy: Policy
    ) -> tuple[int, bool, float | None]:
        """Decide and, when allowed, count, in one atomic step: (calls counted, allowed, age of the last call)."""
        return _read(await _CALLS.run_async(self._client, self._keys(gate), self._argument(now, policy)))

    async def clear(self, gate: Gate) -> None:
        """Forget one gate."""
        await self._client.unlink(*self._keys(gate))

    async def clear_all(self) -> None:
        """Forget every gate of this prefix, and nothing else on the server."""
        await clear_all_async(self._client, self._names)
