"""Every Python block of the documents runs, in order, in one namespace per document."""

from __future__ import annotations

import linecache
import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    if "```python" in (text := path.read_text(encoding="utf-8"))
    # Those have files that are run by the commands of the document.
    and "<!-- file: " not in text
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# A TOML block that begins with the name of a file is that file, for the blocks of the same document.
FILE = re.compile(r"^```toml\n# ([\w.-]+\.toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[int, str]]:
    """Return (line of its first statement, source) of every Python block."""
    text = document.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in BLOCK.finditer(text)]


def run(document: Path, line: int, source: str, namespace: dict[str, Any]) -> None:
    """Execute one block; tracebacks point into the document."""
    padded = "\n" * (line - 1) + source
    name = str(document)
    linecache.cache[name] = (len(padded), None, padded.splitlines(keepends=True), name)
    exec(compile(padded, name, "exec"), namespace)


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a reader has who has keys: providers that answer, here on the loopback interface."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "python" / "integrations"))
    from fake_anthropic import FakeAnthropic
    from fake_google import FakeGoogle
    from fake_openai import fake_openai

    with fake_openai() as openai, FakeAnthropic() as anthropic, FakeGoogle() as google:
        # Asked with tools, they use one.
        anthropic.calls = google.calls = {"city": "Rome"}
        for name, url in (
            ("OPENAI_BASE_URL", f"{openai.url}/v1"),
            ("ANTHROPIC_BASE_URL", anthropic.url),
            ("GOOGLE_GEMINI_BASE_URL", google.url),
        ):
            monkeypatch.setenv(name, url)
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
            monkeypatch.setenv(name, "sk-documents")
        yield


def test_the_readme_has_examples() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert len(blocks(ROOT / "README.md")) >= 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: Server, providers: None
) -> None:
    monkeypatch.chdir(tmp_path)
    # Where a document uses Redis, its reader's server is here.
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    redis_server.client().flushall()
    for name, text in FILE.findall(document.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__example__"}
    for line, source in blocks(document):
        run(document, line, source, namespace)


def test_the_commands_of_the_policy_section_do_what_it_says(tmp_path: Path) -> None:
    beside = Path(sysconfig.get_path("scripts")) / "checkrein"
    command = os.environ.get("CHECKREIN_COMMAND") or (str(beside) if beside.exists() else None)
    if command is None:
        pytest.skip("the checkrein command is not installed beside this Python")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## The policy file") : readme.index("## What stops what")]
    files = FILE.findall(section)
    assert [name for name, _ in files] == ["checkrein.toml", "checkrein.test.toml"]
    for name, text in files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    (shell,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    answers = []
    for line in shell.splitlines():
        call = line.split("    #")[0].replace("checkrein policy", f"{shlex.quote(command)} policy")
        done = subprocess.run(call, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), call
        answers += done.stdout.splitlines()[:1]
    assert answers == ["valid: checkrein.toml", "  pass  a day has 50 dollars", "allow: pay"]


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_every_fence_names_its_language(document: Path) -> None:
    """An unnamed fence would be compiled as Rust by the documentation tests."""
    fences = re.findall(r"^```(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[0::2]) <= {"python", "rust", "sh", "text", "toml", "json"}
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_point_at_files_that_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_paths_in_the_architecture_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:crates|python|scripts|tests|benches|docs)/[\w./-]*)`", text))
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
