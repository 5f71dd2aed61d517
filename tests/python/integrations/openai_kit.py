"""What the tests of the `openai` package share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_openai import answer
from fakes import FakeProvider, Reply, Request

import checkrein

openai = pytest.importorskip("openai")

SAID: Any = [{"role": "user", "content": "hi"}]
FEW = Decimal("0.00002")
"""More than a short prompt may cost, and less than the output that is held for."""


def is_hold(amount: Decimal, tokens: int = 4_096) -> bool:
    """Whether an amount is what so much output and a short prompt may cost."""
    output = Decimal(tokens) * Decimal("1.25") / 1_000_000
    return output < amount < output + 2 * FEW


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK sleep next to nothing between its attempts."""
    from openai import _base_client

    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(_base_client, "MAX_RETRY_DELAY", 0.001)


@pytest.fixture
def client(books: Books, fake: FakeProvider) -> Iterator[Any]:
    """A client that is wrapped."""
    with openai.OpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1") as made:
        yield checkrein.wrap(made, books.engine)


@pytest.fixture
async def aclient(books: Books, fake: FakeProvider) -> Any:
    """An asynchronous one."""
    async with openai.AsyncOpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1") as made:
        yield checkrein.wrap(made, books.engine)


class Crowd:
    """A provider that answers nobody before so many callers were refused."""

    def __init__(self, refused: int) -> None:
        self._left = refused
        self._lock = threading.Lock()
        self.gate = threading.Event()

    def answer(self, request: Request) -> Reply:
        """Answer, when it is time."""
        self.gate.wait(30)
        return answer(request)

    def refuse(self) -> None:
        """Say that one was refused."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.gate.set()
