"""Guarded functions are tools: each framework builds the schema of the plain function, and runs the gate.

A framework that is not installed is skipped here; the project's own checks have all of them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any, Literal, TypedDict

import pytest
from pydantic import BaseModel

import checkrein
from checkrein import actguard

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Place(BaseModel):
    """Where."""

    city: str
    country: str = "it"


class Options(TypedDict, total=False):
    """How."""

    unit: Literal["c", "f"]


def plain(city: str, days: int = 3, unit: Literal["c", "f"] = "c", tags: list[str] | None = None) -> str:
    """Tell the weather.

    Args:
        city: Where it is wanted.
        days: For how many days.
        unit: Of temperatures.
        tags: Whatever helps.
    """
    return f"{city} {days} {unit} {tags}"


def placed(place: Place, days: int = 1) -> str:
    """Tell the weather of a place.

    Args:
        place: Where it is wanted.
        days: For how many days.
    """
    return f"{place.city} {days}"


async def later(city: str, days: int = 3) -> str:
    """Tell the weather, later.

    Args:
        city: Where it is wanted.
        days: For how many days.
    """
    await asyncio.sleep(0)
    return f"{city} {days}"


def decorators() -> dict[str, Decorator]:
    """Return every way to guard a tool, each with an engine of its own."""

    def several(of: Callable[..., Any]) -> Callable[..., Any]:
        engine = checkrein.Engine()
        return engine.rate_limit(5)(engine.circuit_breaker("weather")(engine.timeout(5)(of)))

    return {
        "tool": lambda of: checkrein.Engine().tool(rate="10/min", timeout=5)(of),
        "rate_limit": lambda of: checkrein.Engine().rate_limit(10, "1m", scope=names(of)[0])(of),
        "circuit_breaker": lambda of: checkrein.Engine().circuit_breaker("weather")(of),
        "timeout": lambda of: checkrein.Engine().timeout(5)(of),
        "max_attempts": lambda of: checkrein.Engine().max_attempts(3)(of),
        "idempotent": lambda of: checkrein.Engine().idempotent(exclude="place" if of is placed else ())(of),
        "several": several,
        "drop-in": lambda of: actguard.tool(
            rate_limit={"max_calls": 10}, circuit_breaker={"name": "weather"}, timeout=5
        )(of),
    }


def names(of: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(of).parameters)


def openai_agents(of: Callable[..., Any]) -> Any:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    tool = agents.function_tool(of)
    return {"name": tool.name, "description": tool.description, "schema": tool.params_json_schema}


def langchain(of: Callable[..., Any]) -> Any:
    tools = pytest.importorskip("langchain_core.tools", reason="langchain-core is not installed")
    tool = tools.tool(parse_docstring=True)(of)
    return {
        "name": tool.name,
        "description": tool.description,
        "schema": tool.args_schema.model_json_schema(),
        "is_async": tool.coroutine is not None,
    }


def pydantic_ai(of: Callable[..., Any]) -> Any:
    ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai-slim is not installed")
    tool = ai.Tool(of)
    schema = tool.function_schema
    return {
        "name": tool.name,
        "description": tool.description,
        "schema": schema.json_schema,
        "is_async": schema.is_async,
    }


def anthropic(of: Callable[..., Any]) -> Any:
    sdk = pytest.importorskip("anthropic", reason="anthropic is not installed")
    make = sdk.beta_async_tool if inspect.iscoroutinefunction(of) else sdk.beta_tool
    return make(of).to_dict()


def google(of: Callable[..., Any]) -> Any:
    genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
    client = genai.Client(api_key="k")
    made = genai.types.FunctionDeclaration.from_callable(client=client._api_client, callable=of)
    return made.model_dump(mode="json", exclude_none=True)


FRAMEWORKS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "openai-agents": openai_agents,
    "langchain": langchain,
    "pydantic-ai": pydantic_ai,
    "anthropic": anthropic,
    "google-genai": google,
}


@pytest.mark.parametrize("build", FRAMEWORKS.values(), ids=FRAMEWORKS)
@pytest.mark.parametrize("guard", decorators().values(), ids=decorators())
@pytest.mark.parametrize("of", [plain, placed, later], ids=lambda of: str(of.__name__))
def test_the_schema_is_that_of_the_plain_function(
    of: Callable[..., Any], guard: Decorator, build: Callable[[Callable[..., Any]], Any]
) -> None:
    expected = build(of)
    assert "city" in json.dumps(expected)
    assert build(guard(of)) == expected


def test_the_schema_says_what_it_has_to_say() -> None:
    """What the frameworks build of a plain function is compared above; this is what it is."""
    guarded = checkrein.Engine().tool(rate="10/min")(plain)
    assert inspect.signature(guarded) == inspect.signature(plain)
    assert inspect.iscoroutinefunction(checkrein.Engine().tool(rate="10/min")(later))
    for build in FRAMEWORKS.values():
        try:
            made = build(guarded)
        except pytest.skip.Exception:
            continue
        text = json.dumps(made)
        assert "Tell the weather." in text
        assert all(f'"{name}"' in text for name in names(plain))


def weather_of(asked: list[str]) -> Callable[..., Any]:
    """Make a tool that may be asked once a minute."""

    @checkrein.Engine().tool(rate="1/min")
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.
        """
        asked.append(city)
        return f"sun in {city}"

    return weather


async def test_openai_agents_runs_the_gate() -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    context = pytest.importorskip("agents.tool_context").ToolContext
    asked: list[str] = []
    tool = agents.function_tool(weather_of(asked))

    async def invoke(city: str) -> str:
        arguments = json.dumps({"city": city})
        about = context(context=None, tool_name="weather", tool_call_id="c1", tool_arguments=arguments)
        return str(await tool.on_invoke_tool(about, arguments))

    assert await invoke("Rome") == "sun in Rome"
    refused = await invoke("Pisa")
    assert asked == ["Rome"]
    assert "sun" not in refused


def test_langchain_runs_the_gate() -> None:
    tools = pytest.importorskip("langchain_core.tools", reason="langchain-core is not installed")
    asked: list[str] = []
    tool = tools.tool(weather_of(asked))
    assert tool.invoke({"city": "Rome"}) == "sun in Rome"
    with pytest.raises(checkrein.RateLimited):
        tool.invoke({"city": "Pisa"})
    assert asked == ["Rome"]


async def test_pydantic_ai_runs_the_gate() -> None:
    ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai-slim is not installed")
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel

    asked: list[str] = []
    cities = iter(["Rome", "Pisa"])

    def say(messages: Any, info: Any) -> Any:
        city = next(cities, None)
        return ModelResponse([TextPart("done") if city is None else ToolCallPart("weather", {"city": city})])

    agent = ai.Agent(FunctionModel(say), tools=[weather_of(asked)])
    with pytest.raises(checkrein.RateLimited):
        await agent.run("weather?")
    assert asked == ["Rome"]


def test_anthropic_runs_the_gate() -> None:
    sdk = pytest.importorskip("anthropic", reason="anthropic is not installed")
    asked: list[str] = []
    tool = sdk.beta_tool(weather_of(asked))
    assert tool.call({"city": "Rome"}) == "sun in Rome"
    with pytest.raises(checkrein.RateLimited):
        tool.call({"city": "Pisa"})
    assert asked == ["Rome"]


def test_google_runs_the_gate() -> None:
    pytest.importorskip("google.genai", reason="google-genai is not installed")
    from fake_google import FakeGoogle, call_of
    from fakes import Reply
    from google_kit import ASKED, config, made

    asked: list[str] = []
    with FakeGoogle() as fake:
        fake.then(*(Reply(call_of("weather", {"city": city})) for city in ("Rome", "Pisa")))
        client = made(fake)
        settings = config(tools=[weather_of(asked)])
        assert client.models.generate_content(**ASKED, config=settings).text == "Hello there"
        told = fake.generated()[2]["contents"][-1]["parts"][0]["functionResponse"]["response"]
    assert asked == ["Rome"]
    assert "rate_limited" in told["error"]
