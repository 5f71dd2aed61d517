"""Server-sent events as bytes: cut at their borders, so that each can be read, hidden or passed on as it is."""

from __future__ import annotations

from typing import Final

MAX_EVENT: Final = 64 << 20
"""The longest event that is waited for; a longer one is passed on unread."""

_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EventSplitter:
    """Cuts a stream of bytes into whole events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take more bytes; returns the events that are whole now, each with the empty line that ends it."""
        self._buffer += data
        events = []
        while True:
            end = self._end()
            if end < 0:
                break
            events.append(self._buffer[:end])
            self._buffer, self._searched = self._buffer[end:], 0
        # An end may have arrived in part.
        self._searched = max(len(self._buffer) - 3, 0)
        if len(self._buffer) > MAX_EVENT:
            events.append(self.rest())
        return events

    def rest(self) -> bytes:
        """Return what came after the last whole event, and forget it."""
        rest, self._buffer, self._searched = self._buffer, b"", 0
        return rest

    def _end(self) -> int:
        found = -1
        for mark in _ENDS:
            at = self._buffer.find(mark, self._searched)
            if at >= 0 and (found < 0 or at + len(mark) < found):
                found = at + len(mark)
        return found


def data_of(event: bytes) -> bytes:
    """Return the data of an event: its `data:` lines, joined as the standard says."""
    lines = []
    for line in event.splitlines():
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)


def event_of(data: bytes, name: str | None = None) -> bytes:
    """Write an event of one line of data."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"
