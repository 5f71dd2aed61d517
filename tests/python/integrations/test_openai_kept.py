"""Calls through the `openai` package with a store that waits for the disk: no end of a call is lost with it."""

from __future__ import annotations

import asyncio
import gc
import time
from decimal import Decimal
from itertools import repeat
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL, chunk, response
from fakes import FakeProvider, Reply
from openai_kit import SAID, _impatient, is_hold, openai

import checkrein

__all__ = ["_impatient"]

PAID = Decimal(COST)


async def test_every_end_of_a_call_on_an_event_loop(kept: Books, fake: FakeProvider) -> None:
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{fake.url}/v1") as client:
        checkrein.wrap(client, kept.engine)
        create = client.chat.completions.create
        await create(model=MODEL, messages=SAID)
        async for _ in await create(model=MODEL, messages=SAID, stream=True):
            pass
        fake.then(Reply(status=429, body={}))
        await create(model=MODEL, messages=SAID)
        assert (kept.spent, kept.held) == (3 * PAID, 0)
        fake.then(Reply(events=(chunk("x") for _ in repeat(None))))
        async with await create(model=MODEL, messages=SAID, stream=True) as stream:
            await anext(stream)
        assert is_hold(kept.spent - 3 * PAID)
        fake.then(Reply(response(status="queued", id="resp_k")), Reply(response(id="resp_k")))
        await client.responses.create(model=MODEL, input="hi", background=True)
        assert is_hold(kept.held)
        await client.responses.retrieve("resp_k")
        assert kept.held == 0
        fake.then(Reply(hangs=True))
        seen = len(fake.requests)
        task = asyncio.create_task(create(model=MODEL, messages=SAID))
        while len(fake.requests) == seen:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_hold(kept.held)
        fake.then(Reply(status=500, body={}))
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=0).chat.completions.create(model=MODEL, messages=SAID)
        assert is_hold(kept.held, 2 * 4_096)


@pytest.mark.parametrize("way", ["close", "dropped"])
def test_a_stream_that_is_left_in_a_thread(way: str, kept: Books, fake: FakeProvider) -> None:
    client = checkrein.wrap(openai.OpenAI(api_key="x", base_url=f"{fake.url}/v1"), kept.engine)
    fake.then(Reply(events=(chunk("x") for _ in repeat(None))))
    stream: Any = client.chat.completions.create(model=MODEL, messages=SAID, stream=True)
    next(stream)
    if way == "close":
        stream.close()
    del stream
    gc.collect()
    # A stream that is dropped is settled by a thread: a finaliser waits for no disk.
    end = time.monotonic() + 30
    while kept.held and time.monotonic() < end:
        time.sleep(0.001)
    assert is_hold(kept.spent)
    assert kept.held == 0
