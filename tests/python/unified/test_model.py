"""The engine against the naive model, over random histories with calls in flight."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

import checkrein
from checkrein.testing import FakeClock

from .model import NEVER, UNKNOWN, Call, Config, Model

SECOND = 10**9
OPERATIONS = int(os.environ.get("CHECKREIN_MODEL_OPERATIONS", "1000000"))
PER_HISTORY = 240
SHARDS = 6


def config_of(rng: random.Random) -> Config:
    """Any mix of gates, at least one of them."""

    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.55 else None

    config = Config(
        rate=maybe((rng.randint(1, 5), rng.randint(1, 20) * SECOND)),
        cooldown=maybe(rng.randint(1, 3000) * 10**6) or 0,
        budget=maybe((rng.randint(1, 20), rng.choice([None, rng.randint(1, 30) * SECOND]))),
        attempts=maybe(rng.randint(1, 30)),
        once=maybe((rng.randint(1, 20) * SECOND, rng.randint(20, 60) * SECOND)),
        breaker=maybe(
            (rng.randint(1, 3), rng.randint(1, 10) * SECOND, rng.randint(1, 2), rng.randint(1, 8) * SECOND)
        ),
    )
    return config if config != Config() else config_of(rng)


def guard_of(engine: checkrein.Engine, config: Config) -> Any:
    """The guard that the model models; its wrapper is not used, so that calls can be in flight."""
    options: dict[str, Any] = {}
    nanos = "{}.{:09}s".format
    if config.rate:
        options["rate"] = f"{config.rate[0]}/{nanos(*divmod(config.rate[1], SECOND))}"
    if config.cooldown:
        options["cooldown"] = nanos(*divmod(config.cooldown, SECOND))
    if config.budget:
        limit, window = config.budget
        options["budget"] = f"{limit} usd" + (f"/{nanos(*divmod(window, SECOND))}" if window else "")
        options["cost"] = lambda cost: cost
        options["actual"] = lambda result: result
    if config.attempts:
        options["attempts"] = config.attempts
    if config.once:
        result, key = (nanos(*divmod(time, SECOND)) for time in config.once)
        options["once"] = checkrein.Once("op", keep_result=result, keep_key=key, exclude=("user", "cost"))
    if config.breaker:
        fails, reset, probes, lease = config.breaker
        options["breaker"] = checkrein.Breaker(
            "dep", max_fails=fails, reset=reset // SECOND, probes=probes, probe_lease=lease // SECOND
        )

    @engine.guard(key="user", name="g", **options)
    def act(user: str, cost: int, op: str, digest: int) -> None: ...

    return act


class History:
    """One engine and one model, driven by the same random choices."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.config = config_of(self.rng)
        self.clock = FakeClock(0)
        self.engine = checkrein.Engine(clock=self.clock)
        guarded = guard_of(self.engine, self.config)
        self.handle = checkrein.handle(guarded)
        self.admit = self.handle.guard._admitter()
        self.slots = self.handle._slots
        self.model = Model(self.config)
        self.now = 0
        self.open: list[tuple[Any, Call]] = []

    def step(self) -> None:
        """Move the clock, end a call, resolve an operation, or make a call."""
        choice = self.rng.random()
        if choice < 0.35:
            step = self.rng.choice([1, 10**6, SECOND // 2, SECOND, self.rng.randint(1, 6 * SECOND)])
            self.now += step
            self.clock.set(self.now / SECOND)
        elif choice < 0.55 and self.open:
            self.end(*self.open.pop(self.rng.randrange(len(self.open))))
        elif choice < 0.58 and self.config.once:
            key, done = f"op{self.rng.randint(0, 6)}", self.rng.random() < 0.5
            real = self.engine.resolve("g", key, "done" if done else "failed", 1 if done else None)
            assert real == self.model.resolve(self.now, key, done, 1)
        else:
            self.call()

    def call(self) -> None:
        """Make a call on both sides and compare what they say."""
        rng = self.rng
        values = {"user": rng.choice("abc"), "cost": rng.randint(0, 8), "op": f"op{rng.randint(0, 6)}"}
        values["digest"] = int(rng.random() < 0.1)
        slots = [values[name] for name in self.slots]
        peeked = self.handle.guard.peek(*slots)
        verdict, expected = self.model.admit(
            self.now,
            values["user"],
            values["cost"] if self.config.budget else 0,
            values["op"],
            values["digest"],
        )
        assert peeked.verdict == verdict
        if verdict == "block":
            with pytest.raises(checkrein.Denied) as denied:
                self.admit(*slots)
            assert said(denied.value.decision) == expected
            assert said(peeked) == expected
            return
        permit = self.admit(*slots)
        if verdict == "replay":
            assert permit.result() == expected
        else:
            assert verdict == "allow", expected
            self.open.append((permit, expected))

    def end(self, permit: Any, call: Call) -> None:
        """End a call in one of the ways a call ends."""
        how = self.rng.choice(["done", "done", "failed_clean", "failure", "neutral"])
        actual = self.rng.randint(0, call.cost) if self.rng.random() < 0.9 else call.cost + 1
        if how == "done":
            self.model.end(self.now, call, "done", "success", actual, actual)
            if permit is not None:
                permit.done(actual)
            return
        error = {
            "failed_clean": checkrein.NotExecuted("x"),
            "failure": ConnectionError(),
            "neutral": ValueError(),
        }[how]
        health = "failure" if how == "failure" else "neutral"
        self.model.end(
            self.now, call, "failed_clean" if how == "failed_clean" else "unknown", health, actual, None
        )
        if permit is not None:
            permit.failed(error)

    def compare_books(self) -> None:
        """Compare what is spent and held."""
        if not self.config.budget:
            return
        for user in "abc":
            values = {"user": user, "cost": 0, "op": "none", "digest": 0}
            meters = self.handle.guard.peek(*(values[name] for name in self.slots)).meters
            meter = next(meter for meter in meters if meter.unit == "usd")
            window = self.config.budget[1]
            spent = sum(
                a for at, a in self.model.spent.get(user, []) if window is None or self.now - at < window
            )
            assert (meter.spent, meter.held) == (str(spent), str(self.model.held.get(user, 0)))


def said(decision: checkrein.Decision) -> list[tuple[str, object]]:
    """The reasons of a decision as the model gives them."""

    def retry(reason: checkrein.Reason) -> object:
        if reason.final:
            return NEVER
        return UNKNOWN if reason.retry_after is None else round(reason.retry_after * SECOND)

    return [(reason.code, retry(reason)) for reason in decision.reasons]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_engine_agrees_with_the_model(shard: int) -> None:
    base = int(os.environ.get("CHECKREIN_MODEL_SEED", random.SystemRandom().randrange(2**40)))
    for number in range(OPERATIONS // PER_HISTORY // SHARDS):
        seed = base + number if "CHECKREIN_MODEL_SEED" in os.environ else base + number * SHARDS + shard
        history = History(seed)
        try:
            for _ in range(PER_HISTORY):
                history.step()
            history.compare_books()
        except BaseException:
            print(
                f"\nreplay with CHECKREIN_MODEL_SEED={seed} CHECKREIN_MODEL_OPERATIONS={PER_HISTORY * SHARDS}"
            )
            print(history.config)
            raise
