"""Guarded functions keep their types, as mypy sees it."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_guarded_functions_keep_their_types(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    sample = Path(__file__).with_name("typing_samples.py")
    out, err, status = api.run(["--strict", "--config-file=", f"--cache-dir={tmp_path}", str(sample)])
    assert status == 0, out + err
