"""The head beside a log: how many entries it has and a digest over all of them, in order.

A log alone cannot show that its tail was cut or its hashes were stripped; with a head that was kept
elsewhere, any change of any field shows.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from checkrein._native import audit_canonical

FORMAT = "checkrein-audit-head/1"


class LogHead:
    """A running digest over whole entries, unhashed fields included."""

    def __init__(self) -> None:
        self.entries = 0
        self._root = hashlib.sha256(FORMAT.encode()).digest()
        self.first_sequences: dict[str, int] = {}

    def add(self, entry: dict[str, Any]) -> None:
        """Take in the next entry of the log, in its written form."""
        self._root = hashlib.sha256(self._root + hashlib.sha256(audit_canonical(entry)).digest()).digest()
        self.entries += 1
        trail, sequence = entry.get("trail"), entry.get("sequence")
        if isinstance(trail, str) and isinstance(sequence, int):
            self.first_sequences.setdefault(trail, sequence)

    def with_entry(self, entry: dict[str, Any]) -> LogHead:
        """The head of the log with one more entry."""
        head = LogHead()
        head.entries, head._root = self.entries, self._root
        head.first_sequences = dict(self.first_sequences)
        head.add(entry)
        return head

    @property
    def root(self) -> str:
        """The digest over everything taken in, in hexadecimal."""
        return self._root.hex()

    def text(self) -> str:
        """Return what the head file says."""
        said = {
            "format": FORMAT,
            "entries": self.entries,
            "root": self.root,
            "first_sequences": self.first_sequences,
        }
        return json.dumps(said, indent=2) + "\n"


class StoredHead:
    """What a head file says."""

    def __init__(self, text: str) -> None:
        """Read a head file; raises ValueError if it is not one."""
        said = json.loads(text)
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise ValueError(f"not a head file of format {FORMAT}")
        entries, root, first = said.get("entries"), said.get("root"), said.get("first_sequences")
        if (
            type(entries) is not int
            or entries < 0
            or not isinstance(root, str)
            or not isinstance(first, dict)
        ):
            raise ValueError("the head file is damaged")
        self.entries = entries
        self.root = root
        self.first_sequences: dict[str, Any] = first

    def compare(self, entries: list[dict[str, Any]]) -> tuple[int, str | None]:
        """Return how many entries follow the head, and what is wrong with those it covers."""
        if len(entries) < self.entries:
            return 0, f"the log has {len(entries)} entries, its head says {self.entries}"
        head = LogHead()
        for entry in entries[: self.entries]:
            head.add(entry)
        if head.root != self.root:
            return 0, "the entries are not those its head was computed over"
        return len(entries) - self.entries, None


def head_path(log: Path) -> Path:
    """Return where the head of a log is kept."""
    return log.with_name(log.name + ".head")


def write_durably(path: Path, data: bytes, *, fsync: bool) -> None:
    """Replace a file in one step, so that a crash leaves the old or the new one."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if fsync:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if fsync and os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
