"""Random histories against the obvious implementation, and many threads against one gate."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from checkrein.actiongate import AsyncMemoryStore, BlockReason, Engine, Gate, MemoryStore, Policy

OPERATIONS = int(os.environ.get("CHECKREIN_OPERATIONS", "200000"))


class Reference:
    """A list of events per gate, filtered at each look. Retention follows the largest window seen."""

    def __init__(self) -> None:
        self.events: dict[Gate, list[float]] = {}
        self.retention: dict[Gate, float] = {}

    def check(
        self, gate: Gate, now: float, policy: Policy
    ) -> tuple[bool, BlockReason | None, int, float | None]:
        """Decide as the contract says."""
        assert policy.window is not None
        self.retention[gate] = max(self.retention.get(gate, 0.0), policy.window)
        kept = [t for t in self.events.get(gate, []) if t >= now - self.retention[gate]]
        seen = [t for t in kept if t >= now - policy.window]
        age = now - max(seen) if seen else None
        self.events[gate] = kept
        if policy.cooldown > 0 and age is not None and age < policy.cooldown:
            return False, BlockReason.COOLDOWN, len(seen), age
        if len(seen) >= policy.max_calls:
            return False, BlockReason.RATE_LIMIT, len(seen), age
        kept.append(now)
        return True, None, len(seen) + 1, age


def random_policy(rng: random.Random) -> Policy:
    """Return a policy whose numbers are eighths: floats and integer nanoseconds agree on them."""
    return Policy(
        max_calls=rng.choice([0, 1, 2, 3, 7, 20, 60]),
        window=rng.choice([0.125, 1, 7.5, 60, 400]),
        cooldown=rng.choice([0, 0, 0, 0.125, 2, 10.5]),
    )


@pytest.mark.parametrize("kind", [int, float])
def test_random_histories(kind: type) -> None:
    seed = int(os.environ.get("CHECKREIN_SEED", str(random.randrange(1 << 32))))
    print(f"CHECKREIN_SEED={seed}")
    rng = random.Random(seed)
    now: float = 0
    engine = Engine(clock=lambda: kind(now))
    reference = Reference()
    gates = [Gate("n", "a", f"user:{i}") for i in range(6)]
    policies = {gate: [random_policy(rng) for _ in range(rng.randint(1, 3))] for gate in gates}
    for step in range(OPERATIONS // 2):
        now += rng.choice([0, 0, 0.125, 0.5, 1, 3, 20]) if kind is float else rng.choice([0, 0, 0, 1, 1, 3])
        if rng.random() < 0.01:
            now -= rng.choice([1, 5, 100])
        gate = rng.choice(gates)
        if rng.random() < 0.0005:
            engine.clear(gate)
            reference.events.pop(gate, None)
            reference.retention.pop(gate, None)
        gate = Gate(*[getattr(gate, name) for name in Gate.__match_args__]) if rng.random() < 0.2 else gate
        policy = rng.choice(policies[gate])
        if rng.random() < 0.2:
            engine.register(gate, policy)
            decision = engine.check(gate)
        else:
            decision = engine.check(gate, policy)
        found = (decision.allowed, decision.reason, decision.calls_in_window, decision.time_since_last)
        assert found == reference.check(gate, kind(now), policy), f"seed {seed}, step {step}"


def test_many_events_are_never_undercounted() -> None:
    rng = random.Random(7)
    now = 0.0
    engine = Engine(clock=lambda: now)
    policy = Policy(max_calls=3_000, window=1000)
    gate = Gate("n", "many")
    admitted: list[float] = []
    for _ in range(20_000):
        now += rng.choice([0.0, 0.25, 0.5])
        if engine.check(gate, policy).allowed:
            admitted.append(now)
    # In any interval as long as the window (both ends included) there are at most as many as allowed.
    left = 0
    for right, stamp in enumerate(admitted):
        while stamp - admitted[left] > 1000:
            left += 1
        assert right - left + 1 <= 3_000
    # And nearly all capacity comes back: at most a thousandth of the window late.
    assert len(admitted) >= 3_000 * (now / 1001) - 3_000


@pytest.mark.parametrize("store", [MemoryStore, None])
def test_threads_never_get_more_than_the_limit(store: type | None) -> None:
    engine = Engine(store=store() if store else None)
    policy = Policy(max_calls=500, window=None)
    barrier = threading.Barrier(8)

    def work(number: int) -> int:
        barrier.wait()
        gate = Gate("n", "shared")
        return sum(engine.check(gate, policy).allowed for _ in range(1_000))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 500


def test_clear_all_while_checks_run_admits_no_more_than_once_per_clear() -> None:
    engine = Engine()
    gate = Gate("n", "cleared")
    policy = Policy(max_calls=1, window=None)
    clears = 0
    done = threading.Event()
    admitted = [0] * 4

    def check(number: int) -> None:
        while not done.is_set():
            admitted[number] += engine.check(gate, policy).allowed

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3_000):
        engine.clear_all()
        clears += 1
    done.set()
    for thread in threads:
        thread.join()
    assert 1 <= sum(admitted) <= clears + 1


def test_one_async_store_serves_many_event_loops() -> None:
    store = AsyncMemoryStore()
    engine = Engine(async_store=store)
    policy = Policy(max_calls=200, window=None)
    gate = Gate("n", "loops")

    async def work() -> int:
        decisions = await asyncio.gather(*[engine.async_check(gate, policy) for _ in range(500)])
        assert all(decision.reason is not BlockReason.STORE_ERROR for decision in decisions)
        return sum(decision.allowed for decision in decisions)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: asyncio.run(work()), range(4))) == 200


def test_a_forked_child_goes_on_with_counts_of_its_own() -> None:
    engine = Engine()
    policy = Policy(max_calls=2, window=None)
    gate = Gate("n", "forked")
    assert engine.check(gate, policy).allowed
    child = os.fork()
    if child == 0:
        verdicts = [engine.check(gate, policy).allowed for _ in range(2)]
        os._exit(0 if verdicts == [True, False] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [engine.check(gate, policy).allowed for _ in range(2)] == [True, False]
