"""Budgets whose limit somebody changes while the program runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein.testing import FakeClock, assert_denied


def test_a_changed_limit_counts_from_the_next_decision_on(engine: checkrein.Engine, clock: FakeClock) -> None:
    @engine.guard(budget=checkrein.Budget("5 usd", window="1h", name="team", key="user"), cost="2 usd")
    def act(user: str) -> None: ...

    act("ann"), act("ann")
    assert_denied(act, "ann", code="budget_exceeded")
    changed = engine.adjust_budget("team", "ann", add="1 usd", by="kim", note="one more")
    assert changed == checkrein.Adjusted("team", "usd", "5", "6", "4", "0", clock.now() + 3_600)
    act("ann")
    detail = assert_denied(act, "ann", code="budget_exceeded").reasons[0].detail
    assert detail == {"spent": "6", "held": "0", "requested": "2", "limit": "6", "unit": "usd"}
    (record,) = [row for row in engine.list() if row["gate"] == "team"]
    assert (record["limit_set"], record["top_ups"]) == (None, [("1", clock.now() + 3_600)])
    # Nobody else's limit was changed, and the top-up ends.
    act("bob"), act("bob")
    assert_denied(act, "bob", code="budget_exceeded")
    clock.advance(3_601)
    act("ann"), act("ann")
    assert_denied(act, "ann", code="budget_exceeded")


def test_a_limit_is_set_lowered_and_cleared(engine: checkrein.Engine) -> None:
    @engine.guard(budget=checkrein.Budget("5 usd", name="all"), cost="2 usd")
    def act() -> None: ...

    act()
    assert engine.adjust_budget("all", limit="1 usd", by="kim").after == "1"
    assert_denied(act, code="budget_exceeded")
    assert engine.list()[0]["forced"] == "1"
    assert engine.reset("all") == 1
    assert engine.list()[0]["limit_set"] == "1"
    assert_denied(act, code="budget_exceeded")
    cleared = engine.adjust_budget("all", clear=True, by="kim")
    assert (cleared.unit, cleared.before, cleared.after) == ("usd", "1", "5")
    act()


@pytest.mark.parametrize(
    ("lasts", "seconds"),
    [
        ({}, None),
        ({"lasts": "ever"}, None),
        ({"lasts": "2d"}, 172_800),
        ({"lasts": timedelta(hours=1)}, 3_600),
        ({"until": 1_000_000_060}, 60),
        ({"until": datetime.fromtimestamp(1_000_000_090, UTC)}, 90),
    ],
)
def test_how_long_a_top_up_counts(lasts: dict[str, Any], seconds: float | None) -> None:
    engine = checkrein.Engine(clock=FakeClock())
    engine.budget("5 usd", name="all")
    changed = engine.adjust_budget("all", add="1 usd", by="kim", **lasts)
    assert changed.until == (None if seconds is None else 1_000_000_000 + seconds)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"name": "nope", "add": "1 usd"}, "unknown_budget"),
        ({"add": "1 tokens"}, "wrong_unit"),
        ({"add": "-1 usd"}, "amount"),
        ({"add": "1"}, "amount"),
        ({"add": 1.0}, "adjust"),
        ({"add": "0 usd"}, "invalid_amount"),
        ({"limit": "99999999999999999999999999 usd", "add": None}, None),
        ({"add": "99999999999999999999999999999 usd"}, "amount"),
        ({}, "adjust"),
        ({"add": "1 usd", "limit": "1 usd"}, "adjust"),
        ({"limit": "1 usd", "lasts": "1d"}, "adjust"),
        ({"add": "1 usd", "lasts": "1d", "until": 2e9}, "adjust"),
        ({"add": "1 usd", "lasts": "soon"}, "duration"),
        ({"add": "1 usd", "lasts": 0}, "invalid_time"),
        ({"add": "1 usd", "until": 5}, "invalid_time"),
        ({"add": "1 usd", "until": float("nan")}, "adjust"),
        ({"add": "1 usd", "until": datetime(2030, 1, 1)}, "adjust"),
        ({"add": "1 usd", "by": ""}, "missing_by"),
        ({"add": "1 usd", "by": None}, "adjust"),
        ({"add": "1 usd", "by": "b" * 201}, "too_large"),
        ({"add": "1 usd", "note": "n" * 1_001}, "too_large"),
        ({"add": "1 usd", "key": "ann"}, "key"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_code(
    engine: checkrein.Engine, arguments: dict[str, Any], code: str | None
) -> None:
    @engine.guard(budget=checkrein.Budget("5 usd", name="all"), cost="2 usd")
    def act() -> None: ...

    asked = {"name": "all", "by": "kim", **arguments}
    if code is None:
        engine.adjust_budget(**asked)
        return
    with pytest.raises(checkrein.ConfigError) as error:
        engine.adjust_budget(**asked)
    assert error.value.code == code
    assert "hint" in str(error.value)
    assert engine.list() == []


def test_budgets_of_a_policy_file_are_changed_and_stay_so(tmp_path: Path) -> None:
    path = tmp_path / "checkrein.toml"

    def write(limit: str) -> None:
        path.write_text(
            f"version = 1\n[budgets.team]\nlimit = '{limit}'\n[budgets.agent]\nkey = 'action.user'\nlimit = '5 usd'\n"
            "[tools.pay]\nbudgets = [{ name = 'team', cost = '1 usd' }]\n"
        )

    write("1 usd")
    engine = checkrein.Engine.from_policy(path)

    @engine.guard(name="pay")
    def pay() -> None: ...

    assert engine.adjust_budget("team", add="1 usd", by="kim").after == "2"
    pay(), pay()
    assert_denied(pay, code="budget_exceeded")
    write("2 usd")
    engine.reload()
    pay()
    assert_denied(pay, code="budget_exceeded")
    for arguments in ({"name": "agent"}, {"name": "team", "key": "ann"}):
        with pytest.raises(checkrein.ConfigError) as error:
            engine.adjust_budget(**arguments, add="1 usd", by="kim")  # type: ignore[arg-type]
        assert error.value.code == "key"


def test_the_ledger_says_who_did_it_and_a_new_program_goes_by_it(tmp_path: Path) -> None:
    def start() -> tuple[checkrein.Engine, Any]:
        engine = checkrein.Engine(f"sqlite:{tmp_path}/store.db")

        @engine.guard(name="act", budget=checkrein.Budget("5 usd", name="all"), cost="2 usd")
        def act() -> None: ...

        return engine, act

    engine, act = start()
    engine.adjust_budget("all", limit="2 usd", by="kim \x1b", note="“slow down”")
    act()
    del engine, act
    _engine, act = start()
    assert_denied(act, code="budget_exceeded")
    entries = [json.loads(entry) for entry in _entries(tmp_path / "store.db")]
    (fields,) = [entry["fields"] for entry in entries if entry.get("event") == "adjusted"]
    assert fields == {
        "gate": "budget:all", "key": "", "tenant": "", "change": "set", "amount": "2", "before": "5", "after": "2",
        "unit": "usd", "by": "kim \x1b", "note": "“slow down”",
    }  # fmt: skip


def _entries(path: Path) -> list[str]:
    import sqlite3

    with sqlite3.connect(path) as file:
        return [body.decode() for (body,) in file.execute("SELECT body FROM entry ORDER BY key")]
