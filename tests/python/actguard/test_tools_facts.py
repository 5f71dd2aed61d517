"""`prove`, `enforce` and sessions of the drop-in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from hand_clock import Clock

from checkrein import actguard
from checkrein.actguard.exceptions import ActGuardUsageError, PolicyViolationError, SessionUsageError
from checkrein.actguard.tools import _facts
from checkrein.actguard.tools.rules import Rule


class Order(NamedTuple):
    id: str
    total: int


def _read(result: Any, **options: Any) -> Any:
    @actguard.prove(**{"kind": "order_id", "extract": "id", **options})
    def read() -> Any:
        return result

    return read


@actguard.enforce([actguard.RequireFact("order_id", "order_id", hint="Call list_orders first.")])
def delete(order_id: Any) -> Any:
    return order_id


@pytest.mark.parametrize(
    "result",
    [
        [{"id": "a"}, {"id": "b"}],
        ({"id": "a"}, {"id": "b"}),
        [Order("a", 1), Order("b", 2)],
    ],
    ids=["list", "tuple", "named tuples"],
)
def test_every_kind_of_items(result: Any) -> None:
    with actguard.session("s"):
        assert _read(result)() is result
        assert delete(["a", "b"]) == ["a", "b"]
        assert delete({"a"}) == {"a"}
        with pytest.raises(PolicyViolationError):
            delete(("a", "c"))


def test_a_named_tuple_is_one_item_and_a_set_is_many() -> None:
    with actguard.session("s"):
        _read(Order("a", 1))()
        assert delete("a") == "a"
        _read({Order("b", 1), Order("c", 1)})()
        assert delete(["b", "c"]) == ["b", "c"]


def test_generators_prove_what_is_taken_of_them() -> None:
    @actguard.prove(kind="order_id", extract="id", max_items=2)
    def read() -> Iterator[dict[str, str]]:
        for name in ("a", "b", "c"):
            yield {"id": name}

    with actguard.session("s"):
        items = read()
        assert next(items) == {"id": "a"}
        assert delete("a") == "a"
        with pytest.raises(PolicyViolationError) as refused:
            delete("b")
        assert refused.value.to_prompt() == (
            "BLOCKED: You cannot use order_id='b' because it was not verified in this session. "
            "Fix: Call list_orders first."
        )
        next(items)
        with pytest.raises(PolicyViolationError) as refused:
            next(items)
        assert refused.value.code == "TOO_MANY_RESULTS"


def test_keys_are_not_joined() -> None:
    # With ":" between the parts, kind "a" with the value "b:c" would be kind "a:b" with the value "c".
    _facts.mint("s", "global", "a", "b:c", 60)
    assert not _facts.exists("s", "global", "a:b", "c")
    assert not _facts.exists("s:global", "a", "b", "c")


def test_truth_values_are_no_texts() -> None:
    with actguard.session("s"):
        _read({"id": True})()
        assert delete(True) is True
        with pytest.raises(PolicyViolationError):
            delete("True")
        # Numbers are: models write them both ways.
        _read({"id": 17})()
        assert delete("17") == "17"


def test_facts_belong_to_their_scope() -> None:
    with actguard.session("s", {"tenant": "a"}):
        _read({"id": "x"})()
        assert delete("x") == "x"
        with actguard.session("s", {"tenant": "b"}), pytest.raises(PolicyViolationError):
            delete("x")
        assert delete("x") == "x"
    with actguard.session("s"), pytest.raises(PolicyViolationError):
        delete("x")


def test_expired_facts_are_forgotten(clock: Clock) -> None:
    for number in range(4_000):
        _facts.mint("s", "global", "k", str(number), 10)
    clock.now += 5
    _facts.mint("s", "global", "k", "7", 10)
    clock.now += 5
    assert not _facts.exists("s", "global", "k", "6")
    assert _facts.exists("s", "global", "k", "7")
    for number in range(400):
        _facts.mint("other", "global", "k", str(number), 10)
    assert len(_facts._FACTS) == 401
    clock.now += 10
    _facts.prune()
    assert len(_facts._FACTS) == 0
    assert _facts._ending == []


@pytest.mark.parametrize(
    "rule",
    [
        actguard.RequireFact("oder_id", "k"),
        actguard.Threshold("oder_id", 1),
        actguard.BlockRegex("oder_id", "x"),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_rule_on_no_parameter_is_refused(rule: Rule) -> None:
    with pytest.raises(ActGuardUsageError, match=r"arg='oder_id'.*\['order_id'\]") as refused:

        @actguard.enforce([rule])
        def write(order_id: str) -> None: ...

    assert refused.value.code == "usage.enforce_configuration"


def test_something_that_is_no_rule_is_refused() -> None:
    for wrong in (print, actguard.RequireFact, "order_id"):
        with pytest.raises(ActGuardUsageError, match="not a Rule"):
            actguard.enforce([wrong])(lambda order_id: order_id)  # type: ignore[list-item]


def test_rules_read_what_keyword_arguments_collect() -> None:
    @actguard.enforce([actguard.Threshold("amount", 10)])
    def pay(**kwargs: Any) -> Any:
        return kwargs

    with actguard.session("s"):
        assert pay(amount=10) == {"amount": 10}
        assert pay() == {}
        with pytest.raises(PolicyViolationError):
            pay(amount=11)


@pytest.mark.parametrize("value", [float("nan"), 10.5, "5", [1], float("inf")])
def test_thresholds_refuse_what_is_not_within_them(value: Any) -> None:
    @actguard.enforce([actguard.Threshold("n", 10)])
    def call(n: Any) -> Any:
        return n

    with actguard.session("s"):
        assert call(10) == 10
        assert call(None) is None
        with pytest.raises(PolicyViolationError) as refused:
            call(value)
        assert refused.value.code == "THRESHOLD_EXCEEDED"


def test_own_rules_and_their_order() -> None:
    asked: list[str] = []

    class Watch(Rule):
        def __init__(self, name: str, fails: bool = False) -> None:
            self.name = name
            self.fails = fails

        def check(self, arguments: Mapping[str, Any], session_id: str, scope_hash: str) -> None:
            asked.append(f"{self.name} {dict(arguments)} {session_id} {scope_hash}")
            if self.fails:
                raise PolicyViolationError("NOT_NOW", "Not now.")

    @actguard.enforce([Watch("one"), Watch("two", fails=True), Watch("three")])
    def call(n: int, unit: str = "kg") -> None: ...

    with actguard.session("s"), pytest.raises(PolicyViolationError, match=r"Not now\."):
        call(3)
    assert asked == ["one {'n': 3, 'unit': 'kg'} s global", "two {'n': 3, 'unit': 'kg'} s global"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": ""},
        {"extract": 3},
        {"ttl": 0},
        {"ttl": float("nan")},
        {"max_items": -1},
        {"on_too_many": "trucnate"},
    ],
)
def test_reads_that_cannot_prove_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ActGuardUsageError) as refused:
        _read(None, **wrong)
    assert refused.value.code == "usage.prove_configuration"


def test_a_read_outside_a_session_does_not_run() -> None:
    ran: list[int] = []

    @actguard.prove(kind="k", extract="id")
    def read() -> None:
        ran.append(1)

    with pytest.raises(PolicyViolationError):
        read()
    assert ran == []


def test_sessions() -> None:
    with pytest.raises(
        SessionUsageError, match="Scope values must be strings, got <class 'int'> for key 'n'"
    ):
        actguard.session("s", {"n": 1})  # type: ignore[dict-item]
    reused = actguard.session("s")
    with reused, reused:
        _read({"id": "x"})()
        assert delete("x") == "x"
    with pytest.raises(PolicyViolationError):
        delete("x")


async def test_async_reads_and_writes() -> None:
    @actguard.prove(kind="order_id", extract=lambda found: found["ids"])
    async def read() -> dict[str, list[str]]:
        return {"ids": ["a", "b"]}

    @actguard.enforce([actguard.RequireFact("order_id", "order_id")])
    async def write(order_id: str) -> str:
        return order_id

    async with actguard.session("s"):
        await read()
        assert await write("a") == "a"
        with pytest.raises(PolicyViolationError):
            await write("c")
