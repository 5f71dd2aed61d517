"""What every file here has in common, whoever wrote it."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAX_LINES = 800


def tracked(*suffixes: str) -> list[Path]:
    """Every file of the repository with one of these endings."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if line.endswith(suffixes)]


def test_files_have_a_readable_length() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked(".rs", ".py", ".sh")
        if path.exists() and (lines := path.read_text(encoding="utf-8").count("\n")) > MAX_LINES
    }
    assert not long, f"longer than {MAX_LINES} lines, which room is missing? {long}"


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    silent = []
    for path in tracked(".rs", ".py", ".pyi"):
        if not path.exists() or path.name == "tests.rs":
            continue
        text = path.read_text(encoding="utf-8")
        if not text:
            continue
        speaks = ast.get_docstring(ast.parse(text)) if path.suffix != ".rs" else text.startswith("//! ")
        if not speaks:
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_merge_is_half_done() -> None:
    mark = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
    texts = tracked(".rs", ".py", ".pyi", ".sh", ".md", ".toml", ".yml")
    half = [path for path in texts if path.exists() and mark.search(path.read_text(encoding="utf-8"))]
    assert half == []


def test_nothing_unfinished_is_left_behind() -> None:
    mark = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|\bto" + r"do!\(|unimpl" + r"emented!\(")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(".rs", ".py", ".pyi", ".sh", ".md", ".toml")
        if path.exists()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if mark.search(line)
    ]
    assert found == []
