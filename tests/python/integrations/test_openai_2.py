"""The same tests with the `openai` package of version 2, on httpx: in a process that finds that one first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import checkrein

HERE = Path(__file__).resolve().parent
PLACE = Path(os.environ.get("CHECKREIN_OPENAI_2") or HERE.parents[2] / "build" / "openai2")
"""Where it was put: `pip install --target build/openai2 openai==2.54.0`."""


def test_openai_2_is_held_and_settled_the_same_way() -> None:
    if not (PLACE / "openai").is_dir():
        if os.environ.get("CHECKREIN_TEST_INSTALLED"):
            pytest.fail(f"openai 2 is not in {PLACE}")
        pytest.skip(f"openai 2 is not in {PLACE}")
    tests = sorted(str(path) for path in HERE.glob("test_openai_*.py") if path.name != Path(__file__).name)
    paths = [str(PLACE)]
    if not os.environ.get("CHECKREIN_TEST_INSTALLED"):
        paths.append(str(Path(checkrein.__file__).parents[1]))
    code = "import openai, pytest, sys; assert openai.__version__[:2] == '2.'; sys.exit(pytest.main(sys.argv[1:]))"
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
