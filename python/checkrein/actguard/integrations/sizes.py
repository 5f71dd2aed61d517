"""How much goes into a call, as far as its request shows."""

from __future__ import annotations

from typing import Any, Final, TypeGuard

_UNSEEN: Final = frozenset(
    {
        "image_url",
        "input_audio",
        "file",
        "file_id",
        "file_url",
        "file_data",
        "inlineData",
        "inline_data",
        "fileData",
        "file_uri",
        "fileUri",
        "cachedContent",
        "previous_response_id",
        "conversation",
        "prompt_id",
        "container",
        "mcp_servers",
    }
)
"""Members that stand for something whose tokens nobody can count here."""
_UNSEEN_BYTES: Final = 8_192
_MAX_DEPTH: Final = 64


def body_bytes(body: Any) -> tuple[int, bool]:
    """Return how many bytes of text a request has, and whether that is all that goes in.

    A picture, a file or an earlier answer is taken for a fixed amount, and the request for one that is not seen whole.
    """
    size, unseen = _size(body, 0)
    return size, unseen == 0


def _size(value: Any, depth: int) -> tuple[int, int]:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass")), 0
    if value is None or isinstance(value, bool | int | float):
        return 4, 0
    if depth > _MAX_DEPTH:
        return 0, 1
    size = unseen = 0
    if isinstance(value, dict):
        hides = value.get("type") in ("image", "document", "input_image", "input_file")
        for name, item in value.items():
            if name in _UNSEEN or (hides and name == "source"):
                size, unseen = size + _UNSEEN_BYTES, unseen + 1
                continue
            more, hidden = _size(item, depth + 1)
            size, unseen = size + more + len(str(name)) + 2, unseen + hidden
    elif isinstance(value, list | tuple):
        for item in value:
            more, hidden = _size(item, depth + 1)
            size, unseen = size + more + 2, unseen + hidden
    else:
        return 0, 1
    return size, unseen


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a count, one or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
