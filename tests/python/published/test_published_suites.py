"""The published packages' own suites, examples and quick starts run on our modules, only the import changed.

They come from PyPI. Without it the tests fail; CHECKREIN_OFFLINE=1 skips them and says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fetch import Unavailable, is_offline, unpacked
from packages import PACKAGES, Published
from redis_servers import Server

import checkrein

ALIAS = Path(__file__).parent / "alias"


@pytest.fixture(params=PACKAGES, ids=lambda package: package.name)
def package(request: pytest.FixtureRequest) -> Published:
    """Return each package in turn."""
    found: Published = request.param
    return found


@pytest.fixture
def sources(package: Published, tmp_path: Path) -> Path:
    """Return the unpacked sources of the package."""
    try:
        return unpacked(package, tmp_path)
    except Unavailable as reason:
        if is_offline():
            pytest.skip(str(reason))
        pytest.fail(f"{reason}\nSet CHECKREIN_OFFLINE=1 to go without the published suites.")


def run(arguments: list[str], directory: Path, redis_url: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python where the published names mean our modules, and where a server for tests is."""
    ours = Path(checkrein.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ALIAS), str(ours)]),
        "PYTHONIOENCODING": "utf-8",
        "REDIS_URL": redis_url,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def hide_their_package(package: Published, sources: Path) -> None:
    """Move the package's own code away, so that nothing can be tested by mistake but ours."""
    for place in (sources / package.name, sources / "src" / package.name):
        if place.exists():
            place.rename(place.with_name(f"_{package.name}_hidden"))


def test_pytest_files(package: Published, sources: Path) -> None:
    if not package.pytest_files:
        pytest.skip(f"{package.name} has no files for pytest")
    hide_their_package(package, sources)
    deselected = [f"--deselect={name}" for name in package.exceptions if "::" in name]
    settings = ["-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."]
    done = run(["-m", "pytest", *settings, *deselected, *package.pytest_files], sources)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{package.pytest_passes} passed", done.stdout, re.MULTILINE), done.stdout


def test_scripts(package: Published, sources: Path, redis_server: Server) -> None:
    if not package.scripts:
        pytest.skip(f"{package.name} has no files to run")
    hide_their_package(package, sources)
    for script, passes in package.scripts.items():
        done = run([script], sources, redis_server.url)
        said = done.stdout + done.stderr
        # A demo's own crosses are part of its show; only suites count their cases.
        failed = (
            set()
            if passes is None
            else set(re.findall(r"^\s*(?:FAIL|✗)\s+(.+?)(?::.*)?$", done.stdout, re.MULTILINE))
        )
        assert failed == failed & set(package.exceptions), said
        assert done.returncode == (1 if failed else 0), said
        if passes is not None:
            assert re.search(rf"\b{passes} passed", done.stdout), said


def python_blocks(readme: str) -> list[str]:
    """Return the Python blocks of a README, blocks of comments only made complete."""
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    comment_only = re.compile(r"(:\n)((?P<indent> +)#[^\n]*\n)(?!(?P=indent))", re.MULTILINE)
    return [comment_only.sub(r"\1\2\g<indent>pass\n", block + "\n") for block in blocks]


def test_readme(package: Published, sources: Path, redis_server: Server) -> None:
    if not package.readme_blocks:
        pytest.skip(f"the README of {package.name} has no blocks to run")
    blocks = python_blocks((sources / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) == package.readme_blocks
    blocks = [block for position, block in enumerate(blocks) if position not in package.readme_left_out]
    # Their example has a server on the usual port; ours is on a free one.
    blocks = [block.replace("port=6379", f"port={redis_server.port}") for block in blocks]
    hide_their_package(package, sources)
    program = sources / "readme_blocks.py"
    program.write_text("\n".join([package.readme_prelude, *blocks]), encoding="utf-8")
    done = run([program.name], sources)
    assert done.returncode == 0, done.stdout + done.stderr
