"""Arguments, registration, the shapes of tool calls, and asynchronous tools."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import gc
import json
import pickle
import weakref
from collections import OrderedDict
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from runner_kit import TRAIL, Bench

from checkrein import actiongate, auditgate
from checkrein.actiongate_openai import GatedToolRunner, GateResult, ToolGate, ToolRegistration
from checkrein.actiongate_openai.actiongate_openai import REFUSALS


def test_one_class_under_two_names() -> None:
    assert GatedToolRunner is ToolGate


# Registration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": 1}, "Tool 'n': gate requires policy"),
        ({"ledger": 1}, "Tool 'n': ledger requires budget and cost"),
        ({"ledger": 1, "budget": 2}, "Tool 'n': ledger requires budget and cost"),
        ({"rule": 1}, "Tool 'n': rule requires ruleset"),
        ({"policy": 1}, "Tool 'n': policy requires gate"),
        ({"budget": 1}, "Tool 'n': budget requires ledger"),
        ({"cost": Decimal(0)}, "Tool 'n': cost requires ledger"),
        ({"ruleset": 1}, "Tool 'n': ruleset requires rule"),
        ({"audit_policy": 1}, "Tool 'n': audit_policy requires trail"),
        ({"gate": 1, "policy": 2}, "Tool 'n': gate requires an actiongate engine"),
        ({"ledger": 1, "budget": 2, "cost": 3}, "Tool 'n': ledger requires a budgetgate engine"),
        ({"rule": 1, "ruleset": 2}, "Tool 'n': rule requires a rulegate engine"),
        ({"trail": 1}, "Tool 'n': trail requires an auditgate engine"),
    ],
)
def test_incomplete_registrations_are_refused(settings: dict[str, Any], message: str) -> None:
    runner = GatedToolRunner()
    with pytest.raises(ValueError, match=message):
        runner.register("n", len, **settings)
    assert runner._tools == {}
    assert runner.call("n", {}).blocked_by == "registry"


def test_registration() -> None:
    runner = GatedToolRunner()
    with pytest.raises(TypeError, match="fn must be callable"):
        runner.register("n", 5)  # type: ignore[arg-type]
    runner.register("n", lambda: 1)
    runner.register("n", lambda: 2)
    assert runner.call("n", {}).result == 2
    assert isinstance(runner._tools["n"], ToolRegistration)


# Arguments


@pytest.fixture
def bench() -> Bench:
    """Return a runner with `search` behind all four gates."""
    made = Bench()
    made.register()
    return made


def test_text_and_mappings(bench: Bench) -> None:
    text = '{"query": {"a": [1, -2.5, "é\\ud83d\\ude00", true, null, 18446744073709551615]}}'
    assert bench.runner.call("search", text).allowed
    assert bench.ran[-1] == json.loads(text)["query"]
    for given in (OrderedDict(query=1), MappingProxyType({"query": 1})):
        assert bench.runner.call("search", given).allowed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Invalid JSON arguments: Expecting value: line 1 column 1 (char 0)"),
        ("{", "Invalid JSON arguments: Expecting property name enclosed in double quotes: line 1 column 2"),
        ('{"query": 1} {}', "Invalid JSON arguments: Extra data: line 1 column 14 (char 13)"),
        ('{"query": NaN}', "Invalid JSON arguments: "),
        ('{"query": Infinity}', "Invalid JSON arguments: "),
        ('{"query": 1, "query": 2}', "Invalid JSON arguments: "),
        ('{"query": {"a": 1, "a": 1}}', "Invalid JSON arguments: "),
        ("[1, 2]", "Invalid JSON arguments: expected an object, got "),
        ("null", "Invalid JSON arguments: expected an object, got "),
        ("3", "Invalid JSON arguments: expected an object, got "),
        ('"x"', "Invalid JSON arguments: expected an object, got "),
        ('{"query": ' + "1" * 5_000 + "}", "Invalid JSON arguments: "),
        ('{"query": ' + "[" * 10_000 + "]" * 10_000 + "}", "Invalid JSON arguments: "),
        ("[" * 10_000, "Invalid JSON arguments: "),
        ('{"query": "\\ud800"}', "Invalid JSON arguments: "),
        ('{"query": "\ud800"}', "Invalid JSON arguments: "),
        ("\ufeff{}", "Invalid JSON arguments: "),
        (None, "Invalid arguments: expected a JSON object or a dict, got NoneType"),
        (b"{}", "Invalid arguments: expected a JSON object or a dict, got bytes"),
        ([1], "Invalid arguments: expected a JSON object or a dict, got list"),
        ({1: 2}, "Invalid arguments: names must be text"),
    ],
)
def test_bad_arguments_are_refused_before_any_gate(bench: Bench, arguments: Any, message: str) -> None:
    result = bench.runner.call("search", arguments)
    assert (result.allowed, result.blocked_by, result.decisions) == (False, "parse", {})
    assert (result.message or "").startswith(message)
    assert (bench.calls(), bench.spent(), bench.ran) == (0, Decimal(0), [])
    (entry,) = bench.log()
    assert (entry.gate_type, entry.reason, entry.detail) == ("parse", "BLOCK by parse", {"tool": "search"})


def test_arguments_that_refer_to_themselves_do_not_crash(bench: Bench) -> None:
    cycle: dict[str, Any] = {"query": {}}
    cycle["query"]["self"] = cycle
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"query": deep}
    for arguments in (cycle, deep):
        try:
            bench.runner.call("search", arguments)
        except RecursionError:
            assert bench.ran == []


def test_unregistered_tools_are_refused_and_recorded(bench: Bench) -> None:
    result = bench.runner.call("nope", "{}")
    assert (result.blocked_by, result.message) == ("registry", "Tool not registered: nope")
    assert bench.runner.call("nope", "{").blocked_by == "parse"
    assert [(entry.gate_type, entry.detail) for entry in bench.log(REFUSALS)] == [
        ("registry", {"tool": "nope"}),
        ("parse", {"tool": "nope"}),
    ]
    assert GatedToolRunner().call("nope", {}).blocked_by == "registry"
    with pytest.raises(TypeError):
        bench.runner.call([], {})  # type: ignore[arg-type]


def test_the_tool_gets_a_dict_of_its_own() -> None:
    runner = GatedToolRunner()
    given = {"a": 1}

    def take(**kwargs: Any) -> Any:
        kwargs["b"] = 2
        return kwargs

    runner.register("take", take)
    assert runner.call("take", given).result == {"a": 1, "b": 2}
    assert given == {"a": 1}


def test_a_signature_mismatch_is_the_tools_own_error(bench: Bench) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        bench.runner.call("search", {"nope": 1})
    assert [entry.gate_type for entry in bench.log()] == ["pipeline", "execution"]


# Shapes of tool calls


def shapes(name: str, arguments: str) -> list[Any]:
    return [
        SimpleNamespace(function=SimpleNamespace(name=name, arguments=arguments), id="1"),
        SimpleNamespace(name=name, arguments=arguments, type="function_call"),
        {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}},
        {"type": "function_call", "name": name, "arguments": arguments},
    ]


@pytest.mark.parametrize("index", range(4))
def test_tool_calls_of_every_shape(index: int) -> None:
    runner = GatedToolRunner()
    runner.register("greet", lambda name: f"hello {name}")
    call = shapes("greet", '{"name": "world"}')[index]
    assert runner.call_from_openai(call).result == "hello world"
    assert asyncio.run(runner.acall_from_openai(call)).result == "hello world"


@pytest.mark.parametrize(
    "call", [3, None, {}, {"function": None}, {"function": {"name": "x"}}, SimpleNamespace()]
)
def test_other_shapes_are_value_errors(call: Any) -> None:
    with pytest.raises(ValueError, match="Unrecognized tool_call format: "):
        GatedToolRunner().call_from_openai(call)


def batch() -> tuple[GatedToolRunner, list[Any]]:
    runner = GatedToolRunner()

    def fail() -> None:
        raise KeyError("boom")

    runner.register("one", lambda: 1)
    runner.register("fail", fail)
    return runner, [shapes(name, "{}")[2] for name in ("one", "fail", "one", "gone")]


def test_a_batch_that_raises_keeps_its_results() -> None:
    runner, calls = batch()
    with pytest.raises(KeyError) as raised:
        runner.process_tool_calls(calls)
    assert [result.result for result in raised.value.gate_results] == [1]
    results = runner.process_tool_calls(calls, on_error="result")
    assert [(result.result, result.blocked_by) for result in results] == [
        (1, None),
        (None, "execution"),
        (1, None),
        (None, "registry"),
    ]
    assert results[1].message == "KeyError: 'boom'"
    assert runner.process_tool_calls([]) == []
    assert runner.process_tool_calls([3], on_error="result")[0].blocked_by == "execution"


async def test_asynchronous_batches() -> None:
    runner, calls = batch()
    results = await runner.aprocess_tool_calls(calls, on_error="result")
    assert [result.result for result in results] == [1, None, 1, None]
    with pytest.raises(KeyError):
        await runner.aprocess_tool_calls(calls)


# Asynchronous tools


async def test_asynchronous_tools(bench: Bench) -> None:
    async def slow(query: str) -> str:
        await asyncio.sleep(0)
        if query == "raise":
            raise KeyError("boom")
        return query.upper()

    class Callable:
        async def __call__(self, query: str) -> str:
            return query

    settings = {"trail": TRAIL}
    bench.runner.register("slow", slow, **settings)
    bench.runner.register("partial", functools.partial(slow, query="p"))
    bench.runner.register("object", Callable())
    for name in ("slow", "partial", "object"):
        with pytest.raises(TypeError, match=f"tool `{name}` is asynchronous: use acall"):
            bench.runner.call(name, {"query": "x"})
    assert bench.log() == []
    result = await bench.runner.acall("slow", '{"query": "x"}')
    assert (result.allowed, result.result) == (True, "X")
    assert (await bench.runner.acall("partial", {})).result == "P"
    with pytest.raises(KeyError):
        await bench.runner.acall("slow", {"query": "raise"})
    assert [entry.gate_type for entry in bench.log()] == ["pipeline", "pipeline", "execution"]
    assert (await bench.runner.acall("gone", {})).blocked_by == "registry"


async def test_acall_decides_like_call(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.runner.acall("search", {"query": "x"}) for _ in range(6)))
    assert [result.allowed for result in results] == [True] * 3 + [False] * 3
    assert results[0].decisions["budgetgate"]["remaining"] == "0.70"
    assert (await bench.runner.acall("search", {"query": "secret"})).blocked_by == "budgetgate"


async def test_a_cancelled_tool_is_charged_and_not_an_error(bench: Bench) -> None:
    async def sleep() -> None:
        await asyncio.sleep(60)

    bench.runner.register("sleep", sleep, trail=TRAIL)
    task = asyncio.ensure_future(bench.runner.acall("sleep", {}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.gate_type for entry in bench.log()] == ["pipeline"]


# Results


def test_results_are_frozen_dataclasses() -> None:
    result = GateResult(False, "x", blocked_by="rulegate", decisions={"a": 1})
    assert repr(result) == "GateResult(allowed=False, tool='x', blocked_by='rulegate')"
    assert not result
    assert [field.name for field in dataclasses.fields(GateResult)] == [  # type: ignore[arg-type]
        "allowed",
        "tool_name",
        "result",
        "blocked_by",
        "message",
        "decisions",
    ]
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result)), dataclasses.replace(result)):  # type: ignore[type-var]
        assert copied == result
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.allowed = True  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(result)
    assert GateResult(True, "x").decisions == {}


def test_real_results_pickle(bench: Bench) -> None:
    result = bench.runner.call("search", {})
    assert pickle.loads(pickle.dumps(result)) == result


def test_runners_are_collected() -> None:
    class Agent:
        """Holds the runner that calls it."""

        def __init__(self) -> None:
            self.runner = GatedToolRunner(actiongate.Engine(), auditgate=auditgate.Engine())
            gate, policy = actiongate.Gate("n", "a"), actiongate.Policy()
            self.runner.register("tool", self.tool, gate=gate, policy=policy, trail=TRAIL)

        def tool(self) -> int:
            return 1

    agent = Agent()
    assert agent.runner.call("tool", {}).result == 1
    gone = weakref.ref(agent)
    del agent
    gc.collect()
    assert gone() is None
