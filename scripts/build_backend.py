"""The build backend (PEP 517): maturin, with the native `checkrein` command put into the wheel first.

maturin takes scripts from a data directory but builds only the extension, so the command is laid there first.
`CHECKREIN_PROFILE` names the cargo profile, `release` by default.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "python" / "checkrein.data" / "scripts"
PROFILE = os.environ.get("CHECKREIN_PROFILE", "release")
NAME = "checkrein.exe" if sys.platform == "win32" else "checkrein"


def _empty_scripts() -> None:
    """Leave an empty data directory: maturin refuses to do anything without one."""
    shutil.rmtree(SCRIPTS.parent, ignore_errors=True)
    SCRIPTS.mkdir(parents=True)


def _place_command() -> None:
    """Build the command and lay it where maturin looks for scripts."""
    _empty_scripts()
    command = ["cargo", "build", "--locked", "--profile", PROFILE, "--package", "checkrein-cli"]
    subprocess.run(command, cwd=ROOT, check=True)
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / os.environ.get("CARGO_BUILD_TARGET", "")
    shutil.copy2(target / ("debug" if PROFILE == "dev" else PROFILE) / NAME, SCRIPTS / NAME)
    if PROFILE != "dev" and shutil.which("strip"):
        subprocess.run(["strip", str(SCRIPTS / NAME)], check=True)


def _settings(given: dict[str, Any] | None) -> dict[str, Any]:
    """Return the caller's settings over ours."""
    return {"build-args": f"--locked --profile {PROFILE}", **(given or {})}


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: dict[str, Any] | None = None
) -> str:
    """Write the wheel's metadata."""
    _empty_scripts()
    return str(maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the wheel: extension, typed package and command."""
    _place_command()
    return str(maturin.build_wheel(wheel_directory, _settings(config_settings), metadata_directory))


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the editable wheel: the extension goes beside the sources, the command into the environment."""
    _place_command()
    return str(maturin.build_editable(wheel_directory, _settings(config_settings), metadata_directory))


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Build the source distribution; it holds no binary."""
    _empty_scripts()
    return str(maturin.build_sdist(sdist_directory, config_settings))
