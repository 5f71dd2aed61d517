"""The user's client: which kind it is, how a script runs on it, and how keys of ours are found and removed."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from .keys import Names

BATCH: Final = 500
"""Keys that one command removes, more or less."""


class Script:
    """A Lua script that the server knows by its digest once it has seen it."""

    def __init__(self, *files: str) -> None:
        self._files = files
        self._loaded: tuple[bytes, bytes] | None = None

    def _load(self) -> tuple[bytes, bytes]:
        """Read the text from the package when it is first needed, and name its digest."""
        folder = resources.files(__package__) / "lua"
        text = b"\n".join((folder / name).read_bytes() for name in self._files)
        self._loaded = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode(), text
        return self._loaded

    def run(self, client: Any, keys: Sequence[bytes], argument: bytes) -> Any:
        """Run it in one round trip; in two where the server does not know it yet."""
        digest, text = self._loaded or self._load()
        try:
            return client.execute_command("EVALSHA", digest, len(keys), *keys, argument)
        except Exception as error:
            if not _is_unknown_script(error):
                raise
        return client.execute_command("EVAL", text, len(keys), *keys, argument)

    async def run_async(self, client: Any, keys: Sequence[bytes], argument: bytes) -> Any:
        """`run`, awaited."""
        digest, text = self._loaded or self._load()
        try:
            return await client.execute_command("EVALSHA", digest, len(keys), *keys, argument)
        except Exception as error:
            if not _is_unknown_script(error):
                raise
        return await client.execute_command("EVAL", text, len(keys), *keys, argument)


def _is_unknown_script(error: Exception) -> bool:
    return any(base.__name__ == "NoScriptError" for base in type(error).__mro__)


def is_async(client: Any) -> bool:
    """Whether commands of the client are awaited; TypeError for what is no client at all."""
    execute = getattr(client, "execute_command", None)
    if not callable(execute) or not hasattr(client, "scan_iter"):
        raise TypeError(
            f"client must be a redis-py client such as `redis.Redis(...)`, got {type(client).__name__}; "
            "pip install 'checkrein[redis]' installs redis-py"
        )
    return inspect.iscoroutinefunction(execute)


def require(client: Any, asynchronous: bool) -> Any:
    """Return the client, or raise the TypeError that names the store it belongs to."""
    if is_async(client) == asynchronous:
        return client
    if asynchronous:
        raise TypeError("AsyncRedisStore needs a client of `redis.asyncio`; give this one to RedisStore")
    raise TypeError("RedisStore needs a client that is not async; give this one to AsyncRedisStore")


def clear_all(client: Any, names: Names) -> None:
    """Remove every key of these names, on every node. The keys of one identity go in one step."""
    for pattern in names.patterns:
        batch: set[bytes] = set()
        for key in client.scan_iter(match=pattern, count=1_000):
            batch.update(names.beside(key))
            if len(batch) >= BATCH:
                client.unlink(*batch)
                batch.clear()
        if batch:
            client.unlink(*batch)


async def clear_all_async(client: Any, names: Names) -> None:
    """`clear_all`, awaited."""
    for pattern in names.patterns:
        batch: set[bytes] = set()
        async for key in client.scan_iter(match=pattern, count=1_000):
            batch.update(names.beside(key))
            if len(batch) >= BATCH:
                await client.unlink(*batch)
                batch.clear()
        if batch:
            await client.unlink(*batch)


class _Attempts:
    """Names for attempts, twelve bytes each, which no two calls of any two processes share."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start again under another name: a forked child must not count on with its parent's."""
        self._process = os.urandom(7)
        self._next = itertools.count().__next__

    def next(self) -> bytes:
        """The name of one attempt."""
        number = self._next()
        if number >= 2**40 - 1:
            self.renew()
        return self._process + number.to_bytes(5, "big")


ATTEMPTS: Final = _Attempts()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ATTEMPTS.renew)
