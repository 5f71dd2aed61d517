"""What the installed distribution holds, and that its native command belongs to it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import checkrein

try:
    DISTRIBUTION = metadata.distribution("checkrein")
except metadata.PackageNotFoundError:
    pytest.skip("checkrein is imported from the source tree, not installed", allow_module_level=True)

FILES = {str(path): Path(str(path.locate())) for path in DISTRIBUTION.files or ()}


def command() -> Path:
    """Path of the installed `checkrein` command."""
    return next(path for name, path in FILES.items() if Path(name).name in {"checkrein", "checkrein.exe"})


def test_one_abi3_wheel_with_types_and_licence() -> None:
    assert [name for name in FILES if "_native" in name and name.endswith((".so", ".pyd"))] == [
        "checkrein/_native.abi3.so" if sys.platform != "win32" else "checkrein/_native.pyd"
    ]
    assert {"checkrein/py.typed", "checkrein/_native.pyi", "checkrein/__init__.py"} <= set(FILES)
    assert any(name.endswith("licenses/LICENSE") for name in FILES)
    # The price book inside the binaries is converted from a package under the MIT licence, which asks for its notice.
    assert any(name.endswith("LICENSE-genai-prices") for name in FILES)
    wheel = DISTRIBUTION.read_text("WHEEL")
    assert wheel is not None
    assert "Tag: cp311-abi3-" in wheel


def test_nothing_but_the_package_is_installed() -> None:
    strays = [
        name
        for name in FILES
        if not name.startswith(("checkrein/", "checkrein-"))
        and Path(name).name not in {"checkrein", "checkrein.exe"}
    ]
    assert strays == []
    sources = [name for name in FILES if name.endswith((".rs", ".toml", ".o"))]
    # The one file that is no source: the policy that the demo runs by.
    assert sources == ["checkrein/demo/checkrein.toml"]


def test_no_dependency_is_required() -> None:
    assert [need for need in DISTRIBUTION.requires or () if "extra ==" not in need] == []


def test_command_extension_and_metadata_have_one_version() -> None:
    output = subprocess.run([command(), "--version"], capture_output=True, text=True, check=True).stdout
    assert output == f"checkrein {DISTRIBUTION.version}\n"
    assert checkrein.__version__ == DISTRIBUTION.version


def test_command_is_native() -> None:
    magic = command().read_bytes()[:4]
    assert magic[:2] in {b"MZ"} or magic in {b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"}


def test_importing_the_package_imports_no_sdk() -> None:
    sdks = ("openai", "anthropic", "httpx", "httpx2", "redis")
    code = f"import checkrein, sys; print([name for name in {sdks} if name in sys.modules])"
    imported = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert imported.stdout == "[]\n"
