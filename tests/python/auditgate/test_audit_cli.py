"""`python -m checkrein.auditgate verify`: the contract's output and exit codes, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audit_kit import EVENT, TRAIL, engine_with

from checkrein.auditgate import AuditEntry, IntegrityMode, QueryFilter, Verdict
from checkrein.auditgate.cli import _verify_log, main


def log_of(integrity: IntegrityMode, count: int = 4) -> list[AuditEntry]:
    engine = engine_with(integrity)
    for number in range(count):
        engine.record(TRAIL, **EVENT, detail={"n": number})
    return list(engine._store.query(QueryFilter()))


CHAINED, HASHED, PLAIN = (
    log_of(mode) for mode in (IntegrityMode.CHAIN, IntegrityMode.HASH, IntegrityMode.NONE)
)
VALID = "  VALID — all hashes verified"
FOUR, THREE = "Trail: t:s@global (4 entries)", "Trail: t:s@global (3 entries)"


@pytest.mark.parametrize(
    ("log", "valid", "messages"),
    [
        (CHAINED, True, [FOUR, VALID]),
        (CHAINED[::-1], True, [FOUR, VALID]),
        (CHAINED[1:], True, [THREE, VALID]),
        (PLAIN, True, [FOUR, VALID]),
        (
            CHAINED[:1] + CHAINED[2:],
            False,
            [THREE, "  [2] FAIL — chain break (prev_hash does not match entry [0])"],
        ),
        (HASHED[:1] + HASHED[2:], True, [THREE, "  [2] WARN — sequence gap (expected 1)", VALID]),
        (
            [CHAINED[0], replace(CHAINED[1], verdict=Verdict.BLOCK), *CHAINED[2:]],
            False,
            [FOUR, "  [1] FAIL — hash mismatch"],
        ),
        (
            [CHAINED[0], replace(CHAINED[1], entry_hash=None), *CHAINED[2:]],
            False,
            [FOUR, "  [2] FAIL — chain break (prev_hash does not match entry [1])"],
        ),
        ([], True, ["Empty log — nothing to verify."]),
    ],
)
def test_findings(log: list[AuditEntry], valid: bool, messages: list[str]) -> None:
    assert _verify_log([entry.to_dict() for entry in log]) == (valid, messages)


def test_verbose() -> None:
    tampered = [HASHED[0], replace(HASHED[1], entry_hash="0" * 64), replace(PLAIN[2])]
    valid, messages = _verify_log([entry.to_dict() for entry in tampered], verbose=True)
    assert not valid
    assert messages == [
        THREE,
        f"  [0] OK — ALLOW hash:{(HASHED[0].entry_hash or '')[:12]}...",
        "  [1] FAIL — hash mismatch",
        f"         expected: {HASHED[1].entry_hash}",
        f"         got:      {'0' * 64}",
        "  [2] SKIP — no hash (integrity=NONE)",
    ]


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "checkrein.auditgate", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps([entry.to_dict() for entry in CHAINED]))
    assert run("verify", str(path)) == (0, f"{FOUR}\n{VALID}\n\nRESULT: VALID (4 entries verified)\n", "")
    code, out, _ = run("verify", str(path), "--json")
    assert (code, json.loads(out)) == (
        0,
        {"valid": True, "entries": 4, "trails": 1, "messages": [FOUR, VALID]},
    )
    path.write_text(json.dumps(replace(CHAINED[0], reason="x").to_dict()))
    code, out, _ = run("verify", str(path))
    assert code == 1
    assert out.endswith("\n\nRESULT: INVALID (chain integrity broken)\n")
    assert run()[0] == 0
    assert run("verify")[0] == run("bogus")[0] == 2


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"{", "invalid JSON: Expecting property name"),
        (b"", "invalid JSON: Expecting value"),
        (b"null", "expected a JSON array of entries or a single entry object"),
        (b"[1]", "entry 0 is not an object"),
        (b"[{}, null]", "entry 1 is not an object"),
        (b"[\xff]", "not UTF-8 text"),
        (b"[" * 100_000, "invalid JSON: maximum recursion"),
        (b'[{"sequence":' + b"1" * 5000 + b"}]", "invalid JSON: Exceeds the limit"),
        (b'{"a":1}\n{"b"', "(line 2 of the file)"),
        (b"{}\n7\n", "entry 1 is not an object"),
    ],
)
def test_unreadable_files(
    tmp_path: Path, content: bytes, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    assert main(["verify", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert error in said.err


def test_missing_files_and_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "no")]) == 1
    assert capsys.readouterr().err == f"Error: file not found: {tmp_path / 'no'}\n"
    assert main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"Error: is a directory: {tmp_path}\n"
    (tmp_path / "log").write_text("[]")
    assert main(["verify", str(tmp_path / "log"), "--head", str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().err == f"Error: file not found: {tmp_path / 'gone'}\n"


@pytest.mark.parametrize(
    "entry",
    [
        {"sequence": "1", "entry_hash": "x"},
        {"sequence": None, "trail": [1], "entry_hash": 5},
        {"detail": {"x": [[]] * 3}, "entry_hash": "x", "verdict": []},
    ],
)
def test_odd_entries_are_findings(entry: dict[str, Any]) -> None:
    valid, messages = _verify_log([entry, {"sequence": 2}])
    assert not valid
    assert any("hash mismatch" in message for message in messages)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(entry.to_dict()) for entry in CHAINED) + "\n\n")
    assert main(["verify", str(path)]) == 0


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ([{}], "has no hash"),
        ([entry.to_dict() | {"entry_hash": None} for entry in HASHED], "has no hash"),
        ([entry.to_dict() for entry in CHAINED[1:]], "begins at 1 instead of 0"),
        ([entry.to_dict() for entry in HASHED[:1] + HASHED[2:]], "does not follow [0]"),
        ([entry.to_dict() for entry in CHAINED[:2] + HASHED[2:]], "begins a new chain"),
        ([entry.to_dict() for entry in CHAINED], "no head file"),
        ([], "no head file"),
    ],
)
def test_strict(tmp_path: Path, entries: list[Any], finding: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(entries))
    assert main(["verify", str(path)]) == 0
    assert "Strict" not in capsys.readouterr().out
    assert main(["verify", str(path), "--strict"]) == 1
    assert finding in capsys.readouterr().out


def test_a_damaged_head_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("[]")
    for text in ("{}", "[", "7", '{"format": "checkrein-audit-head/1", "entries": -1}'):
        (tmp_path / "log.json.head").write_text(text)
        assert main(["verify", str(path)]) == 1
