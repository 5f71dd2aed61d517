"""The file store writes what the verifier reads, and notices what is done to its file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from audit_kit import EVENT, TRAIL, counting_clock

from checkrein.auditgate import (
    AuditError,
    AuditPolicy,
    Engine,
    FileStore,
    IntegrityMode,
    QueryFilter,
    Trail,
    files,
    verify_chain,
)
from checkrein.auditgate.cli import main
from checkrein.auditgate.files import LogMismatchError

CHAIN = AuditPolicy(integrity=IntegrityMode.CHAIN)
OTHER = Trail("odd:name", "s@x", "p")


def record(store: FileStore, count: int = 4, trail: Trail = TRAIL, **extra: Any) -> None:
    engine = Engine(store=store, clock=counting_clock())
    engine.register(trail, CHAIN)
    for number in range(count):
        engine.record(trail, **EVENT, detail={"n": number, "t": (1, "é")}, **extra)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the path of a log with four entries of one trail and two of another, closed."""
    path = tmp_path / "audit.jsonl"
    store = FileStore(path)
    record(store)
    record(store, 2, OTHER)
    store.close()
    return path


def test_what_is_written_verifies_strictly(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(log), "--strict"]) == 0
    assert capsys.readouterr().out == (
        "Trail: t:s@global (4 entries)\n  VALID — all hashes verified\n"
        "Trail: odd:name:s@x@p (2 entries)\n  VALID — all hashes verified\n"
        "Head: VALID — 6 entries\n\nRESULT: VALID (6 entries verified)\n"
    )
    assert log.stat().st_mode & 0o077 == 0


def test_a_reopened_log_continues(log: Path) -> None:
    store = FileStore(log)
    record(store, 1, OTHER)
    # The clock began anew, as a monotonic one does at boot; the sequence did not.
    entries = sorted(store.query(QueryFilter(trail=OTHER)), key=lambda entry: entry.sequence)
    assert [entry.sequence for entry in entries] == [0, 1, 2]
    assert verify_chain(entries) == (True, None)
    assert store.count(TRAIL) == 4
    store.close()
    assert main(["verify", str(log), "--strict"]) == 0


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def write_lines(log: Path, entries: list[dict[str, Any]]) -> None:
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


TAMPERINGS: dict[str, Any] = {
    "tail cut": lambda entries: entries[:-1],
    "head cut": lambda entries: entries[1:],
    "middle removed": lambda entries: entries[:1] + entries[2:],
    "order changed": lambda entries: [entries[1], entries[0], *entries[2:]],
    "wall clock edited": lambda entries: [entries[0] | {"wall_ts": "1999"}, *entries[1:]],
    "author edited": lambda entries: [entries[0] | {"recorded_by": "eve"}, *entries[1:]],
    "verdict edited": lambda entries: [entries[0] | {"verdict": "BLOCK"}, *entries[1:]],
    "hashes stripped": lambda entries: [entry | {"entry_hash": None, "prev_hash": None} for entry in entries],
    "replaced by {}": lambda entries: [{} for _ in entries],
    "emptied": lambda entries: [],
    "one twice": lambda entries: [*entries, entries[-1]],
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_shows(log: Path, name: str) -> None:
    write_lines(log, TAMPERINGS[name](lines_of(log)))
    assert main(["verify", str(log), "--strict"]) == 1
    if name != "one twice":
        assert main(["verify", str(log)]) == 1
    with pytest.raises(LogMismatchError):
        FileStore(log)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_shows_in_an_array_with_a_head_kept_elsewhere(log: Path, tmp_path: Path, name: str) -> None:
    array, head = tmp_path / "export.json", tmp_path / "kept.head"
    (log.parent / "audit.jsonl.head").rename(head)
    array.write_text(json.dumps(lines_of(log)))
    assert main(["verify", str(array), "--strict", "--head", str(head)]) == 0
    array.write_text(json.dumps(TAMPERINGS[name](lines_of(log))))
    assert main(["verify", str(array), "--strict", "--head", str(head)]) == 1


def test_a_torn_line_is_cut_and_a_line_the_head_missed_is_kept(log: Path) -> None:
    head = (log.parent / "audit.jsonl.head").read_bytes()
    store = FileStore(log)
    record(store, 1)
    store.close()
    whole = log.read_bytes()
    (log.parent / "audit.jsonl.head").write_bytes(head)  # the crash came before the new head
    log.write_bytes(whole + b'{"torn":')
    store = FileStore(log)
    assert store.count(TRAIL) == 5
    store.close()
    assert log.read_bytes() == whole
    assert main(["verify", str(log), "--strict"]) == 0


def test_a_log_without_a_head_is_taken_over_only_on_request(log: Path) -> None:
    (log.parent / "audit.jsonl.head").unlink()
    with pytest.raises(LogMismatchError, match="adopt=True"):
        FileStore(log)
    FileStore(log, adopt=True).close()
    assert main(["verify", str(log), "--strict"]) == 0


def test_one_process_at_a_time(log: Path) -> None:
    store = FileStore(log)
    with pytest.raises(LogMismatchError, match="in use"):
        FileStore(log)
    child = f"from checkrein.auditgate import FileStore\nFileStore({str(log)!r})"
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)
    assert "LogMismatchError" in done.stderr
    store.close()
    with pytest.raises(AuditError, match="is closed"):
        record(store, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_not_write(log: Path) -> None:
    store = FileStore(log)
    child = os.fork()
    if child == 0:
        try:
            record(store, 1)
        except AuditError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    store.close()


def test_clear_and_compact_rewrite_the_file(log: Path) -> None:
    store = FileStore(log)
    store.prune(TRAIL, 3.0)
    assert len(lines_of(log)) == 6
    store.compact()
    assert sorted((entry["trail"], entry["sequence"]) for entry in lines_of(log)) == [
        (str(OTHER), 0),
        (str(OTHER), 1),
        (str(TRAIL), 2),
        (str(TRAIL), 3),
    ]
    store.clear(OTHER)
    assert {entry["trail"] for entry in lines_of(log)} == {str(TRAIL)}
    store.close()
    assert main(["verify", str(log), "--strict"]) == 0
    store = FileStore(log)
    store.clear_all()
    store.close()
    assert log.read_bytes() == b""
    assert main(["verify", str(log)]) == 0


def test_a_detail_that_would_not_survive_json_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "log", fsync=False)
    engine = Engine(store=store)
    with pytest.raises(AuditError, match="Store append failed: the entry's hash would not survive JSON"):
        engine.record(TRAIL, **EVENT, detail={9: 1, 10: 2})
    with pytest.raises(AuditError, match="Store append failed"):
        engine.record(TRAIL, **EVENT, detail={"n": {9: 1, 10: 2}})
    assert store.count(TRAIL) == 0
    assert engine.record(TRAIL, **EVENT, detail={"9": 1}).recorded
    store.close()


def test_a_full_disk_leaves_no_half_line(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(log)
    before = log.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AuditError, match="No space left on device"):
        record(store, 1)
    monkeypatch.undo()
    assert log.read_bytes() == before
    record(store, 1)
    assert store.count(TRAIL) == 5
    store.close()
    assert main(["verify", str(log), "--strict"]) == 0


async def test_the_asynchronous_engine_writes_to_the_same_file(log: Path) -> None:
    store = FileStore(log)
    engine = Engine(store=store)
    engine.register(TRAIL, CHAIN)
    await engine.async_record(TRAIL, **EVENT)
    engine.record(TRAIL, **EVENT)
    store.close()
    assert [entry["sequence"] for entry in lines_of(log)[6:]] == [4, 5]
    assert main(["verify", str(log), "--strict"]) == 0


def test_an_entry_whose_head_cannot_be_written_does_not_stand_in_the_log(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.read_bytes()
    failures = [OSError(errno.ENOSPC, "no space left")]
    really = files.write_durably

    def write(*args: Any, **kwargs: Any) -> None:
        really(*args, **kwargs)
        if failures:
            raise failures.pop()

    with_head = FileStore(log)
    monkeypatch.setattr(files, "write_durably", write)
    engine = Engine(store=with_head, clock=counting_clock())
    engine.register(TRAIL, CHAIN)
    with pytest.raises(AuditError, match="no space left"):
        engine.record(TRAIL, **EVENT)
    assert log.read_bytes() == before
    recorded = engine.record(TRAIL, **EVENT)
    assert recorded.recorded
    with_head.close()
    again = FileStore(log)
    sequences = [entry.sequence for entry in again.query(QueryFilter(trail=TRAIL))]
    assert sorted(sequences) == list(range(len(sequences)))
    again.close()
