"""What the tests of the drop-in share."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from hand_clock import Clock

from checkrein import actguard
from checkrein.actguard.tools import _cache, _facts


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """Let no test find what another one counted, opened or proved."""
    _cache._cache_instance = None
    _facts._FACTS.clear()
    yield
    _cache._cache_instance = None
    _facts._FACTS.clear()


@pytest.fixture
def client() -> actguard.Client:
    """Return a client without a gateway."""
    return actguard.Client()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock that stands still in the place of both of Python's."""
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    monkeypatch.setattr(sys.modules["checkrein.actguard.tools.idempotent"].time, "monotonic", made)
    return made
