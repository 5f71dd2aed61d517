"""What a drop-in engine does with stores on Redis: tells them its clock, and finds the other side of its pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from checkrein.errors import ConfigError


def paired(store: Any, async_store: Any, clock: Any) -> tuple[Any, Any]:
    """The stores of an engine, bound to its clock where they are on Redis. Others pass unchanged."""
    # The class is asked: an object of the user's may answer to every name.
    sync_kind = getattr(type(store), "_is_async_redis", None)
    async_kind = getattr(type(async_store), "_is_async_redis", None)
    if sync_kind is True:
        raise TypeError("`store` needs a RedisStore; give an AsyncRedisStore as `async_store`")
    if async_kind is False:
        raise TypeError("`async_store` needs an AsyncRedisStore; give a RedisStore as `store`")
    if sync_kind is False:
        store = store._on_clock(clock)
        if async_store is None:
            # One history for both sides, as in memory.
            return store, InThread(store)
    if async_kind is True:
        async_store = async_store._on_clock(clock)
        if store is None:
            store = Missing()
    return store, async_store


class InThread:
    """A sync store for `async` callers: the server is waited for in a thread."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*arguments: Any) -> Any:
            return await asyncio.to_thread(method, *arguments)

        return call


class Missing:
    """The sync side of an engine that has only an AsyncRedisStore: counting elsewhere would double every limit."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*arguments: Any) -> Any:
            raise ConfigError(
                "the engine has an AsyncRedisStore only",
                "store",
                "give `store=RedisStore(redis.Redis(...))` too",
            )

        return refuse
