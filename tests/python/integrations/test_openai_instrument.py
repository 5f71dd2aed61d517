"""`wrap` and `instrument`: which clients are metered, by which engine, and that it can be undone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from conftest import Books
from fake_openai import COST, MODEL, completion
from fakes import FakeProvider, Reply
from openai_kit import SAID, Crowd, _impatient, openai

import checkrein

__all__ = ["_impatient"]

PAID = Decimal(COST)


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    yield
    checkrein.uninstrument()


def plain(fake: FakeProvider, **more: Any) -> Any:
    return openai.OpenAI(api_key="sk-secret", base_url=f"{fake.url}/v1", **more)


def create(client: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=SAID)


def test_wrapping_keeps_the_client_and_its_class(books: Books, fake: FakeProvider) -> None:
    client = plain(fake)
    assert checkrein.wrap(client, books.engine) is client
    assert isinstance(client, openai.OpenAI)
    assert type(client).__qualname__ == "OpenAI"
    once = type(client)
    assert type(checkrein.wrap(client, books.engine)) is once
    create(client)
    assert (books.spent, len(fake.requests)) == (PAID, 1)


def test_only_the_wrapped_client_is_metered(books: Books, fake: FakeProvider) -> None:
    with plain(fake) as other:
        # They share what sends: that alone makes no call a metered one.
        wrapped = checkrein.wrap(other.with_options(timeout=9), books.engine)
        create(other)
        assert books.spent == 0
        create(wrapped)
        create(other)
        assert books.spent == PAID


def test_a_client_is_wrapped_for_another_engine(books: Books, fake: FakeProvider) -> None:
    client = checkrein.wrap(plain(fake), books.engine)
    first = books.engine
    books.limit("1 usd")
    checkrein.wrap(client, books.engine)
    create(client)
    assert books.spent == PAID
    assert first.list("meter") == []


def test_a_clients_of_nobody_cannot_be_wrapped() -> None:
    with pytest.raises(checkrein.ConfigError, match="an object is no client of a known SDK"):
        checkrein.wrap(object())
    with pytest.raises(checkrein.ConfigError, match="`opneai` is no known SDK"):
        checkrein.instrument("opneai")


def test_instrumenting_meters_every_client_until_it_is_undone(books: Books, fake: FakeProvider) -> None:
    base = openai._base_client.SyncAPIClient
    before = base.__dict__["request"]
    client = plain(fake)
    checkrein.instrument("openai", engine=books.engine)
    checkrein.instrument(engine=books.engine)
    create(client)
    create(plain(fake))
    assert books.spent == 2 * PAID
    checkrein.uninstrument()
    assert base.__dict__["request"] is before
    create(client)
    assert books.spent == 2 * PAID
    checkrein.uninstrument()


def test_a_wrapped_client_is_metered_once_and_by_its_own_engine(books: Books, fake: FakeProvider) -> None:
    other = books.engine
    books.limit("1 usd")
    checkrein.instrument(engine=other)
    client = checkrein.wrap(plain(fake), books.engine)
    create(client)
    assert (books.spent, other.list("meter")) == (PAID, [])
    checkrein.uninstrument()
    create(client)
    assert books.spent == 2 * PAID


def test_the_functions_of_the_module_are_instrumented_too(
    books: Books, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "api_key", "x")
    monkeypatch.setattr(openai, "base_url", f"{fake.url}/v1/")
    checkrein.instrument(engine=books.engine)
    create(openai)
    assert books.spent == PAID


async def test_asynchronous_clients_are_instrumented_too(books: Books, fake: FakeProvider) -> None:
    checkrein.instrument(engine=books.engine)
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{fake.url}/v1") as client:
        await create(client)
    assert books.spent == PAID


def test_packages_that_come_later_are_instrumented_and_none_is_imported() -> None:
    script = """
        import sys
        import checkrein
        checkrein.instrument()
        assert not {"openai", "anthropic", "httpx", "httpx2", "google"} & set(sys.modules), sorted(sys.modules)
        import openai
        assert openai.__spec__.loader is openai.__loader__
        request = openai._base_client.SyncAPIClient.request
        assert request.__wrapped__.__module__ == request.__module__ == "openai._base_client"
        checkrein.uninstrument()
        assert not hasattr(openai._base_client.SyncAPIClient.request, "__wrapped__")
        assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("checkrein")]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_a_client_of_ones_own_that_sends_elsewhere_is_charged_in_full(
    books: Books, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(openai.OpenAI):  # type: ignore[misc, name-defined]
        def _send_request(self, request: Any, **options: Any) -> Any:
            with type(self._client)() as other:
                return other.send(request, **options)

    client = checkrein.wrap(Own(api_key="x", base_url=f"{fake.url}/v1"), books.engine)
    create(client)
    assert books.spent > PAID
    assert books.held == 0
    assert "sent past its meter" in caplog.text


def test_of_twenty_threads_exactly_those_reach_the_provider_that_the_limit_pays_for(books: Books) -> None:
    books.limit("0.0275 usd")
    crowd = Crowd(refused=15)
    with FakeProvider(crowd.answer) as fake:
        client = checkrein.wrap(plain(fake), books.engine)

        def call(_: int) -> str:
            try:
                create(client)
            except checkrein.BudgetExceeded:
                crowd.refuse()
                return "refused"
            return "answered"

        with ThreadPoolExecutor(20) as pool:
            results = list(pool.map(call, range(20)))
        assert sorted(results) == ["answered"] * 5 + ["refused"] * 15
        assert len(fake.requests) == 5
        assert (books.spent, books.held) == (5 * PAID, 0)


async def test_of_twenty_tasks_exactly_those_reach_the_provider_that_the_limit_pays_for(books: Books) -> None:
    import asyncio

    books.limit("0.0275 usd")
    crowd = Crowd(refused=15)
    with FakeProvider(crowd.answer) as fake:
        async with openai.AsyncOpenAI(api_key="x", base_url=f"{fake.url}/v1") as client:
            checkrein.wrap(client, books.engine)

            async def call(number: int) -> str:
                try:
                    if number % 2:
                        await create(client)
                    else:
                        stream = await client.chat.completions.create(model=MODEL, messages=SAID, stream=True)
                        async for _ in stream:
                            pass
                except checkrein.BudgetExceeded:
                    crowd.refuse()
                    return "refused"
                return "answered"

            results = await asyncio.gather(*map(call, range(20)))
        assert sorted(results) == ["answered"] * 5 + ["refused"] * 15
        assert len(fake.requests) == 5
        assert (books.spent, books.held) == (5 * PAID, 0)


def test_the_first_calls_of_many_threads_are_metered_once_each(books: Books, fake: FakeProvider) -> None:
    for _ in range(20):
        with plain(fake) as client, ThreadPoolExecutor(4) as pool:
            checkrein.wrap(client, books.engine)
            list(pool.map(lambda _, client=client: create(client), range(4)))
            assert client._client.send.args[1] is None
    assert (books.spent, books.held) == (80 * PAID, 0)


def test_nothing_is_left_behind_by_many_calls(books: Books, fake: FakeProvider) -> None:
    import gc

    client = checkrein.wrap(plain(fake), books.engine)

    def ours() -> int:
        gc.collect()
        return sum(str(type(thing).__module__).startswith("checkrein") for thing in gc.get_objects())

    for _ in range(20):
        create(client)
        client.chat.completions.create(model=MODEL, messages=SAID, stream=True).close()
    before = ours()
    for _ in range(100):
        create(client)
        client.chat.completions.create(model=MODEL, messages=SAID, stream=True).close()
    assert ours() <= before + 2


def test_keys_and_prompts_stay_out_of_what_is_raised_and_logged(
    books: Books, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    import logging
    import traceback

    caplog.set_level(logging.DEBUG, "checkrein")
    client = checkrein.wrap(plain(fake), books.engine)
    secret = [{"role": "user", "content": "my-prompt"}]
    fake.then(Reply(completion("my-answer", usage=None)), Reply(status=500, body={"error": "my-answer"}))
    client.chat.completions.create(model=MODEL, messages=secret)
    books.limit("0.006 usd")
    checkrein.wrap(client, books.engine)
    with pytest.raises(checkrein.BudgetExceeded) as refused:
        client.chat.completions.create(model=MODEL, messages=secret)
    said = "".join(traceback.format_exception_only(refused.value)) + caplog.text
    said += repr(refused.value.decision.to_dict()) + refused.value.to_prompt()
    for word in ("my-prompt", "my-answer", "sk-secret"):
        assert word not in said
