"""A gateway and providers on the loopback interface, for the tests of `checkrein.actguard`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The fake providers belong to the tests of the SDKs.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations"))

from fakes import FakeProvider, Reply, Request

from checkrein import actguard

KEY = "sk-gateway-secret"
TARIFF: dict[str, Any] = {
    "tariff_version": "v1",
    "cu_per_usd": 1000,
    "registry_version": "r1",
    "llm": {"default": {"input_cu_per_1k": 1, "output_cu_per_1k": 4, "cached_cu_per_1k": 1}},
}


class Gateway(FakeProvider):
    """A gateway that speaks the published protocol."""

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.tariff: Reply = Reply(TARIFF)
        self.reserve: Reply | Callable[[Request], Reply] = Reply(
            {"reserve_id": "res-1", "status": "reserved", "tariff_version": "v1"}
        )
        self.settle: Reply = Reply({"status": "settled", "settled_micros": 1})
        self.events: Callable[[Request], Reply] = lambda request: Reply({}, status=202)

    def _respond(self, request: Request) -> Reply:
        path = request.path
        if path == "/api/v1/cu-tariff":
            return self.tariff
        if path == "/api/v1/reserve":
            return self.reserve(request) if callable(self.reserve) else self.reserve
        if path == "/api/v1/settle":
            return self.settle
        if path == "/api/v1/events":
            return self.events(request)
        return Reply({"error": "nothing here"}, status=404)

    def client(self, **more: Any) -> actguard.Client:
        """Return a client of this gateway."""
        settings: dict[str, Any] = {
            "api_key": KEY,
            "event_mode": "off",
            "backoff_base_ms": 1,
            "budget_timeout_s": 5.0,
        }
        return actguard.Client(gateway_url=self.url, **{**settings, **more})

    def bodies(self, name: str) -> list[Any]:
        """Return what was posted to one path."""
        return [request.body for request in self.requests if request.path == f"/api/v1/{name}"]

    def names(self) -> list[str]:
        """Return the paths in order, by their last part."""
        return [path.rpartition("/")[2] for path in self.paths()]

    def sent(self) -> list[dict[str, Any]]:
        """Return every event that was sent, in order."""
        return [event for body in self.bodies("events") for event in body["events"]]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that says yes."""
    with Gateway() as made:
        yield made
