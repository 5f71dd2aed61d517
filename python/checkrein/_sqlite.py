"""Drop-in stores in a SQLite file: the counts of the drop-in engines, in the rows that `checkrein.Engine` keeps."""

from __future__ import annotations

import json
import math
import os
from typing import Any, Final

from checkrein.engine import Engine
from checkrein.errors import ConfigError

MOST_CALLS: Final = 2**32 - 1
"""What stands for "any number of calls" in a row."""


def open_engine(store: str | os.PathLike[str]) -> Engine:
    """Open the engine of `sqlite:PATH` or of a path.

    Raises ConfigError for other URLs, StoreError for a file that cannot be a store.
    """
    if not isinstance(store, str):
        return Engine(store=f"sqlite:{os.fspath(store)}")
    if store == "memory":
        raise ConfigError("`memory` names no file", "store", "leave the store out")
    return Engine(store=store)


def key_of(*parts: str) -> str:
    """Write an identity as the key of its row; two identities never share one."""
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


def window_name(window: float | None) -> str:
    """Name the records of a window: calls are counted for each window on its own."""
    return "forever" if window is None else f"{window!r}s"


def whole(limit: float) -> int:
    """The largest number of calls that a limit lets through."""
    return MOST_CALLS if math.isinf(limit) else min(max(math.ceil(limit), 0), MOST_CALLS)


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Call what may wait for a disk without blocking the event loop."""
    import asyncio

    return await asyncio.to_thread(function, *arguments)
