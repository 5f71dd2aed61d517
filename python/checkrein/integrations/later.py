"""Packages that are imported later: what is asked for them now happens when they come."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class _Loader:
    """The loader of a package, and what happens when it is done.

    Neither this nor `Watch` inherits from what describes them: that would be imported with `checkrein`, and is slow.
    """

    def __init__(self, loader: Any, name: str, then: Callable[[str], None]) -> None:
        self._loader = loader
        self._name = name
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        # The package sees its own loader: only its import was watched.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then(self._name)


class Watch:
    """Waits for packages by their names, and calls `then` with the name of one that was just imported."""

    def __init__(self, then: Callable[[str], None]) -> None:
        self._then = then
        self._names: set[str] = set()
        self._busy = threading.local()

    def add(self, name: str) -> None:
        """Wait for a package."""
        self._names.add(name)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self, name: str) -> None:
        """Wait for it no more."""
        self._names.discard(name)
        if not self._names and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a package that is waited for where everybody else finds it."""
        if fullname not in self._names or getattr(self._busy, "name", None) == fullname:
            return None
        self._busy.name = fullname
        try:
            found = None
            for finder in sys.meta_path:
                if finder is not self and (found := finder.find_spec(fullname, path, target)) is not None:
                    break
        finally:
            self._busy.name = None
        if found is None or found.loader is None or not hasattr(found.loader, "exec_module"):
            return None
        loader: Any = _Loader(found.loader, fullname, self._then)
        found.loader = loader
        return found
