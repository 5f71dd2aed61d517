"""An engine with one budget, and a provider on the loopback interface, for the tests of the SDKs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from fake_openai import fake_openai
from fakes import FakeProvider

import checkrein
from checkrein.testing import FakeClock

POLICY = """
version = 1
[budgets.team]
key = "action.tenant"
limit = "1 usd"
[models."*"]
budgets = ["team"]
reserve_output = 4096
"""


class Books:
    """An engine with one budget, and where that stands."""

    def __init__(self, place: Path, store: str | None = None) -> None:
        self._file = place / "checkrein.toml"
        self._store = store
        self.limit("1 usd")

    def limit(self, limit: str, more: str = "") -> None:
        """Begin with another limit, and with more about models."""
        self._file.write_text(POLICY.replace("1 usd", limit) + more)
        self.clock = FakeClock(1_795_262_400.0)
        options = {"tenant": "acme", "clock": self.clock, "store": self._store}
        self.engine = checkrein.Engine.from_policy(self._file, **options)

    @property
    def spent(self) -> Decimal:
        """What was charged, in USD."""
        return self._read("spent")

    @property
    def held(self) -> Decimal:
        """What is held, in USD."""
        return self._read("held")

    def _read(self, what: str) -> Decimal:
        rows = [row for row in self.engine.list("meter") if row["gate"] == "team"]
        return Decimal(rows[0][what]) if rows else Decimal(0)


@pytest.fixture
def books(tmp_path: Path) -> Books:
    """An engine that has a dollar."""
    return Books(tmp_path)


@pytest.fixture
def kept(tmp_path: Path) -> Books:
    """The same in a file: whoever decides waits for the disk."""
    return Books(tmp_path, f"sqlite:{tmp_path / 'store.db'}")


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    """A provider that answers every call."""
    with fake_openai() as provider:
        yield provider
