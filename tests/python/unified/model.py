"""A naive model of one engine: lists of events that are summed up at every question. Obviously right, slow."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

NEVER, UNKNOWN = "never", "unknown"
Reason = tuple[str, object]


@dataclass
class Config:
    """What the guard has; `None` is a gate it does not have. Times in nanoseconds, amounts in whole units."""

    rate: tuple[int, int] | None = None
    cooldown: int = 0
    budget: tuple[int, int | None] | None = None
    attempts: int | None = None
    once: tuple[int, int] | None = None
    breaker: tuple[int, int, int, int] | None = None  # failures, reset, probes, lease


@dataclass
class Operation:
    """The record of a once key."""

    digest: object
    state: str
    since: int
    result: object = None


@dataclass
class BreakerModel:
    """A breaker: closed with failures, open until, or half open with probes."""

    phase: str = "closed"
    fails: int = 0
    until: int = 0
    probes: dict[int, int] = field(default_factory=dict)
    succeeded: int = 0
    generation: int = 0

    def enter(self, phase: str, until: int = 0) -> None:
        self.phase, self.fails, self.until, self.probes, self.succeeded = phase, 0, until, {}, 0
        self.generation += 1

    def advance(self, now: int, reset: int) -> None:
        if self.phase == "open" and now >= self.until:
            self.enter("half_open")
        elif self.phase == "half_open":
            lost = [lease for lease in self.probes.values() if lease <= now]
            if lost:
                self.enter("open", min(lost) + reset)
                self.advance(now, reset)


@dataclass
class Call:
    """An admitted call that has not ended."""

    user: str
    cost: int
    key: str
    ticket: tuple[int, int | None] | None


class Model:
    """The engine with one guard, keyed by user."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.calls: dict[str, list[int]] = {}
        self.newest: dict[str, int] = {}
        self.attempted: dict[str, int] = {}
        self.spent: dict[str, list[tuple[int, int]]] = {}
        self.held: dict[str, int] = {}
        self.operations: dict[str, Operation] = {}
        self.doubts: dict[str, Call] = {}
        self.breaker = BreakerModel()
        self.numbers = itertools.count()

    def admit(self, now: int, user: str, cost: int, key: str, digest: object) -> tuple[str, Any]:
        """Decide: `("allow", call)`, `("replay", result)` or `("block", reasons)`."""
        reasons: list[Reason] = []
        if self.config.once:
            said = self._once(now, key, digest)
            if isinstance(said, tuple) and said[0] == "replay":
                return said
            reasons += said
        reasons += (
            self._breaker(now) + self._attempts(user) + self._limit(now, user) + self._budget(now, user, cost)
        )
        if reasons:
            return "block", reasons
        return "allow", self._take(now, user, cost, key, digest)

    def _once(self, now: int, key: str, digest: object) -> Any:
        assert self.config.once
        keep_result, keep_key = self.config.once
        operation = self.operations.get(key)
        if operation is None:
            return []
        finished = operation.state in ("done", "failed_clean")
        if finished and now >= operation.since + keep_key:
            return []
        if operation.digest != digest:
            return [("key_reused", NEVER)]
        if operation.state == "failed_clean":
            return []
        if operation.state == "started":
            return [("in_progress", UNKNOWN)]
        if operation.state == "in_doubt":
            return [("in_doubt", UNKNOWN)]
        if now < operation.since + keep_result:
            return "replay", operation.result
        return [("result_pruned", NEVER)]

    def _breaker(self, now: int) -> list[Reason]:
        if not self.config.breaker:
            return []
        _, reset, probes, _ = self.config.breaker
        self.breaker.advance(now, reset)
        if self.breaker.phase == "open":
            return [("circuit_open", self.breaker.until - now)]
        if self.breaker.phase == "half_open" and len(self.breaker.probes) + self.breaker.succeeded >= probes:
            return [("circuit_open", UNKNOWN)]
        return []

    def _attempts(self, user: str) -> list[Reason]:
        if self.config.attempts is None or self.attempted.get(user, 0) < self.config.attempts:
            return []
        return [("attempts_exceeded", NEVER)]

    def _limit(self, now: int, user: str) -> list[Reason]:
        reasons: list[Reason] = []
        newest = self.newest.get(user)
        if self.config.cooldown and newest is not None and now < newest + self.config.cooldown:
            reasons.append(("cooldown", newest + self.config.cooldown - now))
        if self.config.rate:
            limit, window = self.config.rate
            inside = [stamp for stamp in self.calls.get(user, []) if now - stamp < window]
            if len(inside) >= limit:
                reasons.append(("rate_limited", inside[len(inside) - limit] + window - now))
        return reasons

    def _budget(self, now: int, user: str, cost: int) -> list[Reason]:
        if not self.config.budget or cost == 0:
            return []
        limit, window = self.config.budget
        events = [
            (at, amount) for at, amount in self.spent.get(user, []) if window is None or now - at < window
        ]
        spent, held = sum(amount for _, amount in events), self.held.get(user, 0)
        excess = spent + held + cost - limit
        if excess <= 0:
            return []
        if cost > limit:
            return [("budget_exceeded", NEVER)]
        if window is None:
            return [("budget_exceeded", NEVER if excess > held else UNKNOWN)]
        if excess > spent:
            return [("budget_exceeded", UNKNOWN)]
        leaving = 0
        for at, amount in events:
            leaving += amount
            if leaving >= excess:
                return [("budget_exceeded", at + window - now)]
        raise AssertionError("unreachable")

    def _take(self, now: int, user: str, cost: int, key: str, digest: object) -> Call:
        self.calls.setdefault(user, []).append(now)
        self.newest[user] = now
        self.attempted[user] = self.attempted.get(user, 0) + 1
        if self.config.budget:
            self.held[user] = self.held.get(user, 0) + cost
        if self.config.once:
            self.operations[key] = Operation(digest, "started", now)
        ticket = None
        if self.config.breaker:
            number = None
            if self.breaker.phase == "half_open":
                number = next(self.numbers)
                self.breaker.probes[number] = now + self.config.breaker[3]
            ticket = (self.breaker.generation, number)
        return Call(user, cost, key, ticket)

    def end(self, now: int, call: Call, how: str, health: str, actual: int, result: object) -> None:
        """End a call: `done`, `failed_clean`, `unknown` (an exception) with what it says of the dependency."""
        if self.config.breaker and call.ticket:
            self._report(now, call.ticket, health)
        operation = self.operations.get(call.key)
        if how == "unknown" and self.config.once:
            assert operation
            operation.state, operation.since = "in_doubt", now
            self.doubts[call.key] = call
            return  # what it cost stays held
        if self.config.budget:
            self.held[call.user] -= call.cost
            if how != "failed_clean":
                amount = actual if how == "done" else call.cost
                self.spent.setdefault(call.user, []).append((now, amount))
        if self.config.once:
            assert operation
            operation.state = "done" if how == "done" else "failed_clean"
            operation.since, operation.result = now, result

    def _report(self, now: int, ticket: tuple[int, int | None], health: str) -> None:
        assert self.config.breaker
        max_fails, reset, probes, _ = self.config.breaker
        breaker = self.breaker
        breaker.advance(now, reset)
        generation, number = ticket
        if generation != breaker.generation:
            return
        if breaker.phase == "closed":
            if health == "success":
                breaker.fails = 0
            elif health == "failure":
                breaker.fails += 1
                if breaker.fails >= max_fails:
                    breaker.enter("open", now + reset)
        elif breaker.phase == "half_open":
            if health == "failure":
                breaker.enter("open", now + reset)
            elif number in breaker.probes:
                del breaker.probes[number]
                if health == "success":
                    breaker.succeeded += 1
                    if breaker.succeeded >= probes:
                        breaker.enter("closed")

    def resolve(self, now: int, key: str, done: bool, result: object) -> bool:
        """A person says what became of an operation in doubt."""
        operation = self.operations.get(key)
        if operation is None or operation.state != "in_doubt":
            return False
        operation.state, operation.since = ("done" if done else "failed_clean"), now
        operation.result = result
        call = self.doubts.pop(key)
        if self.config.budget:
            self.held[call.user] -= call.cost
            if done:
                self.spent.setdefault(call.user, []).append((now, call.cost))
        return True
