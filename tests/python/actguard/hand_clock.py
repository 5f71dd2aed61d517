"""A clock that is moved by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Stands still until a test moves it; called like `time.time`."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now
