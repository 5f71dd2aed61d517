"""Calls through the `openai` package: each is held before it is sent, and settled at what it used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL
from fakes import FakeProvider

import checkrein

openai = pytest.importorskip("openai")
SAID = [{"role": "user", "content": "hi"}]
HELD = Decimal("0.0052")
"""About what 4,096 tokens of output and a short prompt may cost."""

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
