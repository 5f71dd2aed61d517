"""Which tool is running, for the events that happen in it."""

from __future__ import annotations

from contextvars import ContextVar, Token

_tool_name: ContextVar[str | None] = ContextVar("_tool_name", default=None)


def get_tool_name() -> str | None:
    """Return the name of the tool that is running, or `None`."""
    return _tool_name.get()


def set_tool_name(tool_name: str) -> Token[str | None]:
    """Say which tool is running; give what is returned to `reset_tool_name`."""
    return _tool_name.set(tool_name)


def reset_tool_name(token: Token[str | None]) -> None:
    """Say that the tool is over."""
    _tool_name.reset(token)
