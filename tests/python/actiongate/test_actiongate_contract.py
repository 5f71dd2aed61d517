"""What programs written for actiongate rely on: values, edges, messages, events, stores, clocks."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import inspect
import itertools
import pickle
import time
import weakref
from typing import Any

import pytest

import checkrein.actiongate as package
from checkrein.actiongate import (
    MISSING,
    AsyncMemoryStore,
    Blocked,
    BlockReason,
    Decision,
    Emitter,
    Engine,
    Gate,
    MemoryStore,
    Mode,
    Policy,
    RedisStore,
    Result,
    Status,
    StoreErrorMode,
)
from checkrein.actiongate.core import _Missing

GATE = Gate("api", "search", "user:1")


class Clock:
    """A clock one sets; counts how often it was read."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


def decide(policy: Policy, *times: float) -> list[Decision]:
    """Return the decisions of one gate at each of `times`."""
    clock = Clock()
    engine = Engine(clock=clock)
    decisions = []
    for now in times:
        clock.now = now
        decisions.append(engine.check(GATE, policy))
    return decisions


def test_exports() -> None:
    # The published seventeen, and the async store on Redis that they lack.
    assert len(package.__all__) == 18
    assert package.__version__ == "0.3.0"
    for name in package.__all__:
        assert getattr(package, name) is not None


# --- values


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Gate("n", "a"), "Gate(namespace='n', action='a', principal='global')"),
        (Gate(1, None), "Gate(namespace=1, action=None, principal='global')"),  # type: ignore[arg-type]
        (
            Policy(max_calls=2.5, window=None),
            "Policy(max_calls=2.5, window=None, cooldown=0.0, mode=<Mode.HARD: 1>, "
            "on_store_error=<StoreErrorMode.FAIL_CLOSED: 1>)",
        ),
    ],
)
def test_values_look_like_frozen_dataclasses(value: Any, shown: str) -> None:
    assert repr(value) == shown
    assert value == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == dataclasses.replace(value)
    assert hash(value) == hash(copy.copy(value))
    assert dataclasses.is_dataclass(value)
    fields = [field.name for field in dataclasses.fields(value)]
    assert type(value).__match_args__ == tuple(fields)
    assert list(dataclasses.asdict(value)) == fields
    assert list(inspect.signature(type(value)).parameters) == fields
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, fields[0], 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(value, fields[0])
    with pytest.raises(TypeError):
        value.unknown = 1
    with pytest.raises(TypeError):
        _ = value < value


def test_gate_texts() -> None:
    assert str(Gate("n", "a", "p")) == "n:a@p"
    assert Gate("n", "a", "p").key == "ag:n:a:p"
    assert str(Gate(1, None)) == "1:None@global"  # type: ignore[arg-type]
    match GATE:
        case Gate(namespace, action, principal):
            assert (namespace, action, principal) == ("api", "search", "user:1")


def test_subclasses_keep_attributes_of_their_own() -> None:
    class Named(Gate):
        pass

    named = Named("n", "a")
    named.note = "mine"  # type: ignore[attr-defined]
    assert named != Gate("n", "a")
    assert repr(named).startswith("test_subclasses_keep_attributes_of_their_own.<locals>.Named(")
    engine = Engine()
    assert [engine.check(named, Policy(max_calls=1)).allowed for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_calls": -1}, "max_calls must be >= 0"),
        ({"max_calls": float("nan")}, "max_calls must be >= 0"),
        ({"window": 0}, "window must be > 0 or None"),
        ({"window": float("nan")}, "window must be > 0 or None"),
        ({"cooldown": -0.1}, "cooldown must be >= 0"),
        ({"cooldown": float("nan")}, "cooldown must be >= 0"),
    ],
)
def test_policies_refuse_numbers_that_would_open_the_gate(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(**arguments)


def test_policies_refuse_other_types() -> None:
    for arguments in ({"window": "60"}, {"max_calls": None}, {"mode": "LOUD"}, {"mode": 1}):
        with pytest.raises(TypeError):
            Policy(**arguments)  # type: ignore[arg-type]
    assert Policy(mode="SOFT").mode is Mode.SOFT  # type: ignore[arg-type]


def test_modes_of_different_packages_differ() -> None:
    from checkrein import budgetgate

    assert Mode.HARD != budgetgate.Mode.HARD  # type: ignore[comparison-overlap]
    assert [member.value for member in BlockReason] == [1, 2, 3]


# --- decisions


def test_a_decision_as_data() -> None:
    allowed, blocked = decide(Policy(max_calls=1, window=60), 1000.0, 1001.5)
    assert (bool(allowed), allowed.blocked, bool(blocked), blocked.blocked) == (True, False, False, True)
    assert allowed.to_dict() == {
        "schema_version": "0.2.2",
        "status": "ALLOW",
        "gate": "api:search@user:1",
        "reason": None,
        "message": None,
        "calls_in_window": 1,
        "time_since_last": None,
    }
    assert list(blocked.to_dict().values())[1:] == [
        "BLOCK",
        "api:search@user:1",
        "RATE_LIMIT",
        "Rate limit: 1 >= 1",
        1,
        1.5,
    ]
    assert pickle.loads(pickle.dumps(blocked)) == blocked
    assert dataclasses.replace(blocked, message="other").message == "other"
    by_hand = Decision(Status.BLOCK, GATE, Policy(), reason=BlockReason.COOLDOWN)
    assert (by_hand.message, by_hand.calls_in_window, by_hand.time_since_last) == (None, 0, None)
    assert str(Blocked(by_hand)) == "Blocked: BlockReason.COOLDOWN"


@pytest.mark.parametrize(
    ("policy", "times", "last"),
    [
        # An event exactly window old still counts; one nanosecond later it does not.
        (Policy(max_calls=1, window=60), (0.0, 60.0), "Rate limit: 1 >= 1"),
        (Policy(max_calls=1, window=60), (0.0, 60.000000001), None),
        # Equal to the cooldown is allowed, also where floats would disagree (1000.3 - 1000.2 < 0.1).
        (Policy(max_calls=9, cooldown=5), (0.0, 5.0), None),
        (Policy(max_calls=9, cooldown=0.1), (1000.2, 1000.3), None),
        (Policy(max_calls=9, cooldown=5), (0.0, 4.96), "Cooldown: 5.0s < 5s"),
        (Policy(max_calls=9, cooldown=5.0), (0.0, 1.0), "Cooldown: 1.0s < 5.0s"),
        # Both fail: the cooldown is named.
        (Policy(max_calls=1, cooldown=5), (0.0, 1.0), "Cooldown: 1.0s < 5s"),
        (Policy(max_calls=0), (0.0,), "Rate limit: 0 >= 0"),
        (Policy(max_calls=2.5), (0.0, 0.0, 0.0), None),
        (Policy(max_calls=2.5), (0.0, 0.0, 0.0, 0.0), "Rate limit: 3 >= 2.5"),
        (Policy(max_calls=1, window=None), (0.0, 1e9), "Rate limit: 1 >= 1"),
        (Policy(max_calls=float("inf"), window=1), (0.0, 0.0, 0.0), None),
        # A clock that goes back: the future call stays, and its age is negative.
        (Policy(max_calls=9, cooldown=1.0), (100.0, 50.0), "Cooldown: -50.0s < 1.0s"),
        (Policy(max_calls=1, window=10), (100.0, 50.0), "Rate limit: 1 >= 1"),
        # A cooldown longer than the window sees no further than the window.
        (Policy(max_calls=9, window=1, cooldown=10), (0.0, 5.0), None),
    ],
)
def test_edges(policy: Policy, times: tuple[float, ...], last: str | None) -> None:
    decision = decide(policy, *times)[-1]
    assert decision.message == last
    assert decision.allowed == (last is None)


def test_ages_and_counts() -> None:
    first, second, third = decide(Policy(max_calls=2, window=60), 10.0, 10.5, 11.0)
    assert [d.calls_in_window for d in (first, second, third)] == [1, 2, 2]
    assert [d.time_since_last for d in (first, second, third)] == [None, 0.5, 0.5]
    whole = decide(Policy(max_calls=2), 10, 15)[1]
    assert (whole.time_since_last, type(whole.time_since_last)) == (5, int)


def test_a_narrow_policy_does_not_make_a_wide_one_forget() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    wide, narrow = Policy(max_calls=2, window=3600), Policy(max_calls=2, window=1)
    assert [engine.check(GATE, wide).allowed for _ in range(2)] == [True, True]
    clock.now = 10.0
    assert engine.check(GATE, narrow).allowed
    assert engine.check(GATE, wide).message == "Rate limit: 3 >= 2"


def test_a_window_after_none_counts_what_came_before() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    for _ in range(3):
        assert engine.check(GATE, Policy(max_calls=9, window=None)).allowed
    assert engine.check(GATE, Policy(max_calls=3, window=60)).message == "Rate limit: 3 >= 3"
    clock.now = 61.0
    assert engine.check(GATE, Policy(max_calls=3, window=60)).calls_in_window == 1
    assert engine.check(GATE, Policy(max_calls=9, window=None)).calls_in_window == 5


def test_identities_are_tuples_not_texts() -> None:
    engine = Engine()
    policy = Policy(max_calls=1)
    alike = [
        Gate("a:b", "c", "d"),
        Gate("a", "b:c", "d"),
        Gate("a", "b", "c@d"),
        Gate("a\0", "b", ""),
        Gate("a", "\0b", ""),
    ]
    assert all(engine.check(gate, policy).allowed for gate in alike)
    odd = [Gate(1, "x"), Gate("1", "x"), Gate(None, "x"), Gate("\ud800", "x"), Gate("", "x")]  # type: ignore[arg-type]
    assert all(engine.check(gate, policy).allowed for gate in odd)
    assert engine.check(Gate(1.0, "x"), policy).blocked  # type: ignore[arg-type]
    assert engine.check(Gate("x" * (1 << 20), "{}"), policy).allowed


# --- registration, enforcement, decorators


def test_policies_are_registered_per_gate() -> None:
    engine = Engine()
    assert engine.policy_for(GATE) == Policy()
    policy = Policy(max_calls=7)
    engine.register(Gate("api", "search", "user:1"), policy)
    assert engine.policy_for(GATE) is policy
    assert engine.check(GATE, Policy(max_calls=1)).allowed
    assert engine.policy_for(GATE) is policy
    assert engine._policies == {GATE: policy}
    engine.register(GATE, Policy(max_calls=1))
    assert engine.check(GATE).blocked


def test_enforce_raises_only_for_hard_blocks() -> None:
    engine = Engine()
    allowed = engine.check(GATE, Policy(max_calls=1))
    engine.enforce(allowed)
    engine.enforce(engine.check(GATE, Policy(max_calls=1, mode=Mode.SOFT)))
    hard = engine.check(GATE, Policy(max_calls=1))
    with pytest.raises(Blocked) as caught:
        engine.enforce(hard)
    assert caught.value.decision is hard
    loaded = pickle.loads(pickle.dumps(caught.value))
    assert (type(loaded), str(loaded), loaded.decision) == (Blocked, "Rate limit: 1 >= 1", hard)


def test_guard_keeps_the_function() -> None:
    engine = Engine()

    @engine.guard(GATE, Policy(max_calls=1, mode=Mode.SOFT))
    def tool(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> Any:
        """Do it."""
        return a, b, rest, c, d, more

    assert (
        str(inspect.signature(tool))
        == "(a: 'int', /, b: 'int' = 2, *rest: 'int', c: 'int', d: 'int' = 4, **more: 'int') -> 'Any'"
    )
    assert (tool.__name__, tool.__doc__) == ("tool", "Do it.")
    assert inspect.isfunction(tool)
    with pytest.raises(TypeError, match="tool\\(\\)"):
        tool()  # type: ignore[call-arg]
    assert tool(1, 2, 3, c=5, e=6) == (1, 2, (3,), 5, 4, {"e": 6})
    with pytest.raises(Blocked, match="Rate limit: 1 >= 1"):
        tool(1, c=5)
    assert tool.__wrapped__(1, c=5) == (1, 2, (), 5, 4, {})  # type: ignore[attr-defined]


def test_guard_takes_any_callable() -> None:
    import functools

    class Callable:
        def __call__(self, x: int) -> int:
            return x + 1

        @Engine().guard(GATE)
        def method(self, x: int) -> int:
            return x + 2

    engine = Engine()
    assert engine.guard(GATE)(functools.partial(max, 3))(4) == 4
    assert engine.guard(GATE)(Callable())(1) == 2
    assert engine.guard(GATE)(len)("abc") == 3
    assert Callable().method(1) == 3
    assert engine.guard(Gate("n", "lambda"))(lambda _checkrein_admit: _checkrein_admit)(5) == 5


def test_guard_with_generators_and_coroutines() -> None:
    engine = Engine()

    @engine.guard(Gate("n", "generator"), Policy(max_calls=1))
    def numbers() -> Any:
        yield 1

    assert list(numbers()) == [1]
    with pytest.raises(Blocked):
        numbers()

    @engine.guard(Gate("n", "coroutine"), Policy(max_calls=1))
    async def answer() -> int:
        return 42

    assert not inspect.iscoroutinefunction(answer)
    pending = answer()
    assert asyncio.run(pending) == 42
    with pytest.raises(Blocked):
        answer()


def test_guard_result() -> None:
    engine = Engine()

    @engine.guard_result(GATE, Policy(max_calls=2))
    def tool(x: Any) -> Any:
        if x == "raise":
            raise KeyError(x)
        return x

    got = tool(None)
    assert (got.ok, got.has_value, got.value, got.unwrap(), got.unwrap_or(1)) == (
        True,
        True,
        None,
        None,
        None,
    )
    with pytest.raises(KeyError):
        tool("raise")
    missing = tool(1)
    assert (missing.ok, missing.has_value, missing.value, missing.unwrap_or(7)) == (False, False, None, 7)
    with pytest.raises(ValueError, match="No value: Rate limit: 2 >= 2"):
        missing.unwrap()
    assert isinstance(missing, Result)
    assert missing._value is MISSING


def test_missing_is_known_by_its_type() -> None:
    assert repr(MISSING) == "<MISSING>"
    decision = Engine().check(GATE)
    for sentinel in (MISSING, copy.deepcopy(MISSING), pickle.loads(pickle.dumps(MISSING)), _Missing()):
        assert not Result(decision, sentinel).has_value
    assert Result[int](decision, 5) == Result(decision=decision, _value=5)
    assert pickle.loads(pickle.dumps(Result(decision, 5))) == Result(decision, 5)


def test_last_registration_wins_for_every_function() -> None:
    engine = Engine()
    first = engine.guard(GATE, Policy(max_calls=5))(lambda: 1)
    engine.guard(GATE, Policy(max_calls=0))(lambda: 2)
    with pytest.raises(Blocked):
        first()


def test_a_subclass_that_overrides_check_is_asked() -> None:
    class Strict(Engine):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.asked = limit

        def check(self, gate: Gate, policy: Policy | None = None) -> Decision:
            return super().check(gate, Policy(max_calls=self.asked))

    engine = Strict(1)
    tool = engine.guard(GATE, Policy(max_calls=100))(lambda: 1)
    assert tool() == 1
    with pytest.raises(Blocked):
        tool()
    with pytest.raises(RuntimeError, match="__init__"):
        Engine.__new__(Engine).check(GATE)


# --- listeners


def test_listeners() -> None:
    engine = Engine()
    heard: list[Decision] = []

    def angry(_: Decision) -> None:
        raise ValueError("no")

    def late(decision: Decision) -> None:
        engine.remove_listener(late)
        engine.on_decision(heard.append)

    engine.on_decision(angry)
    engine.on_decision(late)
    decision = engine.check(GATE)
    assert heard == [decision]
    assert heard[0] is decision
    assert engine.listener_errors == 1
    engine.check(GATE)
    assert len(heard) == 2
    engine.remove_listener(heard.append)
    engine.check(GATE)
    assert (len(heard), engine.listener_errors) == (2, 3)
    with pytest.raises(ValueError, match="listener not found"):
        engine.remove_listener(print)


def test_a_listener_may_decide_again_and_may_end_the_program() -> None:
    engine = Engine()
    seen: list[int] = []

    def again(decision: Decision) -> None:
        seen.append(decision.calls_in_window)
        if len(seen) < 3:
            engine.check(GATE)

    def stop(_: Decision) -> None:
        raise KeyboardInterrupt

    engine.on_decision(again)
    engine.check(GATE, Policy(max_calls=9))
    assert seen == [1, 2, 3]
    engine.on_decision(stop)
    with pytest.raises(KeyboardInterrupt):
        engine.check(GATE, Policy(max_calls=9))
    assert engine.peek(GATE, Policy(max_calls=9)).calls_in_window == 5
    assert engine.listener_errors == 0


def test_guards_tell_listeners_and_emitters_may_be_shared() -> None:
    emitter = Emitter()
    engines = [Engine(emitter=emitter), Engine(emitter=emitter)]
    heard: list[Any] = []
    emitter.add(heard.append)
    for engine in engines:
        engine.guard(GATE, Policy(max_calls=1))(lambda: None)()
    assert [decision.calls_in_window for decision in heard] == [1, 1]

    class Loud(Emitter):
        def emit(self, event: Any) -> None:
            heard.append("loud")
            super().emit(event)

    Engine(emitter=Loud()).guard(GATE)(lambda: None)()
    assert heard[-1] == "loud"


# --- clocks and stores


def test_the_clock_is_read_once_per_check() -> None:
    clock = Clock()
    engine = Engine(clock=clock)
    engine.check(GATE)
    engine.guard(GATE)(lambda: None)()
    asyncio.run(engine.async_check(GATE))
    assert clock.reads == 3
    ticking = iter([1, 2, 3])
    once = Engine(clock=lambda: next(ticking))
    assert [once.check(GATE, Policy(max_calls=1, window=1)).allowed for _ in range(3)] == [True, False, True]
    with pytest.raises(StopIteration):
        once.check(GATE)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1e300, 10**30, "soon", None])
def test_a_useless_clock_fails_as_a_store_would(now: Any) -> None:
    engine = Engine(clock=lambda: now)
    closed = engine.check(GATE, Policy())
    assert (closed.blocked, closed.reason) == (True, BlockReason.STORE_ERROR)
    opened = engine.check(GATE, Policy(on_store_error=StoreErrorMode.FAIL_OPEN))
    assert opened.allowed
    assert "fail-open" in str(opened.message)


def test_the_default_clock_is_monotonic() -> None:
    engine = Engine()
    assert engine._clock is time.monotonic
    engine.check(GATE)
    time.sleep(0.01)
    decision = engine.check(GATE)
    assert decision.time_since_last is not None
    assert 0.01 <= decision.time_since_last < 5
    store = engine._store
    count, allowed, age = store.check_and_reserve(GATE, time.monotonic(), Policy(max_calls=9))
    assert (count, allowed) == (3, True)
    assert 0 <= age < 5


def test_a_patched_default_clock_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    engine = Engine()
    engine.check(GATE)
    assert engine.check(GATE).time_since_last == 0.0


class ListStore:
    """A duck-typed store that replies what it is told."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[Any] = []

    def check_and_reserve(self, gate: Gate, now: float, policy: Policy) -> Any:
        self.asked.append((gate, now, policy))
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def clear(self, gate: Gate) -> None:
        raise ConnectionError("gone")

    def clear_all(self) -> None:
        raise ConnectionError("gone")

    def __len__(self) -> int:
        return 0


def test_users_stores_are_asked() -> None:
    policy = Policy(max_calls=2, cooldown=5)
    store = ListStore((1, True, None), (1, False, 2.25), (2, False, 9.0), "nonsense", ConnectionError("down"))
    engine = Engine(store=store, clock=lambda: 17)
    decisions = [engine.check(GATE, policy) for _ in range(5)]
    assert store.asked[0] == (GATE, 17, policy)
    assert [d.message for d in decisions[:3]] == [None, "Cooldown: 2.2s < 5s", "Rate limit: 2 >= 2"]
    assert [d.reason for d in decisions[3:]] == [BlockReason.STORE_ERROR] * 2
    assert decisions[4].message == "Store error (fail-closed): down"
    assert (decisions[4].calls_in_window, decisions[4].time_since_last) == (0, None)
    store.replies = [ConnectionError("down"), KeyboardInterrupt()]
    opened = engine.check(GATE, Policy(on_store_error=StoreErrorMode.FAIL_OPEN))
    assert (opened.allowed, opened.message) == (True, "Store error (fail-open): down")
    with pytest.raises(KeyboardInterrupt):
        engine.check(GATE)
    for call in (lambda: engine.clear(GATE), engine.clear_all):
        with pytest.raises(ConnectionError):
            call()
    with pytest.raises(NotImplementedError):
        engine.peek(GATE)


def test_a_subclass_of_the_memory_store_is_asked() -> None:
    class Counting(MemoryStore):
        def __init__(self, label: str) -> None:
            self.label = label
            self.calls = 0

        def check_and_reserve(self, gate: Gate, now: float, policy: Policy) -> tuple[int, bool, float | None]:
            self.calls += 1
            return super().check_and_reserve(gate, now, policy)

    store = Counting("mine")
    engine = Engine(store=store)
    assert engine.guard(GATE, Policy(max_calls=1))(lambda: 1)() == 1
    assert engine.check(GATE).blocked
    assert (store.calls, store.label) == (2, "mine")


def test_stores_are_shared_where_the_user_shares_them() -> None:
    store = MemoryStore()
    one, other = Engine(store=store), Engine(store=store)
    policy = Policy(max_calls=1)
    assert one.check(GATE, policy).allowed
    assert other.check(GATE, policy).blocked
    assert Engine().check(GATE, policy).allowed
    one.clear(GATE)
    assert other.check(GATE, policy).allowed
    other.clear_all()
    assert one.check(GATE, policy).allowed


def test_redis_needs_a_client() -> None:
    with pytest.raises(TypeError, match="redis-py client"):
        RedisStore(object())


# --- async


async def test_sync_and_async_share_their_counts() -> None:
    engine = Engine()
    policy = Policy(max_calls=1)
    assert engine.check(GATE, policy).allowed
    assert (await engine.async_check(GATE, policy)).blocked
    engine.clear(GATE)
    assert (await engine.async_check(GATE, policy)).allowed
    assert engine.check(GATE, policy).blocked
    apart = Engine(store=MemoryStore(), async_store=AsyncMemoryStore())
    assert apart.check(GATE, policy).allowed
    assert (await apart.async_check(GATE, policy)).allowed
    await apart.async_clear(GATE)
    assert (await apart.async_check(GATE, policy)).allowed


async def test_async_guards_decide_when_awaited() -> None:
    engine = Engine()

    @engine.async_guard(GATE, Policy(max_calls=2))
    async def tool(x: int) -> int:
        return x

    assert inspect.iscoroutinefunction(tool)
    pending = [tool(n) for n in range(3)]
    assert engine.peek(GATE).calls_in_window == 1
    results = await asyncio.gather(*pending, return_exceptions=True)
    assert results[:2] == [0, 1]
    assert isinstance(results[2], Blocked)

    @engine.async_guard_result(Gate("n", "r"), Policy(max_calls=1))
    async def other() -> None:
        return None

    assert (await other()).has_value
    assert not (await other()).ok
    sync: Any = engine.async_guard(Gate("n", "s"))(lambda: 1)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="await"):
        await sync()


async def test_async_users_stores() -> None:
    class Down:
        async def check_and_reserve(self, gate: Gate, now: float, policy: Policy) -> Any:
            await asyncio.sleep(0)
            raise ConnectionError("down")

    engine = Engine(async_store=Down())  # type: ignore[arg-type]
    heard: list[Decision] = []
    engine.on_decision(heard.append)
    decision = await engine.async_check(GATE)
    assert decision.message == "Store error (fail-closed): down"
    tool = engine.async_guard(GATE, Policy(on_store_error=StoreErrorMode.FAIL_OPEN))(asyncio.sleep)
    await tool(0)
    assert [d.allowed for d in heard] == [False, True]


# --- memory


def test_engines_in_cycles_are_collected() -> None:
    class Holder:
        def __init__(self) -> None:
            self.engine = Engine(clock=self.clock)
            self.engine.on_decision(self.listen)
            self.tool = self.engine.guard(GATE)(self.work)

        def clock(self) -> float:
            return 1.0

        def listen(self, _: Decision) -> None:
            pass

        def work(self) -> None:
            pass

    holder = Holder()
    holder.tool()
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def test_idle_gates_are_forgotten() -> None:
    ticks = itertools.count()
    engine = Engine(clock=lambda: next(ticks))
    policy = Policy(max_calls=1, window=100)
    for number in range(50_000):
        engine.check(Gate("n", "a", f"user:{number}"), policy)
    assert len(engine._store) < 3_000
    assert engine.check(Gate("n", "a", "user:49999"), policy).blocked


def test_peek_and_remaining_count_nothing() -> None:
    engine = Engine()
    policy = Policy(max_calls=3)
    heard: list[Any] = []
    engine.on_decision(heard.append)
    for _ in range(5):
        assert engine.peek(GATE, policy).calls_in_window == 1
        assert engine.remaining(GATE, policy) == 3
    assert heard == []
    engine.check(GATE, policy)
    assert engine.remaining(GATE, policy) == 2
    assert engine.remaining(GATE, Policy(max_calls=0)) == 0
