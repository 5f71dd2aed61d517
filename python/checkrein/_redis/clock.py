"""Whose time counts: the server's own, or that of a clock the user gave to the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, Final

SERVER: Final = 2.0**53
"""Stands for the server's own time in a script's argument."""
LATEST: Final = -SERVER
"""Stands for the latest time that a record has seen."""
REACH: Final = 4_000_000_000
"""Seconds from zero within which a reading is a time."""


def is_machine(clock: Any) -> bool:
    """Whether a clock is the machine's own, which means nothing on another machine; `None` is the default clock."""
    if clock is None or not (callable(clock) or clock):
        # As it is now: a test may have patched it.
        clock = time.monotonic
    return isinstance(clock, BuiltinFunctionType) and clock.__module__ == "time"


def given(clock: Any) -> Callable[[], float]:
    """The clock that an engine was given, or the patched one that is its default."""
    return clock if callable(clock) or clock else time.monotonic


def micros(seconds: Any) -> float:
    """A reading in whole microseconds, the nearest; ValueError for what is no time within reach."""
    if isinstance(seconds, int):
        if abs(seconds) <= REACH:
            return float(seconds * 1_000_000)
    else:
        reading = float(seconds)
        if -REACH <= reading <= REACH:
            # Whole and fractional seconds apart: 1000.3 less 1000.2 is 0.1, which floats are not.
            whole = math.floor(reading)
            return float(whole * 1_000_000 + math.floor((reading - whole) * 1e6 + 0.5))
    raise ValueError("now is not a usable time")


def span(seconds: Any) -> float | None:
    """A length of time in microseconds, at least one; `None` for one longer than any clock runs."""
    if seconds > REACH:
        return None
    return max(micros(seconds), 1.0) if seconds else 0.0
