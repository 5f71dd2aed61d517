"""`instrument` before any SDK is imported: it imports none, and holds the calls of those that come."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_anthropic import FakeAnthropic
from fake_google import FakeGoogle

import checkrein

pytest.importorskip("anthropic")
pytest.importorskip("google.genai")

PROGRAM = """
import sys
import checkrein

checkrein.instrument()
names = {"openai", "anthropic", "google.genai", "httpx", "httpx2"}
assert not names & set(sys.modules), names & set(sys.modules)

import anthropic
from google import genai

claude, gemini = anthropic.Anthropic(), genai.Client()
with checkrein.run(budget="$1") as run:
    said = [{"role": "user", "content": "hi"}]
    claude.messages.create(model="claude-opus-5", max_tokens=100, messages=said)
    gemini.models.generate_content(model="gemini-3.8-flash", contents="hi")
print(run.spent.usd, run.spent.calls)
with checkrein.run(calls=0) as none:
    for call in (
        lambda: claude.messages.create(model="claude-opus-5", max_tokens=100, messages=said),
        lambda: gemini.models.generate_content(model="gemini-3.8-flash", contents="hi"),
    ):
        try:
            call()
        except checkrein.BudgetExceeded as refused:
            print(refused.code)
checkrein.uninstrument()
with checkrein.run(calls=0):
    gemini.models.generate_content(model="gemini-3.8-flash", contents="hi")
"""


def test_packages_that_come_later_are_held() -> None:
    with FakeAnthropic() as claude, FakeGoogle() as google:
        where = {"ANTHROPIC_BASE_URL": claude.url, "GOOGLE_GEMINI_BASE_URL": google.url}
        keys = {"ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"}
        # The package that is tested, installed or not.
        path = os.pathsep.join([str(Path(checkrein.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **where, **keys, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["0.0023", "2", "budget_exceeded", "budget_exceeded"]
        assert (len(claude.requests), len(google.requests)) == (1, 2)
