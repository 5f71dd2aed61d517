"""Others replace methods of SDKs too: what they put there stays, and counts for clients that were wrapped before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Books
from fake_anthropic import FakeAnthropic
from fake_google import FakeGoogle
from fakes import FakeProvider
from openai_kit import SAID, openai

import checkrein

anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    checkrein.uninstrument()


@pytest.fixture
def calls(fake: FakeProvider) -> Iterator[dict[str, tuple[type, str, Any, Callable[[Any], Any]]]]:
    """For each SDK the method that all goes through, a client and a call of it."""
    with FakeAnthropic() as claude, FakeGoogle() as google:
        yield {
            "openai": (
                openai._base_client.SyncAPIClient,
                "request",
                openai.OpenAI(api_key="k", base_url=f"{fake.url}/v1"),
                lambda client: client.chat.completions.create(model="gpt-5.4-nano", messages=SAID),
            ),
            "anthropic": (
                anthropic._base_client.SyncAPIClient,
                "request",
                anthropic.Anthropic(api_key="k", base_url=claude.url),
                lambda client: client.messages.create(model="claude-opus-5", max_tokens=9, messages=SAID),
            ),
            "google.genai": (
                genai._api_client.BaseApiClient,
                "_request_once",
                genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=google.url)),
                lambda client: client.models.generate_content(model="gemini-3.8-flash", contents="hi"),
            ),
        }


SDKS = ["openai", "anthropic", "google.genai"]


def counting(kind: type, name: str, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    original = kind.__dict__[name]

    def method(self: Any, *args: Any, **named: Any) -> Any:
        counted.append(name)
        return original(self, *args, **named)

    monkeypatch.setattr(kind, name, method)
    return method


@pytest.mark.parametrize("sdk", SDKS)
def test_what_somebody_else_put_there_since_stays(
    sdk: str, calls: Any, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name, client, call = calls[sdk]
    before = kind.__dict__[name]
    checkrein.instrument(sdk, engine=books.engine)
    counted: list[str] = []
    theirs = counting(kind, name, counted, monkeypatch)
    call(client)
    paid = books.spent
    assert paid > 0
    checkrein.uninstrument()
    assert kind.__dict__[name] is theirs
    call(client)
    assert (books.spent, len(counted)) == (paid, 2)
    checkrein.instrument(sdk, engine=books.engine)
    call(client)
    assert (books.spent, len(counted)) == (2 * paid, 3)
    checkrein.uninstrument()
    monkeypatch.undo()
    call(client)
    assert books.spent == 2 * paid
    setattr(kind, name, before)


@pytest.mark.parametrize("sdk", SDKS)
def test_what_is_put_there_later_is_meant_for_wrapped_clients_too(
    sdk: str, calls: Any, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name, client, call = calls[sdk]
    wrapped = checkrein.wrap(client, books.engine)
    counted: list[str] = []
    counting(kind, name, counted, monkeypatch)
    call(wrapped)
    assert len(counted) == 1
    assert books.spent > 0
