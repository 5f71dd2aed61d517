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


WORK = """
import sys
import checkrein

engine = checkrein.Engine(store=sys.argv[1])

@engine.guard(rate="100000/hour", name="work")
def work(number):
    return number

for number in range(150):
    work(number)
"""


def test_exports_while_several_processes_write(tmp_path: Path) -> None:
    store, file = tmp_path / "store.db", tmp_path / "export.jsonl"
    url, key = f"sqlite:{store}", Path(f"{store}.pub")
    workers = [subprocess.Popen([sys.executable, "-P", "-c", WORK, url]) for _ in range(3)]
    older: list[str] = []
    while any(worker.poll() is None for worker in workers):
        done = subprocess.run(
            [command(), "ledger", "export", "--store", url, "-o", file], capture_output=True
        )
        if done.returncode == 0:
            more = ["--against", str(tmp_path / "older")] if older else []
            said = rust(file, key, *more)
            assert said["valid"], said
            older = [run("ledger", "checkpoint", "--newest", "--store", url)]
            (tmp_path / "older").write_text(older[0])
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    run("ledger", "export", "--store", url, "-o", file)
    found = verifier.verify(file.read_bytes(), verifier.Key(key.read_text()), older[0] if older else None)
    assert found.valid, found
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    intents = {entry["seq"] for entry in entries if entry.get("kind") == "intent"}
    ended = {entry["intent"] for entry in entries if entry.get("outcome") == "done"}
    assert len(intents) == 450
    assert ended == intents


def test_entries_name_the_policy_file_that_decided(tmp_path: Path) -> None:
    policy, path, file = tmp_path / "checkrein.toml", tmp_path / "store.db", tmp_path / "export.jsonl"
    policy.write_text("version = 1\n[tools.a]\nrules = ['args.n > 0']\n")
    engine = checkrein.Engine.from_policy(policy, store=f"sqlite:{path}", ledger_arguments="full")
    for name, number in (("a", 1), ("a", 0), ("nobody", 0)):
        try:
            engine.guard(name=name)(lambda n: n)(number)
        except checkrein.Denied:
            continue
    digest = engine.policy_digest
    run("ledger", "export", "--store", f"sqlite:{path}", "-o", file)
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    decisions = [entry for entry in entries if entry.get("kind") in ("intent", "refusal")]
    codes = [[reason["code"] for reason in entry.get("reasons", [])] for entry in decisions]
    assert codes == [[], ["rule_violated"], ["unknown_tool"]]
    # Calls that no gate of the file let pass are in it with their arguments too.
    assert [entry["arguments"]["value"] for entry in decisions] == [{"n": 1}, {"n": 0}, {"n": 0}]
    texts = {
        entry["fields"]["digest"]: entry["fields"]["text"]
        for entry in entries
        if entry.get("event") == "policy"
    }
    for entry in decisions:
        assert f"checkrein.toml sha256:{digest}\n" in texts[entry["policy"]]
