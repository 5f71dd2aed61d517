"""`prove` and `enforce`: what a read has shown is a fact of its run, and nothing else is."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import json
import logging
import pickle
import re
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import BlockRegex, Prove, RequireFact, Threshold
from checkrein.testing import FakeClock

ORDERS = [{"id": "o1", "total": 5}, {"id": "o2", "total": 7}]


def shop(engine: checkrein.Engine, result: Any = ORDERS, **options: Any) -> tuple[Any, Any, list[Any]]:
    """A read that proves orders, and a tool that needs one."""
    refunded: list[Any] = []

    @engine.prove("order", options.pop("extract", "id"), **options)
    def read(customer: str = "") -> Any:
        return result

    @engine.enforce([RequireFact("order_id", "order", hint="call read first")])
    def refund(order_id: Any) -> Any:
        refunded.append(order_id)
        return order_id

    return read, refund, refunded


def test_only_what_was_read_in_the_run_can_be_used(engine: checkrein.Engine) -> None:
    read, refund, refunded = shop(engine)
    with checkrein.acting(run="r1"):
        with pytest.raises(checkrein.MissingFact) as refused:
            refund("o1")
        assert refused.value.code == "missing_fact"
        assert "call read first." in refused.value.to_prompt()
        assert "o1" not in refused.value.to_prompt()
        assert read() == ORDERS
        assert refund("o1") == "o1"
        assert refund(order_id="o2") == "o2"
        with pytest.raises(checkrein.MissingFact) as refused:
            refund(["o3", "o4"])
        assert len(refused.value.decision.reasons) == 2
        assert refused.value.to_prompt().count("call read first.") == 1
    for other in ({"run": "r2"}, {"session": "r1"}, {"run": "r"}):
        with checkrein.acting(**other), pytest.raises(checkrein.MissingFact):
            refund("o1")
    assert refunded == ["o1", "o2"]


def test_without_a_run_a_session_holds_facts(engine: checkrein.Engine) -> None:
    read, refund, _ = shop(engine)
    with checkrein.acting(session="s1"):
        read()
        refund("o1")
        # An agent that chooses the name of a session gets no further than its run.
        with checkrein.acting(run="r1"), pytest.raises(checkrein.MissingFact):
            refund("o1")


def test_outside_of_both_the_refusal_says_so(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    read, refund, _ = shop(engine)
    assert read() == ORDERS
    assert "in no run and no session" in caplog.text
    with pytest.raises(checkrein.InvalidAction, match="belong to a run or a session"):
        refund("o1")


def test_facts_end(engine: checkrein.Engine, clock: FakeClock) -> None:
    read, refund, _ = shop(engine, ttl=60)
    with checkrein.acting(run="r1"):
        read()
        clock.advance(59)
        refund("o1")
        read()
        clock.advance(59)
        refund("o1")
        clock.advance(2)
        with pytest.raises(checkrein.MissingFact):
            refund("o1")


@pytest.mark.parametrize(
    ("proved", "asked"),
    [
        (True, "True"),
        (True, 1),
        (1, "1"),
        (1, True),
        ("1", 1),
        ("a:b", "a"),
        ("A", "a"),
        ("é", "e\u0301"),
        (0, False),
        (2**63, -(2**63)),
    ],
)
def test_values_keep_their_types(engine: checkrein.Engine, proved: Any, asked: Any) -> None:
    read, refund, _ = shop(engine, {"id": proved})
    with checkrein.acting(run="r1"):
        read()
        refund(proved)
        with pytest.raises(checkrein.MissingFact):
            refund(asked)


def test_kinds_and_values_are_never_joined(engine: checkrein.Engine) -> None:
    read = engine.prove("a", "id")(lambda: {"id": "b:c"})
    needs = engine.enforce(RequireFact("x", "a:b"))(lambda x: x)
    with checkrein.acting(run="r"):
        read()
        with pytest.raises(checkrein.MissingFact):
            needs("c")


def test_tenants_share_no_facts(engine: checkrein.Engine) -> None:
    read = engine.prove("order", "id", tenant="who")(lambda who: ORDERS)
    refund = engine.enforce(RequireFact("order_id", "order"), tenant="who")(lambda who, order_id: order_id)
    with checkrein.acting(run="r"):
        read("acme")
        refund("acme", "o1")
        with pytest.raises(checkrein.MissingFact):
            refund("other", "o1")


def test_every_item_of_a_list_must_be_a_fact(engine: checkrein.Engine) -> None:
    read, refund, _ = shop(engine)
    with checkrein.acting(run="r"):
        read()
        for given in (["o1"], ["o2", "o1", "o1"], ("o1",), {"o1", "o2"}, []):
            assert refund(given) == given
        for given in (["o1", "o3"], ("o3",), frozenset({"o3"})):
            with pytest.raises(checkrein.MissingFact):
                refund(given)
        for given in ([["o1"]], {"id": "o1"}, ["o1", None], "", [""], b"o1", 1.5j):
            with pytest.raises(checkrein.InvalidAction):
                refund(given)
        with pytest.raises(checkrein.InvalidAction, match="at most 32"):
            refund([f"o{number}" for number in range(40)])


def test_several_needs_are_decided_together(engine: checkrein.Engine) -> None:
    read = engine.tool(proves={"order": "id", "total": "total"})(lambda: ORDERS)

    @engine.tool(facts={"orders": "order", "amount": "total"}, rate="1/min")
    def refund(orders: list[str], amount: int) -> int:
        return amount

    with checkrein.acting(run="r"):
        with pytest.raises(checkrein.MissingFact) as refused:
            refund(["o1", "o2"], 5)
        assert [reason.gate for reason in refused.value.decision.reasons] == ["order", "order", "total"]
        read()
        # Nothing was taken from the rate before.
        assert refund(["o1", "o2"], 5) == 5
        with pytest.raises(checkrein.RateLimited):
            refund(["o1"], 7)


@pytest.mark.parametrize("arg", ["order", "order_idd", "order_id.", "", "order id", 3])
def test_unknown_arguments_are_errors_at_decoration(engine: checkrein.Engine, arg: Any) -> None:
    for rule in (RequireFact(arg, "order"), Threshold(arg, 1), BlockRegex(arg, "x")):
        with pytest.raises(checkrein.ConfigError) as wrong:
            engine.enforce(rule)(lambda order_id: order_id)
        assert wrong.value.code == "unknown_argument"


def test_functions_with_keywords_of_any_name_are_checked_too(engine: checkrein.Engine) -> None:
    read, _, _ = shop(engine)

    @engine.enforce(
        [RequireFact("order_id", "order"), Threshold("amount", 10), BlockRegex("note", "(?i)drop")]
    )
    def refund_any(**kwargs: Any) -> Any:
        return kwargs

    with checkrein.acting(run="r"):
        read()
        good = {"order_id": "o1", "amount": 3, "note": "fine"}
        assert refund_any(**good) == good
        for change, error in (
            ({"order_id": "o9"}, checkrein.MissingFact),
            ({"amount": 11}, checkrein.RuleViolated),
            ({"note": "DROP it"}, checkrein.RuleViolated),
        ):
            with pytest.raises(error):
                refund_any(**{**good, **change})
        for name, error in (
            ("order_id", checkrein.MissingFact),
            ("amount", checkrein.RuleViolated),
            ("note", checkrein.RuleViolated),
        ):
            with pytest.raises(error):
                refund_any(**{other: value for other, value in good.items() if other != name})


def test_what_is_left_out_is_refused_unless_it_is_optional(engine: checkrein.Engine) -> None:
    strict = engine.enforce(RequireFact("order_id", "order"))(lambda order_id=None: order_id)
    rules = [RequireFact("a", "order", optional=True), Threshold("b", 1, optional=True)]
    loose = engine.enforce([*rules, BlockRegex("c", "x", optional=True)])(
        lambda a=None, b=None, c=None: "ran"
    )
    with checkrein.acting(run="r"):
        with pytest.raises(checkrein.MissingFact, match="was not given"):
            strict()
        assert loose() == "ran"
        with pytest.raises(checkrein.MissingFact):
            loose("o1")
        for options in ({"b": 2}, {"c": "x"}):
            with pytest.raises(checkrein.RuleViolated):
                loose(**options)


def test_paths_lead_into_arguments(engine: checkrein.Engine) -> None:
    read, _, _ = shop(engine)

    @engine.enforce(
        [RequireFact("order.id", "order"), Threshold("order.total", 6), BlockRegex("order.note", "x")]
    )
    def refund_order(order: dict[str, Any]) -> Any:
        return order["id"]

    with checkrein.acting(run="r"):
        read()
        assert refund_order({"id": "o1", "total": 5, "note": ""}) == "o1"
        for wrong in (
            {"id": "o1", "total": 7, "note": ""},
            {"id": "o1", "total": 5, "note": "x"},
            {"id": "o1"},
        ):
            with pytest.raises(checkrein.RuleViolated):
                refund_order(wrong)


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (10, True), (10.0, True), (Decimal("10"), True), (-5, True), (10.001, False), (Decimal("10.01"), False),
        (float("nan"), False), (Decimal("NaN"), False), (float("inf"), False), (float("-inf"), True),
        ("5", False), (True, False), (None, False), ([5], False), (Decimal("sNaN"), False),
    ],
)  # fmt: skip
def test_thresholds(engine: checkrein.Engine, value: Any, passes: bool) -> None:
    pay = engine.enforce(Threshold("amount", 10))(lambda amount: amount)
    if passes:
        assert pay(value) == value
    else:
        with pytest.raises(checkrein.RuleViolated) as refused:
            pay(value)
        assert "at most 10" in refused.value.to_prompt()


def test_thresholds_have_two_ends_and_are_read_strictly(engine: checkrein.Engine) -> None:
    pay = engine.enforce(Threshold("amount", max=10, min=Decimal("0.5")))(lambda amount: amount)
    assert pay(0.5) == 0.5
    with pytest.raises(checkrein.RuleViolated):
        pay(0)
    for bounds in ({}, {"max": "10"}, {"max": float("nan")}, {"max": True}, {"min": float("inf")}):
        with pytest.raises(checkrein.ConfigError):
            Threshold("amount", **bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ("a plain text", True), ("rm -rf /", False), (["x", ["rm -rf y"]], False), ({"k": {"v": "rm -rf"}}, False),
        ({"rm -rf": 1}, False), (["x"], True), (7, True), (b"rm -rf", False),
    ],
)  # fmt: skip
def test_patterns(engine: checkrein.Engine, value: Any, passes: bool) -> None:
    for pattern in (r"rm\s+-rf", re.compile("RM -rf", re.IGNORECASE)):
        run = engine.enforce(BlockRegex("command", pattern))(lambda command: "ran")
        if passes:
            assert run(value) == "ran"
        else:
            with pytest.raises(checkrein.RuleViolated) as refused:
                run(value)
            assert "rm" not in refused.value.to_prompt()


@pytest.mark.parametrize("pattern", ["(", None, 3, b"x", re.compile(b"x")])
def test_patterns_are_read_strictly(pattern: Any) -> None:
    with pytest.raises(checkrein.ConfigError):
        BlockRegex("x", pattern)


def test_rules_of_ones_own(engine: checkrein.Engine) -> None:
    @dataclasses.dataclass
    class EndsWith(checkrein.ArgumentRule):
        arg: str
        suffix: str

        def passes(self, value: Any) -> bool:
            return bool(value.endswith(self.suffix))

    rules = [
        EndsWith("to", "@example.org"),
        lambda to, count: count < 3,
        checkrein.Rule("count > 0", "positive"),
    ]

    @engine.enforce(rules)
    def send(to: str, count: int = 1) -> str:
        return to

    assert send("ada@example.org") == "ada@example.org"
    for wrong in (("ada@example.com", 1), ("ada@example.org", 3), ("ada@example.org", 0), (5, 1)):
        with pytest.raises(checkrein.RuleViolated):
            send(*wrong)
    for rules in ([], [EndsWith], [5], [[RequireFact("to", "x")]]):  # type: ignore[assignment]
        with pytest.raises(checkrein.ConfigError):
            engine.enforce(rules)(send)  # type: ignore[arg-type]


Row = collections.namedtuple("Row", "id")


@dataclasses.dataclass
class Item:
    id: Any


@pytest.mark.parametrize(
    "result",
    [
        [{"id": "x"}], ({"id": "x"},), {"id": "x"}, Item("x"), Row("x"), [Row("x")], [Item("x")],
        collections.deque([{"id": "x"}]), {"k": Item("x")}.values(), json.dumps([{"id": "x"}]), json.dumps({"id": "x"}),
        {"id": ["x", "y"]},
    ],
    ids=repr,
)  # fmt: skip
def test_results_of_every_shape_prove(engine: checkrein.Engine, result: Any) -> None:
    read, refund, _ = shop(engine, result)
    with checkrein.acting(run="r"):
        assert read() is result
        assert refund("x") == "x"


def test_callables_get_the_whole_result(engine: checkrein.Engine) -> None:
    read, refund, _ = shop(
        engine, {"data": ORDERS}, extract=lambda result: [row["id"] for row in result["data"]]
    )
    with checkrein.acting(run="r"):
        read()
        refund(["o1", "o2"])


def test_sets_of_frozen_items_and_uuids(engine: checkrein.Engine) -> None:
    known = uuid.uuid4()
    read, refund, _ = shop(engine, {known}, extract=lambda result: result)
    with checkrein.acting(run="r"):
        read()
        refund(str(known))


def test_nothing_is_proved_by_nothing(engine: checkrein.Engine, caplog: pytest.LogCaptureFixture) -> None:
    for result in (None, [], {"id": None}, {"id": ""}, {"error": "not found"}, "not found", [None]):
        read, _, _ = shop(engine, result)
        with checkrein.acting(run="r"):
            assert read() == result
    assert engine.list("fact") == []
    assert "has no `id`" in caplog.text


@pytest.mark.parametrize(
    "value",
    [Decimal("1"), b"x", {"a": 1}, 1.5j, float("nan"), 2**64, object(), iter(["x"])],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_a_fact_is_an_error_that_carries_the_result(
    engine: checkrein.Engine, value: Any
) -> None:
    result = {"id": value}
    read, _, _ = shop(engine, result)
    with checkrein.acting(run="r"), pytest.raises(checkrein.NotProved) as problem:
        read()
    assert problem.value.code == "not_provable"
    assert problem.value.result is result
    assert "not" in problem.value.to_prompt()


def test_errors_about_proofs_pickle() -> None:
    error = checkrein.NotProved("text", "too_many_results", [1])
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.result, str(again)) == ("too_many_results", [1], "text")


def test_generators_prove_nothing(engine: checkrein.Engine) -> None:
    def read() -> Any:
        yield {"id": "x"}

    with pytest.raises(checkrein.ConfigError):
        engine.prove("order", "id")(read)
    late = engine.prove("order", "id")(lambda: (item for item in ORDERS))
    with checkrein.acting(run="r"), pytest.raises(checkrein.NotProved):
        late()


def test_too_many_values_prove_none(engine: checkrein.Engine) -> None:
    read, refund, _ = shop(engine, [{"id": f"o{number}"} for number in range(5)], max_items=4)
    with checkrein.acting(run="r"):
        with pytest.raises(checkrein.NotProved) as problem:
            read()
        assert problem.value.code == "too_many_results"
        assert "Ask for fewer" in problem.value.to_prompt()
        with pytest.raises(checkrein.MissingFact):
            refund("o0")


def test_or_the_first_ones_and_a_warning(engine: checkrein.Engine, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": f"o{number}"} for number in range(5)]
    read, refund, _ = shop(engine, rows, max_items=4, on_too_many="truncate")
    with checkrein.acting(run="r"), caplog.at_level(logging.WARNING):
        assert read() == rows
        refund("o3")
        with pytest.raises(checkrein.MissingFact):
            refund("o4")
    assert "1 more values" in caplog.text


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, "o1"),
        ({}, "please look up o1 for me"),
        ({}, ["x", {"o1": 1}]),
        ({}, "O1"),
    ],
)
def test_what_the_read_was_told_it_does_not_prove(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture, options: dict[str, Any], given: Any
) -> None:
    read, refund, _ = shop(engine)
    with checkrein.acting(run="r"):
        read(given)
        refund("o2")
        with pytest.raises(checkrein.MissingFact):
            refund("o1")
    assert "the call itself named" in caplog.text


def test_unless_it_says_so_or_the_argument_is_none_of_the_agents(engine: checkrein.Engine) -> None:
    echo, refund, _ = shop(engine, echo=True)
    excluded = engine.prove("order", "id", exclude="customer")(lambda customer, text: ORDERS)
    for read, given in ((echo, ("o1",)), (excluded, ("o1 or o2", ""))):
        with checkrein.acting(run=f"r{given}"):
            read(*given)
            refund("o1")


def test_arguments_that_cannot_be_compared_prove_nothing(
    engine: checkrein.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    @engine.prove("order", "id")
    def read(connection: object) -> Any:
        return ORDERS

    class Store:
        @engine.prove("order", "id")
        def read(self) -> Any:
            return ORDERS

    refund = engine.enforce(RequireFact("order_id", "order"))(lambda order_id: order_id)
    with checkrein.acting(run="r"):
        read(object())
        assert "exclude them" in caplog.text
        with pytest.raises(checkrein.MissingFact):
            refund("o1")
        # No agent chooses the object of a method.
        Store().read()
        refund("o1")


def test_async_and_timed_reads_prove(engine: checkrein.Engine) -> None:
    @engine.tool(proves=Prove("order", "id"), timeout=30)
    async def read() -> Any:
        return ORDERS

    @engine.tool(proves=Prove("item", "total"), timeout=30)
    def read_items() -> Any:
        return ORDERS

    @engine.enforce([RequireFact("order_id", "order"), RequireFact("total", "item")])
    async def refund(order_id: Any, total: Any) -> Any:
        return order_id

    async def main() -> None:
        await read()
        read_items()
        await refund(["o1", "o2"], 5)
        with pytest.raises(checkrein.MissingFact):
            await refund(["o1", "o3"], 5)
        with pytest.raises(checkrein.MissingFact):
            await refund("o1", 6)

    with checkrein.acting(run="r"):
        asyncio.run(main())


def test_a_read_that_fails_proves_nothing(engine: checkrein.Engine) -> None:
    @engine.prove("order", "id")
    def read() -> Any:
        raise KeyError

    with checkrein.acting(run="r"), pytest.raises(KeyError):
        read()
    assert engine.list("fact") == []


def test_an_extractor_that_fails_is_heard_of_and_the_call_has_ended(engine: checkrein.Engine) -> None:
    read = engine.tool(
        proves=Prove("order", lambda result: result["missing"]), breaker="api: 1 failures/60s"
    )(lambda: {"id": 1})
    for _ in range(2):
        with checkrein.acting(run="r"), pytest.raises(KeyError):
            read()


def test_facts_are_shared_with_the_policy_file(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "checkrein.toml").write_text(
        "version = 1\n"
        '[tools.read]\nlimits = [{ max_calls = 99, window = "1m" }]\n'
        '[tools.find]\nproves = [{ kind = "order", pointer = "/id" }]\n'
        '[tools.cancel]\nfacts = [{ arg = "/order_id", kind = "order" }]\n'
    )
    engine = checkrein.Engine.from_policy(tmp_path / "checkrein.toml", clock=clock)

    @engine.prove("order", "id")
    def read() -> Any:
        return {"id": "o1"}

    @engine.guard()
    def find() -> Any:
        return {"id": "o2"}

    @engine.guard()
    def cancel(order_id: str) -> str:
        return order_id

    @engine.guard(facts={"order_id": "order", "also": "order"}, name="cancel")
    def cancel_both(order_id: str, also: list[str]) -> str:
        return order_id

    with checkrein.acting(run="r"):
        for call in (lambda: cancel("o1"), lambda: cancel_both("o2", ["o1", "o2"])):
            with pytest.raises(checkrein.MissingFact):
                call()
        read()
        find()
        assert cancel("o1") == "o1"
        assert cancel_both("o2", ["o1", "o2"]) == "o2"
        assert cancel_both("o2", []) == "o2"


def test_facts_carry_the_entry_that_proved_them(tmp_path: Path, clock: FakeClock) -> None:
    engine = checkrein.Engine(f"sqlite:{tmp_path}/ledger.db", clock=clock)
    read, refund, _ = shop(engine)
    with checkrein.acting(run="r"):
        read()
        refund("o1")
    facts = {fact["key"][2]: fact["entry"] for fact in engine.list("fact")}
    assert sorted(facts) == ['"o1"', '"o2"']
    assert all(isinstance(entry, int) for entry in facts.values())
    assert len(set(facts.values())) == 2
    again = checkrein.Engine(f"sqlite:{tmp_path}/ledger.db", clock=clock)
    assert {fact["key"][2]: fact["entry"] for fact in again.list("fact")} == facts


def test_in_memory_there_is_no_ledger_to_point_to(clock: FakeClock) -> None:
    engine = checkrein.Engine(clock=clock)
    read, _, _ = shop(engine)
    with checkrein.acting(run="r"):
        read()
    assert [fact["entry"] for fact in engine.list("fact")] == [None, None]


def test_facts_outlive_the_process(tmp_path: Path, clock: FakeClock) -> None:
    for number in range(2):
        engine = checkrein.Engine(f"sqlite:{tmp_path}/facts.db", clock=clock)
        read, refund, _ = shop(engine)
        with checkrein.acting(run="r"):
            if number == 0:
                read()
            refund("o1")


@pytest.mark.parametrize(
    "options",
    [
        {"kind": ""}, {"kind": " "}, {"kind": 3}, {"extract": ""}, {"extract": None}, {"extract": 3}, {"ttl": 0},
        {"ttl": -1}, {"ttl": "soon"}, {"max_items": 0}, {"max_items": True}, {"max_items": 10**9},
        {"on_too_many": "drop"},
    ],
)  # fmt: skip
def test_proofs_are_read_strictly(engine: checkrein.Engine, options: dict[str, Any]) -> None:
    options = {"kind": "order", "extract": "id", **options}
    with pytest.raises(checkrein.ConfigError):
        engine.prove(options.pop("kind"), options.pop("extract"), **options)


def test_needs_are_read_strictly(engine: checkrein.Engine) -> None:
    for kind in ("", None, 3):
        with pytest.raises(checkrein.ConfigError):
            RequireFact("x", kind)  # type: ignore[arg-type]
    for facts in ([5], "order", {"x": 3}):
        with pytest.raises(checkrein.ConfigError):
            engine.tool(facts=facts)(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(checkrein.ConfigError):
        engine.tool(proves=[5])(lambda x: x)  # type: ignore[list-item]


def test_observe_mode_lets_pass(engine: checkrein.Engine) -> None:
    refund = engine.enforce(RequireFact("order_id", "order"), mode="observe")(lambda order_id: order_id)
    with checkrein.acting(run="r"):
        assert refund("o9") == "o9"


def test_stacked_over_other_guards(engine: checkrein.Engine) -> None:
    read, _, _ = shop(engine)

    @engine.enforce([RequireFact("order_id", "order")])
    @engine.idempotent("order_id")
    @engine.rate_limit(5)
    def refund_once(order_id: str) -> str:
        return order_id

    with checkrein.acting(run="r"):
        with pytest.raises(checkrein.MissingFact):
            refund_once("o1")
        read()
        assert (refund_once("o1"), refund_once("o1")) == ("o1", "o1")


def test_a_refused_repetition_of_a_read_is_no_proof(engine: checkrein.Engine) -> None:
    """A stored result was shown in the run that read it, and in no other."""
    calls: list[str] = []
    read = engine.tool(proves=Prove("order", "id"), once=checkrein.Once("key"))(
        functools.partial(lambda key: calls.append(key) or ORDERS)
    )
    refund = engine.enforce(RequireFact("order_id", "order"))(lambda order_id: order_id)
    with checkrein.acting(run="r1"):
        read(key="k")
        refund("o1")
    with checkrein.acting(run="r2"):
        read(key="k")
        with pytest.raises(checkrein.MissingFact):
            refund("o1")
    assert calls == ["k"]
