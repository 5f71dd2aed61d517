"""The ledgers of hosts that share a Redis server, from guarded calls to the verdict over all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server, fresh_prefix

import checkrein

sys.path.insert(0, str(Path(__file__).parent))

import verifier
from test_verifier import command, rust

HOST = """
import sys

import checkrein

engine = checkrein.Engine(store=sys.argv[1], prefix=sys.argv[2], ledger=sys.argv[3], deadline="20s")

@engine.guard(name="refund", rate="4/hour", budget="100 usd", cost="2 usd")
def refund(amount: int) -> int:
    return amount

allowed = 0
for amount in range(5):
    try:
        refund(amount)
        allowed += 1
    except checkrein.Denied:
        pass
print(allowed)
"""


def host(server: Server, prefix: str, path: Path) -> int:
    """One host's process, from its start to its end; how many calls it was allowed."""
    arguments = [sys.executable, "-c", HOST, server.url, prefix, str(path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def export(path: Path) -> Path:
    """What is sealed of a ledger, and everything else sealed first."""
    file = path.with_suffix(".jsonl")
    done = subprocess.run(
        [command(), "ledger", "export", "--store", f"sqlite:{path}", "-o", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return file


def compared(*paths: Path) -> dict[str, Any]:
    """What the command says of several ledgers."""
    keys = [word for path in paths for word in ("--key", f"{path}.pub")]
    done = subprocess.run(
        [command(), "ledger", "verify", *paths, *keys, "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_two_hosts_share_a_limit_and_keep_a_ledger_each(redis_server: Server, tmp_path: Path) -> None:
    one, two, prefix = tmp_path / "a.db", tmp_path / "b.db", fresh_prefix("ledgers")
    assert (host(redis_server, prefix, one), host(redis_server, prefix, two)) == (4, 0)
    # What a process left in its outbox, the next one of its host takes out.
    assert host(redis_server, prefix, one) == 0
    files = [export(one), export(two)]
    for path, file in zip((one, two), files, strict=True):
        key = Path(f"{path}.pub")
        said = rust(file, key)
        found = verifier.verify(file.read_bytes(), verifier.Key(key.read_text()))
        assert found.valid, found
        assert said["valid"], said
        assert found.entries == said["entries"]
    answer = compared(one, two)
    assert answer["valid"], answer
    together = answer["together"]
    assert len(set(together["hosts"])) == 2
    # Four calls, each with an intent and an outcome.
    assert (together["entries"], together["intents_without_outcome"]) == (8, 0)
    entries = [json.loads(line) for line in files[0].read_text().splitlines()]
    shared = [entry for entry in entries if "outbox" in entry]
    assert {entry["version"] for entry in shared} == {2}
    assert [entry["outbox"]["number"] for entry in shared] == list(range(8))
    kinds = [entry.get("kind") for entry in entries]
    assert (kinds.count("intent"), kinds.count("outcome")) == (4, 4)
    assert kinds.count("refusal") >= 1


def test_what_belongs_to_a_ledger_needs_one(redis_server: Server, tmp_path: Path) -> None:
    with pytest.raises(checkrein.ConfigError, match="keeps no ledger unless") as raised:
        checkrein.Engine(store=redis_server.url, ledger_arguments="full")
    assert "ledger=" in (raised.value.hint or "")
    with pytest.raises(checkrein.StoreError):
        checkrein.Engine(store=redis_server.url, ledger=tmp_path / "missing" / "a.db")
