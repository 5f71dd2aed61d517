"""The parts of the demo on their own: the script without gates, and the model server's manners."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from checkrein.demo import script, server
from checkrein.demo.agent import Agent, Watcher
from checkrein.demo.guarded import Tool
from checkrein.demo.tools import Shop


def test_without_gates_the_same_script_does_harm(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    searched: list[str] = []

    def search(query: str) -> list[str]:
        """Search."""
        searched.append(query)
        return shop.search(query)

    with server.serve(script.answer) as url:
        tools: dict[str, Tool] = {"search": search, "refund": shop.refund, "send_mail": shop.send_mail}
        Agent(url, tools, Watcher()).work("Work on ticket 4711.")
    assert searched.count(script.POLICY_QUERY) == script.PATIENCE
    assert any("078-05-1120" in query for query in searched)
    assert shop.refunds() == [("pay_2093", "480.00"), ("pay_2093", "480.00")]


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Post raw bytes; returns status and JSON answer."""
    request = urllib.request.Request(url, body, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    ("path", "body", "key", "status"),
    [
        ("/chat/completions", b'{"model": "m", "messages": []}', "k", 200),
        ("/chat/completions", b'{"model": "m", "messages": []}', None, 401),
        ("/chat/completions", b'{"model": "m"}', "k", 400),
        ("/chat/completions", b"[]", "k", 400),
        ("/chat/completions", b"\xff", "k", 400),
        (
            "/chat/completions",
            b'{"model": "m", "messages": [], "stream": true, "stream_options": 7}',
            "k",
            400,
        ),
        ("/models", b"{}", "k", 404),
        ("/chat/completions", b"", "k", 413),
    ],
)
def test_the_server_answers_in_the_form_of_the_api(
    path: str, body: bytes, key: str | None, status: int
) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with server.serve(lambda messages: {"content": "done"}) as url:
        found, answer = post(url + path, body, **headers)
    assert found == status
    if status == 200:
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": "done"}
    else:
        assert answer["error"]["message"]


def test_search_finds_what_the_documents_say(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert "maria.keller@example.com" in shop.search("customer K-1027 contact")[0]
    assert shop.search("zzz") == []


def test_a_refund_of_an_unknown_payment_is_an_error(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(ValueError, match="no payment"):
        shop.refund("pay_0", 100)
    assert shop.refunds() == []
