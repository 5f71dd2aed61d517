"""The verifier on a terminal that knows ASCII only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from checkrein import auditgate


def test_a_plain_terminal_does_not_make_a_valid_log_invalid(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    store = auditgate.FileStore(log)
    engine = auditgate.Engine(store=store)
    trail = auditgate.Trail("ns", "sóurce")
    engine.record(
        trail,
        verdict=auditgate.Verdict.ALLOW,
        severity=auditgate.Severity.INFO,
        gate_type="rule",
        gate_identity="x",
    )
    store.close()
    verified = subprocess.run(
        [sys.executable, "-P", "-m", "checkrein.auditgate", "verify", "-v", str(log)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
    assert b"RESULT: VALID (1 entries verified)" in verified.stdout
    assert b"\\u2014" in verified.stdout, "the dash is escaped, not lost"
