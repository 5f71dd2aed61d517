"""The reader of audit logs on bytes near a log: a verdict or one line of complaint, never a traceback."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from checkrein.auditgate import cli
from checkrein.auditgate.core import compute_hash

RUNS = 500
TOKENS = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"null",
    b"NaN",
    b"1e400",
    b"\xff",
    b"\\ud800",
    b"\n",
    b"9" * 5000,
]


def _log() -> bytes:
    entries, previous = [], None
    for sequence in range(4):
        entry = {
            "schema_version": "0.1.1",
            "trail": "t:s@global",
            "ts": 1.5,
            "wall_ts": "",
            "verdict": "ALLOW",
            "severity": "INFO",
            "gate_type": "g",
            "gate_identity": "i",
            "recorded_by": "",
            "reason": None,
            "detail": {"a": [1, "ü"]},
            "prev_hash": previous,
            "sequence": sequence,
        }
        entry["entry_hash"] = previous = compute_hash(entry, previous)
        entries.append(entry)
    return json.dumps(entries).encode()


def _mutated(chosen: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(chosen.choice(seeds))
    for _ in range(chosen.randint(1, 4)):
        place = chosen.randint(0, len(data))
        match chosen.randrange(5):
            case 0:
                del data[place:]
            case 1:
                data[place:place] = chosen.choice(TOKENS)
            case 2:
                data[place:] = chosen.choice(seeds)[chosen.randint(0, 200) :]
            case 3:
                data[place:place] = data[place : place + chosen.randint(0, 40)]
            case _ if place < len(data):
                data[place] ^= 1 << chosen.randrange(8)
            case _:
                data += bytes([chosen.randrange(256)])
    return bytes(data)


def test_no_log_makes_the_reader_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = _log()
    lines = b"\n".join(json.dumps(entry).encode() for entry in json.loads(log))
    seeds, file, chosen = [log, lines, b"[]", b"{}", b"[" * 2000], tmp_path / "log", random.Random(11)
    file.write_bytes(log)
    assert cli.main(["verify", str(file)]) == 0
    verdicts = {0: 0, 1: 0}
    for number in range(RUNS):
        data = _mutated(chosen, seeds)
        file.write_bytes(data)
        strict = ["--strict"] if number % 2 else []
        # An exception would end the test with the bytes that caused it.
        verdicts[cli.main(["verify", str(file), *strict])] += 1
        said = capsys.readouterr()
        assert said.out or said.err, data
    assert verdicts[1] > RUNS // 2
