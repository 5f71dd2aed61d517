"""What `debug=True` prints, and in which colours."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO

_RESET: Final = "\x1b[0m"
_RED: Final = "\x1b[31m"
_GREEN: Final = "\x1b[32m"
_YELLOW: Final = "\x1b[33m"
_CYAN: Final = "\x1b[36m"
_BOLD_CYAN: Final = "\x1b[1;36m"
_LEVELS: Final = {
    logging.DEBUG: _GREEN,
    logging.INFO: _CYAN,
    logging.WARNING: _YELLOW,
    logging.ERROR: _RED,
    logging.CRITICAL: _RED,
}
_KINDS: Final = {
    "request": _GREEN,
    "request-body": _GREEN,
    "response": _CYAN,
    "response-body": _CYAN,
    "error": _RED,
}
_HANDLER_MARKER: Final = "_actguard_debug_handler"


def use_color(stream: TextIO | None = None) -> bool:
    """Whether to print in colour: on a terminal, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return False
    try:
        return bool((stream or sys.stderr).isatty())
    except (AttributeError, ValueError):
        return False


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{_RESET}"


def format_transport_debug(parts: Iterable[str], *, stream: TextIO | None = None) -> str:
    """Return one line about a request."""
    words = list(parts)
    if not words or not use_color(stream):
        return " ".join(words)
    if words[0] in _KINDS:
        words[0] = _painted(words[0], _KINDS[words[0]])
    return " ".join([_painted("[actguard debug]", _BOLD_CYAN), *words])


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix, level = "[actguard]", record.levelname
        if use_color():
            prefix = _painted(prefix, _BOLD_CYAN)
            level = _painted(level, _LEVELS.get(record.levelno, _CYAN))
        line = f"{prefix} {record.name} {level} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to whatever is stderr at the time: tests and notebooks replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Where lines go."""
        return sys.stderr


def ensure_actguard_debug_handler() -> None:
    """Let the logger `actguard` print everything to stderr, by exactly one handler."""
    logger = logging.getLogger("actguard")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if not any(getattr(handler, _HANDLER_MARKER, False) for handler in logger.handlers):
        handler = _StderrHandler()
        setattr(handler, _HANDLER_MARKER, True)
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
