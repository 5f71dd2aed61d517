"""The wrappers: real functions that look, fail, pickle and bind like what they guard."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import io
import linecache
import operator
import pickle
import subprocess
import sys
import textwrap
import traceback
import typing
import weakref
from pathlib import Path

import pytest

import checkrein
from checkrein.testing import assert_denied

GLOBAL = "module global"
ENGINE = checkrein.Engine()


@ENGINE.guard(rate="1000/s", rules=lambda a: a != "refuse me")
def documented(a: int, /, b: str = "x", *rest: int, c: float = 1.5, **more: object) -> tuple[object, ...]:
    """Say what came in."""
    return (a, b, rest, c, more, GLOBAL)


@ENGINE.guard(rate="1000/s", rules=lambda a: a != "refuse me")
async def awaited(a: int) -> int:
    """Wait."""
    return a


def test_the_signature_the_name_the_doc_and_the_annotations_stay() -> None:
    assert documented.__name__ == "documented"
    assert documented.__qualname__ == "documented"
    assert documented.__module__ == __name__
    assert documented.__doc__ == "Say what came in."
    assert typing.get_type_hints(documented)["a"] is int
    assert str(inspect.signature(documented)).startswith(
        "(a: 'int', /, b: 'str' = 'x', *rest: 'int', c: 'float'"
    )
    own = inspect.signature(documented, follow_wrapped=False)
    assert [(p.name, p.kind, p.default) for p in own.parameters.values()] == [
        (p.name, p.kind, p.default) for p in inspect.signature(documented).parameters.values()
    ]
    assert inspect.isfunction(documented)
    assert inspect.iscoroutinefunction(awaited)
    assert asyncio.iscoroutinefunction(awaited)
    assert documented.__globals__ is globals()
    assert documented.__code__.co_name == "documented"


def test_arguments_are_bound_as_the_function_would() -> None:
    assert documented(1) == (1, "x", (), 1.5, {}, GLOBAL)
    assert documented(1, "y", 2, 3, c=0.5, d=4) == (1, "y", (2, 3), 0.5, {"d": 4}, GLOBAL)
    for call in (lambda: documented(), lambda: documented(a=1), lambda: documented(1, "x", b="y")):
        with pytest.raises(TypeError):
            call()


def test_defaults_and_keywords_are_gated_like_positional_arguments(engine: checkrein.Engine) -> None:
    @engine.guard(rules=lambda amount: amount <= 10)
    def pay(to: str, amount: int = 50) -> str:
        return "paid"

    assert pay("a", 10) == pay("a", amount=10) == pay(amount=10, to="a") == "paid"
    assert_denied(pay, "a", code="rule_violated")
    assert_denied(pay, "a", 11, code="rule_violated")


def test_it_pickles_by_name_and_copies_as_itself() -> None:
    assert pickle.loads(pickle.dumps(documented)) is documented
    assert pickle.loads(pickle.dumps(awaited)) is awaited
    assert copy.deepcopy(documented) is documented


def test_parameters_may_have_the_names_of_the_wrapper(engine: checkrein.Engine) -> None:
    @engine.guard(rate="5/s", rules=lambda fn: True, timeout=5, breaker="b: 3/1s")
    def odd(
        fn: int, admit: int, permit: int, _checkrein_admit: int, _checkrein_fn: int, error: int
    ) -> list[int]:
        return [fn, admit, permit, _checkrein_admit, _checkrein_fn, error]

    assert odd(1, 2, 3, 4, 5, 6) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_tracebacks_show_the_wrapper_and_the_function(engine: checkrein.Engine) -> None:
    @engine.guard(rate="1/h")
    def boom() -> None:
        raise LookupError("from inside")

    with pytest.raises(LookupError) as raised:
        boom()
    text = "".join(traceback.format_exception(raised.value))
    assert "<checkrein guard of" in text
    assert "return _checkrein_fn()" in text
    assert 'raise LookupError("from inside")' in text
    linecache.checkcache()
    assert "return _checkrein_fn()" in "".join(traceback.format_exception(raised.value))


def test_methods_classmethods_and_staticmethods(engine: checkrein.Engine) -> None:
    class Shop:
        region = "eu"

        @engine.guard(rate="1/h", key="user")
        def buy(self, user: str) -> tuple[str, str]:
            return (self.region, user)

        @classmethod
        @engine.guard(rate="1/h")
        def open(cls) -> str:
            return cls.region

        @staticmethod
        @engine.guard(rate="1/h")
        def ping() -> str:
            return "pong"

        @property
        @engine.guard(rate="1/h")
        def size(self) -> int:
            return 3

    shop = Shop()
    assert shop.buy("a") == ("eu", "a")
    assert_denied(shop.buy, "a", code="rate_limited")
    assert Shop.open() == "eu"
    assert Shop.ping() == "pong"
    assert shop.size == 3
    assert_denied(Shop.open)
    assert_denied(shop.ping)


@pytest.mark.parametrize("wrong", [staticmethod(len), classmethod(len), property(len), int, 3, None])
def test_the_wrong_order_of_decorators_is_explained(engine: checkrein.Engine, wrong: object) -> None:
    with pytest.raises(checkrein.ConfigError) as refused:
        engine.guard(rate="1/s")(wrong)  # type: ignore[type-var]
    assert refused.value.code in ("decorator_order", "target")
    assert refused.value.hint


def test_partials_callables_lambdas_and_bound_methods(engine: checkrein.Engine) -> None:
    class Adder:
        def __call__(self, a: int, b: int = 2) -> int:
            return a + b

    def three(a: int, b: int, c: int) -> tuple[int, int, int]:
        return (a, b, c)

    guard = engine.guard(rate="5/s", rules=lambda a: a > 0)
    assert guard(Adder())(1) == 3
    assert guard(functools.partial(three, b=5))(1, c=3) == (1, 5, 3)
    assert guard(functools.partial(three, c=5))(1, 2) == (1, 2, 5)
    assert guard(lambda a: a)(4) == 4
    assert guard(Adder().__call__)(3) == 5
    assert_denied(guard(functools.partial(three, c=5)), 0, 2, code="rule_violated")


def test_functions_written_in_c(engine: checkrein.Engine) -> None:
    guard = engine.guard(rate="2/h")
    assert guard(len)("abc") == 3
    assert guard(max)(1, 5, 2) == 5
    assert guard(max)([1, 7], key=lambda x: -x) == 1
    assert guard(operator.itemgetter(1))("ab") == "b"
    limited = guard(print)
    out = io.StringIO()
    limited("a", "b", sep="-", file=out)
    assert out.getvalue() == "a-b\n"
    guarded = engine.guard(rules=lambda args: len(args) < 3)(max)
    assert guarded(1, 2) == 2
    assert_denied(guarded, 1, 2, 3, code="rule_violated")


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_guard_on_a_guard_decides_twice(engine: checkrein.Engine) -> None:
    @engine.guard(rate="5/h")
    @engine.guard(rate="1/h")
    def act() -> str:
        return "ran"

    assert act() == "ran"
    assert_denied(act)


def test_what_is_gated_is_what_runs(engine: checkrein.Engine) -> None:
    seen: list[object] = []

    def small(order: dict[str, list[int]]) -> bool:
        seen.append(order)
        return sum(order["items"]) < 10

    @engine.guard(rules=small)
    def buy(order: dict[str, list[int]]) -> object:
        return order

    original = {"items": [1, 2]}
    ran = buy(original)
    assert ran == original
    assert ran == seen[0]
    assert ran is not seen[0]
    assert ran is not original
    assert ran["items"] is not original["items"]  # type: ignore[index]


def test_a_thread_that_changes_the_arguments_changes_nothing(engine: checkrein.Engine) -> None:
    order = {"amount": 1, "items": [1]}

    def check(order: dict[str, object]) -> bool:
        fine = order["amount"] == 1
        # The caller's object changes while the call is decided.
        original["amount"] = 10**6
        original["items"].append(10**6)  # type: ignore[attr-defined]
        return fine

    original: dict[str, object] = order  # type: ignore[assignment]

    @engine.guard(rules=[check, "order.amount == 1", lambda order: len(order["items"]) == 1])
    def pay(order: dict[str, object]) -> object:
        return order

    assert pay(original) == {"amount": 1, "items": [1]}


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_scalars_and_objects_are_passed_as_they_are(engine: checkrein.Engine) -> None:
    class Thing:
        name = "t"

    @engine.guard(rules="text != 'no'", key=lambda thing: thing.name, rate="9/s")
    def same(text: str, thing: Thing, rest: object) -> tuple[object, ...]:
        return (text, thing, rest)

    text, thing, rest = "some text", Thing(), [1]
    assert all(a is b for a, b in zip(same(text, thing, rest), (text, thing, rest), strict=True))


def test_deep_wide_and_cyclic_arguments_are_refused(engine: checkrein.Engine) -> None:
    @engine.guard(rules=lambda value: True)
    def act(value: object) -> str:
        return "ran"

    deep: object = []
    for _ in range(10_000):
        deep = [deep]
    cycle: list[object] = []
    cycle.append(cycle)
    bomb: object = [0] * 10
    for _ in range(10):
        bomb = [bomb] * 10
    for value in (deep, cycle, bomb, {"a": deep}, (deep,)):
        assert_denied(act, value, code="too_large")
    while isinstance(deep, list) and deep:  # take it apart without recursion
        deep = deep.pop()
    assert act([[1]] * 5) == "ran"


def test_guards_and_what_they_hold_are_collected() -> None:
    class Big:
        pass

    def make() -> weakref.ref[Big]:
        engine = checkrein.Engine()
        big = Big()

        @engine.guard(rules=lambda a: big is not None, key=lambda a: "k", rate="9/s", breaker="x: 3/1s")
        def act(a: int) -> object:
            return (big, act)

        act(1)
        engine.add_listener(lambda event: big)
        return weakref.ref(big)

    reference = make()
    gc.collect()
    assert reference() is None


def run(code: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(Path(checkrein.__file__).parents[1])},
    )


def test_interpreter_shutdown_with_live_guards_is_quiet() -> None:
    done = run(
        """
        import atexit, threading, time, checkrein
        engine = checkrein.Engine()

        @engine.guard(rate="1000000/s", rules=lambda a: True, timeout=60, budget="9 usd", cost="0 usd",
                      actual=lambda r: "0 usd")
        def act(a): return a

        class Late:
            def __del__(self): act(1)
        late = Late()
        atexit.register(act, 2)
        def forever():
            while True:
                try: act(3)
                except Exception: time.sleep(0.001)
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.05)
        print("end")
        """
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "Fatal" not in done.stderr
    assert "panicked" not in done.stderr


def test_coverage_of_the_users_code_is_unaffected(tmp_path: Path) -> None:
    module = tmp_path / "covered.py"
    module.write_text(
        textwrap.dedent(
            """
            import checkrein
            engine = checkrein.Engine()

            @engine.guard(rate="9/s")
            def act(flag):
                if flag:
                    return 1
                return 2

            act(True)
            """
        )
    )
    report = subprocess.run(
        [sys.executable, "-m", "coverage", "run", "--data-file", str(tmp_path / "data"), str(module)],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(Path(checkrein.__file__).parents[1])},
    )
    assert report.returncode == 0, report.stderr
    shown = subprocess.run(
        [
            sys.executable,
            "-m",
            "coverage",
            "report",
            "-m",
            "--data-file",
            str(tmp_path / "data"),
            "--include",
            module,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "covered.py" in shown.stdout
    assert " 9" in shown.stdout.splitlines()[2]
    assert "guard of" not in shown.stdout


def test_a_function_that_is_guarded_again_in_memory_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    engine = checkrein.Engine()

    def handler() -> typing.Any:
        @engine.guard(rate="1/min")
        def refund() -> str:
            return "refunded"

        return refund

    for _ in range(3):
        assert handler()() == "refunded"
    warned = [record.getMessage() for record in caplog.records if "second time" in record.getMessage()]
    assert len(warned) == 1
    assert "name=" in warned[0]
