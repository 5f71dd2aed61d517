"""Server-sent events are cut at the same places, however their bytes arrive."""

from __future__ import annotations

import random

import pytest

from checkrein.integrations import sse

STREAM = (
    b'data: {"a": 1}\n\n'
    b": a comment\n\n"
    b'event: x\r\ndata: {"b":\r\ndata: 2}\r\n\r\n'
    b"data:no space\r\r"
    b"\n\n"
    b"data: [DONE]\n\ndata: without an end"
)
EVENTS = [
    b'data: {"a": 1}\n\n',
    b": a comment\n\n",
    b'event: x\r\ndata: {"b":\r\ndata: 2}\r\n\r\n',
    b"data:no space\r\r",
    b"\n\n",
    b"data: [DONE]\n\n",
]
REST = b"data: without an end"


@pytest.mark.parametrize("seed", range(50))
def test_any_pieces_give_the_same_events(seed: int) -> None:
    chance, left, splitter, events = random.Random(seed), STREAM, sse.EventSplitter(), []
    while left:
        size = chance.randint(1, 20)
        events += splitter.feed(left[:size])
        left = left[size:]
    assert events == EVENTS, f"seed {seed}"
    assert splitter.rest() == REST
    assert splitter.rest() == b""


def test_data_is_joined_as_the_standard_says() -> None:
    assert [sse.data_of(event) for event in EVENTS] == [
        b'{"a": 1}',
        b"",
        b'{"b":\n2}',
        b"no space",
        b"",
        b"[DONE]",
    ]
    assert sse.data_of(sse.event_of(b"{}", "name")) == b"{}"


def test_an_event_that_never_ends_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 10)
    splitter = sse.EventSplitter()
    assert splitter.feed(b"data: 123") == []
    assert splitter.feed(b"45") == [b"data: 12345"]
    assert splitter.feed(b"data: 1\n\n") == [b"data: 1\n\n"]
