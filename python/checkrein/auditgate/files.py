"""`FileStore`: entries on disk, in a form that the verifier reads."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from checkrein._native import audit_canonical
from checkrein.auditgate._head import LogHead, StoredHead, head_path, write_durably
from checkrein.auditgate.core import AuditEntry, Severity, Trail, Verdict, compute_hash, verify_chain
from checkrein.auditgate.store import MemoryStore, QueryFilter

__all__ = ["FileStore", "LogMismatchError"]


class LogMismatchError(ValueError):
    """A log file is not the one its head was written for, or is in use by another process."""


class FileStore(MemoryStore):
    """Keeps entries in a JSON Lines file, one fsync per entry, with a head file beside it.

    `append` returns when the entry and the head are on disk. One process at a time may have the file
    open. Pruning forgets entries in memory; `compact` removes them from the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = True, adopt: bool = False) -> None:
        """Open or create the log at `path`.

        `fsync=False` leaves it to the system when data reaches the disk. `adopt=True` takes over a log
        that has no head yet. Raises LogMismatchError if log and head do not belong together.
        """
        super().__init__()
        self.path = Path(path).absolute()
        self._fsync = fsync
        self._guard = threading.RLock()
        self._pid = os.getpid()
        self._lock_file = _lock(self.path.with_name(self.path.name + ".lock"))
        try:
            self._head = self._load(adopt)
            self._file = open(self.path, "ab", buffering=0, opener=_private)  # noqa: SIM115
            self._write_head()
        except BaseException:
            self._lock_file.close()
            raise

    def append(self, entry: AuditEntry) -> None:
        """Write one entry durably.

        Raises ValueError for an entry whose hash would not survive being written as JSON.
        """
        written = _to_record(entry)
        line = audit_canonical(written) + b"\n"
        if entry.entry_hash is not None:
            _refuse_if_changed(entry, line)
        with self._guard:
            self._refuse_elsewhere()
            size = os.fstat(self._file.fileno()).st_size
            before = self._head
            try:
                _write_all(self._file.fileno(), line)
                if self._fsync:
                    os.fsync(self._file.fileno())
                self._head = before.with_entry(written)
                self._write_head()
            except BaseException:
                # An entry that was refused must not stand in the log, nor in its head.
                self._head = before
                os.ftruncate(self._file.fileno(), size)
                with contextlib.suppress(Exception):
                    self._write_head()
                raise
            super().append(entry)

    def clear(self, trail: Trail) -> None:
        """Remove one trail from memory and from the file."""
        with self._guard:
            self._refuse_elsewhere()
            super().clear(trail)
            self._rewrite()

    def clear_all(self) -> None:
        """Remove every trail from memory and from the file."""
        with self._guard:
            self._refuse_elsewhere()
            super().clear_all()
            self._rewrite()

    def compact(self) -> None:
        """Remove from the file what pruning has removed from memory."""
        with self._guard:
            self._refuse_elsewhere()
            self._rewrite()

    def close(self) -> None:
        """Close the file and let another process open it."""
        with self._guard:
            self._file.close()
            self._lock_file.close()

    def _refuse_elsewhere(self) -> None:
        if os.getpid() != self._pid:
            raise LogMismatchError(f"`{self.path}` was opened by another process; open it again after a fork")
        if self._file.closed:
            raise LogMismatchError(f"`{self.path}` is closed")

    def _write_head(self) -> None:
        write_durably(head_path(self.path), self._head.text().encode(), fsync=self._fsync)

    def _rewrite(self) -> None:
        head, lines = LogHead(), []
        # By sequence, because stamps of a monotonic clock begin anew with every boot.
        for entry in sorted(self.query(QueryFilter()), key=lambda entry: entry.sequence):
            written = _to_record(entry)
            head.add(written)
            lines.append(audit_canonical(written) + b"\n")
        write_durably(self.path, b"".join(lines), fsync=self._fsync)
        self._file.close()
        self._file = open(self.path, "ab", buffering=0, opener=_private)  # noqa: SIM115
        self._head = head
        self._write_head()

    def _load(self, adopt: bool) -> LogHead:
        stored = _read_head(head_path(self.path))
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            entries = [_from_record(record) for record in records]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LogMismatchError(f"`{self.path}` is not an audit log: {error}") from error
        if stored is None and records and not adopt:
            raise LogMismatchError(
                f"`{self.path}` has no head file; pass adopt=True to take it over as it is"
            )
        if stored is not None:
            following, problem = stored.compare(records)
            # A crash between log and head leaves one whole entry that the head does not cover.
            if problem is None and following > 1:
                problem = f"{following} entries follow its head"
            if problem is not None:
                raise LogMismatchError(f"`{self.path}`: {problem}")
        head = LogHead()
        for record, entry in zip(records, entries, strict=True):
            head.add(record)
            super().append(entry)
        logs: dict[Trail, list[AuditEntry]] = {}
        for entry in entries:
            logs.setdefault(entry.trail, []).append(entry)
        for trail, log in logs.items():
            intact, sequence = verify_chain(log)
            if not intact:
                raise LogMismatchError(f"`{self.path}`: entry {sequence} of `{trail}` does not verify")
        if len(whole) < len(data):
            # The torn line was never acknowledged: its append did not return.
            os.truncate(self.path, len(whole))
        return head


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _lock(path: Path) -> Any:
    file = open(path, "ab", opener=_private)  # noqa: SIM115
    try:
        import fcntl
    except ImportError:
        return file  # no advisory locks on this system
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LogMismatchError(f"`{path}` is held: the log is in use") from error
    return file


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_head(path: Path) -> StoredHead | None:
    try:
        return StoredHead(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LogMismatchError(f"`{path}`: {error}") from error


def _to_record(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as it is written: its dict, and the parts of the trail that its text may blur."""
    trail = entry.trail
    return {**entry.to_dict(), "trail_parts": [trail.namespace, trail.source, trail.principal]}


def _from_record(record: dict[str, Any]) -> AuditEntry:
    parts = record["trail_parts"]
    if not isinstance(parts, list) or str(Trail(*parts)) != record["trail"]:
        raise ValueError("`trail_parts` and `trail` differ")
    return AuditEntry(
        trail=Trail(*parts),
        ts=record["ts"],
        wall_ts=record["wall_ts"],
        verdict=Verdict[record["verdict"]],
        severity=Severity[record["severity"]],
        gate_type=record["gate_type"],
        gate_identity=record["gate_identity"],
        recorded_by=record["recorded_by"],
        reason=record["reason"],
        detail=record["detail"],
        entry_hash=record["entry_hash"],
        prev_hash=record["prev_hash"],
        sequence=record["sequence"],
    )


def _refuse_if_changed(entry: AuditEntry, line: bytes) -> None:
    if compute_hash(json.loads(line), entry.prev_hash) != entry.entry_hash:
        raise ValueError("the entry's hash would not survive JSON: its detail has keys that are not text")
