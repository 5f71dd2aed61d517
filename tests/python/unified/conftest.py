"""An engine on a clock that is moved by hand, for every test of the unified API: on every store there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server, fresh_prefix

import checkrein
from checkrein.testing import FakeClock

STORES = ("memory", "sqlite", "redis")


@pytest.fixture
def clock() -> FakeClock:
    """A fake clock."""
    return FakeClock()


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The arguments of an engine on a new store, of each kind."""
    if request.param == "redis":
        server: Server = request.getfixturevalue("redis_server")
        # Nothing here is about being slow, and the machine may be busy.
        return {"store": server.url, "prefix": fresh_prefix("unified"), "deadline": "10s"}
    return {"store": "memory" if request.param == "memory" else f"sqlite:{tmp_path}/unified.db"}


@pytest.fixture
def engine(place: dict[str, Any], clock: FakeClock) -> checkrein.Engine:
    """An engine on the fake clock."""
    return checkrein.Engine(clock=clock, **place)
