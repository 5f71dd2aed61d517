"""Fetches the source archives of the published packages once, into a cache outside the source tree."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from packages import Published


class Unavailable(Exception):
    """An archive could not be had."""


def cache_directory() -> Path:
    """Return where archives are kept."""
    base = os.environ.get("CHECKREIN_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "checkrein" / "published"


def is_offline() -> bool:
    """Whether the person running the tests said that there is no network."""
    return os.environ.get("CHECKREIN_OFFLINE") == "1"


def unpacked(package: Published, into: Path) -> Path:
    """Return the unpacked archive of `package` below `into`; raises Unavailable."""
    archive = _archive(package)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise Unavailable(f"{archive} has the digest {digest}, not {package.sha256}")
    with tarfile.open(archive) as opened:
        opened.extractall(into, filter="data")
    return into / f"{package.name}-{package.version}"


def _archive(package: Published) -> Path:
    cache = cache_directory()
    archive = cache / f"{package.name}-{package.version}.tar.gz"
    if archive.exists():
        return archive
    if is_offline():
        raise Unavailable(f"CHECKREIN_OFFLINE=1 is set and {archive} does not exist")
    cache.mkdir(parents=True, exist_ok=True)
    # pip asks the registry; the digest is checked here, because a cached file needs it too.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--quiet", "--dest", str(cache)]
    command += [f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if not archive.exists():
        raise Unavailable(f"pip could not download {package.name} {package.version}:\n{done.stderr[-2000:]}")
    return archive
