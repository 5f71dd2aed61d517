"""Recording: policies, failures, decorators, listeners, as the contract says."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from audit_kit import EVENT, TRAIL, ForeignStore, counting_clock, engine_with

from checkrein.auditgate import (
    AsyncMemoryStore,
    AuditError,
    AuditPolicy,
    Decision,
    Emitter,
    Engine,
    IntegrityMode,
    MemoryStore,
    Mode,
    QueryFilter,
    Severity,
    StoreErrorMode,
    Trail,
    Verdict,
    verify_chain,
)


class DeadStore(ForeignStore):
    """A store whose disk is full."""

    def append(self, entry: Any) -> None:
        raise OSError("disk")


def test_a_record_is_the_last_entry() -> None:
    engine = engine_with()
    decision = engine.record(TRAIL, **EVENT, reason="why", detail={"k": 1})
    assert decision.entry is not None
    assert engine._store.last_entry(TRAIL) is decision.entry
    assert (decision.trail, decision.policy) == (TRAIL, engine.policy_for(TRAIL))
    assert decision.entry.to_dict() | {"entry_hash": ""} == {
        "schema_version": "0.1.1",
        "trail": "t:s@global",
        "ts": 1.0,
        "wall_ts": "W",
        "verdict": "ALLOW",
        "severity": "INFO",
        "gate_type": "g",
        "gate_identity": "i",
        "recorded_by": "",
        "reason": "why",
        "detail": {"k": 1},
        "entry_hash": "",
        "prev_hash": None,
        "sequence": 0,
    }


def test_integrity_modes() -> None:
    plain = [engine_with(IntegrityMode.NONE).record(TRAIL, **EVENT).entry]
    assert plain[0] is not None
    assert (plain[0].entry_hash, plain[0].prev_hash) == (None, None)
    chained = engine_with(IntegrityMode.CHAIN)
    first, second = chained.record(TRAIL, **EVENT).entry, chained.record(TRAIL, **EVENT).entry
    assert first is not None
    assert second is not None
    assert (first.prev_hash, second.prev_hash) == (None, first.entry_hash)


def test_without_integrity_a_detail_may_be_anything() -> None:
    cycle: dict[str, Any] = {"n": Decimal(1), "o": object()}
    cycle["self"] = cycle
    entry = engine_with(IntegrityMode.NONE).record(TRAIL, **EVENT, detail=cycle).entry
    assert entry is not None
    assert entry.detail["n"] == 1
    assert entry.detail["self"] is not cycle


def test_severity_below_the_least_is_dropped_without_a_clock_reading() -> None:
    readings: list[int] = []
    engine = Engine(clock=lambda: readings.append(1) or 1.0)  # type: ignore[func-returns-value]
    seen: list[Decision] = []
    engine.on_decision(seen.append)
    dropped = engine.record(TRAIL, **EVENT, policy=AuditPolicy(min_severity=Severity.WARN))
    assert (dropped.dropped, dropped.reason, dropped.entry) == (True, "Below min_severity (WARN)", None)
    assert (readings, seen) == ([], [dropped])
    # The policy of one call stays the trail's policy.
    assert engine.record(TRAIL, **EVENT).dropped
    kept = engine.record(TRAIL, **EVENT | {"severity": Severity.ERROR}).entry
    assert kept is not None
    assert kept.sequence == 0
    assert readings == [1]


def test_policies() -> None:
    engine = Engine()
    assert engine.policy_for(TRAIL) is None
    engine.record(TRAIL, **EVENT)
    assert engine.policy_for(TRAIL) == AuditPolicy()
    mine = AuditPolicy(integrity=IntegrityMode.CHAIN)
    engine.register(TRAIL, mine)
    assert engine.policy_for(TRAIL) is mine
    assert engine.record(TRAIL, **EVENT).policy is mine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"detail": {"a": Decimal(1)}},
            "Entry build failed: Object of type Decimal is not JSON serializable",
        ),
        (
            {"detail": {"a": 1, 2: 3}},
            "Entry build failed: '<' not supported between instances of 'int' and 'str'",
        ),
        ({"verdict": "ALLOW"}, "Entry build failed: 'str' object has no attribute 'name'"),
        ({"reason": object()}, "Entry build failed: Object of type object is not JSON serializable"),
    ],
)
def test_an_entry_that_cannot_be_built(change: dict[str, Any], message: str) -> None:
    engine = engine_with()
    with pytest.raises(AuditError) as raised:
        engine.record(TRAIL, **EVENT | change)
    assert str(raised.value) == raised.value.decision.reason == message
    assert isinstance(raised.value.__cause__, (TypeError, AttributeError))
    entry = engine.record(TRAIL, **EVENT).entry
    assert entry is not None
    assert entry.sequence == 0  # a failure uses up no number


def test_deep_details_are_a_typed_failure() -> None:
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"a": deep}
    with pytest.raises(AuditError, match="Entry build failed: maximum recursion depth"):
        engine_with().record(TRAIL, **EVENT, detail=deep)
    cycle: dict[str, Any] = {}
    cycle["x"] = cycle
    with pytest.raises(AuditError, match="Entry build failed: Circular reference detected"):
        engine_with().record(TRAIL, **EVENT, detail=cycle)


def test_what_is_raised_as_it_is() -> None:
    def broken() -> float:
        raise ZeroDivisionError("clock")

    with pytest.raises(ZeroDivisionError):
        Engine(clock=broken).record(TRAIL, **EVENT)
    with pytest.raises(AuditError, match="Entry build failed: clock"):
        Engine(wall_clock_fn=broken).record(TRAIL, **EVENT)  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        Engine().record(TRAIL, **EVENT | {"severity": "INFO"})
    with pytest.raises(TypeError):
        Engine().record([], **EVENT)  # type: ignore[arg-type]

    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(wall_clock_fn=interrupted).record(TRAIL, **EVENT)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("on_error", StoreErrorMode)
def test_outcomes_with_a_dead_store(mode: Mode, on_error: StoreErrorMode) -> None:
    policy = AuditPolicy(mode=mode, on_store_error=on_error)
    engine = Engine(store=DeadStore())
    engine.register(TRAIL, policy)
    ran: list[int] = []

    def outcome(call: Callable[[], Any]) -> str:
        try:
            result = call()
        except AuditError as error:
            return "raised" if str(error) == "Store append failed: disk" else str(error)
        return (
            "dropped" if getattr(result, "dropped", None) or getattr(result, "ok", None) is False else "ran"
        )

    outcomes = (
        outcome(lambda: engine.record(TRAIL, **EVENT)),
        outcome(engine.guard(TRAIL)(lambda: ran.append(1))),
        outcome(engine.guard_result(TRAIL)(lambda: ran.append(2))),
    )
    if mode is Mode.SOFT:
        assert outcomes == ("dropped", "ran", "dropped")
        assert ran == [1]
    elif on_error is StoreErrorMode.FAIL_OPEN:
        assert outcomes == ("dropped", "raised", "dropped")
        assert ran == []
    else:
        assert outcomes == ("raised", "raised", "raised")
        assert ran == []


def test_enforce() -> None:
    engine = Engine(store=DeadStore())
    soft = engine.record(TRAIL, **EVENT, policy=AuditPolicy(mode=Mode.SOFT))
    engine.enforce(soft)
    below = engine.record(TRAIL, **EVENT, policy=AuditPolicy(min_severity=Severity.ERROR))
    with pytest.raises(AuditError, match="Below min_severity"):
        engine.enforce(below)


def test_sequences_continue_and_restart() -> None:
    store = MemoryStore()
    for expected in range(3):
        entry = Engine(store=store).record(TRAIL, **EVENT).entry
        assert entry is not None
        assert entry.sequence == expected
    engine = Engine(store=store)
    engine.record(Trail("t", "other"), **EVENT)
    engine.clear(TRAIL)
    assert (store.count(TRAIL), store.count(Trail("t", "other"))) == (0, 1)
    restarted = engine.record(TRAIL, **EVENT).entry
    assert restarted is not None
    assert restarted.sequence == 0
    engine.clear_all()
    assert store.query(QueryFilter()) == []


@pytest.mark.parametrize("store", [MemoryStore, ForeignStore])
def test_pruning_never_reuses_a_sequence(store: Callable[[], Any]) -> None:
    engine = Engine(store=store(), clock=counting_clock())
    engine.record(TRAIL, **EVENT)
    engine.record(TRAIL, **EVENT)
    assert engine._store.prune(TRAIL, 100.0) == 2
    entry = engine.record(TRAIL, **EVENT).entry
    assert entry is not None
    assert entry.sequence == 2


@pytest.mark.parametrize("store", [MemoryStore, ForeignStore])
def test_retention(store: Callable[[], Any]) -> None:
    engine = Engine(store=store(), clock=counting_clock())
    engine.register(TRAIL, AuditPolicy(retention_seconds=2, integrity=IntegrityMode.CHAIN))
    for _ in range(6):
        engine.record(TRAIL, **EVENT)
    left = engine._store.query(QueryFilter(trail=TRAIL))
    assert [entry.ts for entry in left] == [4.0, 5.0, 6.0]
    assert verify_chain(left) == (True, None)


def test_a_store_that_cannot_prune_does_not_undo_the_record() -> None:
    class Sticky(ForeignStore):
        def prune(self, trail: Trail, before_ts: float) -> int:
            raise OSError("prune")

    engine = Engine(store=Sticky(), clock=counting_clock())
    assert engine.record(TRAIL, **EVENT, policy=AuditPolicy(retention_seconds=1)).recorded


def test_a_chain_continues_from_an_entry_appended_by_hand() -> None:
    engine = engine_with(IntegrityMode.CHAIN)
    donor = engine_with(IntegrityMode.CHAIN)
    donor.record(TRAIL, **EVENT)
    imported = donor.record(TRAIL, **EVENT).entry
    assert imported is not None
    engine._store.append(imported)
    following = engine.record(TRAIL, **EVENT).entry
    assert following is not None
    assert (following.sequence, following.prev_hash) == (2, imported.entry_hash)
    assert verify_chain([imported, following]) == (True, None)


def test_details_are_snapshots() -> None:
    detail: dict[str, Any] = {"list": [1, {"deep": 2}], "tuple": (1, [2]), "plain": "x"}
    engine = engine_with()
    entry = engine.record(TRAIL, **EVENT, detail=detail).entry
    assert entry is not None
    detail["list"][1]["deep"] = 3
    detail["tuple"][1].append(4)
    detail["plain"] = "y"
    detail["new"] = 1
    assert entry.detail == {"list": [1, {"deep": 2}], "tuple": (1, [2]), "plain": "x"}
    assert verify_chain([entry]) == (True, None)
    entry.detail["plain"] = "forged"
    assert verify_chain([entry]) == (False, 0)


def test_subclassed_stores() -> None:
    class Failing(MemoryStore):
        def __init__(self, fail_after: int) -> None:
            self.left = fail_after

        def append(self, entry: Any) -> None:
            if self.left == 0:
                raise OSError("simulated")
            self.left -= 1
            super().append(entry)

    engine = Engine(store=Failing(2))
    assert [engine.record(TRAIL, **EVENT).recorded for _ in range(2)] == [True, True]
    with pytest.raises(AuditError, match="Store append failed: simulated"):
        engine.record(TRAIL, **EVENT)
    assert engine._store.count(TRAIL) == 2
    with pytest.raises(TypeError):
        MemoryStore(1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        MemoryStore().anything = 1  # type: ignore[attr-defined]


def test_stores_that_lack_a_method_fail_closed() -> None:
    with pytest.raises(AuditError, match="Entry build failed: 'object' object has no attribute 'last_entry'"):
        Engine(store=object()).record(TRAIL, **EVENT)  # type: ignore[arg-type]


def test_guards() -> None:
    engine = engine_with()
    meta = {"team": "x"}

    @engine.guard(TRAIL, meta=meta, verdict=Verdict.OVERRIDE, severity=Severity.WARN, gate_type="mine")
    def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    assert add(1, b=2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert list(inspect.signature(add).parameters) == ["a", "b"]
    entry = engine._store.last_entry(TRAIL)
    assert entry is not None
    assert entry.reason == f"guard:{add.__qualname__}"
    assert (entry.gate_identity, entry.gate_type) == ("t:s@global", "mine")
    assert (entry.verdict, entry.severity, entry.detail) == (Verdict.OVERRIDE, Severity.WARN, meta)
    wrapped = engine.guard_result(TRAIL)(lambda: None)()
    assert (wrapped.ok, wrapped.unwrap()) == (True, None)


def test_guarded_partials_and_callable_objects() -> None:
    class Tool:
        def __call__(self) -> str:
            return "called"

    engine = engine_with()
    bound = functools.partial(functools.partial(max, 1), 2)
    assert engine.guard(TRAIL)(bound)() == 2
    assert engine.guard(TRAIL)(Tool())() == "called"
    names = [entry.reason for entry in engine._store.query(QueryFilter())]
    assert names == ["guard:max", f"guard:{Tool.__qualname__}"]  # no memory addresses


def test_outcomes_are_recorded_on_request() -> None:
    engine = engine_with(IntegrityMode.CHAIN)

    @engine.guard(TRAIL, outcome=True)
    def divide(by: int) -> float:
        return 1 / by

    divide(1)
    with pytest.raises(ZeroDivisionError):
        divide(0)
    log = engine._store.query(QueryFilter())
    assert [(entry.verdict.name, entry.detail) for entry in log] == [
        ("ALLOW", {}),
        ("ALLOW", {"intent": 0, "outcome": "done"}),
        ("ALLOW", {}),
        ("ERROR", {"intent": 2, "outcome": "error", "error": "ZeroDivisionError"}),
    ]
    assert verify_chain(log) == (True, None)


def test_listeners() -> None:
    emitter = Emitter()
    seen: list[Any] = []

    def failing(decision: Decision) -> None:
        raise ValueError("listener")

    def adding(decision: Decision) -> None:
        if not seen:
            emitter.add(lambda decision: seen.append("late"))
        seen.append("early")

    engine = Engine(emitter=emitter)
    engine.on_decision(failing)
    engine.on_decision(adding)
    assert engine.record(TRAIL, **EVENT).recorded
    assert seen == ["early", "late"]
    assert engine.listener_errors == emitter.error_count == 1
    assert emitter.remove(failing)
    assert not emitter.remove(failing)
    engine.record(TRAIL, **EVENT)
    assert engine.listener_errors == 1

    class Stop(BaseException):
        pass

    def stopping(decision: Decision) -> None:
        raise Stop

    engine.on_decision(stopping)
    with pytest.raises(Stop):
        engine.record(TRAIL, **EVENT)
    assert engine._store.count(TRAIL) == 3


def test_a_listener_may_record() -> None:
    engine = engine_with()
    other = Trail("t", "mirror")
    engine.on_decision(lambda decision: decision.trail == TRAIL and engine.record(other, **EVENT))
    engine.record(TRAIL, **EVENT)
    assert engine._store.count(other) == 1


def test_emitters_of_the_users_own() -> None:
    class Loud:
        def __init__(self) -> None:
            self.events: list[Any] = []

        def emit(self, event: Any) -> None:
            self.events.append(event)

    loud = Loud()
    decision = Engine(emitter=loud).record(TRAIL, **EVENT)  # type: ignore[arg-type]
    assert loud.events == [decision]


def test_a_clock_may_return_an_int_and_is_read_once() -> None:
    clock = iter([7])
    entry = Engine(clock=lambda: next(clock)).record(TRAIL, **EVENT).entry
    assert entry is not None
    assert repr(entry.ts) == "7"


def test_default_clocks() -> None:
    entry = Engine().record(TRAIL, **EVENT).entry
    assert entry is not None
    assert entry.wall_ts.endswith("+00:00")
    from datetime import UTC, datetime

    stamp = datetime.fromisoformat(entry.wall_ts)
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60
    assert stamp.isoformat() == entry.wall_ts


def test_engines_with_cycles_are_collected() -> None:
    class Listener:
        """Holds the engine that calls it."""

        def __init__(self) -> None:
            self.engine = Engine(clock=self.clock)
            self.engine.on_decision(self.hear)

        def clock(self) -> float:
            return 1.0

        def hear(self, decision: Decision) -> None:
            assert decision.recorded

    listener = Listener()
    listener.engine.record(TRAIL, **EVENT)
    gone = weakref.ref(listener)
    del listener
    gc.collect()
    assert gone() is None


def test_subclassed_engines() -> None:
    class Mine(Engine):
        def __init__(self, name: str) -> None:
            super().__init__(recorded_by=name)

    entry = Mine("me").record(TRAIL, **EVENT).entry
    assert entry is not None
    assert entry.recorded_by == "me"

    class Forgetful(Engine):
        def __init__(self) -> None:
            pass

    with pytest.raises(RuntimeError, match="__init__ was not called"):
        Forgetful().record(TRAIL, **EVENT)


async def test_sync_and_async_share_a_log() -> None:
    engine = engine_with(IntegrityMode.CHAIN)
    engine.record(TRAIL, **EVENT)
    await engine.async_record(TRAIL, **EVENT)
    engine.record(TRAIL, **EVENT)
    log = engine._store.query(QueryFilter())
    assert [entry.sequence for entry in log] == [0, 1, 2]
    assert verify_chain(log) == (True, None)
    assert await engine._async_store.query(QueryFilter()) == log
    both = Engine(store=MemoryStore(), async_store=AsyncMemoryStore())
    both.record(TRAIL, **EVENT)
    assert await both._async_store.count(TRAIL) == 0  # given apart, they stay apart
