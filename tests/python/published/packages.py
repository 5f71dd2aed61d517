"""The published packages whose own tests, demos and documents must run on our modules.

Nothing of theirs is kept here: the source archives come from PyPI, checked by digest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


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
    #: Blocks that are no program: position -> why.
    readme_left_out: dict[int, str] = field(default_factory=dict)


DATABASE = """
import time
from types import SimpleNamespace as Bag
from auditgate import *
db = Bag(search=lambda query: [query])
"""

LIMITS = """
import logging
from types import SimpleNamespace as Bag
from actiongate import *
api = Bag(search=lambda query: [query])
logger = logging.getLogger("readme")
namespace = action = principal = "readme"
"""

SPEND = """
from decimal import Decimal
from types import SimpleNamespace as Bag
import actiongate
from actiongate import Gate, Policy
from budgetgate import *
openai = Bag(chat=lambda prompt: prompt, embed=lambda text: [0.5])
namespace = resource = principal = "readme"
ledger, budget = Ledger("readme", "tokens"), Budget(Decimal("1.00"))
actiongate_engine, budgetgate_engine = actiongate.Engine(), Engine()
decision = budgetgate_engine.check(ledger, Decimal("0.25"), budget)
Response = object
"""

RULES = """
import logging
from decimal import Decimal
from types import SimpleNamespace as Bag
import actiongate, budgetgate
from actiongate import Gate, Policy
from budgetgate import Budget, Ledger
from rulegate import *
api = Bag(search=lambda query: [query])
logger = logging.getLogger("readme")
namespace = action = principal = "readme"
no_pii = business_hours = lambda ctx: True
rule, ruleset = Rule("readme", "rule"), Ruleset((no_pii,))
actiongate_engine, budgetgate_engine, rulegate_engine = actiongate.Engine(), budgetgate.Engine(), Engine()
decision = rulegate_engine.check(rule, ruleset)
"""

TOOLS = """
from types import SimpleNamespace as Bag
def search_fn(query):
    return f"found {query}"
call = Bag(function=Bag(name="search_web", arguments='{"query": "x"}'))
response = Bag(choices=[Bag(message=Bag(tool_calls=[call]))])
"""

FRAGMENT = "two decorators without a function"

PACKAGES = [
    Published(
        name="actiongate",
        version="0.3.0",
        sha256="a95ef35f99fe9089c60673973ee4185946bdd72fcca58cbc3cf2887f875a9b87",
        pytest_files=("tests/test_actiongate.py",),
        pytest_passes=63,
        scripts={"examples.py": None, "bench/bench.py": None},
        readme_prelude=LIMITS,
        readme_blocks=6,
        readme_left_out={3: FRAGMENT},
    ),
    Published(
        name="budgetgate",
        version="0.3.1",
        sha256="c0f2e08450f2ced988eb8ea9c921a785632ea1b5848ebcb224634943c77ac64d",
        pytest_files=("tests/test_async.py",),
        pytest_passes=17,
        # Twelve cases, on the memory store and on Redis.
        scripts={"tests/test_store.py": 24, "bench/bench.py": None},
        readme_prelude=SPEND,
        readme_blocks=8,
    ),
    Published(
        name="rulegate",
        version="0.3.0",
        sha256="0ed13899cd650d19e0222aa31d574f7e53c1b84fe4097e5c2ccec73b1e38ffa8",
        pytest_files=("tests/test_rulegate.py", "tests/test_async.py"),
        pytest_passes=86,
        readme_prelude=RULES,
        readme_blocks=11,
        readme_left_out={7: FRAGMENT},
    ),
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
        readme_blocks=4,
    ),
    Published(
        name="actiongate_openai",
        version="0.2.0",
        sha256="2088e4dd35c5ffc043bc3bf6a36f1c653be1ea9249c5ee8001a8656bc328d085",
        scripts={"tests/test_openai.py": 10, "demo.py": None},
        readme_prelude=TOOLS,
        readme_blocks=3,
    ),
    Published(
        name="actguard",
        version="1.0.2",
        sha256="532a9182ee90d866b37dea28badb0512ec60e9e855cebb8802dcd17c5b187a25",
        pytest_files=("tests",),
        # All 306 but the two below.
        pytest_passes=304,
        readme_prelude=(Path(__file__).parent / "actguard_prelude.py").read_text(encoding="utf-8"),
        readme_blocks=17,
        exceptions={
            "tests/test_budget_guard.py::TestNestedBudgetScopes::"
            "test_budget_guard_rejects_removed_usd_limit_argument": (
                "A17: the documents promise limits in dollars and tokens, so `usd_limit` is an argument again"
            ),
            "tests/test_client.py::test_budget_guard_reserve_transport_failure_warns_and_degrades_open": (
                'A3: a guard with a limit stays closed when the gateway cannot be asked; `on_unreachable="open"` '
                "does what the test wants"
            ),
        },
    ),
]
