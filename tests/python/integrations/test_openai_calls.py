"""Calls through the `openai` package: each is held before it is sent, and settled at what it used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL, events, response
from fakes import FakeProvider, Reply

import checkrein

openai = pytest.importorskip("openai")
SAID = [{"role": "user", "content": "hi"}]

Client = Any


@pytest.fixture
def client(books: Books, fake: FakeProvider) -> Iterator[Client]:
    """A client that is wrapped."""
    with openai.OpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1") as made:
        yield checkrein.wrap(made, books.engine)


def streamed(client: Client) -> None:
    for _ in client.chat.completions.create(model=MODEL, messages=SAID, stream=True):
        pass


def helped(client: Client) -> None:
    with client.chat.completions.stream(model=MODEL, messages=SAID) as stream:
        assert stream.get_final_completion().choices[0].message.content == "hello"


def responded(client: Client) -> None:
    with client.responses.stream(model=MODEL, input="hi") as stream:
        assert stream.get_final_response().output_text == "hello"


def read_late(client: Client) -> None:
    with client.chat.completions.with_streaming_response.create(model=MODEL, messages=SAID) as reply:
        assert reply.parse().choices[0].message.content == "hello"


CALLS: dict[str, Callable[[Client], Any]] = {
    "create": lambda client: client.chat.completions.create(model=MODEL, messages=SAID),
    "parse": lambda client: client.chat.completions.parse(model=MODEL, messages=SAID),
    "beta": lambda client: client.beta.chat.completions.parse(model=MODEL, messages=SAID),
    "raw": lambda client: client.chat.completions.with_raw_response.create(
        model=MODEL, messages=SAID
    ).parse(),
    "streaming response": read_late,
    "stream": streamed,
    "stream helper": helped,
    "completions": lambda client: client.completions.create(model=MODEL, prompt="hi"),
    "completions stream": lambda client: list(
        client.completions.create(model=MODEL, prompt="hi", stream=True)
    ),
    "responses": lambda client: client.responses.create(model=MODEL, input="hi"),
    "responses parse": lambda client: client.responses.parse(model=MODEL, input="hi"),
    "responses create stream": lambda client: list(
        client.responses.create(model=MODEL, input="hi", stream=True)
    ),
    "responses stream": responded,
    "options": lambda client: client.with_options(timeout=5).responses.create(model=MODEL, input="hi"),
    "copy": lambda client: client.copy().responses.create(model=MODEL, input="hi"),
    "post": lambda client: client.post(
        "/chat/completions", body={"model": MODEL, "messages": SAID}, cast_to=object
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_held_and_settled(
    call: Callable[[Client], Any], client: Client, books: Books, fake: FakeProvider
) -> None:
    call(client)
    assert (books.spent, books.held) == (Decimal(COST), 0)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_is_refused_before_anything_is_sent(
    call: Callable[[Client], Any], books: Books, fake: FakeProvider
) -> None:
    books.limit("0.001 usd")
    client = checkrein.wrap(openai.OpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1"), books.engine)
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        call(client)
    assert "sk-secret" not in str(refused.value) + repr(refused.value.decision.to_dict())
    assert fake.requests == []
    assert (books.spent, books.held) == (0, 0)


def called(name: str) -> dict[str, Any]:
    """A response that calls a function."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": "{}"}
    return response(output=[{**call, "status": "completed"}])


def runner(steps: list[str]) -> Any:
    """The tool runner that openai has since its version 3."""
    runners = pytest.importorskip("openai.lib.responses_tool_runner")
    tool = {
        "type": "function",
        "name": "look",
        "description": "Look.",
        "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        "strict": True,
    }

    def execute(_: object) -> str:
        steps.append("look")
        return "seen"

    return runners.ResponsesToolRunner(functions=[runners.RegisteredFunction(tool, execute)])


@pytest.mark.parametrize("streams", [False, True])
def test_each_step_of_the_tool_runner_is_a_call(
    streams: bool, client: Client, books: Books, fake: FakeProvider
) -> None:
    steps: list[str] = []
    made = runner(steps)
    replies = [called("look"), response("done")]
    fake.then(*(Reply(events=events(last=of)) if streams else Reply(of) for of in replies))
    reply = made.run(client, {"model": MODEL, "input": "hi"}, stream=streams)
    assert reply.output_text == "done"
    assert steps == ["look"]
    assert (books.spent, books.held) == (2 * Decimal(COST), 0)


def test_a_budget_ends_the_tool_runner_between_two_steps(
    client: Client, books: Books, fake: FakeProvider
) -> None:
    steps: list[str] = []
    made = runner(steps)
    books.limit("0.0055 usd")
    checkrein.wrap(client, books.engine)
    fake.then(Reply(called("look")))
    with pytest.raises(checkrein.BudgetExceeded):
        made.run(client, {"model": MODEL, "input": "hi"})
    assert steps == ["look"]
    assert len(fake.requests) == 1
    assert (books.spent, books.held) == (Decimal(COST), 0)


async def test_a_budget_ends_the_runner_on_an_event_loop(books: Books, fake: FakeProvider) -> None:
    runners = pytest.importorskip("openai.lib.responses_tool_runner")
    books.limit("0.001 usd")
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{fake.url}/v1") as aclient:
        checkrein.wrap(aclient, books.engine)
        made = runners.AsyncResponsesToolRunner(functions=[])
        with pytest.raises(checkrein.BudgetExceeded):
            await made.run(aclient, {"model": MODEL, "input": "hi"})
    assert fake.requests == []
    with pytest.raises(runners.ToolRunnerError):
        await made.run(openai.AsyncOpenAI(api_key="x", base_url="http://127.0.0.1:9"), {"model": MODEL})
