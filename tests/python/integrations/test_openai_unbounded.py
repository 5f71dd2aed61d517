"""What openai is asked for that nobody can bound: refused where a limit counts, and when a run was stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Books
from fake_openai import MODEL, completion
from fakes import FakeProvider, Reply
from openai_kit import _impatient, client, openai

import checkrein

serving = pytest.importorskip("websockets.sync.server")

__all__ = ["_impatient", "client"]


class Sockets:
    """A server of websockets that keeps what it gets, and answers that a response is complete."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self._server = serving.serve(self._answer, "127.0.0.1", 0)
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, connection: Any) -> None:
        for message in connection:
            self.got.append(json.loads(message))
            said = {"type": "response.completed", "sequence_number": 1}
            connection.send(json.dumps({**said, "response": {"id": "resp_1", "output": []}}))

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """One that listens."""
    made = Sockets()
    yield made
    made.close()
    checkrein.uninstrument()


def of(sockets: Sockets, kind: Any = None) -> Any:
    kind = kind or openai.OpenAI
    at = f"127.0.0.1:{sockets.port}/v1"
    return kind(api_key="k", base_url=f"http://{at}", websocket_base_url=f"ws://{at}")


WAYS: list[Callable[[Any], Any]] = [
    lambda client: client.responses.connect(),
    lambda client: client.beta.responses.connect(),
    lambda client: client.realtime.connect(model="gpt-realtime"),
]
EVENT = {"type": "response.create", "model": MODEL, "input": "x"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["wrap", "instrument"])
def test_a_websocket_does_not_open_where_a_limit_counts(
    how: str, way: Callable[[Any], Any], sockets: Sockets
) -> None:
    engine = checkrein.Engine()
    client = of(sockets)
    if how == "wrap":
        client = checkrein.wrap(client, engine)
    else:
        checkrein.instrument("openai", engine=engine)
    with engine.run(budget="$1"):
        for enter in (lambda: way(client).__enter__(), lambda: way(client).enter()):
            with pytest.raises(checkrein.BudgetExceeded, match="cannot be bounded") as refused:
                enter()
            assert refused.value.code == "unknown_price"
    with engine.run() as run:
        run.stop("enough")
        with pytest.raises(checkrein.Frozen, match="enough"):
            way(client).enter()
    assert sockets.got == []


@pytest.mark.parametrize("way", WAYS)
async def test_an_asynchronous_websocket_does_not_open_either(
    way: Callable[[Any], Any], sockets: Sockets
) -> None:
    engine = checkrein.Engine()
    client = checkrein.wrap(of(sockets, openai.AsyncOpenAI), engine)
    with engine.run(budget="$1"):
        with pytest.raises(checkrein.BudgetExceeded):
            await way(client).enter()
        with pytest.raises(checkrein.BudgetExceeded):
            await way(client).__aenter__()


def test_a_websocket_that_is_open_says_nothing_any_more_when_the_run_is_stopped(sockets: Sockets) -> None:
    engine = checkrein.Engine()
    client = checkrein.wrap(of(sockets), engine)
    with engine.run() as run, client.responses.connect() as connection:
        connection.send(EVENT)
        assert connection.recv().type == "response.completed"
        run.stop("enough")
        with pytest.raises(checkrein.Frozen):
            connection.send(EVENT)
    assert len(sockets.got) == 1


def test_the_websocket_of_a_client_that_nobody_meters_just_opens(sockets: Sockets) -> None:
    engine = checkrein.Engine()
    checkrein.instrument("openai", engine=engine)
    checkrein.uninstrument()
    checkrein.wrap(of(sockets), engine)
    with engine.run(budget="$1"), of(sockets).responses.connect() as connection:
        connection.send(EVENT)
        assert connection.recv().type == "response.completed"


UNBOUNDED = [
    "/threads/runs",
    "/threads/t/runs",
    "/threads/t/runs/r/submit_tool_outputs",
    "/evals/e/runs",
    "/fine_tuning/alpha/graders/run",
    "/fine_tuning/jobs/f/resume",
    "/realtime/client_secrets",
    "/realtime/calls",
    "/realtime/calls/c/accept",
    "/realtime/sessions",
    "/chatkit/sessions",
    "/agents/sessions",
    "/agents/sessions/s/events",
    "/live/sessions",
    "/containers",
    "/vector_stores",
    "/vector_stores/v/search",
    "/responses/r/something_new",
    "/something/new",
    "/projects/p/rerank",
]
FREE = [
    "/files",
    "/uploads/u/parts",
    "/moderations",
    "/responses/input_tokens",
    "/conversations/c/items",
    "/threads",
    "/threads/t/messages",
    "/threads/t/runs/r/cancel",
    "/batches/b/cancel",
    "/evals/e",
    "/realtime/calls/c/hangup",
    "/organization/projects/p/spend_limit",
]


@pytest.mark.parametrize("path", UNBOUNDED)
def test_what_nobody_can_bound_is_refused_where_a_limit_counts(path: str, fake: FakeProvider) -> None:
    engine = checkrein.Engine()
    client = checkrein.wrap(openai.OpenAI(api_key="k", base_url=f"{fake.url}/v1", max_retries=0), engine)
    with (
        engine.run(budget="$1"),
        pytest.raises(checkrein.BudgetExceeded, match="cannot be bounded") as refused,
    ):
        client.post(path, body={"model": MODEL}, cast_to=object)
    assert refused.value.code == "unknown_price"
    assert fake.requests == []
    fake.then(Reply({}))
    with engine.run() as run:
        client.post(path, body={"model": MODEL}, cast_to=object)
        run.stop("enough")
        with pytest.raises(checkrein.Frozen):
            client.post(path, body={"model": MODEL}, cast_to=object)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("path", FREE)
def test_what_is_free_is_never_refused(path: str, client: Any, books: Books, fake: FakeProvider) -> None:
    books.limit("0.0000001 usd")
    fake.then(Reply({}))
    client.post(path, body={"model": MODEL}, cast_to=object)
    assert len(fake.requests) == 1


def test_several_agents_behind_one_response_are_refused(client: Any, fake: FakeProvider) -> None:
    more = {"multi_agent": {"enabled": True}}
    with pytest.raises(checkrein.BudgetExceeded, match="several agents"):
        client.responses.create(model=MODEL, input="x", extra_body=more)
    assert fake.requests == []


def test_a_body_that_is_no_json_is_an_error_without_the_body(client: Any, fake: FakeProvider) -> None:
    with pytest.raises(checkrein.ConfigError, match="no JSON") as refused:
        client.post("/chat/completions", content=b"{my secret prompt", cast_to=object)
    error: BaseException | None = refused.value
    while error is not None:
        assert "secret" not in repr(error) + repr(vars(error))
        error = error.__context__
    assert fake.requests == []


@pytest.mark.parametrize("name", ["model", "service_tier"])
def test_names_that_a_provider_writes_are_cut(
    name: str, client: Any, books: Books, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    books.engine.on_event(seen.append)
    fake.then(Reply(completion(**{name: "x" * 5_000})))
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    told = caplog.text + repr([event.to_dict() for event in seen])
    assert "x" * 201 not in told
    assert ("x" * 100 in told) or name == "model"
