"""What programs written for budgetgate rely on: exact money, edges, messages, reservations, bounded guards."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import decimal
import inspect
import itertools
import pickle
from decimal import Decimal
from typing import Any

import pytest

import checkrein.budgetgate as package
from checkrein.budgetgate import (
    AsyncMemoryStore,
    BlockReason,
    Budget,
    BudgetExceededError,
    Decision,
    Engine,
    Ledger,
    MemoryStore,
    Mode,
    RedisStore,
    Reservation,
    SpendEvent,
    Status,
    StoreErrorMode,
)

LEDGER = Ledger("openai", "gpt", "user:1")


class Clock:
    """A clock one sets; counts how often it was read."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


def spend(budget: Budget, *amounts: Any) -> list[Decision]:
    """Return the decisions of one ledger on each of `amounts`."""
    engine = Engine()
    return [engine.check(LEDGER, amount, budget) for amount in amounts]


def test_exports() -> None:
    # The published nineteen, and the async store on Redis that they lack.
    assert len(package.__all__) == 20
    assert package.__version__ == "0.3.1"
    assert package.BudgetExceeded is BudgetExceededError
    assert all(getattr(package, name) is not None for name in package.__all__)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Ledger("n", "r"), "Ledger(namespace='n', resource='r', principal='global')"),
        (
            Budget(Decimal("1.50"), mode=Mode.SOFT),
            "Budget(max_spend=Decimal('1.50'), window=3600.0, mode=<Mode.SOFT: 2>, "
            "on_store_error=<StoreErrorMode.FAIL_CLOSED: 1>)",
        ),
        (SpendEvent(1.0, Decimal(2)), "SpendEvent(ts=1.0, amount=Decimal('2'))"),
        (
            Reservation("x", Ledger("n", "r"), 1.0, Decimal(2)),
            "Reservation(id='x', ledger=Ledger(namespace='n', resource='r', principal='global'), ts=1.0, "
            "amount=Decimal('2'))",
        ),
    ],
)
def test_values_look_like_dataclasses(value: Any, shown: str) -> None:
    assert repr(value) == shown
    assert value == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == dataclasses.replace(value)
    fields = [field.name for field in dataclasses.fields(value)]
    assert type(value).__match_args__ == tuple(fields)
    assert list(inspect.signature(type(value)).parameters) == fields
    if isinstance(value, (Ledger, Budget)):
        assert hash(value) == hash(copy.copy(value))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, fields[0], 1)
    else:
        setattr(value, fields[0], 5)
        with pytest.raises(TypeError, match="unhashable"):
            hash(value)


def test_ledger_texts() -> None:
    assert (str(LEDGER), LEDGER.key) == ("openai:gpt@user:1", "bg:openai:gpt:user:1")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_spend": -1}, ValueError, "max_spend must be >= 0"),
        ({"max_spend": Decimal("-0.01")}, ValueError, "max_spend must be >= 0"),
        ({"max_spend": Decimal("NaN")}, decimal.InvalidOperation, "InvalidOperation"),
        ({"max_spend": "1"}, TypeError, "not supported between"),
        ({"max_spend": None}, TypeError, "not supported between"),
        ({"max_spend": 1.5}, TypeError, "max_spend must be a Decimal or an int, got float"),
        ({"max_spend": 1, "window": 0}, ValueError, "window must be > 0 or None"),
        ({"max_spend": 1, "window": float("nan")}, ValueError, "window must be > 0 or None"),
        ({"max_spend": 1, "mode": "quiet"}, TypeError, "mode must be a Mode"),
    ],
)
def test_budgets_refuse(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Budget(**arguments)


# --- money


@pytest.mark.parametrize(
    ("limit", "amounts", "spent", "remaining"),
    [
        ("10.00", ["0"], "0", "10.00"),
        ("10.00", ["1.50", "1"], "2.50", "7.50"),
        ("10.00", ["1E+0", "2"], "3", "7.00"),
        # An exact fit is allowed, and what remains is plainly zero.
        ("10.00", ["9.99", "0.01"], "10.00", "0"),
        ("10.00", ["10", "0"], "10", "0"),
        ("0", ["0"], "0", "0"),
        ("0.3", ["0.1", "0.1", "0.1"], "0.3", "0"),
        ("Infinity", ["1E+3"], "1000", "Infinity"),
        ("1E+28", ["0.01"], "0.01", "9999999999999999999999999999.99"),
        ("12345678901.123457", ["12345678901.123456"], "12345678901.123456", "0.000001"),
        # Beyond twelve places sums stay exact: 28 digits of a third, thrice.
        ("1", ["0.3333333333333333333333333333"] * 3, "0.9999999999999999999999999999", "1E-28"),
        ("1E-38", ["1E-38"], "1E-38", "0"),
    ],
)
def test_sums_keep_their_places(limit: str, amounts: list[str], spent: str, remaining: str) -> None:
    with decimal.localcontext() as context:
        context.prec = 60
        last = spend(Budget(Decimal(limit)), *map(Decimal, amounts))[-1].to_dict()
    assert (last["status"], last["spent_in_window"], last["remaining"]) == ("ALLOW", spent, remaining)


def test_places_leave_with_their_spend() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    budget = Budget(Decimal(10), window=60)
    engine.check(LEDGER, Decimal("1.50"), budget)
    clock.now = 30.0
    assert str(engine.check(LEDGER, Decimal(1), budget).spent_in_window) == "2.50"
    clock.now = 60.0
    assert str(engine.get_remaining(LEDGER, budget)) == "7.50"
    clock.now = 61.0
    assert str(engine.get_remaining(LEDGER, budget)) == "9"


def test_a_block_as_data() -> None:
    allowed, blocked = spend(Budget(Decimal("10.00")), 3, Decimal("7.5"))
    assert allowed.to_dict()["requested"] == "3"
    assert blocked.to_dict() == {
        "schema_version": "0.2.2",
        "status": "BLOCK",
        "ledger": "openai:gpt@user:1",
        "reason": "BUDGET_EXCEEDED",
        "message": "Budget exceeded: 3 + 7.5 > 10.00",
        "spent_in_window": "3",
        "requested": "7.5",
        "remaining": "7.00",
    }
    assert pickle.loads(pickle.dumps(blocked)) == blocked
    error = BudgetExceededError(blocked)
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "Budget exceeded: 3 + 7.5 > 10.00"
    by_hand = Decision(Status.BLOCK, LEDGER, Budget(1), reason=BlockReason.STORE_ERROR)
    assert (by_hand.spent_in_window, by_hand.requested, by_hand.remaining) == (Decimal(0),) * 3


@pytest.mark.parametrize(
    ("amount", "sentence"),
    [
        (Decimal("-5"), "amount must be >= 0, got -5"),
        (-1, "amount must be >= 0, got -1"),
        (-(10**40), "amount must be >= 0"),
        (Decimal("NaN"), "amount must be a finite number, got NaN"),
        (Decimal("sNaN"), "amount must be a finite number, got sNaN"),
        (Decimal("Infinity"), "amount must be a finite number, got Infinity"),
        (Decimal("-Infinity"), "amount must be a finite number, got -Infinity"),
        (1.5, "unsupported operand type(s) for +: 'decimal.Decimal' and 'float'"),
        ("1", "unsupported operand type(s) for +: 'decimal.Decimal' and 'str'"),
        (None, "unsupported operand type(s) for +: 'decimal.Decimal' and 'NoneType'"),
        (Decimal("1E+28"), "amount is out of range: 1E+28"),
        (Decimal("1E+999999"), "amount is out of range: 1E+999999"),
        (10**40, "amount is out of range"),
        (Decimal("1E-39"), "amount has more than 38 decimal places: 1E-39"),
        (Decimal("1E-999999"), "amount has more than 38 decimal places: 1E-999999"),
    ],
)
def test_what_is_no_amount_is_refused_and_records_nothing(amount: Any, sentence: str) -> None:
    engine = Engine()
    for mode in StoreErrorMode:
        budget = Budget(Decimal(10), on_store_error=mode)
        decision = engine.check(LEDGER, amount, budget)
        assert (decision.blocked, decision.reason) == (True, BlockReason.STORE_ERROR)
        assert decision.message == f"Store error (fail-closed): {sentence}"
        assert decision.requested is amount
        held, reserved = engine.reserve(LEDGER, amount, budget)
        assert (held, reserved.message) == (None, decision.message)
    assert engine.get_remaining(LEDGER, Budget(Decimal(10))) == 10
    with pytest.raises(BudgetExceededError):
        engine.guard(LEDGER, cost=amount)(lambda: 1)()


def test_a_sum_that_does_not_fit_is_refused() -> None:
    engine = Engine()
    assert engine.check(LEDGER, Decimal("1.5E+26")).allowed
    full = engine.check(LEDGER, Decimal("1.5E+26"))
    assert (full.blocked, full.message) == (
        True,
        "Store error (fail-closed): the sum of the ledger is out of range",
    )
    assert engine.check(LEDGER, Decimal("1")).allowed


# --- windows, engine


def test_windows() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    budget = Budget(Decimal(10), window=60)
    assert engine.check(LEDGER, Decimal(10), budget).allowed
    clock.now = 60.0
    assert engine.check(LEDGER, Decimal(1), budget).blocked
    clock.now = 60.000000001
    assert engine.check(LEDGER, Decimal(1), budget).allowed
    forever = Budget(Decimal(12), window=None)
    other = Ledger("n", "forever")
    assert engine.check(other, Decimal(12), forever).allowed
    clock.now = 1e9
    assert engine.check(other, Decimal("0.01"), forever).blocked
    assert engine.budget_for(other).max_spend == Decimal("Infinity")
    engine.register(other, forever)
    assert engine.budget_for(Ledger("n", "forever")) is forever


def test_a_narrow_window_does_not_make_a_wide_one_forget() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    engine.check(LEDGER, Decimal(5), Budget(Decimal(9), window=3600))
    clock.now = 10.0
    assert engine.check(LEDGER, Decimal(5), Budget(Decimal(9), window=1)).allowed
    assert engine.check(LEDGER, Decimal(0), Budget(Decimal(9), window=3600)).spent_in_window == 10
    assert engine.check(LEDGER, Decimal(0), Budget(Decimal(99), window=None)).spent_in_window == 10


def test_identities_are_tuples_not_texts() -> None:
    engine = Engine()
    budget = Budget(Decimal(1))
    ledgers = [Ledger("a:b", "c"), Ledger("a", "b:c"), Ledger(1, "c"), Ledger("1", "c")]  # type: ignore[arg-type]
    assert all(engine.check(ledger, Decimal(1), budget).allowed for ledger in ledgers)
    assert engine.check(Ledger(True, "c"), Decimal(1), budget).blocked  # type: ignore[arg-type]


def test_enforce_and_guards() -> None:
    engine = Engine()

    @engine.guard(LEDGER, Budget(Decimal("0.05"), mode=Mode.SOFT), cost=Decimal("0.03"))
    def ask(prompt: str, *, temperature: float = 0.0) -> str:
        """Ask."""
        return prompt

    assert (ask("x"), ask.__name__, ask.__doc__) == ("x", "ask", "Ask.")
    with pytest.raises(BudgetExceededError, match=r"0\.03 \+ 0\.03 > 0\.05") as caught:
        ask("x", temperature=1.0)
    engine.enforce(caught.value.decision)
    result = engine.guard_result(Ledger("n", "r"), Budget(Decimal(1)), cost=Decimal(1))(lambda: None)
    assert result().has_value
    assert result().unwrap_or("later") == "later"
    with pytest.raises(ValueError, match="No value: Budget exceeded"):
        result().unwrap()
    hard = engine.check(Ledger("n", "r"), Decimal(1), Budget(Decimal(1)))
    with pytest.raises(BudgetExceededError):
        engine.enforce(hard)


def test_a_fixed_cost_is_kept_when_the_call_fails() -> None:
    engine = Engine()
    budget = Budget(Decimal(1))

    @engine.guard(LEDGER, budget, cost=Decimal("0.4"))
    def fail() -> None:
        raise RuntimeError("after the charge")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            fail()
    assert engine.get_remaining(LEDGER) == Decimal("0.2")


# --- reservations


def test_reservations() -> None:
    engine = Engine()
    budget = Budget(Decimal(10))
    held, decision = engine.reserve(LEDGER, Decimal(6), budget)
    assert held is not None
    assert (len(held), decision.allowed, decision.spent_in_window) == (32, True, 6)
    assert engine.check(LEDGER, Decimal(5), budget).message == "Budget exceeded: 6 + 5 > 10"
    assert engine.reserve(LEDGER, Decimal(5), budget)[0] is None
    engine.commit(held, Decimal("1.25"))
    assert engine.get_remaining(LEDGER, budget) == Decimal("8.75")
    for settle in (lambda: engine.commit(held, Decimal(1)), lambda: engine.release(held)):
        with pytest.raises(KeyError, match=f"Reservation not found: {held}"):
            settle()
    other, _ = engine.reserve(LEDGER, Decimal(8), budget)
    assert other is not None
    engine.release(other)
    assert engine.get_remaining(LEDGER, budget) == Decimal("8.75")
    for name in ("", "x" * 32, None, 5):
        with pytest.raises(KeyError):
            engine.commit(name, Decimal(1))  # type: ignore[arg-type]


def test_what_a_reservation_cost_must_be_an_amount() -> None:
    engine = Engine()
    held, _ = engine.reserve(LEDGER, Decimal(6), Budget(Decimal(10)))
    assert held is not None
    for actual in (Decimal(-100), Decimal("NaN"), 1.5, None):
        with pytest.raises(ValueError, match=r"."):
            engine.commit(held, actual)  # type: ignore[arg-type]
    # More than the estimate was spent: that is recorded, and nothing more fits.
    engine.commit(held, Decimal(25))
    assert engine.get_remaining(LEDGER, Budget(Decimal(10))) == 0
    assert engine.check(LEDGER, Decimal(0), Budget(Decimal(10))).blocked


def test_a_reservation_counts_while_its_call_runs_and_is_charged_when_it_ends() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    budget = Budget(Decimal(10), window=60)
    held, _ = engine.reserve(LEDGER, Decimal(10), budget)
    assert held is not None
    clock.now = 120.0
    assert engine.check(LEDGER, Decimal(10), budget).blocked
    engine.commit(held, Decimal(10))
    clock.now = 170.0
    assert engine.check(LEDGER, Decimal(1), budget).blocked
    clock.now = 181.0
    assert engine.check(LEDGER, Decimal(1), budget).allowed


def test_a_reservation_nobody_settles_is_charged_after_an_hour() -> None:
    clock = Clock(0.0)
    engine = Engine(clock=clock)
    budget = Budget(Decimal(10), window=60)
    held, _ = engine.reserve(LEDGER, Decimal("4.00"), budget)
    late, _ = engine.reserve(LEDGER, Decimal("4.00"), budget)
    assert held is not None
    assert late is not None
    clock.now = 3600.0
    assert str(engine.check(LEDGER, Decimal(0), budget).spent_in_window) == "8.00"
    clock.now = 3661.0
    assert str(engine.check(LEDGER, Decimal(0), budget).spent_in_window) == "0"
    # Its end is still welcome: only what exceeds the charge is new.
    engine.commit(held, Decimal(5))
    assert engine.get_remaining(LEDGER, budget) == 9
    clock.now = 7300.0
    engine.check(LEDGER, Decimal(0), budget)
    with pytest.raises(KeyError):
        engine.commit(late, Decimal(5))


def test_clear_drops_reservations() -> None:
    engine = Engine()
    held, _ = engine.reserve(LEDGER, Decimal(1))
    kept, _ = engine.reserve(Ledger("n", "r"), Decimal(1))
    assert held is not None
    assert kept is not None
    engine.clear(LEDGER)
    with pytest.raises(KeyError):
        engine.commit(held, Decimal(1))
    engine.clear_all()
    with pytest.raises(KeyError):
        engine.release(kept)


# --- bounded guards


def test_bounded_guards_charge_what_it_cost() -> None:
    engine = Engine()
    budget = Budget(Decimal(10), window=None)
    priced: list[Any] = []

    @engine.guard_bounded(
        LEDGER, budget, estimate=Decimal(4), actual=lambda r: priced.append(r) or Decimal(r)
    )
    def work(cost: str) -> str:
        assert engine.get_remaining(LEDGER) <= 6
        return cost

    assert work("1.5") == "1.5"
    assert (priced, engine.get_remaining(LEDGER)) == (["1.5"], Decimal("8.5"))
    work("8")
    with pytest.raises(BudgetExceededError, match=r"9\.5 \+ 4 > 10"):
        work("0")

    result = engine.guard_bounded_result(
        Ledger("n", "r"), Budget(Decimal(1)), estimate=Decimal(1), actual=lambda r: Decimal(1)
    )(lambda: None)
    assert result().has_value
    assert not result().ok


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), "inner"],
)
@pytest.mark.parametrize("kind", ["guard_bounded", "guard_bounded_result"])
def test_a_call_that_fails_gives_its_reservation_back(error: Any, kind: str) -> None:
    engine = Engine()
    budget = Budget(Decimal(10), window=None)
    inner = engine.guard(Ledger("n", "inner"), Budget(0), cost=Decimal(1))(lambda: None)

    def fail() -> None:
        if error == "inner":
            inner()
        raise error

    guarded = getattr(engine, kind)(LEDGER, budget, estimate=Decimal(6), actual=lambda r: Decimal(1))(fail)
    for _ in range(3):
        with pytest.raises(BudgetExceededError if error == "inner" else type(error)):
            guarded()
    assert engine.get_remaining(LEDGER, budget) == 10


@pytest.mark.parametrize("price", [Decimal(-1), Decimal("NaN"), 0.5, None, KeyError("no usage")])
def test_a_call_that_ran_is_charged_whatever_its_price_function_does(price: Any) -> None:
    engine = Engine()
    budget = Budget(Decimal(10), window=None)

    def actual(_: Any) -> Any:
        if isinstance(price, Exception):
            raise price
        return price

    guarded = engine.guard_bounded(LEDGER, budget, estimate=Decimal(6), actual=actual)(lambda: 1)
    with pytest.raises((ValueError, KeyError)):
        guarded()
    assert engine.get_remaining(LEDGER, budget) == 4


class Flaky:
    """A duck-typed store over the native one that fails when it is told to."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name in self.failing:
                raise ConnectionError(f"{name} is down")
            return getattr(self.inner, name)(*arguments)

        return call


def test_fail_open_keeps_the_result() -> None:
    store = Flaky()
    engine = Engine(store=store)
    budget = Budget(Decimal(10), on_store_error=StoreErrorMode.FAIL_OPEN)
    guarded = engine.guard_bounded(LEDGER, budget, estimate=Decimal(6), actual=lambda r: Decimal(1))(
        lambda: "done"
    )
    store.failing = {"reserve"}
    assert guarded() == "done"
    store.failing = {"commit"}
    assert guarded() == "done"
    engine.register(LEDGER, Budget(Decimal(100)))
    with pytest.raises(ConnectionError, match="commit is down") as caught:
        guarded()
    assert caught.value.result == "done"  # type: ignore[attr-defined]


def test_users_stores() -> None:
    store = Flaky()
    clock = Clock(5)
    engine = Engine(store, clock)
    budget = Budget(Decimal(10))
    assert engine.check(LEDGER, Decimal("2.50"), budget).to_dict()["remaining"] == "7.50"
    assert engine.check(LEDGER, Decimal("-1"), budget).reason is BlockReason.STORE_ERROR
    held, _ = engine.reserve(LEDGER, Decimal(1), budget)
    assert held is not None
    with pytest.raises(ValueError, match="amount must be >= 0"):
        engine.commit(held, Decimal(-1))
    engine.commit(held, Decimal(1))
    assert engine.get_remaining(LEDGER, budget) == Decimal("6.50")
    store.failing = {"check_and_reserve", "reserve", "get_spend", "commit", "release", "clear", "clear_all"}
    decision = engine.check(LEDGER, Decimal(1), budget)
    assert decision.message == "Store error (fail-closed): check_and_reserve is down"
    assert (decision.spent_in_window, decision.remaining, decision.requested) == (0, 0, 1)
    held, decision = engine.reserve(LEDGER, Decimal(1), Budget(1, on_store_error=StoreErrorMode.FAIL_OPEN))
    assert (held, decision.allowed, decision.message) == (
        None,
        True,
        "Store error (fail-open): reserve is down",
    )
    for call in (
        lambda: engine.commit("x", Decimal(1)),
        lambda: engine.release("x"),
        lambda: engine.get_remaining(LEDGER),
        lambda: engine.clear(LEDGER),
        engine.clear_all,
    ):
        with pytest.raises(ConnectionError):
            call()


def test_the_clock_is_read_once_per_question() -> None:
    clock = Clock()
    engine = Engine(clock=clock)
    engine.check(LEDGER, Decimal(1))
    held, _ = engine.reserve(LEDGER, Decimal(1))
    assert held is not None
    assert clock.reads == 2
    engine.commit(held, Decimal(1))
    engine.get_remaining(LEDGER)
    engine.guard(LEDGER, cost=Decimal(1))(lambda: None)()
    assert clock.reads == 5


def test_a_clock_that_fails_at_the_end_loses_no_spend() -> None:
    times = iter([1.0, 2.0])
    engine = Engine(clock=lambda: next(times))
    held, _ = engine.reserve(LEDGER, Decimal(1))
    engine.check(LEDGER, Decimal(1))
    assert held is not None
    engine.commit(held, Decimal(3))
    assert engine._store.get_spend(LEDGER, 2.0, 60) == 4


def test_idle_ledgers_and_reservations_are_forgotten() -> None:
    ticks = itertools.count()
    engine = Engine(clock=lambda: next(ticks))
    budget = Budget(Decimal(1), window=100)
    for number in range(20_000):
        ledger = Ledger("n", "r", f"user:{number}")
        held, _ = engine.reserve(ledger, Decimal(1), budget)
        assert held is not None
        engine.commit(held, Decimal(1))
    assert len(engine._store) < 3_000


def test_redis_needs_a_client() -> None:
    with pytest.raises(TypeError, match="redis-py client"):
        RedisStore(object())


# --- async


async def test_sync_and_async_share_their_records() -> None:
    engine = Engine()
    budget = Budget(Decimal(10))
    assert engine.check(LEDGER, Decimal(6), budget).allowed
    assert (await engine.async_check(LEDGER, Decimal(6), budget)).blocked
    held, _ = await engine.async_reserve(LEDGER, Decimal(4), budget)
    assert held is not None
    assert await engine.async_get_remaining(LEDGER, budget) == 0
    engine.commit(held, Decimal(1))
    assert engine.get_remaining(LEDGER, budget) == 3
    other, _ = await engine.async_reserve(LEDGER, Decimal(3), budget)
    assert other is not None
    await engine.async_release(other)
    assert await engine.async_get_remaining(LEDGER, budget) == 3
    await engine.async_clear(LEDGER)
    assert engine.get_remaining(LEDGER, budget) == 10


@pytest.mark.parametrize("store", [None, "native", "user"])
async def test_async_bounded_guards(store: str | None) -> None:
    class Awaited:
        def __init__(self) -> None:
            self.inner = AsyncMemoryStore()

        def __getattr__(self, name: str) -> Any:
            async def call(*arguments: Any) -> Any:
                await asyncio.sleep(0)
                return await getattr(self.inner, name)(*arguments)

            return call

    stores: dict[str | None, Any] = {None: None, "native": AsyncMemoryStore(), "user": Awaited()}
    engine = Engine(async_store=stores[store])
    budget = Budget(Decimal(10), window=None)
    entered = asyncio.Event()

    @engine.async_guard_bounded(LEDGER, budget, estimate=Decimal(6), actual=lambda r: Decimal(r))
    async def work(cost: str) -> str:
        entered.set()
        await asyncio.sleep(0 if cost != "wait" else 60)
        return cost

    assert await work("1") == "1"
    waiting = asyncio.create_task(work("wait"))  # type: ignore[arg-type]
    await entered.wait()
    await asyncio.sleep(0.01)
    assert await engine.async_get_remaining(LEDGER, budget) == 3
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await engine.async_get_remaining(LEDGER, budget) == 9
    with pytest.raises(ValueError, match="amount must be"):
        await work("-1")
    assert await engine.async_get_remaining(LEDGER, budget) == 3
    with pytest.raises(BudgetExceededError):
        await work("1")

    @engine.async_guard_bounded_result(LEDGER, estimate=Decimal(3), actual=lambda r: Decimal(3))
    async def last() -> None:
        return None

    assert (await last()).has_value
    assert not (await last()).ok
    negative = await engine.async_check(LEDGER, Decimal(-1))
    assert negative.reason is BlockReason.STORE_ERROR
    with pytest.raises(KeyError):
        await engine.async_commit("x", Decimal(1))


async def test_async_guards() -> None:
    engine = Engine()

    @engine.async_guard(LEDGER, Budget(Decimal(2)), cost=Decimal(1))
    async def ask() -> int:
        return 1

    results = await asyncio.gather(*[ask() for _ in range(3)], return_exceptions=True)
    assert results[:2] == [1, 1]
    assert isinstance(results[2], BudgetExceededError)
    assert not (await engine.async_guard_result(LEDGER, cost=Decimal(1))(ask)()).ok
