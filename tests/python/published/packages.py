"""The published packages whose own tests, demos and documents must run on our modules.

Nothing of theirs is kept here: the source archives come from PyPI, checked by digest.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """One package: its archive, and what in it runs how."""

    name: str
    version: str
    sha256: str
    #: Files for pytest, and how many tests pass in them together.
    pytest_files: tuple[str, ...] = ()
    pytest_passes: int = 0
    #: Files that run their cases when executed, and how many pass (None: they only print).
    scripts: dict[str, int | None] = field(default_factory=dict)
    #: Cases that assert a defect we do not keep: name of the case -> the defect's number and why.
    exceptions: dict[str, str] = field(default_factory=dict)
    #: What the README's Python blocks take for granted, run before the first of them.
    readme_prelude: str = ""
    #: How many Python blocks the README has.
    readme_blocks: int = 0


DATABASE = """
import time
from types import SimpleNamespace as Bag
from auditgate import *
db = Bag(search=lambda query: [query])
"""

PACKAGES = [
    Published(
        name="auditgate",
        version="0.3.0",
        sha256="eef463325d96288eb7515a865a5dac75de6cd33b8eb474d1811fedc193aa98d6",
        pytest_files=("tests/test_async.py", "tests/test_golden_vectors.py"),
        pytest_passes=31,
        scripts={
            "tests/test_auditgate.py": 23,
            "tests/test_cli.py": 14,
            "examples/basic_audit.py": None,
            "examples/compose_with_gates.py": None,
            "examples/fail_closed_guarantee.py": None,
        },
        readme_prelude=DATABASE,
        # Four, as soon as checkrein.actiongate is here: one of them imports it.
        readme_blocks=0,
    ),
]
