"""What type checkers see: guarded functions keep their types. Checked by `mypy --strict`, not run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

import checkrein

engine = checkrein.Engine()


@engine.guard(
    rate="10/min", key="user", budget=["1 usd/day", checkrein.Budget("9 tokens")], cost={"usd": "0.1"}
)
def search(user: str, limit: int = 5) -> list[str]:
    return [user] * limit


@checkrein.tool(once="key", timeout=5, breaker="x: 3/60s")
async def pay(key: str) -> int:
    return 1


@checkrein.tool(rate="1/s", on_block="result")
def maybe(a: int) -> str:
    return str(a)


@checkrein.tool(rate="1/s", on_block="result")
async def maybe_later(a: int) -> str:
    return str(a)


@engine.guard(rate="1/s", on_block="wait", deadline="5s")
def stream(n: int) -> Iterator[int]:
    yield n


@engine.guard(rules=[lambda n: n > 0, "n < 5", checkrein.Rule("n != 3", name="three")])
async def stream_async(n: int) -> AsyncIterator[int]:
    yield n


@engine.rate_limit(max_calls=3, period="1m", scope="user")
@engine.circuit_breaker("api", fail_on={checkrein.FailureKind.TIMEOUT})
def notify(user: str, *, loud: bool = False) -> int:
    return len(user) + loud


@checkrein.idempotent("key")
@checkrein.max_attempts(3)
@checkrein.timeout("2s")
async def book(key: str) -> list[int]:
    return [len(key)]


@engine.prove("order", lambda result: [each for each in result if each])
def orders(customer: str) -> list[str]:
    return [customer]


@checkrein.enforce([checkrein.RequireFact("order", "order"), checkrein.Threshold("amount", 5), "amount > 0"])
def refund(order: str, amount: int = 1) -> int:
    return amount


class Shop:
    @engine.guard(rate="1/s")
    def buy(self, item: str) -> float:
        return 1.0

    @staticmethod
    @engine.guard(attempts=3)
    def ping() -> bool:
        return True


def check() -> None:
    assert_type(search("a"), list[str])
    assert_type(search("a", limit=3), list[str])
    waiting: Coroutine[Any, Any, int] = pay("k")
    waiting.close()
    assert_type(maybe(1), str | checkrein.Decision)
    assert_type(stream(1), Iterator[int])
    assert_type(stream_async(1), AsyncIterator[int])
    assert_type(notify("ada", loud=True), int)
    notify(3)  # type: ignore[arg-type]
    assert_type(orders("ada"), list[str])
    assert_type(refund("o1", amount=2), int)
    engine.enforce([5])  # type: ignore[list-item]
    engine.guard(facts=["order"])  # type: ignore[list-item]
    engine.rate_limit("3")  # type: ignore[arg-type]
    assert_type(Shop().buy("x"), float)
    assert_type(Shop.ping(), bool)
    assert_type(engine.peek(search, "a"), checkrein.Decision)
    assert_type(checkrein.handle(search).peek("a").meters, tuple[checkrein.MeterStatus, ...])
    remove: Callable[[], None] = engine.add_listener(lambda event: print(event.tool))
    remove()
    search(1)  # type: ignore[arg-type]
    search()  # type: ignore[call-arg]
    engine.guard(rate=5)  # type: ignore[call-overload]
    engine.guard(rates="5/s")  # type: ignore[call-overload]


async def check_async() -> None:
    assert_type(await pay("k"), int)
    assert_type(await book("k"), list[int])
    assert_type(await maybe_later(1), str | checkrein.Decision)
    async with engine.budget("1 usd").hold("0.1 usd") as hold:
        hold.settle("0.05 usd")
        assert_type(hold, checkrein.Hold)
