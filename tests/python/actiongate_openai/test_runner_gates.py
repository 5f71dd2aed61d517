"""All gates or none: order, consumption, decisions, and the audit entries of a call."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from runner_kit import GATE, LEDGER, TRAIL, Bench

from checkrein import actiongate, auditgate, budgetgate, rulegate
from checkrein.auditgate import AuditPolicy, IntegrityMode, verify_chain


@pytest.fixture
def bench() -> Bench:
    """Return a runner with `search` behind all four gates."""
    made = Bench()
    made.register()
    return made


def test_an_allowed_call(bench: Bench) -> None:
    result = bench.runner.call("search", {"query": "x"})
    assert (result.allowed, result.result, result.blocked_by, result.message) == (True, "found x", None, None)
    assert bool(result)
    assert repr(result) == "GateResult(allowed=True, tool='search')"
    assert result.decisions == {
        "actiongate": {
            "schema_version": "0.2.2",
            "status": "ALLOW",
            "gate": "tools:search@agent:1",
            "reason": None,
            "message": None,
            "calls_in_window": 1,
            "time_since_last": None,
        },
        "budgetgate": {
            "schema_version": "0.2.2",
            "status": "ALLOW",
            "ledger": "api:search@agent:1",
            "reason": None,
            "message": None,
            "spent_in_window": "0.30",
            "requested": "0.30",
            "remaining": "0.70",
        },
        "rulegate": {
            "schema_version": "0.2.2",
            "status": "ALLOW",
            "rule": "tools:search@global",
            "reason": None,
            "message": None,
            "violated_rules": [],
            "evaluated_count": 1,
        },
    }
    assert list(result.decisions) == ["actiongate", "budgetgate", "rulegate"]
    assert result.decisions is result.decisions
    (entry,) = bench.log()
    assert entry.detail == result.decisions
    assert (entry.verdict.name, entry.severity.name, entry.gate_type) == ("ALLOW", "INFO", "pipeline")
    assert (entry.reason, entry.gate_identity) == ("ALLOW by pipeline", str(TRAIL))


def test_editing_the_decisions_does_not_forge_the_log(bench: Bench) -> None:
    result = bench.runner.call("search", {})
    result.decisions["actiongate"]["status"] = "FORGED"
    (entry,) = bench.log()
    assert entry.detail["actiongate"]["status"] == "ALLOW"
    assert verify_chain([entry]) == (True, None)


def test_a_refused_call_consumes_nothing(bench: Bench) -> None:
    for _ in range(10):
        refused = bench.runner.call("search", {"query": "secret"})
        assert (refused.allowed, refused.blocked_by) == (False, "rulegate")
        assert refused.message == "Policy violation: no_secrets"
        assert list(refused.decisions) == ["actiongate", "budgetgate", "rulegate"]
    assert (bench.calls(), bench.spent(), bench.ran) == (0, Decimal(0), [])
    # All that was there is still there: three calls fit the budget.
    assert [bool(bench.runner.call("search", {})) for _ in range(4)] == [True, True, True, False]
    refused = bench.runner.call("search", {})
    assert refused.blocked_by == "budgetgate"
    assert refused.message == "Budget exceeded: 0.90 + 0.30 > 1.00"
    assert list(refused.decisions) == ["actiongate", "budgetgate"]
    assert (bench.calls(), bench.spent()) == (3, Decimal("0.90"))
    assert repr(refused) == "GateResult(allowed=False, tool='search', blocked_by='budgetgate')"


def test_the_first_gate_that_blocks_is_named() -> None:
    bench = Bench()
    bench.register(
        policy=actiongate.Policy(max_calls=0), budget=budgetgate.Budget(Decimal(0)), cost=Decimal(1)
    )
    refused = bench.runner.call("search", {"query": "secret"})
    assert (refused.blocked_by, refused.message) == ("actiongate", "Rate limit: 0 >= 0")
    assert list(refused.decisions) == ["actiongate"]
    bench.register(budget=budgetgate.Budget(Decimal(0)), cost=Decimal(1))
    assert bench.runner.call("search", {"query": "secret"}).blocked_by == "budgetgate"


def test_cooldown(bench: Bench) -> None:
    bench.register(policy=actiongate.Policy(max_calls=5, window=60, cooldown=2.0))
    assert bench.runner.call("search", {})
    bench.now = 2.5
    refused = bench.runner.call("search", {})
    assert (refused.blocked_by, refused.message) == ("actiongate", "Cooldown: 1.5s < 2.0s")
    assert refused.decisions["actiongate"]["reason"] == "COOLDOWN"


def test_refusals_are_recorded(bench: Bench) -> None:
    refused = bench.runner.call("search", {"query": "secret"})
    (entry,) = bench.log()
    assert (entry.verdict.name, entry.severity.name, entry.gate_type) == ("BLOCK", "WARN", "rulegate")
    assert (entry.reason, entry.detail) == ("BLOCK by rulegate", refused.decisions)


def test_a_tool_that_raises_adds_an_entry(bench: Bench) -> None:
    with pytest.raises(KeyError, match="boom"):
        bench.runner.call("search", {"query": "raise"})
    admitted, failed = bench.log()
    assert (admitted.gate_type, admitted.verdict.name) == ("pipeline", "ALLOW")
    assert (failed.verdict.name, failed.severity.name, failed.gate_type) == ("ERROR", "ERROR", "execution")
    assert (failed.reason, failed.detail) == ("'boom'", admitted.detail)
    assert (bench.calls(), bench.spent()) == (1, Decimal("0.30"))  # it ran: no refund


def test_outcomes_on_request() -> None:
    bench = Bench(outcomes=True)
    bench.register()
    bench.runner.call("search", {})
    assert [(entry.gate_type, entry.reason) for entry in bench.log()] == [
        ("pipeline", "ALLOW by pipeline"),
        ("execution", "done"),
    ]
    assert verify_chain(bench.log()) == (True, None)


def test_hashes_of_lazy_details_are_those_of_what_they_show() -> None:
    source = random.Random(5)
    for integrity in (IntegrityMode.HASH, IntegrityMode.CHAIN):
        bench = Bench()
        for _ in range(300):
            places = source.randrange(9)
            amount = Decimal(source.randrange(10**9)).scaleb(-places)
            bench.register(
                policy=actiongate.Policy(max_calls=10**6, window=source.choice([None, 0.5, 60])),
                budget=budgetgate.Budget(
                    source.choice([Decimal("Infinity"), amount * 10**6 + 1, Decimal("1E+3")]), window=60
                ),
                cost=source.choice([amount, Decimal("1E+2"), 3, Decimal("0E-9"), Decimal("7")]),
                audit_policy=AuditPolicy(integrity=integrity),
            )
            bench.now += source.choice([0, 0.0000001, 0.25, 1 / 3, 1e-5, 7, 12345.678901])
            result = bench.runner.call("search", {"query": "é"})
            assert result.blocked_by in (None, "budgetgate")
        log = bench.log()
        assert any(entry.verdict.name == "ALLOW" for entry in log)
        log.sort(key=lambda entry: entry.sequence)
        assert verify_chain(log) == (True, None)


def test_listeners_hear_the_decisions_reached(bench: Bench) -> None:
    heard: list[str] = []
    for name, engine in (("rate", bench.rate), ("spend", bench.spend), ("rules", bench.rules)):
        engine.on_decision(lambda decision, name=name: heard.append(f"{name} {decision.status.name}"))
    bench.audit.on_decision(lambda decision: heard.append(f"audit {decision.entry.verdict.name}"))
    bench.runner.call("search", {})
    assert sorted(heard) == ["audit ALLOW", "rate ALLOW", "rules ALLOW", "spend ALLOW"]
    heard.clear()
    bench.register(policy=actiongate.Policy(max_calls=0))
    bench.runner.call("search", {})
    assert heard == ["rate BLOCK", "audit BLOCK"]


def test_predicates_get_a_copy(bench: Bench) -> None:
    def meddle(context: rulegate.Context) -> bool:
        context.kwargs["query"]["amount"] = 999_999
        context.kwargs["extra"] = 1
        return True

    bench.register(ruleset=rulegate.Ruleset((meddle,)))
    given = {"query": {"amount": 1}}
    assert bench.runner.call("search", given).allowed
    assert bench.ran == [{"amount": 1}]
    assert bench.ran[0] is given["query"]


def test_predicates_run_once_and_only_when_they_decide(bench: Bench) -> None:
    asked: list[int] = []
    bench.register(
        ruleset=rulegate.Ruleset((lambda context: asked.append(1) or True,)),  # type: ignore[func-returns-value]
    )
    bench.runner.call("search", {})
    assert asked == [1]
    bench.register(policy=actiongate.Policy(max_calls=0))
    bench.runner.call("search", {})
    assert asked == [1]


def test_a_predicate_that_calls_the_runner_does_not_block_it(bench: Bench) -> None:
    def nested(context: rulegate.Context) -> bool:
        return context.kwargs.get("query") == "inner" or bool(bench.runner.call("search", {"query": "inner"}))

    bench.register(ruleset=rulegate.Ruleset((nested,)))
    result = bench.runner.call("search", {"query": "outer"})
    assert result.allowed
    assert bench.ran == ["inner", "outer"]
    # The inner call changed what the outer one had seen; its numbers are those of its own step.
    assert result.decisions["actiongate"]["calls_in_window"] == 2
    log = bench.log()
    assert [entry.detail["actiongate"]["calls_in_window"] for entry in log] == [1, 2]
    assert verify_chain(log) == (True, None)


def test_bad_costs_block_and_consume_nothing(bench: Bench) -> None:
    for cost in (Decimal("NaN"), Decimal(-1), Decimal("Infinity"), "5", 0.5):
        bench.register(cost=cost)
        refused = bench.runner.call("search", {})
        assert refused.blocked_by == "budgetgate", cost
    assert (bench.calls(), bench.spent(), bench.ran) == (0, Decimal(0), [])


def test_threads_never_exceed_a_limit_and_spend_what_ran() -> None:
    bench = Bench()
    bench.register(
        policy=actiongate.Policy(max_calls=100, window=60),
        budget=budgetgate.Budget(Decimal("25.00"), window=60),
    )
    results: list[Any] = []

    def work() -> None:
        for _ in range(100):
            results.append(bench.runner.call("search", {}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = sum(map(bool, results))
    assert ran == len(bench.ran) == bench.calls() == 83
    assert bench.spent() == ran * Decimal("0.30")
    log = bench.log()
    assert len(log) == 400
    assert verify_chain(sorted(log, key=lambda entry: entry.sequence)) == (True, None)
    assert sum(entry.verdict.name == "ALLOW" for entry in log) == ran


class DeadAudit(auditgate.MemoryStore):
    """A log whose disk is full."""

    def append(self, entry: Any) -> None:
        raise OSError("audit disk")


@pytest.mark.parametrize(
    "engine",
    [
        lambda: auditgate.Engine(store=DeadAudit()),
        lambda: auditgate.Engine(wall_clock_fn=lambda: 1 / 0),  # type: ignore[arg-type,return-value]
        lambda: auditgate.Engine(clock=lambda: 1 / 0),
    ],
)
def test_what_cannot_be_recorded_does_not_run(engine: Callable[[], auditgate.Engine]) -> None:
    bench = Bench(audit=engine())
    bench.register()
    refused = bench.runner.call("search", {})
    assert (refused.allowed, refused.blocked_by) == (False, "auditgate")
    assert any(text in (refused.message or "") for text in ("audit disk", "division by zero"))
    assert (bench.calls(), bench.spent(), bench.ran) == (0, Decimal(0), [])


def test_a_soft_log_lets_calls_pass() -> None:
    bench = Bench(audit=auditgate.Engine(store=DeadAudit()))
    bench.register(audit_policy=AuditPolicy(mode=auditgate.Mode.SOFT))
    assert bench.runner.call("search", {}).allowed
    assert (bench.calls(), bench.ran) == (1, ["default"])
    quiet = Bench()
    quiet.register(audit_policy=AuditPolicy(min_severity=auditgate.Severity.ERROR))
    assert quiet.runner.call("search", {}).allowed
    assert quiet.log() == []


def test_a_cleared_gate_starts_anew(bench: Bench) -> None:
    assert bench.runner.call("search", {})
    bench.rate.clear_all()
    bench.spend.clear_all()
    bench.audit.clear_all()
    result = bench.runner.call("search", {})
    assert result.decisions["actiongate"]["calls_in_window"] == 1
    assert result.decisions["budgetgate"]["spent_in_window"] == "0.30"
    assert [entry.sequence for entry in bench.log()] == [0]


class CountingStore:
    """A rate store of the user's own."""

    def __init__(self, allow: bool = True) -> None:
        self.allow = allow
        self.asked = 0

    def check_and_reserve(self, gate: Any, now: float, policy: Any) -> tuple[int, bool, float | None]:
        self.asked += 1
        return self.asked, self.allow, None

    def clear(self, gate: Any) -> None: ...

    def clear_all(self) -> None: ...


def test_stores_of_the_users_own_release_what_a_later_gate_refuses() -> None:
    store = CountingStore(allow=False)
    bench = Bench(rate=actiongate.Engine(store=store))
    bench.register()
    refused = bench.runner.call("search", {})
    assert (refused.blocked_by, store.asked) == ("actiongate", 1)
    assert (bench.spent(), bench.ran) == (Decimal(0), [])
    assert bench.runner.call("search", {"query": "secret"}).blocked_by == "rulegate"
    assert store.asked == 1  # rules first: they cost nothing
    store.allow = True
    allowed = bench.runner.call("search", {})
    assert allowed.allowed
    assert list(allowed.decisions) == ["actiongate", "budgetgate", "rulegate"]
    assert (bench.spent(), bench.ran) == (Decimal("0.30"), ["default"])
    assert [entry.reason for entry in bench.log()] == [
        "BLOCK by actiongate",
        "BLOCK by rulegate",
        "ALLOW by pipeline",
    ]


def test_stores_of_the_users_own_with_a_dead_log() -> None:
    store = CountingStore()
    bench = Bench(rate=actiongate.Engine(store=store), audit=auditgate.Engine(store=DeadAudit()))
    bench.register()
    assert bench.runner.call("search", {}).blocked_by == "auditgate"
    assert (bench.spent(), bench.ran) == (Decimal(0), [])


def test_subclassed_engines_are_heard() -> None:
    class Strict(actiongate.Engine):
        def check(self, gate: Any, policy: Any = None) -> Any:
            return super().check(gate, actiongate.Policy(max_calls=0))

    bench = Bench(rate=Strict())
    bench.register()
    assert bench.runner.call("search", {}).blocked_by == "actiongate"


def test_entries_go_to_a_file(tmp_path: Any) -> None:
    store = auditgate.FileStore(tmp_path / "log")
    bench = Bench(audit=auditgate.Engine(store=store))
    bench.register()
    bench.runner.call("search", {})
    bench.runner.call("search", {"query": "secret"})
    store.close()
    from checkrein.auditgate.cli import main

    assert main(["verify", str(tmp_path / "log"), "--strict"]) == 0
    assert store.count(TRAIL) == 2


def test_identities_are_shared_with_direct_checks(bench: Bench) -> None:
    bench.runner.call("search", {})
    assert bench.rate.check(GATE, actiongate.Policy(5, 60)).calls_in_window == 2
    assert bench.runner.call("search", {}).decisions["actiongate"]["calls_in_window"] == 3
    assert bench.spend.check(LEDGER, Decimal("0.10"), budgetgate.Budget(Decimal(1), 60)).allowed
