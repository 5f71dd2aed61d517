"""The decorators with one gate each, alone, stacked and together in one admission."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import checkrein
from checkrein import FailureKind
from checkrein.testing import FakeClock


def test_rate_limit_counts_per_scope(engine: checkrein.Engine, clock: FakeClock) -> None:
    sent: list[str] = []

    @engine.rate_limit(2, 60, scope="user_id")
    def send(user_id: str, text: str = "") -> None:
        sent.append(user_id)

    for _ in range(2):
        send("ada")
    send("bob", text="x")
    with pytest.raises(checkrein.RateLimited) as refused:
        send(user_id="ada")
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 60
    assert sent == ["ada", "ada", "bob"]
    clock.advance(61)
    send("ada")


def test_a_scope_that_is_no_argument_is_an_error_at_decoration(engine: checkrein.Engine) -> None:
    with pytest.raises(checkrein.ConfigError, match="did you mean `user_id`") as wrong:

        @engine.rate_limit(1, scope="user")
        def send(user_id: str) -> None: ...

    assert wrong.value.code == "unknown_argument"


@pytest.mark.parametrize(
    ("calls", "period"), [(-1, "1m"), (True, "1m"), (1.5, "1m"), (1, -1), (1, 0), (1, "soon")]
)
def test_rates_are_read_strictly(engine: checkrein.Engine, calls: Any, period: Any) -> None:
    with pytest.raises(checkrein.ConfigError):
        engine.rate_limit(calls, period)


def test_no_calls_at_all_is_a_rate(engine: checkrein.Engine) -> None:
    @engine.rate_limit(0)
    def never() -> None: ...

    with pytest.raises(checkrein.RateLimited):
        never()


def test_functions_of_one_name_have_limits_of_their_own() -> None:
    engine = checkrein.Engine()

    def make() -> Any:
        @engine.rate_limit(1)
        def send() -> int:
            return 1

        return send

    first, second = make(), make()
    assert (first(), second()) == (1, 1)


def test_limits_of_one_name_count_together(engine: checkrein.Engine) -> None:
    @engine.rate_limit(2, name="mail")
    def send() -> None: ...

    @engine.rate_limit(2, name="mail")
    def reply() -> None: ...

    send()
    reply()
    with pytest.raises(checkrein.RateLimited):
        send()


@pytest.mark.parametrize("form", ["rate_limit", "circuit_breaker", "timeout", "max_attempts", "idempotent"])
def test_parentheses_are_required(form: str) -> None:
    def tool() -> None: ...

    with pytest.raises(checkrein.ConfigError, match="parentheses") as wrong:
        getattr(checkrein, form)(tool)
    assert wrong.value.code == "decorator_order"


def test_a_breaker_is_shared_by_name_and_half_open_lets_one_probe_through(
    engine: checkrein.Engine, clock: FakeClock
) -> None:
    @engine.circuit_breaker("stripe", max_fails=2, reset=30)
    def charge(works: bool = False) -> str:
        if not works:
            raise ConnectionRefusedError
        return "paid"

    @engine.circuit_breaker("stripe", max_fails=2, reset=30)
    def refund() -> str:
        # While this probe runs nobody else gets through.
        with pytest.raises(checkrein.CircuitOpen):
            charge(works=True)
        return "refunded"

    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            charge()
    with pytest.raises(checkrein.CircuitOpen) as refused:
        refund()
    assert refused.value.retry_after == pytest.approx(30, abs=1)
    clock.advance(31)
    assert refund() == "refunded"
    assert charge(works=True) == "paid"


def test_processes_share_a_breaker_through_their_store(tmp_path: Path, clock: FakeClock) -> None:
    engines = [checkrein.Engine(f"sqlite:{tmp_path}/shared.db", clock=clock) for _ in range(2)]
    calls: list[Any] = []
    for engine in engines:

        @engine.circuit_breaker("db", max_fails=1)
        def query() -> None:
            raise ConnectionResetError

        calls.append(query)
    with pytest.raises(ConnectionResetError):
        calls[0]()
    with pytest.raises(checkrein.CircuitOpen):
        calls[1]()


def test_what_counts_as_a_failure_can_be_chosen(engine: checkrein.Engine) -> None:
    class Reply(Exception):
        def __init__(self, status: int) -> None:
            super().__init__(status)
            self.status_code = status

    @engine.circuit_breaker("a", max_fails=1, fail_on={"throttled"}, ignore_on={"not_found"})
    def ask(status: int) -> None:
        raise Reply(status)

    for status in (500, 404, 400):
        with pytest.raises(Reply):
            ask(status)
    with pytest.raises(Reply):
        ask(429)
    with pytest.raises(checkrein.CircuitOpen):
        ask(200)


@pytest.mark.parametrize(
    ("status", "closes"),
    [(404, False), (400, True)],
    ids=["ignored kinds say nothing", "others prove it well"],
)
def test_an_answer_in_neither_set_heals(engine: checkrein.Engine, status: int, closes: bool) -> None:
    class Reply(Exception):
        def __init__(self, status: int) -> None:
            super().__init__(status)
            self.status_code = status

    @engine.circuit_breaker("a", max_fails=2, ignore_on={FailureKind.NOT_FOUND})
    def ask(status: int) -> None:
        raise Reply(status)

    for each in (503, status, 503):
        with pytest.raises(Reply):
            ask(each)
    with pytest.raises(Reply if closes else checkrein.CircuitOpen):
        ask(404)


def test_unknown_exceptions_neither_open_nor_heal(engine: checkrein.Engine) -> None:
    @engine.circuit_breaker("a", max_fails=2)
    def ask(error: Exception) -> None:
        raise error

    for error in (ConnectionResetError(), KeyError("mine"), ConnectionResetError()):
        with pytest.raises(type(error)):
            ask(error)
    with pytest.raises(checkrein.CircuitOpen):
        ask(KeyError())


@pytest.mark.parametrize(
    "options",
    [
        {"fail_on": "transport"},
        {"fail_on": {"transprot"}},
        {"fail_on": {1}},
        {"ignore_on": {"timeout"}},
        {"max_fails": 0},
        {"max_fails": True},
        {"reset": -1},
        {"probes": 0},
    ],
)
def test_breakers_are_read_strictly(engine: checkrein.Engine, options: dict[str, Any]) -> None:
    with pytest.raises(checkrein.ConfigError):
        engine.circuit_breaker("a", **options)


def test_attempts_count_per_run_and_failures_count(engine: checkrein.Engine) -> None:
    @engine.max_attempts(2)
    def look() -> None:
        raise KeyError

    for run in ("r1", "r2", None):
        with checkrein.acting(run=run):
            for _ in range(2):
                with pytest.raises(KeyError):
                    look()
            with pytest.raises(checkrein.AttemptsExceeded):
                look()


def test_runs_of_the_engine_are_what_counts(engine: checkrein.Engine) -> None:
    ran: list[str] = []

    @engine.prove("order", "id")
    def read() -> list[dict[str, str]]:
        return [{"id": "o1"}]

    @engine.tool(facts={"order_id": "order"}, attempts=2, once="order_id", timeout=30, key=checkrein.PER_RUN)
    def refund(order_id: str) -> str:
        ran.append(order_id)
        raise checkrein.NotExecuted("try again")

    for _ in range(2):
        with engine.run(user="ada"):
            with pytest.raises(checkrein.MissingFact):
                refund("o1")
            read()
            for _ in range(2):
                with pytest.raises(checkrein.NotExecuted):
                    refund("o1")
            with pytest.raises(checkrein.AttemptsExceeded):
                refund("o1")
    assert ran == ["o1"] * 4


@pytest.mark.parametrize("calls", [0, -1, True, 1.0, "3", None])
def test_attempts_are_read_strictly(engine: checkrein.Engine, calls: Any) -> None:
    with pytest.raises(checkrein.ConfigError):
        engine.max_attempts(calls)


def test_an_operation_runs_once_and_repetitions_get_copies(engine: checkrein.Engine) -> None:
    ran: list[str] = []

    @engine.idempotent("key")
    def pay(key: str, to: str) -> dict[str, Any]:
        ran.append(to)
        return {"to": to, "lines": [1]}

    first = pay("k", "ada")
    first["lines"].append(2)
    second = pay(key="k", to="ada")
    assert second == {"to": "ada", "lines": [1]}
    second["lines"].append(3)
    assert pay("k", "ada") == {"to": "ada", "lines": [1]}
    with pytest.raises(checkrein.KeyReused):
        pay("k", "bob")
    assert ran == ["ada"]


def test_a_key_is_another_operation_in_every_run(engine: checkrein.Engine) -> None:
    ran: list[str] = []

    @engine.idempotent("key")
    def pay(key: str) -> int:
        ran.append(key)
        return len(ran)

    assert (pay("k"), pay("k")) == (1, 1)
    with checkrein.acting(run="r1"):
        assert (pay("k"), pay("k")) == (2, 2)
    with checkrein.acting(run="r2"):
        assert pay("k") == 3
        # What a text looks like makes it no key of another run.
        assert pay("r1\x00k") == 4
    assert pay("k") == 1
    assert {doubt["key"] for doubt in engine.list("operation")} >= {("", "k"), ("r1", "k"), ("r2", "k")}


def test_all_arguments_are_the_key_by_default_and_the_engine_can_be_its_scope(
    engine: checkrein.Engine,
) -> None:
    ran: list[str] = []

    @engine.idempotent(per_run=False)
    def pay(to: str) -> int:
        ran.append(to)
        return len(ran)

    with checkrein.acting(run="r1"):
        assert (pay("ada"), pay("bob")) == (1, 2)
    with checkrein.acting(run="r2"):
        assert pay("ada") == 1


def test_repetitions_can_be_refused(engine: checkrein.Engine) -> None:
    @engine.idempotent("key", on_duplicate="raise")
    def pay(key: str) -> None: ...

    pay("k")
    with pytest.raises(checkrein.AlreadyDone) as refused:
        pay("k")
    assert refused.value.code == "already_done"
    assert "Do not repeat" in refused.value.to_prompt()
    assert refused.value.decision.final
    with pytest.raises(checkrein.ConfigError):
        engine.idempotent("key", on_duplicate="maybe")  # type: ignore[arg-type]


def test_keys_and_results_are_forgotten_after_their_time(engine: checkrein.Engine, clock: FakeClock) -> None:
    ran: list[str] = []

    @engine.idempotent("key", ttl=60)
    def pay(key: str) -> int:
        ran.append(key)
        return len(ran)

    assert (pay("k"), pay("k")) == (1, 1)
    clock.advance(61)
    assert pay("k") == 2


@pytest.mark.parametrize("key", [None, "", 1.5])
def test_a_key_without_a_value_is_refused(engine: checkrein.Engine, key: Any) -> None:
    @engine.idempotent("key")
    def pay(key: str | None = None) -> None: ...

    with pytest.raises(checkrein.InvalidAction):
        pay(key)


def test_generators_have_no_result_to_repeat(engine: checkrein.Engine) -> None:
    with pytest.raises(checkrein.ConfigError):

        @engine.idempotent("key")
        def pay(key: str) -> Any:
            yield key


def test_safe_errors_give_the_key_back_and_others_do_not(engine: checkrein.Engine) -> None:
    class Declined(Exception):
        pass

    @engine.idempotent("key", safe_errors=Declined)
    def pay(key: str, error: str) -> None:
        raise Declined if error == "declined" else KeyError

    for _ in range(2):
        with pytest.raises(Declined):
            pay("a", "declined")
    with pytest.raises(KeyError):
        pay("b", "other")
    with pytest.raises(checkrein.InDoubt):
        pay("b", "other")


def _full(engine: checkrein.Engine, **more: Any) -> Any:
    """One function with every gate in one admission."""

    @engine.tool(
        once=checkrein.Once("key", per_run=True),
        attempts=100,
        rate=checkrein.Rate(1, "1m", key="user"),
        breaker=checkrein.Breaker("api", max_fails=1),
        key=checkrein.PER_RUN,
        **more,
    )
    def pay(key: str, user: str = "ada") -> str:
        return key

    return pay


def test_refusals_in_one_admission_use_no_key_up(engine: checkrein.Engine, clock: FakeClock) -> None:
    pay = _full(engine)
    assert pay("a") == "a"
    for _ in range(3):
        with pytest.raises(checkrein.RateLimited):
            pay("b")
    clock.advance(61)
    assert pay("b") == "b"
    assert pay("a") == "a"  # A repetition takes nothing.
    assert pay("c", "bob") == "c"


def _stack(engine: checkrein.Engine, *, is_async: bool, timed: bool) -> Any:
    """The same, one guard above the other."""
    ran: list[str] = []

    def work(key: str, user: str) -> str:
        ran.append(key)
        return key

    async def work_async(key: str, user: str) -> str:
        return work(key, user)

    made: Any = work_async if is_async else work
    layers = [engine.rate_limit(1, scope="user"), engine.max_attempts(100), engine.circuit_breaker("api")]
    if timed:
        layers.insert(1, engine.timeout(20))
    for layer in [*layers, engine.idempotent("key")]:
        made = layer(made)
    return made, ran


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_refusals_of_inner_guards_use_no_key_up(
    engine: checkrein.Engine, clock: FakeClock, is_async: bool, timed: bool
) -> None:
    pay, ran = _stack(engine, is_async=is_async, timed=timed)

    def call(key: str) -> Any:
        return asyncio.run(pay(key, "ada")) if is_async else pay(key, "ada")

    assert call("a") == "a"
    with pytest.raises(checkrein.RateLimited):
        call("b")
    assert engine.in_doubt() == []
    clock.advance(61)
    assert call("b") == "b"
    assert call("a") == "a"
    assert ran == ["a", "b"]


def test_a_refusal_that_the_function_met_itself_leaves_it_in_doubt(engine: checkrein.Engine) -> None:
    """It may have had an effect before, even where the refusal is that of its own inner guard."""
    effects: list[str] = []

    @engine.rate_limit(1)
    def inner() -> None: ...

    @engine.idempotent("key", name="outer")
    @engine.rate_limit(1)
    def pay(key: str, depth: int) -> None:
        effects.append(key)
        if depth == 0:
            inner()
            inner()
        else:
            pay.__wrapped__(key + "!", depth - 1)

    for key, depth in (("a", 0), ("b", 1)):
        engine.reset(pay.__wrapped__)  # type: ignore[attr-defined]
        with pytest.raises(checkrein.RateLimited):
            pay(key, depth)
        engine.reset(inner)
        with pytest.raises(checkrein.InDoubt):
            pay(key, depth)
    assert effects == ["a", "b"]


def test_a_decorator_of_somebody_else_in_between_may_have_done_anything(engine: checkrein.Engine) -> None:
    import functools

    @engine.rate_limit(0)
    def work(key: str) -> None: ...

    @functools.wraps(work)
    def between(*args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    pay = engine.idempotent("key")(between)
    with pytest.raises(checkrein.RateLimited):
        pay("a")
    with pytest.raises(checkrein.InDoubt):
        pay("a")


def test_stacked_limits_count_apart_and_keep_the_name(engine: checkrein.Engine) -> None:
    @engine.idempotent("user")
    @engine.rate_limit(5, scope="user")
    @engine.rate_limit(3, scope="user")
    def send(user: str) -> None: ...

    handles = [send.checkrein, send.__wrapped__.checkrein, send.__wrapped__.__wrapped__.checkrein]  # type: ignore[attr-defined]
    base = handles[2].name
    assert [handle.name for handle in handles] == [base, f"{base}#2", base]
    send("ada")
    assert [meter["spent"] for meter in engine.list("meter")] == ["1", "1"]


def test_the_policy_file_counts_once_for_stacked_guards(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "checkrein.toml").write_text(
        'version = 1\n[tools.send]\nlimits = [{ max_calls = 2, window = "1m" }]\n'
    )
    engine = checkrein.Engine.from_policy(tmp_path / "checkrein.toml", clock=clock)

    @engine.idempotent("key")
    @engine.max_attempts(9)
    def send(key: str) -> None: ...

    send("a")
    send("b")
    with pytest.raises(checkrein.RateLimited):
        send("c")


def test_the_top_level_names_are_those_of_the_default_engine() -> None:
    @checkrein.rate_limit(max_calls=5, period="1m")
    @checkrein.circuit_breaker("top level", max_fails=1)
    @checkrein.max_attempts(50)
    @checkrein.timeout(20)
    @checkrein.idempotent("key", per_run=False)
    def work(key: str) -> str:
        return key

    assert work("a") == "a"
    assert checkrein.handle(work).engine is checkrein.default_engine
