"""Random histories of spends and reservations against the obvious implementation, and many threads."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from checkrein.budgetgate import Budget, Engine, Ledger

OPERATIONS = int(os.environ.get("CHECKREIN_OPERATIONS", "60000"))


@dataclass
class Account:
    """One ledger: spends filtered at each look, open reservations, the largest window seen."""

    spends: list[tuple[float, Decimal]] = field(default_factory=list)
    held: dict[str, Decimal] = field(default_factory=dict)
    retention: float = 0.0

    def spent(self, now: float, window: float) -> Decimal:
        """Sum what counts, in the order it came: the places of the sum are those of its parts."""
        seen = sum((amount for stamp, amount in self.spends if stamp >= now - window), Decimal(0))
        return sum(self.held.values(), seen)

    def judge(self, now: float, amount: Decimal, budget: Budget) -> tuple[bool, Decimal]:
        """Decide as the contract says; nothing is recorded."""
        assert budget.window is not None
        self.retention = max(self.retention, budget.window)
        self.spends = [spend for spend in self.spends if spend[0] >= now - self.retention]
        spent = self.spent(now, budget.window)
        allowed = spent + amount <= budget.max_spend
        return allowed, spent + amount if allowed else spent


def test_random_histories() -> None:
    seed = int(os.environ.get("CHECKREIN_SEED", str(random.randrange(1 << 32))))
    print(f"CHECKREIN_SEED={seed}")
    rng = random.Random(seed)
    now = 0.0
    engine = Engine(clock=lambda: now)
    ledgers = [Ledger("n", "r", f"user:{i}") for i in range(4)]
    accounts = {ledger: Account() for ledger in ledgers}
    windows = {ledger: rng.sample([1, 7.5, 60, 400], 2) for ledger in ledgers}
    opened: list[tuple[Ledger, str]] = []
    for step in range(OPERATIONS):
        where = f"seed {seed}, step {step}"
        now += rng.choice([0, 0, 0.125, 0.5, 1, 3, 20]) - (rng.choice([1, 50]) if rng.random() < 0.005 else 0)
        ledger = rng.choice(ledgers)
        account = accounts[ledger]
        places = rng.choice([0, 0, 1, 2, 2, 4, 12, 20])
        amount = Decimal(rng.randint(0, 3 * 10**places)).scaleb(-places)
        budget = Budget(Decimal(rng.choice(["0", "5", "10.00", "25.5"])), window=rng.choice(windows[ledger]))
        action = rng.random()
        if action < 0.6:
            decision = engine.check(ledger, amount, budget)
            allowed, spent = account.judge(now, amount, budget)
            assert (decision.allowed, str(decision.spent_in_window)) == (allowed, str(spent)), where
            remaining = max(Decimal(0), budget.max_spend - spent)
            assert str(decision.remaining) == str(remaining), where
            if allowed:
                account.spends.append((now, amount))
        elif action < 0.75:
            held, decision = engine.reserve(ledger, amount, budget)
            allowed, spent = account.judge(now, amount, budget)
            assert (decision.allowed, str(decision.spent_in_window)) == (allowed, str(spent)), where
            if allowed:
                assert held is not None
                account.held[held] = amount
                opened.append((ledger, held))
        elif action < 0.97 and opened:
            ledger, held = opened.pop(rng.randrange(len(opened)))
            del accounts[ledger].held[held]
            if rng.random() < 0.6:
                engine.commit(held, amount)
                accounts[ledger].spends.append((now, amount))
            else:
                engine.release(held)
        elif action < 0.998:
            assert engine.get_remaining(ledger, budget) == max(
                Decimal(0), budget.max_spend - account.spent(now, budget.window or 0)
            ), where
        else:
            engine.clear(ledger)
            accounts[ledger] = Account()
            opened = [pair for pair in opened if pair[0] != ledger]


@pytest.mark.parametrize("bounded", [False, True])
def test_threads_never_spend_more_than_the_budget(bounded: bool) -> None:
    engine = Engine()
    ledger = Ledger("n", "shared")
    engine.register(ledger, Budget(Decimal("20.00"), window=None))
    cost = Decimal("0.03")
    barrier = threading.Barrier(8)

    def work(_: int) -> int:
        barrier.wait()
        done = 0
        for _ in range(500):
            if not bounded:
                done += engine.check(Ledger("n", "shared"), cost).allowed
                continue
            held, decision = engine.reserve(ledger, cost)
            if held is not None:
                engine.commit(held, cost)
            done += decision.allowed
        return done

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(work, range(8)))
    assert done * cost + engine.get_remaining(ledger) == Decimal("20.00")
    assert done == 666


def test_many_spends_are_never_undercounted() -> None:
    rng = random.Random(11)
    now = 0.0
    engine = Engine(clock=lambda: now)
    ledger = Ledger("n", "many")
    budget = Budget(Decimal(30), window=1000)
    admitted: list[float] = []
    for _ in range(20_000):
        now += rng.choice([0.0, 0.25, 0.5])
        if engine.check(ledger, Decimal("0.01"), budget).allowed:
            admitted.append(now)
    left = 0
    for right, stamp in enumerate(admitted):
        while stamp - admitted[left] > 1000:
            left += 1
        assert right - left + 1 <= 3_000
    assert len(admitted) >= 3_000 * (now / 1001) - 3_000
