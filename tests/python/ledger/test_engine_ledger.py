"""The ledger of an engine's store, from the guarded call to the verdict of two verifiers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import checkrein

sys.path.insert(0, str(Path(__file__).parent))

import verifier
from test_verifier import command, rust


def run(*arguments: object) -> str:
    """Run the command and return what it prints."""
    done = subprocess.run([command(), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store after a few guarded calls, allowed and refused."""
    path = tmp_path / "store.db"
    engine = checkrein.Engine(store=f"sqlite:{path}")

    @engine.guard(rate="3/hour", rules=lambda amount: amount > 0)
    def refund(amount: int) -> int:
        return amount

    for amount in (1, 2, 3, 4, 0):
        try:
            refund(amount)
        except checkrein.Denied:
            continue
    # The command seals what this engine's own sealer has not come to yet.
    return path


def test_an_export_of_an_engine_is_verified_by_both(store: Path, tmp_path: Path) -> None:
    file, key = tmp_path / "export.jsonl", Path(f"{store}.pub")
    run("ledger", "export", "--store", f"sqlite:{store}", "-o", file)
    said = rust(file, key)
    found = verifier.verify(file.read_bytes(), verifier.Key(key.read_text()))
    assert said["valid"], said
    assert found == verifier.Verdict(True, said["entries"], None, None)
    kinds = [json.loads(line).get("kind") for line in file.read_text().splitlines()]
    assert kinds.count("intent") == 3
    assert kinds.count("refusal") >= 1


def test_the_auditgate_export_is_accepted_by_its_verifier(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    run("ledger", "export", "--store", f"sqlite:{store}", "-o", file, "--format", "auditgate")
    arguments = [sys.executable, "-m", "checkrein.auditgate", "verify", str(file), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, answer["valid"]) == (0, True), answer
    entries = json.loads(file.read_text())
    assert answer["entries"] == len(entries) > 3
    entries[1]["detail"]["entry"] = entries[1]["detail"]["entry"].replace("refund", "refunds")
    entries[1]["verdict"] = "OVERRIDE"
    file.write_text(json.dumps(entries))
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 1


def test_tail_and_show_print_what_happened(store: Path) -> None:
    lines = run("ledger", "tail", "--store", f"sqlite:{store}", "--output", "jsonl").splitlines()
    entries = [json.loads(line) for line in lines]
    refusal = next(entry for entry in entries if entry["kind"] == "refusal")
    shown = run("ledger", "show", refusal["seq"], "--store", f"sqlite:{store}")
    assert refusal["reasons"][0]["code"] in shown
    assert "refund" in run("ledger", "tail", "--store", f"sqlite:{store}")
