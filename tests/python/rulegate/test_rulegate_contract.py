"""What programs written for rulegate rely on: predicates, names, contexts, records; and what none may rely on."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import gc
import inspect
import pickle
import random
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import checkrein.rulegate as package
from checkrein.rulegate import (
    AsyncMemoryStore,
    BlockReason,
    Context,
    Decision,
    Engine,
    EvalRecord,
    MemoryStore,
    Mode,
    NamedPredicate,
    PolicyViolationError,
    Result,
    Rule,
    Ruleset,
    Status,
)

RULE = Rule("api", "search")


def allow(_: Context) -> bool:
    """Allow."""
    return True


def deny(_: Context) -> bool:
    """Deny."""
    return False


def decide(*predicates: Any, **arguments: Any) -> Decision:
    """Return the decision of these predicates."""
    return Engine().check(RULE, Ruleset(predicates), **arguments)


def test_exports() -> None:
    assert len(package.__all__) == 20
    assert package.__version__ == "0.3.0"
    assert package.PolicyViolation is PolicyViolationError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (RULE, "Rule(namespace='api', action='search', principal='global')"),
        (
            Context(RULE, (1,), {"q": 2}),
            "Context(rule=Rule(namespace='api', action='search', principal='global'), args=(1,), kwargs={'q': 2}, "
            "meta={})",
        ),
        (NamedPredicate("n", len), "NamedPredicate(name='n', fn=<built-in function len>)"),
        (
            Ruleset((len,), Mode.SOFT),
            "Ruleset(predicates=(<built-in function len>,), mode=<Mode.SOFT: 2>, "
            "on_store_error=<StoreErrorMode.FAIL_CLOSED: 1>)",
        ),
        (EvalRecord(1.0, None), "EvalRecord(ts=1.0, decision=None)"),  # type: ignore[arg-type]
    ],
)
def test_values_look_like_dataclasses(value: Any, shown: str) -> None:
    assert repr(value) == shown
    assert value == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == dataclasses.replace(value)
    fields = [field.name for field in dataclasses.fields(value)]
    assert type(value).__match_args__ == tuple(fields)
    assert list(inspect.signature(type(value)).parameters) == fields
    if isinstance(value, (Context, EvalRecord)):
        with pytest.raises(TypeError, match="unhashable"):
            hash(value)
    else:
        assert hash(value) == hash(copy.copy(value))
    if not isinstance(value, EvalRecord):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, fields[0], 1)


def test_contexts_have_containers_of_their_own() -> None:
    one, other = Context(RULE), Context(rule=RULE)
    one.kwargs["q"] = 1
    one.meta["m"] = 1
    assert (other.args, other.kwargs, other.meta) == ((), {}, {})


def test_rulesets() -> None:
    for empty in ((), [], None, iter(())):
        with pytest.raises(ValueError, match="predicates must not be empty"):
            Ruleset(empty)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="predicates must not be empty"):
        Ruleset()
    with pytest.raises(TypeError, match="predicate must be callable, got str"):
        Ruleset((allow, "x"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        Ruleset(5)  # type: ignore[arg-type]
    listed = [deny]
    ruleset = Ruleset(listed)  # type: ignore[arg-type]
    listed.clear()
    assert ruleset.predicates == (deny,)
    assert Engine().check(RULE, ruleset).blocked


# --- predicates


def raising(_: Context) -> bool:
    """Fail."""
    raise ValueError("bad token")


class Unprintable(Exception):
    """An error nobody can print."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def unprintable(_: Context) -> bool:
    """Fail without a text."""
    raise Unprintable


async def promise(_: Context) -> bool:
    """Promise to deny."""
    return False


class Object:
    """A callable object that denies."""

    def __call__(self, _: Context) -> bool:
        return False


class Untruthy:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    ("predicate", "name"),
    [
        (deny, "deny"),
        (lambda ctx: None, "<lambda>"),
        (lambda ctx: 0, "<lambda>"),
        (NamedPredicate("no_pii", deny), "no_pii"),
        (raising, "raising (raised: ValueError: bad token)"),
        (NamedPredicate("named", raising), "named (raised: ValueError: bad token)"),
        (unprintable, "unprintable (raised: Unprintable: <unprintable>)"),
        (promise, "promise (returned coroutine: predicates must not be async)"),
        (lambda ctx: Untruthy(), "<lambda> (raised: ValueError: ambiguous)"),
        (functools.partial(lambda ctx, _: False, _=1), "functools.partial(<function <lambda>>, _=1)"),
        (Object(), "<test_rulegate_contract.Object object>"),
    ],
)
def test_violations_have_names_without_addresses(predicate: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decision = decide(predicate)
        gc.collect()
    found = decision.violated_rules[0].replace(".<lambda>", "<lambda>").replace("<locals>", "")
    assert found.endswith(name)
    assert (decision.blocked, decision.reason, decision.evaluated_count) == (
        True,
        BlockReason.POLICY_VIOLATION,
        1,
    )
    assert decision.message == f"Policy violation: {decision.violated_rules[0]}"


@pytest.mark.parametrize("answer", [True, 1, "deny", [0], object()])
def test_any_other_truthy_answer_allows(answer: Any) -> None:
    assert decide(lambda ctx: answer).allowed


def test_what_is_no_exception_escapes() -> None:
    def stop(_: Context) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(stop)


def test_check_stops_and_check_all_goes_on() -> None:
    engine = Engine()
    ruleset = Ruleset((deny, allow, NamedPredicate("last", deny)))
    assert engine.check(RULE, ruleset).to_dict() == {
        "schema_version": "0.2.2",
        "status": "BLOCK",
        "rule": "api:search@global",
        "reason": "POLICY_VIOLATION",
        "message": "Policy violation: deny",
        "violated_rules": ["deny"],
        "evaluated_count": 1,
    }
    every = engine.check_all(RULE, ruleset)
    assert (every.violated_rules, every.evaluated_count) == (("deny", "last"), 3)
    allowed = engine.check(RULE, Ruleset((allow, allow)))
    assert (allowed.violated_rules, allowed.evaluated_count, allowed.reason, allowed.message) == (
        (),
        2,
        None,
        None,
    )
    assert pickle.loads(pickle.dumps(every)) == every
    assert dataclasses.replace(every, message=None).message is None
    by_hand = Decision(Status.BLOCK, RULE, ruleset, reason=BlockReason.POLICY_VIOLATION)
    error = PolicyViolationError(by_hand)
    assert str(error) == "Policy violation: BlockReason.POLICY_VIOLATION"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# --- what predicates see


def test_predicates_see_what_was_passed() -> None:
    engine = Engine()
    seen: list[Context] = []
    meta = {"role": "admin"}

    @engine.guard(RULE, Ruleset((lambda ctx: seen.append(ctx) or True,)), meta=meta)
    def search(query: str, *, limit: int = 3) -> tuple[str, int]:
        """Search."""
        return query, limit

    assert search("a", limit=5) == ("a", 5)
    assert search(query="b") == ("b", 3)
    assert [(ctx.args, ctx.kwargs) for ctx in seen] == [(("a",), {"limit": 5}), ((), {"query": "b"})]
    assert all(ctx.meta is meta and ctx.rule is RULE for ctx in seen)
    assert (search.__name__, search.__doc__) == ("search", "Search.")
    assert str(inspect.signature(search)) == "(query: 'str', *, limit: 'int' = 3) -> 'tuple[str, int]'"
    with pytest.raises(TypeError):
        search()  # type: ignore[call-arg]


def test_predicates_cannot_change_what_runs_or_what_others_see() -> None:
    engine = Engine()

    def rewrite(ctx: Context) -> bool:
        ctx.kwargs["amount"] = 999999
        ctx.kwargs["items"].append("more")
        ctx.args[0]["deep"][0].add("x")
        return True

    others: list[Any] = []

    def look(ctx: Context) -> bool:
        others.append((ctx.args, ctx.kwargs))
        return True

    @engine.guard(RULE, Ruleset((rewrite, look)))
    def refund(order: Any, *, amount: int, items: list[str]) -> Any:
        return order, amount, items

    order, items = {"deep": ({"y"},)}, ["one"]
    result = refund(order, amount=5, items=items)
    assert result == ({"deep": ({"y"},)}, 5, ["one"])
    assert result[0] is order
    assert result[2] is items
    assert others == [(({"deep": ({"y"},)},), {"amount": 5, "items": ["one"]})]
    passed = {"amount": 1, "items": []}
    engine.check(RULE, args=({"deep": (set(),)},), kwargs=passed)
    assert passed == {"amount": 1, "items": []}


def test_cyclic_and_odd_arguments() -> None:
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    seen: list[Context] = []
    decide(lambda ctx: seen.append(ctx) or True, args=(cyclic, cyclic), kwargs={"c": cyclic})
    args = seen[0].args
    assert args[0] is args[1]
    assert args[0][1] is args[0]
    assert args[0] is not cyclic
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert decide(allow, args=(deep,)).allowed
    assert decide(allow, args=[1, 2]).allowed  # type: ignore[arg-type]


# --- engine


def test_registration() -> None:
    engine = Engine()
    assert engine.ruleset_for(RULE) is None
    for call, name in ((engine.check, "check"), (engine.check_all, "check_all")):
        with pytest.raises(
            ValueError, match=r"^No ruleset registered for api:search@global\. Call"
        ) as caught:
            call(RULE)
        assert str(caught.value).endswith(f"engine.register() or pass ruleset to {name}().")
    with pytest.raises(ValueError, match=r"pass ruleset to async_check\(\)"):
        asyncio.run(engine.async_check(RULE))
    with pytest.raises(ValueError, match=r"pass ruleset to check\(\)"):
        engine.guard(RULE)(lambda: 1)()
    first, second = Ruleset((allow,)), Ruleset((deny,))
    engine.register(RULE, first)
    assert engine.ruleset_for(Rule("api", "search")) is first
    assert engine.check(RULE).allowed
    engine.register(RULE, second)
    assert engine.check(RULE).blocked
    assert engine.check(RULE, first).allowed
    assert engine.ruleset_for(RULE) is second


def test_enforce_and_guards() -> None:
    engine = Engine()
    soft = engine.check(RULE, Ruleset((deny,), Mode.SOFT))
    engine.enforce(soft)
    with pytest.raises(PolicyViolationError) as caught:
        engine.enforce(engine.check(RULE, Ruleset((deny,))))
    assert caught.value.decision.violated_rules == ("deny",)
    with pytest.raises(PolicyViolationError, match="Policy violation: deny"):
        engine.guard(RULE, Ruleset((deny,), Mode.SOFT))(lambda: 1)()
    result: Result[None] = engine.guard_result(RULE, Ruleset((allow,)))(lambda: None)()
    assert result.has_value
    blocked = engine.guard_result(RULE, Ruleset((deny,)))(lambda: 1)()
    assert (blocked.ok, blocked.unwrap_or(9)) == (False, 9)


def test_a_subclass_that_overrides_check_is_asked() -> None:
    class Strict(Engine):
        def check(self, rule: Rule, ruleset: Ruleset | None = None, **arguments: Any) -> Decision:
            return super().check(rule, Ruleset((deny,)), **arguments)

    with pytest.raises(PolicyViolationError):
        Strict().guard(RULE, Ruleset((allow,)))(lambda: 1)()


def test_listeners_hear_guards_before_the_store() -> None:
    order: list[str] = []

    class Noting:
        def record(self, rule: Rule, now: float, decision: Decision) -> None:
            order.append(f"record {now}")

    engine = Engine(store=Noting(), clock=lambda: 7)  # type: ignore[arg-type]
    engine.on_decision(lambda decision: order.append("told"))
    engine.guard(RULE, Ruleset((allow,)))(lambda: order.append("ran"))()
    assert order == ["told", "record 7", "ran"]


# --- records


def test_records() -> None:
    clock = [100]
    store = MemoryStore()
    engine = Engine(store=store, clock=lambda: clock[0])
    decisions = []
    for now in (100, 200, 300):
        clock[0] = now
        decisions.append(engine.check(RULE, Ruleset((allow,))))
    records = store.get_records(RULE, 300, None)
    assert [record.ts for record in records] == [100, 200, 300]
    assert all(record.decision is decision for record, decision in zip(records, decisions, strict=True))
    # The edge counts, and asking forgets what is older.
    assert [record.ts for record in store.get_records(RULE, 350, 150)] == [200, 300]
    assert [record.ts for record in store.get_records(RULE, 350, None)] == [200, 300]
    assert store.get_records(Rule("other", "rule"), 350, None) == []
    engine.clear(RULE)
    assert store.get_records(RULE, 350, None) == []


def test_guards_record_too_and_always_the_same_object() -> None:
    engine = Engine()
    tool = engine.guard(RULE, Ruleset((allow,)))(lambda: 1)
    for _ in range(3):
        tool()
    first, second = (engine._store.get_records(RULE, 0, None) for _ in range(2))
    assert len(first) == 3
    assert all(a.decision is b.decision and a.decision.allowed for a, b in zip(first, second, strict=True))
    assert first[0].decision.to_dict()["evaluated_count"] == 1
    assert first[0].ts <= first[1].ts


def test_a_store_keeps_its_latest_decisions_only() -> None:
    store = MemoryStore(max_records=100)
    engine = Engine(store=store)
    engine.register(RULE, Ruleset((allow,)))
    others = [Rule("api", "search", f"user:{i}") for i in range(200)]
    for rule in others:
        engine.check(rule, Ruleset((deny,)))
    for _ in range(60):
        engine.check(RULE)
    assert len(store.get_records(RULE, 0, None)) == 60
    assert sum(len(store.get_records(rule, 0, None)) for rule in others) == 40
    assert len(store.get_records(others[-1], 0, None)) == 1


def test_threads_lose_no_records() -> None:
    store = MemoryStore()
    engine = Engine(store=store)
    engine.register(RULE, Ruleset((allow,)))
    barrier = threading.Barrier(10)

    def work(number: int) -> None:
        barrier.wait()
        tool = engine.guard(RULE)(lambda: None)
        for _ in range(100):
            engine.check(RULE)
            tool()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(10)))
    assert len(store.get_records(RULE, 0, None)) == 2_000


def test_a_failing_store_is_counted_and_changes_nothing() -> None:
    class Broken:
        def record(self, rule: Rule, now: float, decision: Decision) -> None:
            raise ConnectionError("down")

    engine = Engine(store=Broken())  # type: ignore[arg-type]
    engine.register(RULE, Ruleset((allow,)))
    assert engine.check(RULE).allowed
    assert engine.guard(RULE)(lambda: 5)() == 5
    assert engine.store_errors == 2


def test_a_useless_clock_loses_records_only() -> None:
    engine = Engine(clock=lambda: float("nan"))
    assert engine.check(RULE, Ruleset((allow,))).allowed
    assert engine.store_errors == 1


def test_engines_in_cycles_are_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.engine = Engine()
            self.seen: list[Any] = []
            self.engine.on_decision(self.seen.append)
            self.tool = self.engine.guard(RULE, Ruleset((self.permits,)))(self.work)

        def permits(self, ctx: Context) -> bool:
            self.seen.append(ctx)
            return True

        def work(self) -> None:
            pass

    holder = Holder()
    holder.tool()
    assert len(holder.seen) == 2
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


# --- async


async def test_async() -> None:
    engine = Engine()
    heard: list[Decision] = []
    engine.on_decision(heard.append)

    @engine.async_guard(RULE, Ruleset((lambda ctx: "bad" not in ctx.args,)))
    async def search(query: str) -> str:
        return query

    assert inspect.iscoroutinefunction(search)
    assert await search("good") == "good"
    with pytest.raises(PolicyViolationError):
        await search("bad")
    result = await engine.async_guard_result(RULE, Ruleset((deny,)))(asyncio.sleep)(0)
    assert not result.ok
    every = await engine.async_check_all(RULE, Ruleset((deny, NamedPredicate("d", deny))))
    assert every.violated_rules == ("deny", "d")
    # Sync and async sides share their records.
    assert len(heard) == len(engine._store.get_records(RULE, 0, None)) == 4
    assert (await engine.async_check(RULE, Ruleset((promise,)))).blocked


async def test_async_users_stores() -> None:
    class Awaited:
        def __init__(self) -> None:
            self.records: list[Decision] = []

        async def record(self, rule: Rule, now: float, decision: Decision) -> None:
            await asyncio.sleep(0)
            if now == 13:
                raise ConnectionError("down")
            self.records.append(decision)

    store = Awaited()
    clock = [1]
    engine = Engine(async_store=store, clock=lambda: clock[0])  # type: ignore[arg-type]
    decision = await engine.async_check(RULE, Ruleset((allow,)))
    assert store.records == [decision]
    clock[0] = 13
    await engine.async_guard(RULE, Ruleset((allow,)))(asyncio.sleep)(0)
    assert engine.store_errors == 1
    assert isinstance(engine._async_store, Awaited)
    own = AsyncMemoryStore()
    await Engine(async_store=own).async_check(RULE, Ruleset((allow,)))
    assert len(await own.get_records(RULE, 0, None)) == 1


# --- random rulesets


def test_random_rulesets_agree_with_the_obvious_loop() -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    engine = Engine()
    answers: list[Any] = [True, False, None, 0, 1, "", "x", ValueError("v")]
    for step in range(5_000):
        chosen = [rng.choice(answers) for _ in range(rng.randint(1, 6))]

        def make(answer: Any) -> Any:
            def predicate(_: Context) -> Any:
                if isinstance(answer, Exception):
                    raise answer
                return answer

            return predicate

        ruleset = Ruleset(tuple(NamedPredicate(str(i), make(answer)) for i, answer in enumerate(chosen)))
        names = [
            f"{i} (raised: ValueError: v)" if isinstance(answer, Exception) else str(i)
            for i, answer in enumerate(chosen)
            if isinstance(answer, Exception) or not answer
        ]
        every = engine.check_all(RULE, ruleset)
        assert (list(every.violated_rules), every.evaluated_count) == (names, len(chosen)), (
            f"seed {seed}, step {step}"
        )
        first = engine.check(RULE, ruleset)
        assert list(first.violated_rules) == names[:1], f"seed {seed}, step {step}"
        assert first.evaluated_count == (int(names[0].split()[0]) + 1 if names else len(chosen))
