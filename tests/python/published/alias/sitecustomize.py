"""Lets programs written for the published packages import ours under the published names.

Python imports `sitecustomize` at start-up, so this works for scripts, pytest and child processes alike.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

PUBLISHED = {"actguard", "actiongate", "actiongate_openai", "auditgate", "budgetgate", "rulegate"}


class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `auditgate.core` as `checkrein.auditgate.core`, and so on."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Claim the published names."""
        if name.partition(".")[0] in PUBLISHED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Let the import system make a stand-in, which is replaced in a moment."""
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Put our module in the place of the stand-in."""
        sys.modules[module.__name__] = importlib.import_module(f"checkrein.{module.__name__}")


sys.meta_path.insert(0, Alias())
