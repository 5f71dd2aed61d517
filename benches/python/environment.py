"""The two interpreters: one environment with the published packages, one with Checkrein, of one Python version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PUBLISHED = (
    "actiongate==0.3.0",
    "budgetgate==0.3.1",
    "rulegate==0.3.0",
    "auditgate==0.3.0",
    "actiongate-openai==0.2.0",
    "actguard==1.0.2",
)
"""They need Python 3.12 or newer."""

SDKS = ("openai==3.52.0", "anthropic==2.11.0", "google-genai==3.4.0")
"""What entering the first budget of a process must not import."""

BESIDE = ("redis==8.1.0", "limits==5.8.0")
"""What the Redis stores are measured with and beside."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Found:
    """The interpreters by side, and why one is missing."""

    pythons: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def find(own: str | None, peers: str | None, wheel: Path | None) -> Found:
    """Find or make both environments under `build/bench`."""
    found = Found()
    base = _python_312()
    if peers:
        found.pythons["published"] = peers
    elif base is None:
        found.missing["published packages"] = "they need Python 3.12 or newer, and none was found"
    else:
        _make(found, "published", base, [*PUBLISHED, *SDKS])
    if own:
        found.pythons["checkrein"] = own
    elif wheel is None:
        found.pythons["checkrein"] = sys.executable
    else:
        # The same Python for both where there is one; ours also runs on 3.11.
        _make(found, "checkrein", base or sys.executable, [str(wheel)])
    return found


def together(own: str | None, wheel: Path | None) -> tuple[str | None, str]:
    """Find or make one environment with everything, for what runs in one process; or say why there is none."""
    if own:
        return own, ""
    base = _python_312()
    if base is None:
        return None, "the published packages need Python 3.12 or newer, and none was found"
    if wheel is None:
        return None, "no wheel was given"
    found = Found()
    _make(found, "together", base, [*PUBLISHED[:2], *BESIDE])
    if "together" in found.pythons:
        python = found.pythons["together"]
        try:
            # A wheel of the same version may be a new build.
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, "--force-reinstall", "--no-deps", str(wheel)])
        except subprocess.CalledProcessError as error:
            return None, str(error.stderr).strip()
    return found.pythons.get("together"), found.missing.get("together", "")


def _make(found: Found, side: str, base: str, requirements: list[str]) -> None:
    folder = ROOT / "build" / "bench" / side
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            _run([base, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # A wheel of the same version may be a new build.
        again = ["--force-reinstall", "--no-deps"] if side == "checkrein" else []
        _run([*pip, *again, *requirements])
        if side == "checkrein":
            _run([*pip, *SDKS])
        found.pythons[side] = str(python)
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines()
        found.missing[side] = lines[-1] if lines else str(error)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _python_312() -> str | None:
    """Find a Python 3.12 or newer: this one, on PATH, of pyenv, or one that uv knows; the oldest first."""
    candidates = [sys.executable]
    candidates += [path for minor in range(12, 16) if (path := shutil.which(f"python3.{minor}"))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    if pyenv.is_dir():
        # By version, not by text: 3.9 comes before 3.12.
        versions = sorted(
            pyenv.iterdir(), key=lambda path: [int(n) for n in path.name.split(".") if n.isdigit()]
        )
        candidates += [str(path / "bin" / "python3") for path in versions]
    if uv := shutil.which("uv"):
        listed = subprocess.run([uv, "python", "find", ">=3.12"], capture_output=True, text=True, check=False)
        candidates += listed.stdout.split()
    check = "import sys; sys.exit(not ((3, 12) <= sys.version_info[:2]))"
    for candidate in candidates:
        try:
            if subprocess.run([candidate, "-c", check], capture_output=True, check=False).returncode == 0:
                return candidate
        except OSError:
            continue
    return None


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
