"""What tools are called in errors and events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def name_of(fn: Callable[..., Any]) -> str:
    """Return a tool's qualified name, or that of its class."""
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def id_of(fn: Callable[..., Any]) -> str:
    """Return a tool's name within a run: "module:qualname"."""
    return f"{getattr(fn, '__module__', None) or type(fn).__module__}:{name_of(fn)}"
