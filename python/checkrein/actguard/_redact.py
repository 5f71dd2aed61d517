"""Takes secrets out of what is printed."""

from __future__ import annotations

import re
from typing import Any, Final

REDACTED: Final = "<redacted>"
_NAMES: Final = frozenset({"authorization", "api_key", "x-api-key"})
_BEARER: Final = re.compile(r"(?i)\bbearer\s+[^\s\"',}]+")


def redact_text(text: str) -> str:
    """Return the text without bearer tokens."""
    return _BEARER.sub(f"Bearer {REDACTED}", text)


def redact_value(value: Any, *, key: str | None = None) -> Any:
    """Return a JSON value without secrets: those under telling names, and bearer tokens anywhere."""
    if key is not None and key.lower() in _NAMES:
        return REDACTED
    if isinstance(value, dict):
        return {name: redact_value(item, key=str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value
