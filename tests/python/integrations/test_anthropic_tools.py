"""Anthropic's tool runner: each round is a call of its own, and a refusal ends the loop, not just the round."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_anthropic import FakeAnthropic, events_of, message, tool_use
from fakes import Reply

import checkrein

anthropic = pytest.importorskip("anthropic")

ASKED: dict[str, Any] = {
    "model": "claude-opus-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "weather in Rome?"}],
}
COST = Decimal("0.002")
ALL = 199_000
"""So many tokens of input leave too little of a dollar for another round."""

Client = Any


@pytest.fixture
def claude() -> Iterator[FakeAnthropic]:
    """A provider that asks for the tool twice, and then answers."""
    with FakeAnthropic() as provider:
        yield provider


def rounds(claude: FakeAnthropic, *, streams: bool, first: int = 200) -> None:
    """Script three rounds, of which the first has so many tokens of input."""
    said = [
        tool_use("weather", {"city": "Rome"}, 1),
        tool_use("weather", {"city": "Pisa"}, 2),
        message("sun"),
    ]
    said[0]["usage"]["input_tokens"] = first
    claude.then(*(Reply(events=events_of(one)) if streams else Reply(one) for one in said))


class Tool:
    """A guarded tool, and what it was asked."""

    def __init__(self, rate: str = "10/min") -> None:
        self.asked: list[str] = []
        engine = checkrein.Engine()

        @engine.guard(rate=rate)
        def weather(city: str) -> str:
            """Tell the weather.

            Args:
                city: Where.
            """
            self.asked.append(city)
            return "sun"

        @engine.guard(rate=rate)
        async def aweather(city: str) -> str:
            """Tell the weather.

            Args:
                city: Where.
            """
            self.asked.append(city)
            return "sun"

        self.sync = anthropic.beta_tool(weather)
        self.asynchronous = anthropic.beta_async_tool(name="weather")(aweather)


def wrapped(books: Books, claude: FakeAnthropic) -> Client:
    return checkrein.wrap(anthropic.Anthropic(api_key="k", base_url=claude.url), books.engine)


def awrapped(books: Books, claude: FakeAnthropic) -> Client:
    return checkrein.wrap(anthropic.AsyncAnthropic(api_key="k", base_url=claude.url), books.engine)


def run(client: Client, tool: Tool, *, stream: bool) -> int:
    count = 0
    for one in client.beta.messages.tool_runner(**ASKED, tools=[tool.sync], stream=stream):
        count += 1
        if stream:
            one.until_done()
    return count


async def arun(client: Client, tool: Tool, *, stream: bool) -> int:
    count = 0
    async for one in client.beta.messages.tool_runner(**ASKED, tools=[tool.asynchronous], stream=stream):
        count += 1
        if stream:
            await one.until_done()
    return count


@pytest.mark.parametrize("stream", [False, True])
def test_every_round_is_held_and_settled(stream: bool, books: Books, claude: FakeAnthropic) -> None:
    rounds(claude, streams=stream)
    tool = Tool()
    assert run(wrapped(books, claude), tool, stream=stream) == 3
    assert tool.asked == ["Rome", "Pisa"]
    assert (books.spent, books.held) == (3 * COST, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_every_asynchronous_round_is_held_and_settled(
    stream: bool, books: Books, claude: FakeAnthropic
) -> None:
    rounds(claude, streams=stream)
    tool = Tool()
    assert await arun(awrapped(books, claude), tool, stream=stream) == 3
    assert tool.asked == ["Rome", "Pisa"]
    assert (books.spent, books.held) == (3 * COST, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_round_ends_the_loop(stream: bool, books: Books, claude: FakeAnthropic) -> None:
    rounds(claude, streams=stream, first=ALL)
    with pytest.raises(checkrein.BudgetExceeded):
        run(wrapped(books, claude), Tool(), stream=stream)
    assert len(claude.messages()) == 1
    assert (books.spent, books.held) == (Decimal("0.996"), 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_asynchronous_round_ends_the_loop(
    stream: bool, books: Books, claude: FakeAnthropic
) -> None:
    rounds(claude, streams=stream, first=ALL)
    with pytest.raises(checkrein.BudgetExceeded):
        await arun(awrapped(books, claude), Tool(), stream=stream)
    assert len(claude.messages()) == 1
    assert (books.spent, books.held) == (Decimal("0.996"), 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_a_tool_stops_ends_at_the_next_round(stream: bool, claude: FakeAnthropic) -> None:
    rounds(claude, streams=stream)
    client = checkrein.wrap(anthropic.Anthropic(api_key="k", base_url=claude.url))

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.
        """
        checkrein.current_run().stop("that is enough")
        raise ValueError("the loop tells the model of this, and would go on")

    tool = Tool()
    tool.sync = weather
    with checkrein.run(budget="$1") as run_, pytest.raises(checkrein.Frozen, match="that is enough"):
        run(client, tool, stream=stream)
    assert len(claude.messages()) == 1
    assert (run_.spent.usd, run_.spent.calls, run_.held.usd) == (COST, 1, 0)


async def test_an_asynchronous_run_that_a_tool_stops_ends_at_the_next_round(claude: FakeAnthropic) -> None:
    rounds(claude, streams=False)
    client = checkrein.wrap(anthropic.AsyncAnthropic(api_key="k", base_url=claude.url))

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.
        """
        checkrein.current_run().stop("that is enough")
        return "sun"

    tool = Tool()
    tool.asynchronous = weather
    async with checkrein.run(budget="$1") as run_:
        with pytest.raises(checkrein.Frozen, match="that is enough"):
            await arun(client, tool, stream=False)
    assert len(claude.messages()) == 1
    assert (run_.spent.usd, run_.held.usd) == (COST, 0)


def test_the_limits_of_a_run_end_the_loop_too(claude: FakeAnthropic) -> None:
    rounds(claude, streams=False)
    client = checkrein.wrap(anthropic.Anthropic(api_key="k", base_url=claude.url))
    with checkrein.run(calls=2) as run_, pytest.raises(checkrein.BudgetExceeded) as refused:
        run(client, Tool(), stream=False)
    assert refused.value.decision.reasons[0].gate == "@run"
    assert (len(claude.messages()), run_.spent.calls) == (2, 2)


def test_a_tool_that_is_refused_tells_the_model_and_the_loop_goes_on(
    books: Books, claude: FakeAnthropic
) -> None:
    rounds(claude, streams=False)
    tool = Tool("1/min")
    assert run(wrapped(books, claude), tool, stream=False) == 3
    assert tool.asked == ["Rome"]
    result = claude.messages()[2]["messages"][-1]["content"][0]
    assert result["is_error"] is True
    assert "rate_limited" in str(result["content"])
    assert "Pisa" not in str(result["content"])
