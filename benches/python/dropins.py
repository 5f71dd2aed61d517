"""Cases that exist on both sides: each makes a function that is called once per measured call.

The clock is injected: one second passes per call, and the window is half a second longer than the number of events
that lie in it, so that every call finds exactly that many and one leaves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from packages import load, prefill

ENDLESS = 10**9
COST = Decimal("0.01")
MAX_SPEND = Decimal(1_000_000)
ARGUMENTS = {"user": "u1", "text": "hello", "limit": 5}


@dataclass
class Prepared:
    """A case ready to run: what is called, and what forgets the records it left behind between two rounds."""

    call: Callable[[], Any]
    clear: Callable[[], Any] = field(default=lambda: None)
    awaits: bool = False
    """Whether `call` returns something to await."""
    end: Callable[[], Any] = field(default=lambda: None)
    """Leaves what `clear` has entered."""


def tool(user: str, text: str, limit: int = 10) -> None:
    """Do nothing, with the signature of a tool."""


async def async_tool(user: str, text: str, limit: int = 10) -> None:
    """Do nothing, and await nothing."""


def _ticks() -> Callable[[], int]:
    return itertools.count().__next__


def _calling(function: Callable[..., Any]) -> Callable[[], Any]:
    # A def of its own on both sides: the call site is a plain Python call with three arguments.
    def call() -> Any:
        return function("u1", "hello", limit=5)

    return call


def actiongate(side: str, what: str, events: int) -> Prepared:
    """One limit: `check`, `guard` or `async_guard`."""
    module = load(side, "actiongate")
    gate = module.Gate("bench", "tool", "user:1")
    policy = module.Policy(max_calls=ENDLESS, window=events + 0.5)
    engine = module.Engine(clock=_ticks())
    engine.register(gate, policy)
    if what == "async_guard":
        # The published package keeps async calls in a store of its own.
        store = engine._async_store if side == "published" else None
        guarded = engine.async_guard(gate, policy)(async_tool)
        run = _sync(guarded)
        prefill(side, run, store, gate, float, events)
        return Prepared(_calling(guarded), awaits=True)
    store = engine._store if side == "published" else None
    prefill(side, lambda: engine.check(gate), store, gate, float, events)
    _expect(engine.check(gate).calls_in_window - 1, events)
    if what == "check":
        return Prepared(lambda: engine.check(gate))
    if what == "blocked":
        engine.register(gate, module.Policy(max_calls=0, window=events + 0.5))
        return Prepared(lambda: engine.check(gate))
    return Prepared(_calling(engine.guard(gate, policy)(tool)))


def _expect(found: Any, events: int) -> None:
    # Ours keeps more than 1,024 events on a grid of a thousandth of the window: that much more may be there.
    if not events <= found <= events + (events // 1_000 + 1 if events > 1_024 else 0):
        raise RuntimeError(f"{found} events instead of {events} are in the window")


def _sync(guarded: Callable[..., Any]) -> Callable[[], None]:
    def run() -> None:
        try:
            guarded("u1", "hello", limit=5).send(None)
        except StopIteration:
            return

    return run


def budgetgate(side: str, what: str, events: int) -> Prepared:
    """A budget: `guard` with a fixed cost, or `guard_bounded` with a hold that is settled."""
    module = load(side, "budgetgate")
    ledger = module.Ledger("bench", "tool", "user:1")
    budget = module.Budget(max_spend=MAX_SPEND, window=events + 0.5)
    engine = module.Engine(clock=_ticks())
    engine.register(ledger, budget)
    store = engine._store if side == "published" else None

    def event(second: int) -> Any:
        return module.SpendEvent(float(second), COST)

    prefill(side, lambda: engine.check(ledger, COST), store, ledger, event, events)
    _expect(engine.check(ledger, COST).spent_in_window / COST - 1, events)
    if what == "guard_bounded":
        bounded = engine.guard_bounded(ledger, budget, estimate=COST, actual=lambda result: COST)
        return Prepared(_calling(bounded(tool)))
    return Prepared(_calling(engine.guard(ledger, budget, cost=COST)(tool)))


PREDICATES: tuple[Callable[[Any], bool], ...] = (
    lambda context: context.kwargs["limit"] <= 100,
    lambda context: context.kwargs["limit"] > 0,
    lambda context: context.args[0] != "",
    lambda context: len(context.args[1]) < 200,
    lambda context: "ssn" not in context.args[1],
)


def rulegate(side: str, what: str, predicates: int) -> Prepared:
    """So many Python predicates in front of a function."""
    module = load(side, "rulegate")
    rule = module.Rule("bench", "tool", "user:1")
    engine = module.Engine(clock=_ticks())
    guarded = engine.guard(rule, module.Ruleset(predicates=PREDICATES[:predicates]))(tool)
    return Prepared(_calling(guarded), clear=engine.clear_all)


def auditgate(side: str, what: str, _events: int) -> Prepared:
    """One entry with a detail of three members, hashed or chained."""
    module = load(side, "auditgate")
    trail = module.Trail("bench", "tool", "user:1")
    engine = module.Engine(clock=_ticks())
    engine.register(trail, module.AuditPolicy(integrity=module.IntegrityMode[what]))
    verdict, severity = module.Verdict.ALLOW, module.Severity.INFO

    def call() -> Any:
        return engine.record(
            trail,
            verdict=verdict,
            severity=severity,
            gate_type="actiongate",
            gate_identity="bench:tool@user:1",
            detail=ARGUMENTS,
        )

    return Prepared(call, clear=engine.clear_all)


@dataclass
class _Gates:
    action: Any
    budget: Any
    rule: Any
    audit: Any


def _engines(side: str) -> tuple[_Gates, _Gates]:
    """The modules and one engine of each."""
    modules = _Gates(*(load(side, name) for name in ("actiongate", "budgetgate", "rulegate", "auditgate")))
    engines = _Gates(
        *(
            module.Engine(clock=_ticks())
            for module in (modules.action, modules.budget, modules.rule, modules.audit)
        )
    )
    return modules, engines


def runner(side: str, what: str, events: int) -> Prepared:
    """`GatedToolRunner.call` through all four gates, one Python predicate, an entry in HASH mode."""
    module = load(side, "actiongate_openai")
    gates, engines = _engines(side)
    runner = module.GatedToolRunner(
        actiongate=engines.action, budgetgate=engines.budget, rulegate=engines.rule, auditgate=engines.audit
    )
    runner.register(
        "tool",
        tool,
        gate=gates.action.Gate("bench", "tool", "user:1"),
        policy=gates.action.Policy(max_calls=ENDLESS, window=events + 0.5),
        ledger=gates.budget.Ledger("bench", "tool", "user:1"),
        budget=gates.budget.Budget(max_spend=MAX_SPEND, window=events + 0.5),
        cost=COST,
        rule=gates.rule.Rule("bench", "tool", "user:1"),
        ruleset=gates.rule.Ruleset(predicates=PREDICATES[:1]),
        trail=gates.audit.Trail("bench", "tool", "user:1"),
        audit_policy=gates.audit.AuditPolicy(),
    )

    def call() -> Any:
        return runner.call("tool", ARGUMENTS)

    for _ in range(events):
        call()
    if not call().allowed:
        raise RuntimeError("the runner refused a call")
    return Prepared(call, clear=lambda: _forget(engines))


def _forget(engines: _Gates) -> None:
    engines.rule.clear_all()
    engines.audit.clear_all()


def stacked(side: str, what: str, events: int) -> Prepared:
    """Four guards on one function: five Python predicates, a limit, a budget, an entry in HASH mode."""
    gates, engines = _engines(side)
    function: Callable[..., Any] = tool
    function = engines.audit.guard(gates.audit.Trail("bench", "tool", "user:1"))(function)
    ledger = gates.budget.Ledger("bench", "tool", "user:1")
    budget = gates.budget.Budget(max_spend=MAX_SPEND, window=events + 0.5)
    function = engines.budget.guard(ledger, budget, cost=COST)(function)
    gate = gates.action.Gate("bench", "tool", "user:1")
    policy = gates.action.Policy(max_calls=ENDLESS, window=events + 0.5)
    function = engines.action.guard(gate, policy)(function)
    rule = gates.rule.Rule("bench", "tool", "user:1")
    function = engines.rule.guard(rule, gates.rule.Ruleset(predicates=PREDICATES))(function)
    call = _calling(function)
    for _ in range(events):
        call()
    return Prepared(call, clear=lambda: _forget(engines))


@dataclass(frozen=True)
class Case:
    """One row of the table: what runs on both sides, and how many times faster ours should be."""

    name: str
    make: Callable[[str, str, int], Prepared]
    what: str
    size: int
    events: str
    goal: float | None = None


def all_cases() -> Iterator[Case]:
    """Every case that both sides have."""
    check_goals = {10: 25.0, 1_000: 200.0, 100_000: None}
    guard_goals = {10: 20.0, 1_000: 120.0, 100_000: None}
    for events in check_goals:
        yield Case("actiongate check", actiongate, "check", events, f"{events}", check_goals[events])
    for events in guard_goals:
        yield Case("actiongate guard", actiongate, "guard", events, f"{events}", guard_goals[events])
    yield Case("actiongate check, blocked", actiongate, "blocked", 10, "10")
    yield Case("actiongate async_guard", actiongate, "async_guard", 10, "10")
    for events in (10, 1_000, 100_000):
        yield Case(
            "budgetgate guard", budgetgate, "guard", events, f"{events}", 20.0 if events == 10 else None
        )
    yield Case("budgetgate guard_bounded", budgetgate, "guard_bounded", 10, "10")
    yield Case("rulegate guard, 1 predicate", rulegate, "guard", 1, "-", 10.0)
    yield Case("rulegate guard, 5 predicates", rulegate, "guard", 5, "-")
    yield Case("auditgate record HASH", auditgate, "HASH", 0, "-", 8.0)
    yield Case("auditgate record CHAIN", auditgate, "CHAIN", 0, "-")
    yield Case("GatedToolRunner.call, 4 gates", runner, "call", 10, "10", 15.0)
    yield Case("four guards stacked, 5 predicates", stacked, "guard", 10, "10")
