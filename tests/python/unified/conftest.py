"""An engine on a clock that is moved by hand, for every test of the unified API."""

from __future__ import annotations

import pytest

import checkrein
from checkrein.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A fake clock."""
    return FakeClock()


@pytest.fixture
def engine(clock: FakeClock) -> checkrein.Engine:
    """An engine on the fake clock."""
    return checkrein.Engine(clock=clock)
