"""Responses of openai in the background: their call is charged once, by whoever sees first what it used."""

from __future__ import annotations

import gc
import weakref
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL, events, response
from fakes import FakeProvider, Reply
from openai_kit import _impatient, aclient, client, is_hold

from checkrein.integrations import responses

__all__ = ["_impatient", "aclient", "client"]

PAID = Decimal(COST)


def begin(client: Any, fake: FakeProvider, response_id: str = "resp_bg") -> Any:
    fake.then(Reply(response(status="queued", id=response_id)))
    return client.responses.create(model=MODEL, input="hi", background=True)


def test_a_poll_settles_the_call_once(client: Any, books: Books, fake: FakeProvider) -> None:
    begin(client, fake)
    assert books.spent == 0
    assert is_hold(books.held)
    fake.then(Reply(response(status="in_progress", id="resp_bg")))
    client.responses.retrieve("resp_bg")
    assert is_hold(books.held)
    for _ in range(3):
        fake.then(Reply(response(id="resp_bg")))
        client.responses.retrieve("resp_bg")
        assert (books.spent, books.held) == (PAID, 0)


async def test_a_poll_on_an_event_loop(aclient: Any, books: Books, fake: FakeProvider) -> None:
    fake.then(Reply(response(status="queued", id="resp_bg")), Reply(response(id="resp_bg")))
    await aclient.responses.create(model=MODEL, input="hi", background=True)
    await aclient.responses.retrieve("resp_bg")
    assert (books.spent, books.held) == (PAID, 0)


def test_who_polls_needs_no_wrapped_client_of_the_same_scope(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    begin(client, fake)
    fake.then(Reply(response(id="resp_bg")))
    with client.with_options(timeout=9).responses.with_streaming_response.retrieve("resp_bg") as reply:
        assert reply.parse().status == "completed"
    assert (books.spent, books.held) == (PAID, 0)


@pytest.mark.parametrize("status", [500, 404, 429])
def test_a_poll_that_fails_says_nothing(status: int, client: Any, books: Books, fake: FakeProvider) -> None:
    begin(client, fake)
    fake.then(Reply(status=status, body={}))
    with pytest.raises(Exception, match=str(status)):
        client.with_options(max_retries=0).responses.retrieve("resp_bg")
    assert is_hold(books.held)
    fake.then(Reply(response(id="resp_bg")))
    client.responses.retrieve("resp_bg")
    assert (books.spent, books.held) == (PAID, 0)


def test_a_stream_that_is_left_goes_on_in_the_background(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    fake.then(Reply(events=events("hel", "lo", begun={"id": "resp_bg"}, last={}), hangs=True))
    stream = client.responses.create(model=MODEL, input="hi", background=True, stream=True)
    for _ in stream:
        break
    stream.close()
    assert is_hold(books.held)
    fake.then(Reply(events=events("hel", "lo", last=response(id="resp_bg"))))
    for _ in client.responses.retrieve("resp_bg", stream=True, starting_after=3):
        pass
    assert (books.spent, books.held) == (PAID, 0)


def test_a_cancelled_response_is_charged_by_what_it_says(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    begin(client, fake)
    fake.then(Reply(response(id="resp_bg", status="cancelled", usage=None)))
    client.responses.cancel("resp_bg")
    assert is_hold(books.spent)
    assert books.held == 0


def test_a_response_that_nobody_asks_for_is_charged_at_the_end(
    client: Any, books: Books, fake: FakeProvider
) -> None:
    begin(client, fake)
    held = books.held
    books.clock.advance(3_601)
    books.engine.collect()
    assert (books.spent, books.held) == (held, 0)
    fake.then(Reply(response(id="resp_bg")))
    assert client.responses.retrieve("resp_bg").status == "completed"
    assert books.spent == held


def test_what_is_waited_for_is_bounded_and_goes_with_its_engine(
    client: Any, books: Books, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "MAX_EXPECTED", 3)
    for number in range(5):
        begin(client, fake, f"resp_{number}")
    known = [responses.is_expected(f"resp_{number}") for number in range(5)]
    assert known == [False, False, True, True, True]
    engine = weakref.ref(books.engine)
    books.limit("2 usd")
    client.__class__ = type(client).__mro__[1]
    gc.collect()
    assert engine() is None
    assert not responses.is_expected("resp_4")


def test_ids_are_remembered_once_and_not_for_ever(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    charged = responses.of(books.engine)
    assert charged is responses.of(books.engine)
    assert [charged.charge("a"), charged.charge("a")] == [True, False]
    monkeypatch.setattr(responses, "MAX_CHARGED", 10)
    for number in range(100):
        charged.charge(f"id {number}")
    assert len(charged) == 10
