"""Clients of `google-genai` against the provider on the loopback interface, over httpx and httpx2."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from fake_google import FakeGoogle

genai = pytest.importorskip("google.genai")
types = genai.types

MODEL = "gemini-3.8-flash"
ASKED: dict[str, Any] = {"model": MODEL, "contents": "hi"}
COST = Decimal("0.0003")
"""200 tokens of input at 0.75 USD per million and 40 of output at 3.75."""


def made(fake: FakeGoogle, **more: Any) -> Any:
    """Make a client."""
    options = types.HttpOptions(base_url=fake.url, **more)
    return genai.Client(api_key="AIza-secret", http_options=options)


def config(**more: Any) -> Any:
    """Make the configuration of a call."""
    return types.GenerateContentConfig(**more)


def retries(attempts: int = 3) -> Any:
    """Make options that try again at once."""
    again = types.HttpRetryOptions(attempts=attempts, initial_delay=0.001, max_delay=0.001, jitter=0.0)
    return types.HttpOptions(retry_options=again)
