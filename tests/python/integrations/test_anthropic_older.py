"""The same tests with a version of the `anthropic` package that has no middleware, on httpx."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import checkrein

HERE = Path(__file__).resolve().parent
PLACE = Path(os.environ.get("CHECKREIN_ANTHROPIC_OLDER") or HERE.parents[2] / "build" / "anthropic0")
"""Where it was put: `pip install --target build/anthropic0 anthropic==0.85.0`."""


def test_an_older_version_is_held_and_settled_the_same_way() -> None:
    if not (PLACE / "anthropic").is_dir():
        if os.environ.get("CHECKREIN_TEST_INSTALLED"):
            pytest.fail(f"the older anthropic is not in {PLACE}")
        pytest.skip(f"the older anthropic is not in {PLACE}")
    tests = sorted(str(path) for path in HERE.glob("test_anthropic_*.py") if path.name != Path(__file__).name)
    paths = [str(PLACE)]
    if not os.environ.get("CHECKREIN_TEST_INSTALLED"):
        paths.append(str(Path(checkrein.__file__).parents[1]))
    code = (
        "import anthropic, pytest, sys; assert not hasattr(anthropic.Anthropic, 'with_middleware');"
        " sys.exit(pytest.main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2_000:]
    assert " passed" in run.stdout
