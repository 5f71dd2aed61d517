"""What the Python door tells the ledger: who acts, with which arguments, and how it ended."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import checkrein


def entries(file: Path) -> list[dict[str, Any]]:
    """The bodies of all entries, in order."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return [json.loads(body) for (body,) in connection.execute("SELECT body FROM entry ORDER BY key")]
    finally:
        connection.close()


def flat(value: object) -> str:
    """Everything in an entry as one text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a store."""
    return tmp_path / "store.db"


def run(file: Path, **options: Any) -> list[dict[str, Any]]:
    """Make a few calls; returns the entries about calls."""
    engine = checkrein.Engine(store=f"sqlite:{file}", **options)

    @engine.guard(name="pay", once="key", rules="amount < 100")
    def pay(key: str, amount: int, note: str = "") -> str:
        return "paid"

    class Shop:
        @engine.guard(name="ask", rate="5/h")
        def ask(self, question: str, client: object) -> str:
            return "42"

    with checkrein.acting(user="ada", run="run-1"), checkrein.acting(agent="support", user="bob"):
        pay("p1", 5, note="s3cret")
        Shop().ask("why?", object())
    pay("p1", 5, note="s3cret")
    with pytest.raises(checkrein.RuleViolated):
        pay("p2", 500)
    return [entry for entry in entries(file) if "pay" in flat(entry) or "ask" in flat(entry)]


def test_the_ledger_says_who_did_what(file: Path) -> None:
    told = run(file, ledger_arguments="full")
    intent = next(entry for entry in told if '"p1"' in flat(entry))
    text = flat(intent)
    for part in ('"python"', '"pay"', '"bob"', '"support"', '"run-1"', '"s3cret"'):
        assert part in text, text
    assert '"ada"' not in text
    question = next(flat(entry) for entry in told if '"why?"' in flat(entry))
    # What has no canonical form, and the object itself, are left out; everything else is there.
    assert "client" not in question
    assert "self" not in question
    refusal = next(flat(entry) for entry in told if "rule_violated" in flat(entry))
    assert "500" in refusal
    assert "bob" not in refusal


@pytest.mark.parametrize("keep", ["digest", "none", None])
def test_arguments_stay_out_of_the_ledger(file: Path, keep: str | None) -> None:
    told = flat(run(file, **({} if keep is None else {"ledger_arguments": keep})))
    assert "s3cret" not in told
    assert "why?" not in told
    gc.collect()
    assert b"s3cret" not in file.read_bytes()


def test_outcomes_follow_their_intents(file: Path) -> None:
    engine = checkrein.Engine(store=f"sqlite:{file}")

    @engine.guard(name="act", once="key")
    def act(key: str, error: bool) -> str:
        if error:
            raise ConnectionResetError
        return "done"

    @engine.guard(name="later", once="key")
    async def later(key: str) -> str:
        return "done"

    @engine.guard(name="limited", rate="100/h")
    def limited(error: bool) -> int:
        if error:
            raise LookupError
        return 1

    @engine.guard(name="limited_later", rate="100/h")
    async def limited_later() -> int:
        return 1

    limited(False)
    with pytest.raises(LookupError):
        limited(True)
    assert asyncio.run(limited_later()) == 1
    act("a", False)
    with pytest.raises(ConnectionResetError):
        act("b", True)
    assert engine.resolve(act, "b", "failed")
    assert asyncio.run(later("c")) == "done"
    assert engine.unrecorded_outcomes == 0
    del act, later, limited, limited_later, engine
    gc.collect()
    told = entries(file)
    intents = [entry["seq"] for entry in told if entry["kind"] == "intent"]
    outcomes = [entry for entry in told if entry["kind"] == "outcome"]
    ended = {entry["intent"] for entry in outcomes}
    # Every intent has its outcome: also those of calls that only a rate counts, which nobody waits for.
    assert sorted(ended) == sorted(intents)
    assert len(intents) == 6
    words = [flat(entry) for entry in outcomes]
    assert sum("in_doubt" in word for word in words) == 1, words
    # What the one in doubt became is an outcome too.
    assert len(outcomes) == len(intents) + 1, words


def test_a_witness_gets_the_checkpoints_and_refuses_a_rollback(file: Path, tmp_path: Path) -> None:
    witness, key = tmp_path / "witness.txt", tmp_path / "keys" / "ledger.key"
    key.parent.mkdir()

    def call(times: int) -> None:
        engine = checkrein.Engine(store=f"sqlite:{file}", witness=str(witness), ledger_key=key)
        act = engine.guard(name="act", rate="1000/h")(lambda: 1)
        for _ in range(times):
            act()
        del act, engine
        gc.collect()

    call(3)
    assert key.stat().st_mode & 0o777 == 0o600
    assert witness.read_text().count("\n\n\u2014") >= 1
    old = {path: path.read_bytes() for path in tmp_path.glob("store.db*") if path.is_file()}
    call(3)
    for path in tmp_path.glob("store.db*"):
        if path.is_file():
            path.unlink()
    for path, content in old.items():
        path.write_bytes(content)
    with pytest.raises(checkrein.StoreError, match="witness"):
        checkrein.Engine(store=f"sqlite:{file}", witness=str(witness), ledger_key=key)


@pytest.mark.parametrize(
    "options",
    [{"ledger_arguments": "full"}, {"witness": "x"}, {"ledger_key": "x"}, {"ledger_arguments": "all"}],
)
def test_an_engine_in_memory_keeps_no_ledger(options: dict[str, Any]) -> None:
    with pytest.raises(checkrein.ConfigError) as refused:
        checkrein.Engine(**options)
    assert refused.value.code == "ledger"


async def test_who_acts_is_said_per_context() -> None:
    from checkrein.acting import actor

    async def act(user: str) -> None:
        with checkrein.acting(user=user):
            await asyncio.sleep(0)
            assert actor()[1] == user

    await asyncio.gather(*(act(f"u{number}") for number in range(5)))
    assert actor() == ("", "", "", "", "")
    with pytest.raises(checkrein.ConfigError), checkrein.acting(user=7):  # type: ignore[arg-type]
        pass
